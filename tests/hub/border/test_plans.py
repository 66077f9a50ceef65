"""The plan compiler: patterns, merging of the slices' models, staleness; and the router over what it makes."""

import re
import warnings
from pathlib import Path

import pytest

from marram.core.errors import Invalid
from marram.hub.border import plans
from marram.hub.border.paging import Pages
from tools import plans as compiler

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        pytest.param(r"[^\p{C}]*", "a ä\u4e2d", "a\nb", id="no control characters"),
        pytest.param(r"[\p{Graph}\x20]*", "a b~", "ä", id="graph is ASCII"),
        pytest.param(r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$", "Ä 1_x", "a#", id="tag keys"),
        pytest.param(r"([\p{L}]*)${1,128}", "abc", "1", id="bounded anchor"),
        pytest.param(
            r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*", "a\U0001f600", "\n", id="surrogate pairs"
        ),
        pytest.param(r"\p{Upper}+", "AB", "Ab", id="outside a class"),
        pytest.param(r"[[a]+", "[a", "b", id="a bracket in a class"),
        pytest.param(r"\w+", "ab_1", "ä", id="ASCII words"),
    ],
)
def test_patterns_mean_what_java_means(pattern: str, good: str, bad: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = re.compile(compiler.translate(pattern), re.ASCII)
    assert made.fullmatch(good)
    assert not made.fullmatch(bad)


def test_a_pattern_that_cannot_be_translated_stops_the_build() -> None:
    with pytest.raises(compiler.PlanError):
        compiler.translate(r"\p{Klingon}")


def test_two_slices_may_use_one_shape_name() -> None:
    first = {
        "operations": {"Ask": {"input": {"shape": "Name"}}},
        "shapes": {"Name": {"type": "structure", "members": {}}},
    }
    second = {"operations": {"b/Tell": {"input": {"shape": "Name"}}}, "shapes": {"Name": {"type": "string"}}}
    model, paths = compiler.merge({"a": first, "b": second})
    assert paths == {"Ask": "a/Ask", "Tell": "b/Tell"}
    assert model["operations"]["Tell"]["input"]["shape"] == "BName"
    assert model["operations"]["Ask"]["http"] == {"method": "POST", "requestUri": "/marram/a/Ask"}


def test_one_operation_name_in_two_slices_stops_the_build() -> None:
    with pytest.raises(compiler.PlanError, match="Ask is declared by a/Ask and by b/Ask"):
        compiler.merge({"a": {"operations": {"Ask": {}}}, "b": {"operations": {"Ask": {}}}})


def test_a_missing_shape_stops_the_build() -> None:
    with pytest.raises(compiler.PlanError, match="Nowhere"):
        compiler.merge({"a": {"operations": {"Ask": {"input": {"shape": "Nowhere"}}}}})


def test_a_second_build_writes_nothing() -> None:
    compiler.build(ROOT)
    assert compiler.build(ROOT) == []


ROUTES = [
    ("s3", "GET", "/", {}, {}, "ListBuckets", {}),
    ("s3", "GET", "/b", {}, {}, "ListObjects", {"Bucket": "b"}),
    ("s3", "GET", "/b/", {"list-type": "2"}, {}, "ListObjectsV2", {"Bucket": "b"}),
    ("s3", "GET", "/b", {"location": ""}, {}, "GetBucketLocation", {"Bucket": "b"}),
    ("s3", "GET", "/b", {"acl": ""}, {}, "GetBucketAcl", {"Bucket": "b"}),
    ("s3", "PUT", "/b/k", {}, {}, "PutObject", {"Bucket": "b", "Key": "k"}),
    ("s3", "PUT", "/b/a/../k%2F%20", {}, {}, "PutObject", {"Bucket": "b", "Key": "a/../k/ "}),
    ("s3", "PUT", "/b/k", {}, {"x-amz-copy-source": "x"}, "CopyObject", {"Bucket": "b", "Key": "k"}),
    ("s3", "PUT", "/b/k", {"partNumber": "1", "uploadId": "u"}, {}, "UploadPart", {"Bucket": "b", "Key": "k"}),
    ("s3", "POST", "/b/k", {"uploads": ""}, {}, "CreateMultipartUpload", {"Bucket": "b", "Key": "k"}),
    ("s3", "POST", "/b/k", {"uploadId": "u"}, {}, "CompleteMultipartUpload", {"Bucket": "b", "Key": "k"}),
    ("s3", "GET", "/b/k", {"uploadId": "u"}, {}, "ListParts", {"Bucket": "b", "Key": "k"}),
    ("s3", "POST", "/b", {"delete": ""}, {}, "DeleteObjects", {"Bucket": "b"}),
    ("iot", "GET", "/things/a%3Ab", {}, {}, "DescribeThing", {"thingName": "a:b"}),
    ("iot", "GET", "/things", {}, {}, "ListThings", {}),
    ("iot", "GET", "/things/", {}, {}, "ListThings", {}),
    ("iot-data", "POST", "/topics/a/b//c", {}, {}, "Publish", {"topic": "a/b//c"}),
    ("iot-data", "POST", "/topics/a%2Fb", {}, {}, "Publish", {"topic": "a/b"}),
    ("iot-data", "GET", "/things/t/shadow", {}, {}, "GetThingShadow", {"thingName": "t"}),
    ("greengrassv2", "GET", "/greengrass/v2/deployments/d", {}, {}, "GetDeployment", {"deploymentId": "d"}),
]


@pytest.mark.parametrize(("service", "method", "path", "query", "headers", "name", "labels"), ROUTES)
def test_routes(service: str, method: str, path: str, query: dict, headers: dict, name: str, labels: dict) -> None:  # type: ignore[type-arg]
    found = plans.load(service).route(method, path, query, headers)
    assert found is not None
    assert (found[0].name, found[1]) == (name, labels)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nothing"), ("BREW", "/things"), ("GET", "/things/../x"), ("GET", "/a/b/c/d")]
)
def test_no_route(method: str, path: str) -> None:
    assert plans.load("iot").route(method, path, {}, {}) is None


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(Invalid):
        plans.load("s3").route("GET", "/b/%ff%fe", {}, {})


def test_page_tokens_belong_to_their_operation() -> None:
    pages = Pages(b"k" * 32)
    token = pages.token("ListThings", ["a", 1])
    assert pages.last("ListThings", token) == ["a", 1]
    assert pages.last("ListThings", None) is None
    assert re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", token)
    for wrong in (
        token[:-4] + "AAAA",
        "abcd",
        "!",
        pages.token("ListPolicies", ["a", 1]),
        Pages(b"x" * 32).token("ListThings", 1),
    ):
        with pytest.raises(Invalid):
            pages.last("ListThings", wrong)
