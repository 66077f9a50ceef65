"""Recipes: what AWS's tutorials write is read; what nobody can run is refused with its place."""

import copy
from typing import Any

import pytest

from marram.core import recipe
from marram.core.errors import Invalid, Unsupported
from marram.kit import yaml_bounded

LINUX = {"os": "linux", "architecture": "amd64", "runtime": "aws_nucleus_lite"}
TUTORIAL = b"""
---
RecipeFormatVersion: '2020-01-25'
ComponentName: com.example.HelloWorld
ComponentVersion: '1.0.0'
ComponentDescription: My first AWS IoT Greengrass component.
ComponentPublisher: Amazon
ComponentConfiguration:
  DefaultConfiguration:
    Message: world
Manifests:
  - Platform:
      os: linux
    Artifacts:
      - URI: s3://amzn-s3-demo-bucket/artifacts/com.example.HelloWorld/1.0.0/hello_world.py
    Lifecycle:
      Run: |
        python3 -u {artifacts:path}/hello_world.py "{configuration:/Message}"
  - Platform:
      os: windows
    Lifecycle:
      run: |
        py -3 -u {artifacts:path}/hello_world.py "{configuration:/Message}"
"""
PLAIN: dict[str, Any] = {
    "RecipeFormatVersion": "2020-01-25",
    "ComponentName": "com.example.A",
    "ComponentVersion": "1.0.0",
    "Manifests": [{"Platform": {"os": "linux"}, "Lifecycle": {"run": "sleep 1"}}],
}


def changed(**members: Any) -> dict[str, Any]:
    return {**copy.deepcopy(PLAIN), **members}


def with_manifest(**members: Any) -> dict[str, Any]:
    return changed(Manifests=[{**PLAIN["Manifests"][0], **members}])


def test_the_tutorial_recipe_is_read() -> None:
    read = recipe.parse(yaml_bounded.loads_object(TUTORIAL))
    chosen = recipe.select(read, LINUX)
    assert read.configuration == {"Message": "world"}
    assert [artifact.name for artifact in chosen.artifacts] == ["hello_world.py"]
    assert "hello_world.py" in chosen.lifecycle.steps["run"].script


def test_the_normal_form_is_aws_spelling_and_reads_as_the_same() -> None:
    read = recipe.parse(yaml_bounded.loads_object(TUTORIAL))
    manifests = read.document["Manifests"]
    assert isinstance(manifests, list) and "Uri" in str(manifests[0]) and "'run'" in str(manifests[0])
    again = recipe.parse(read.document)
    assert again == read and again.document == read.document


@pytest.mark.parametrize(
    ("document", "place"),
    [
        pytest.param(changed(Manifest=[]), "Manifest", id="top level"),
        pytest.param(with_manifest(Artifact=[]), "Manifests[0].Artifact", id="manifest"),
        pytest.param(with_manifest(Artifacts=[{"Url": "s3://b/x"}]), "Manifests[0].Artifacts[0].Url", id="artifact"),
        pytest.param(with_manifest(Lifecycle={"runn": "x"}), "Manifests[0].Lifecycle.runn", id="step"),
        pytest.param(
            with_manifest(Lifecycle={"run": {"script": "x", "timout": 3}}),
            "Manifests[0].Lifecycle.run.timout",
            id="in step",
        ),
        pytest.param(
            changed(ComponentDependencies={"b": {"VersionRequirment": "*"}}),
            "ComponentDependencies.b.VersionRequirment",
            id="dependency",
        ),
        pytest.param(changed(Lifecycle={"linux": {"go": "x"}}), "Lifecycle.linux.go", id="under a selection"),
        pytest.param(changed(**{"x-marram": {"helth": {}}}), "x-marram.helth", id="ours"),
    ],
)
def test_an_unknown_key_is_refused_with_its_place(document: dict[str, Any], place: str) -> None:
    with pytest.raises(Invalid, match="unknown key") as caught:
        recipe.parse(document)
    assert caught.value.data["place"] == place


@pytest.mark.parametrize(
    ("document", "words"),
    [
        pytest.param([], "must be an object", id="not an object"),
        pytest.param(changed(RecipeFormatVersion="2021-01-25"), "RecipeFormatVersion", id="format"),
        pytest.param(changed(ComponentName="a b"), "ComponentName", id="name"),
        pytest.param(changed(ComponentVersion="1.0"), "ComponentVersion", id="version"),
        pytest.param(
            {key: value for key, value in PLAIN.items() if key != "Manifests"}, "Manifests", id="no manifests"
        ),
        pytest.param(
            changed(ComponentDependencies={"b": {"VersionRequirement": "latest"}}), "VersionRequirement", id="range"
        ),
        pytest.param(
            changed(ComponentDependencies={"b": {"DependencyType": "MAYBE"}}), "DependencyType", id="dependency type"
        ),
        pytest.param(changed(ComponentDependencies={"com.example.A": {}}), "another component", id="itself"),
        pytest.param(with_manifest(Artifacts=[{"Uri": "s3://b/x", "Digest": "!!"}]), "base64", id="digest"),
        pytest.param(
            with_manifest(Artifacts=[{"Uri": "s3://b/x", "Digest": "aGVsbG8="}]), "32 bytes", id="short digest"
        ),
        pytest.param(with_manifest(Artifacts=[{"Uri": "s3://b/x", "Algorithm": "MD5"}]), "Algorithm", id="algorithm"),
        pytest.param(with_manifest(Artifacts=[{"Uri": "s3://b/x", "Unarchive": "TAR"}]), "Unarchive", id="unarchive"),
        pytest.param(with_manifest(Artifacts=[{"Uri": "ftp://b/x"}]), "schemes", id="scheme"),
        pytest.param(with_manifest(Artifacts=[{"Uri": "s3://b/.."}]), "file name", id="climbing name"),
        pytest.param(
            with_manifest(Artifacts=[{"Uri": "s3://b/x"}, {"Uri": "s3://c/x"}]), "same file name", id="two names"
        ),
        pytest.param(with_manifest(Lifecycle={"run": "a", "startup": "b"}), "exclude", id="run and startup"),
        pytest.param(with_manifest(Lifecycle={"run": {"script": "a", "timeout": "soon"}}), "seconds", id="timeout"),
        pytest.param(with_manifest(Lifecycle={"run": {"script": "a", "skipif": "never"}}), "onpath", id="skipif"),
        pytest.param(with_manifest(Platform={"os": "/(a+)+b/"}), "repetition", id="slow regex"),
        pytest.param(with_manifest(Platform={"os": "/[/"}), "regular expression", id="bad regex"),
        pytest.param(changed(RECIPEFORMATVERSION="2020-01-25"), "twice", id="one key in two cases"),
    ],
)
def test_a_bad_recipe_is_refused(document: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        recipe.parse(document)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(changed(ComponentType="aws.greengrass.lambda"), id="lambda"),
        pytest.param(changed(ComponentSource="arn:aws:lambda:x:1:function:f:1"), id="source"),
        pytest.param(with_manifest(Artifacts=[{"Uri": "docker:alpine"}]), id="docker"),
    ],
)
def test_what_aws_knows_and_we_do_not_is_refused_by_name(document: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        recipe.parse(document)


@pytest.mark.parametrize(
    ("platform", "fits"),
    [
        pytest.param({}, True, id="any"),
        pytest.param({"os": "linux"}, True, id="exact"),
        pytest.param({"os": "Linux"}, True, id="case"),
        pytest.param({"os": "windows"}, False, id="other"),
        pytest.param({"os": "/linux|darwin/"}, True, id="regex"),
        pytest.param({"os": "/lin/"}, False, id="regex is full match"),
        pytest.param({"os": "all", "architecture": "any"}, True, id="legacy"),
        pytest.param({"runtime": "*"}, True, id="runtime star"),
        pytest.param({"camera": "*"}, True, id="star on a missing one"),
        pytest.param({"camera": "usb"}, False, id="missing"),
    ],
)
def test_platform(platform: dict[str, str], fits: bool) -> None:
    assert recipe.fits(platform, LINUX) is fits


def test_selections_choose_from_the_global_lifecycle_at_any_depth() -> None:
    document = changed(
        Manifests=[{"Platform": {"os": "windows"}, "Selections": ["win"]}, {"Selections": ["mine", "linux"]}],
        Lifecycle={
            "setenv": {"A": "1"},
            "install": {"linux": {"script": "i-linux"}, "all": "i-all"},
        },
    )
    document["Lifecycle"]["run"] = {"script": {"mine": "r-mine", "all": "r-all"}, "timeout": 5}
    chosen = recipe.select(recipe.parse(document), LINUX).lifecycle
    assert chosen.environment == {"A": "1"}
    assert chosen.steps["install"].script == "i-linux"
    assert (chosen.steps["run"].script, chosen.steps["run"].timeout) == ("r-mine", "5")


def test_no_manifest_for_this_platform_says_which_there_are() -> None:
    with pytest.raises(Invalid, match="os=linux"):
        recipe.select(recipe.parse(PLAIN), {"os": "darwin"})


def test_variables_that_are_not_known_stay() -> None:
    known = {(None, "work", "path"): "/w", ("b", "configuration", "/x"): "7"}
    text = recipe.interpolate(
        "{work:path} {b:configuration:/x} {nothing:here} ${HOME:-no} {a} {c:work:path}",
        lambda component, namespace, key: known.get((component, namespace, key)),
    )
    assert text == "/w 7 {nothing:here} ${HOME:-no} {a} {c:work:path}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("a: 2020-01-25", {"a": "2020-01-25"}, id="a date is text"),
        pytest.param("a: no", {"a": "no"}, id="no is text"),
        pytest.param("a: 1.10.0", {"a": "1.10.0"}, id="version"),
        pytest.param("a: [1, 0x1f, 1.5, true, ~, '1']", {"a": [1, 31, 1.5, True, None, "1"]}, id="scalars"),
        pytest.param("a:", {"a": None}, id="empty"),
        pytest.param('{"a": {"b": [1]}}', {"a": {"b": [1]}}, id="json"),
    ],
)
def test_yaml(text: str, value: Any) -> None:
    assert yaml_bounded.loads_object(text.encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: &x [1]\nb: *x", id="alias"),
        pytest.param("a: !!python/object/apply:os.system [ls]", id="tag"),
        pytest.param("a: 1\na: 2", id="duplicate"),
        pytest.param("a: [" * 60, id="deep"),
        pytest.param("[" + "1," * 30_000 + "]", id="many"),
        pytest.param("a: .nan", id="nan"),
        pytest.param("? [a]\n: b", id="key"),
        pytest.param("a: 1\n---\nb: 2", id="two documents"),
        pytest.param("a: 'x", id="torn"),
        pytest.param("<<: {a: 1}", id="merge"),
        pytest.param("# " + "x" * 300_000, id="large"),
    ],
)
def test_yaml_refused(text: str) -> None:
    with pytest.raises(Invalid):
        yaml_bounded.loads(text.encode())
