"""Component recipes (RecipeFormatVersion 2020-01-25): decoded YAML or JSON -> `Recipe`, platform choice, variables. Pure.

Keys are read in any case, as the Java nucleus does, and written in AWS's (`normalise`), which nucleus lite insists on. An
unknown key is refused with its place: a misspelt `Timout` that is silently ignored costs a night. Our own settings live
under `x-marram`. Not here: reading files (kit.yaml_bounded), component types lambda and plugin (refused by name).
Source: AWS recipe reference; observed, Java nucleus 2.18 and nucleus lite 2.6.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from marram.core import codec, semver
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, Unsupported

FORMAT: Final = "2020-01-25"
STEPS: Final = ("bootstrap", "install", "startup", "run", "shutdown", "recover", "uninstall")
TIMEOUTS_S: Final[Mapping[str, float | None]] = {
    "bootstrap": 120.0,
    "install": 120.0,
    "startup": 120.0,
    "run": None,
    "shutdown": 15.0,
    "recover": 60.0,
    "uninstall": 120.0,
}
# Selection keywords that the global Lifecycle may use without a manifest naming them.
KEYWORDS: Final = frozenset(
    {"all", "linux", "darwin", "windows", "posix", "macos", "unix", "amd64", "aarch64", "arm", "x86"}
)
MAX_SCRIPT: Final = 64 << 10
Read = TypeVar("Read")
_NAME: Final = re.compile(r"[a-zA-Z0-9\-_.]{1,128}")
_VARIABLE: Final = re.compile(r"\{([.\w-]+):([^:}]*)\}|\{([.\w-]+):([.\w-]+):([^:}]*)\}")
_SKIPIF: Final = re.compile(r"\s*(!?)\s*(onpath|exists)\s+(\S.*?)\s*", re.IGNORECASE)
_TYPES: Final = ("aws.greengrass.generic", "aws.greengrass.nucleus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    requirement: str = "*"
    hard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """`digest` is lower-case hex SHA-256 or empty; `name` the last part of the URI."""

    uri: str
    name: str
    unzip: bool = False
    read: str = "OWNER"
    execute: str = "NONE"
    digest: str = ""

    @property
    def unpacked(self) -> str:
        return self.name[:-4] if self.name.lower().endswith(".zip") else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Leave the step out when the command is on PATH (`onpath`) or the file is there (`exists`); `negated` turns it."""

    kind: str
    argument: str
    negated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`timeout` is the text of the recipe: seconds, or with variables in it."""

    script: str
    timeout: str = ""
    skip: Skip | None = None
    privileged: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A probe of ours: `script` exits 0 when the component does its work, not merely runs.

    `failures` in a row mean unhealthy; `settle_s` is how long a changed component must hold before its deployment has
    succeeded (AWS waits not at all: `run` is RUNNING when spawned, and a crash a moment later goes unseen); `errors` of the
    component while a deployment watches it fail the deployment (0 = only BROKEN does, as AWS).
    """

    script: str = ""
    interval_s: float = 5.0
    timeout_s: float = 5.0
    failures: int = 3
    settle_s: float = 1.0
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """AWS's rule is three errors and one hour; `backoff_s` is the pause before the second restart in a row, doubling."""

    max_errors: int = 3
    reset_s: float = 3600.0
    backoff_s: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    name: str
    platform: Mapping[str, str]
    selections: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    lifecycle: JsonObject | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`document` is the normalised form, complete: `parse(recipe.document) == recipe`."""

    name: str
    version: semver.Version
    description: str
    publisher: str
    kind: str
    configuration: JsonObject
    dependencies: Mapping[str, Dependency]
    manifests: tuple[Manifest, ...]
    lifecycle: JsonObject
    health: Health
    restart: Restart
    document: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """The steps for one platform, before variables are filled in."""

    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    steps: Mapping[str, Step] = field(default_factory=dict[str, Step])


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    artifacts: tuple[Artifact, ...]
    lifecycle: Lifecycle


Lookup = Callable[[str | None, str, str], str | None]


def parse(document: JsonValue) -> Recipe:
    """Raises Invalid naming the place of the first fault, Unsupported for what AWS knows and we do not run."""
    whole = _Node(_object(document, "recipe"), "", _TOP)
    kind = whole.text("ComponentType", default="aws.greengrass.generic").lower()
    if kind not in _TYPES:
        raise Unsupported(f"ComponentType {kind!r} is not supported here; {_TYPES[0]} is", place="ComponentType")
    if whole.raw("ComponentSource") is not None:
        raise Unsupported("ComponentSource (a Lambda function as component) is not supported here")
    version_of_format = whole.text("RecipeFormatVersion")
    if version_of_format != FORMAT:
        raise Invalid(f"RecipeFormatVersion: {version_of_format!r} is not known; write {FORMAT}")
    name = whole.text("ComponentName")
    if not _NAME.fullmatch(name):
        raise Invalid(f"ComponentName: {name!r}: letters, digits, '-', '_' and '.', at most 128")
    version = _located("ComponentVersion", semver.parse, whole.text("ComponentVersion"))
    configuration = whole.node("ComponentConfiguration", _CONFIGURATION)
    default = configuration.raw("DefaultConfiguration") if configuration else None
    manifests = tuple(
        _manifest(_Node(_object(entry, f"Manifests[{index}]"), f"Manifests[{index}]", _MANIFEST))
        for index, entry in enumerate(whole.array("Manifests", required=True))
    )
    keywords = KEYWORDS.union(*(manifest.selections for manifest in manifests))
    lifecycle = whole.raw("Lifecycle")
    shape = _lifecycle_shape(_object({} if lifecycle is None else lifecycle, "Lifecycle"), "Lifecycle", keywords)
    health, restart = _ours(whole.node("x-marram", _OURS))
    made = Recipe(
        name=name,
        version=version,
        description=whole.text("ComponentDescription", default=""),
        publisher=whole.text("ComponentPublisher", default=""),
        kind=kind,
        configuration=_object({} if default is None else default, "ComponentConfiguration.DefaultConfiguration"),
        dependencies=_dependencies(whole.raw("ComponentDependencies"), name),
        manifests=manifests,
        lifecycle=shape,
        health=health,
        restart=restart,
        document={},
    )
    for manifest in manifests:  # every platform's steps are read now: a fault must not wait for that platform
        _steps_of(made, manifest)
    return _with_document(made)


def normalise(document: JsonValue) -> JsonObject:
    """The recipe with AWS's spelling of every key. Raises as `parse`."""
    return parse(document).document


def select(recipe: Recipe, device: Mapping[str, str]) -> Selected:
    """The first manifest that fits the device. Raises Invalid when none does. No manifests at all = nothing to run."""
    if not recipe.manifests:
        whole = Manifest(name="", platform={}, selections=(), artifacts=(), lifecycle=None)
        return Selected(artifacts=(), lifecycle=_steps_of(recipe, whole))
    for manifest in recipe.manifests:
        if fits(manifest.platform, device):
            return Selected(artifacts=manifest.artifacts, lifecycle=_steps_of(recipe, manifest))
    raise Invalid(
        f"{recipe.name} {recipe.version} has no manifest for this platform ({_platform_text(device)}); it has: "
        + "; ".join(_platform_text(manifest.platform) for manifest in recipe.manifests),
        component=recipe.name,
    )


def fits(platform: Mapping[str, str], device: Mapping[str, str]) -> bool:
    """Whether the device has every attribute asked for: exact, `*`, `/regex/`, and `all` or `any` for os, architecture."""
    for key, template in platform.items():
        value = device.get(key)
        if template == "*" or (key in ("os", "architecture") and template.lower() in ("all", "any")):
            continue
        if value is None:
            return False
        if len(template) > 1 and template[0] == template[-1] == "/":
            if not re.fullmatch(template[1:-1], value):
                return False
        elif template.lower() != value.lower():
            return False
    return True


def interpolate(text: str, lookup: Lookup) -> str:
    """Fill `{namespace:key}` and `{component:namespace:key}`; what `lookup(component, namespace, key)` does not know stays."""

    def fill(found: re.Match[str]) -> str:
        namespace, key, component, other, deep = found.groups()
        value = lookup(None, namespace, key) if component is None else lookup(component, other, deep)
        return found.group() if value is None else value

    return _VARIABLE.sub(fill, text)


def as_text(value: JsonValue) -> str:
    """How a configuration value reads inside a script: text as it is, null `null`, containers compact JSON."""
    return value if isinstance(value, str) else codec.dumps(value).decode()


# The spelling of every structural key, by its lower-case form; what is not here is refused.
def _keys(*names: str) -> Mapping[str, str]:
    return {name.lower(): name for name in names}


_TOP: Final = _keys(
    "RecipeFormatVersion", "ComponentName", "ComponentVersion", "ComponentDescription", "ComponentPublisher",
    "ComponentType", "ComponentSource", "ComponentConfiguration", "ComponentDependencies", "Manifests", "Lifecycle",
    "x-marram",
)  # fmt: skip
_CONFIGURATION: Final = _keys("DefaultConfiguration")
_DEPENDENCY: Final = _keys("VersionRequirement", "DependencyType")
_MANIFEST: Final = _keys("Name", "Platform", "Lifecycle", "Selections", "Artifacts")
_ARTIFACT: Final = _keys("Uri", "Unarchive", "Permission", "Digest", "Algorithm")
_PERMISSION: Final = _keys("Read", "Execute")
_STEP: Final = _keys("Script", "Timeout", "Skipif", "RequiresPrivilege", "Setenv")
_OURS: Final = _keys("health", "restart")
_HEALTH: Final = _keys("script", "interval_s", "timeout_s", "failures", "settle_s", "errors")
_RESTART: Final = _keys("max_errors", "reset_s", "backoff_s")


class _Node:
    """One object of the recipe: its members by canonical name; any other key is refused with its place."""

    def __init__(self, value: JsonObject, place: str, keys: Mapping[str, str]) -> None:
        self.place = place
        self._members: JsonObject = {}
        for key, member in value.items():
            name = keys.get(key.lower())
            if name is None:
                where = f"{place}.{key}" if place else key
                raise Invalid(f"{where}: unknown key; known here: {', '.join(keys.values())}", place=where)
            if name in self._members:
                raise Invalid(f"{self.at(name)}: given twice in different case", place=self.at(name))
            self._members[name] = member

    def at(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name

    def raw(self, name: str) -> JsonValue:
        return self._members.get(name)

    def text(self, name: str, *, default: str | None = None) -> str:
        value = self.raw(name)
        if value is None and default is not None:
            return default
        if value is None:
            raise Invalid(f"{self.at(name)}: missing", place=self.at(name))
        if isinstance(value, bool | list | dict):
            raise Invalid(f"{self.at(name)}: must be text, not {codec.kind(value)}", place=self.at(name))
        return str(value)

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        value = self.text(name, default=default).upper()
        if value not in allowed:
            raise Invalid(f"{self.at(name)}: {value!r} is not one of {', '.join(allowed)}", place=self.at(name))
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise Invalid(f"{self.at(name)}: must be a number from {low:g} to {high:g}", place=self.at(name))
        return float(value)

    def array(self, name: str, *, required: bool = False) -> list[JsonValue]:
        value = self.raw(name)
        if value is None and not required:
            return []
        if not isinstance(value, list):
            fault = "missing" if value is None else f"must be a list, not {codec.kind(value)}"
            raise Invalid(f"{self.at(name)}: {fault}", place=self.at(name))
        return value

    def node(self, name: str, keys: Mapping[str, str]) -> "_Node | None":
        value = self.raw(name)
        return None if value is None else _Node(_object(value, self.at(name)), self.at(name), keys)


def _object(value: JsonValue, place: str) -> JsonObject:
    if not isinstance(value, dict):
        raise Invalid(f"{place}: must be an object, not {codec.kind(value)}", place=place)
    return value


def _located(place: str, read: Callable[[str], Read], text: str) -> Read:
    try:
        return read(text)
    except Invalid as exc:
        raise Invalid(f"{place}: {exc.message}", place=place) from exc


def _dependencies(value: JsonValue, own: str) -> Mapping[str, Dependency]:
    made: dict[str, Dependency] = {}
    for name, entry in _object({} if value is None else value, "ComponentDependencies").items():
        place = f"ComponentDependencies.{name}"
        if not _NAME.fullmatch(name) or name == own:
            raise Invalid(f"{place}: not the name of another component", place=place)
        node = _Node(_object(entry, place), place, _DEPENDENCY)
        requirement = node.text("VersionRequirement", default="*")
        _located(node.at("VersionRequirement"), semver.parse_range, requirement)
        hard = node.choice("DependencyType", ("HARD", "SOFT"), "HARD") == "HARD"
        made[name] = Dependency(requirement=requirement, hard=hard)
    return made


def _manifest(node: _Node) -> Manifest:
    platform: dict[str, str] = {}
    for key, value in _object(node.raw("Platform") or {}, node.at("Platform")).items():
        template = "*" if value is None else value
        if not isinstance(template, str) or not template:
            raise Invalid(f"{node.at('Platform')}.{key}: must be text", place=f"{node.at('Platform')}.{key}")
        platform[key.lower() if key.lower() in ("os", "architecture") else key] = template
        _check_template(f"{node.at('Platform')}.{key}", template)
    selections: list[str] = []
    for entry in node.array("Selections"):
        if not isinstance(entry, str):
            raise Invalid(f"{node.at('Selections')}: must be a list of keywords", place=node.at("Selections"))
        selections.append(entry)
    lifecycle = node.raw("Lifecycle")
    place = node.at("Lifecycle")
    artifacts = tuple(
        _artifact(_Node(_object(entry, f"{node.place}.Artifacts[{at}]"), f"{node.place}.Artifacts[{at}]", _ARTIFACT))
        for at, entry in enumerate(node.array("Artifacts"))
    )
    names = [artifact.name for artifact in artifacts]
    if len(set(names)) != len(names):
        raise Invalid(f"{node.at('Artifacts')}: two artifacts have the same file name", place=node.at("Artifacts"))
    return Manifest(
        name=node.text("Name", default=""),
        platform=platform,
        selections=tuple(selections),
        artifacts=artifacts,
        lifecycle=None if lifecycle is None else _lifecycle_shape(_object(lifecycle, place), place, frozenset()),
    )


def _check_template(place: str, template: str) -> None:
    if len(template) > 1 and template[0] == template[-1] == "/":
        # Nested repetition in a recipe's regex could hold the resolver for hours: keep to what cannot.
        if len(template) > 128 or re.search(r"[*+}]\)?[*+{]|\\[1-9]|\)[*+{]", template):
            raise Invalid(f"{place}: regular expression too long or with nested repetition", place=place)
        try:
            re.compile(template[1:-1])
        except re.error as exc:
            raise Invalid(f"{place}: not a regular expression: {exc}", place=place) from exc
    elif template != "*" and not template[0].isalnum():
        raise Invalid(f"{place}: {template!r} must begin with a letter or digit, or be /regex/ or *", place=place)


def _artifact(node: _Node) -> Artifact:
    uri = node.text("Uri")
    name = uri.rstrip("/").rpartition("/")[2] if "/" in uri else uri.rpartition(":")[2]
    place = node.at("Uri")
    scheme = uri.partition(":")[0].lower() if ":" in uri else ""
    if scheme == "docker":
        raise Unsupported(f"{place}: docker: artifacts are not supported here", place=place)
    if scheme not in ("s3", "greengrass", "file", ""):
        raise Invalid(f"{place}: {uri!r}: the schemes are s3:// and greengrass:", place=place)
    if not re.fullmatch(r"[\w][\w .+@=,~-]{0,254}", name):
        raise Invalid(f"{place}: {uri!r} does not end in a plain file name", place=place)
    algorithm = node.text("Algorithm", default="SHA-256").upper()
    if algorithm not in ("SHA-256", "SHA256"):
        raise Invalid(f"{node.at('Algorithm')}: {algorithm!r}; only SHA-256 is known", place=node.at("Algorithm"))
    permission = node.node("Permission", _PERMISSION)
    levels = ("NONE", "OWNER", "ALL")
    return Artifact(
        uri=uri,
        name=name,
        unzip=node.choice("Unarchive", ("NONE", "ZIP"), "NONE") == "ZIP",
        read=permission.choice("Read", levels, "OWNER") if permission else "OWNER",
        execute=permission.choice("Execute", levels, "NONE") if permission else "NONE",
        digest=_digest(node.text("Digest", default=""), node.at("Digest")),
    )


def _digest(text: str, place: str) -> str:
    if not text:
        return ""
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return text
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Invalid(f"{place}: not base64", place=place) from exc
    if len(raw) != 32:
        raise Invalid(f"{place}: a SHA-256 has 32 bytes, this has {len(raw)}", place=place)
    return raw.hex()


def _lifecycle_shape(value: JsonObject, place: str, keywords: Iterable[str]) -> JsonObject:
    """Canonical spelling of a Lifecycle section; `keywords` may stand at any depth above the steps and inside them."""
    words = {word.lower(): word for word in keywords}
    made: JsonObject = {}
    for key, member in value.items():
        low = key.lower()
        where = f"{place}.{key}"
        if low == "setenv":
            made["Setenv"] = dict(_environment(member, where, words))
        elif low in words:
            made[words[low]] = _lifecycle_shape(_object(member, where), where, words.values())
        elif low in STEPS:
            made[low] = _step_shape(member, where, words)
        else:
            raise Invalid(f"{where}: unknown key; the steps are: setenv, {', '.join(STEPS)}", place=where)
    return made


def _step_shape(value: JsonValue, place: str, words: Mapping[str, str]) -> JsonValue:
    if value is None or isinstance(value, str):
        return value or ""
    made: JsonObject = {}
    for key, member in _object(value, place).items():
        low = key.lower()
        where = f"{place}.{key}"
        if low in words:
            made[words[low]] = _step_shape(member, where, words)
        elif low == "setenv":
            made["Setenv"] = dict(_environment(member, where, words))
        elif low in _STEP:
            made[_STEP[low]] = member
        else:
            raise Invalid(f"{where}: unknown key; known here: {', '.join(_STEP.values())}", place=where)
    return made


def _environment(value: JsonValue, place: str, words: Mapping[str, str]) -> JsonObject:
    made: JsonObject = {}
    for key, member in _object({} if value is None else value, place).items():
        if isinstance(member, dict) and key.lower() in words:
            made[words[key.lower()]] = _environment(member, f"{place}.{key}", words)
        elif isinstance(member, dict | list) or not re.fullmatch(r"[^=\0]{1,256}", key):
            raise Invalid(f"{place}.{key}: an environment variable is text", place=f"{place}.{key}")
        else:
            made[key] = "" if member is None else as_text(member)
    return made


def _chosen(value: JsonValue, selections: Sequence[str], words: Iterable[str]) -> JsonValue:
    """The part of the global Lifecycle for these selections; a keyword may stand at any depth."""
    if not isinstance(value, dict):
        return value
    present = set(words).intersection(value)
    if present:
        for selection in selections:
            if selection in present:
                return _chosen(value[selection], selections, words)
        return None
    made: JsonObject = {}
    for key, member in value.items():
        part = _chosen(member, selections, words)
        if part is not None:
            made[key] = part
    return made


def _steps_of(recipe: Recipe, manifest: Manifest) -> Lifecycle:
    if manifest.lifecycle:
        section: JsonValue = manifest.lifecycle
        place = "Manifests[].Lifecycle"
    else:
        words = KEYWORDS.union(*(each.selections for each in recipe.manifests))
        section = _chosen(recipe.lifecycle, manifest.selections or ("all",), words)
        place = "Lifecycle"
    environment: dict[str, str] = {}
    steps: dict[str, Step] = {}
    for key, member in _object(section or {}, place).items():
        if key == "Setenv":
            environment.update((name, as_text(text)) for name, text in _object(member, place).items())
        elif key in STEPS:
            step = _step(member, f"{place}.{key}")
            if step is not None:
                steps[key] = step
    if "startup" in steps and "run" in steps:
        raise Invalid(f"{place}: startup and run exclude each other", place=place)
    return Lifecycle(environment=environment, steps=steps)


def _step(value: JsonValue, place: str) -> Step | None:
    if isinstance(value, str):
        return Step(script=_script(value, place)) if value.strip() else None
    node = _Node(_object(value, place), place, _STEP)
    script = node.text("Script", default="")
    timeout = node.text("Timeout", default="")
    if timeout and "{" not in timeout:
        seconds(timeout, node.at("Timeout"))
    privileged = node.raw("RequiresPrivilege")
    if isinstance(privileged, str) and privileged.lower() in ("true", "false"):
        privileged = privileged.lower() == "true"
    if privileged not in (None, True, False):
        raise Invalid(f"{node.at('RequiresPrivilege')}: must be true or false", place=node.at("RequiresPrivilege"))
    environment = node.raw("Setenv")
    step = Step(
        script=_script(script, place),
        timeout=timeout,
        skip=_skip(node.text("Skipif", default=""), node.at("Skipif")),
        privileged=privileged is True,
        environment={name: as_text(text) for name, text in _object(environment or {}, place).items()},
    )
    return step if step.script.strip() or step.environment else None


def _script(text: str, place: str) -> str:
    if len(text) > MAX_SCRIPT or "\0" in text:
        raise Invalid(f"{place}: a script has at most {MAX_SCRIPT} characters and no NUL", place=place)
    return text


def seconds(text: str, place: str = "Timeout") -> float:
    """Raises Invalid unless it is a number of seconds above 0 and at most 30 days."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 30 * 86400:
        raise Invalid(f"{place}: {text!r} is not a number of seconds", place=place)
    return value


def _skip(text: str, place: str) -> Skip | None:
    if not text.strip():
        return None
    found = _SKIPIF.fullmatch(text)
    if found is None:
        raise Invalid(
            f"{place}: {text!r}; write 'onpath NAME' or 'exists FILE', with ! before it to turn it", place=place
        )
    negated, kind, argument = found.groups()
    return Skip(kind=kind.lower(), argument=argument, negated=bool(negated))


def _ours(node: _Node | None) -> tuple[Health, Restart]:
    health = node.node("health", _HEALTH) if node else None
    restart = node.node("restart", _RESTART) if node else None
    made_health, made_restart = Health(), Restart()
    if health:
        made_health = Health(
            script=_script(health.text("script", default=""), health.at("script")),
            interval_s=health.number("interval_s", 5.0, 0.05, 86400),
            timeout_s=health.number("timeout_s", 5.0, 0.05, 600),
            failures=int(health.number("failures", 3, 1, 1000)),
            settle_s=health.number("settle_s", 1.0, 0, 3600),
            errors=int(health.number("errors", 0, 0, 1000)),
        )
    if restart:
        made_restart = Restart(
            max_errors=int(restart.number("max_errors", 3, 1, 1_000_000)),
            reset_s=restart.number("reset_s", 3600, 1, 30 * 86400),
            backoff_s=restart.number("backoff_s", 0.25, 0, 3600),
        )
    return made_health, made_restart


def _with_document(recipe: Recipe) -> Recipe:
    document: JsonObject = {
        "RecipeFormatVersion": FORMAT,
        "ComponentName": recipe.name,
        "ComponentVersion": str(recipe.version),
    }
    if recipe.description:
        document["ComponentDescription"] = recipe.description
    if recipe.publisher:
        document["ComponentPublisher"] = recipe.publisher
    document["ComponentType"] = recipe.kind
    if recipe.configuration:
        document["ComponentConfiguration"] = {"DefaultConfiguration": recipe.configuration}
    if recipe.dependencies:
        document["ComponentDependencies"] = {
            name: {"VersionRequirement": each.requirement, "DependencyType": "HARD" if each.hard else "SOFT"}
            for name, each in recipe.dependencies.items()
        }
    document["Manifests"] = [_manifest_document(manifest) for manifest in recipe.manifests]
    if recipe.lifecycle:
        document["Lifecycle"] = recipe.lifecycle
    ours: JsonObject = {}
    if recipe.health != Health():
        health = recipe.health
        ours["health"] = {
            "script": health.script,
            "interval_s": health.interval_s,
            "timeout_s": health.timeout_s,
            "failures": health.failures,
            "settle_s": health.settle_s,
            "errors": health.errors,
        }
    if recipe.restart != Restart():
        restart = recipe.restart
        ours["restart"] = {
            "max_errors": restart.max_errors,
            "reset_s": restart.reset_s,
            "backoff_s": restart.backoff_s,
        }
    if ours:
        document["x-marram"] = ours
    return replace(recipe, document=document)


def _manifest_document(manifest: Manifest) -> JsonObject:
    made: JsonObject = {}
    if manifest.name:
        made["Name"] = manifest.name
    if manifest.platform:
        made["Platform"] = dict(manifest.platform)
    if manifest.lifecycle is not None:
        made["Lifecycle"] = manifest.lifecycle
    if manifest.selections:
        made["Selections"] = list(manifest.selections)
    if manifest.artifacts:
        made["Artifacts"] = [_artifact_document(artifact) for artifact in manifest.artifacts]
    return made


def _artifact_document(artifact: Artifact) -> JsonObject:
    made: JsonObject = {"Uri": artifact.uri, "Unarchive": "ZIP" if artifact.unzip else "NONE"}
    made["Permission"] = {"Read": artifact.read, "Execute": artifact.execute}
    if artifact.digest:
        made["Digest"] = base64.b64encode(bytes.fromhex(artifact.digest)).decode()
        made["Algorithm"] = "SHA-256"
    return made


def _platform_text(platform: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in platform.items()) or "any"
