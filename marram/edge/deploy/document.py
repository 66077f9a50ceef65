"""A deployment document: what CreateDeployment puts into a job, and the local form of ours. Parsed once, strictly.

Sources: schemaDate 2021-05-17, observed with nucleus lite (reference greengrass 1.3). Unknown members of a hub's document are
kept and ignored (AWS adds some); `requiredCapabilities` that we do not have are refused, which is what they are for. What is
known and not obeyed here is named in `not_supported`: our hub refuses it, another's deployment says so in its detail.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from marram.core import codec, config_tree, semver
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, Unsupported

LOCAL: Final = "LOCAL_DEPLOYMENT"
CAPABILITIES: Final = frozenset({"LINUX_RESOURCE_LIMITS"})  # of memory; cpus is in `not_supported`
NOTIFY: Final = "NOTIFY_COMPONENTS"
NOTIFY_S: Final = 60  # AWS's defaults of the two waits
VALIDATION_S: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the document says about one component. `requirement`: a version, or a range; "" = configure only (local)."""

    requirement: str
    merge: JsonObject = field(default_factory=dict[str, JsonValue])
    reset: tuple[str, ...] = ()
    run_with: JsonObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """`remove` and the folders are of local deployments alone, which add to their target; a hub's document is its target."""

    id: str
    target: str
    name: str = ""
    revision: str = ""
    components: Mapping[str, Wish] = field(default_factory=dict[str, Wish])
    remove: tuple[str, ...] = ()
    recipes: str = ""
    artifacts: str = ""
    rollback: bool = True
    created_ms: int = 0
    not_supported: tuple[str, ...] = ()

    @property
    def local(self) -> bool:
        return self.target == LOCAL


def parse(value: JsonValue) -> Document:
    """Raises Invalid naming the place, Unsupported for a capability that is not there."""
    if not isinstance(value, dict):
        raise Invalid(f"a deployment document is an object, not {codec.kind(value)}")
    missing = [each for each in _texts(value, "requiredCapabilities") if each not in CAPABILITIES]
    if missing:
        raise Unsupported(f"requiredCapabilities: {', '.join(missing)} are not supported here")
    arn = _text(value, "configurationArn")
    target, revision = _target(arn)
    policy = _text(value, "failureHandlingPolicy", "ROLLBACK")
    if policy not in ("ROLLBACK", "DO_NOTHING"):
        raise Invalid(f"failureHandlingPolicy: {policy!r}; ROLLBACK and DO_NOTHING are known")
    components = value.get("components")
    components = {} if components is None else components
    if not isinstance(components, dict):
        raise Invalid(f"components: must be an object, not {codec.kind(components)}")
    created = value.get("creationTimestamp", 0)
    return Document(
        id=_text(value, "deploymentId"),
        target=target,
        name=_text(value, "deploymentName", ""),
        revision=revision,
        components={name: _wish(name, entry) for name, entry in components.items()},
        remove=tuple(_texts(value, "x-marram-remove")) if target == LOCAL else (),
        recipes=_text(value, "x-marram-recipes", "") if target == LOCAL else "",
        artifacts=_text(value, "x-marram-artifacts", "") if target == LOCAL else "",
        rollback=policy == "ROLLBACK",
        created_ms=created if isinstance(created, int) and not isinstance(created, bool) else 0,
        not_supported=tuple(_not_supported(value)),
    )


def _not_supported(value: JsonObject) -> Iterator[str]:
    for name in ("parentTargetArn", "onBehalfOf"):
        if value.get(name):
            yield name
    update = _object(value.get("componentUpdatePolicy"))
    # That nobody is notified is AWS's default not obeyed, in every deployment: docs/known-differences.md says it once.
    if update.get("action", NOTIFY) == NOTIFY and update.get("timeout", NOTIFY_S) != NOTIFY_S:
        yield "componentUpdatePolicy.timeout"
    if _object(value.get("configurationValidationPolicy")).get("timeout", VALIDATION_S) != VALIDATION_S:
        yield "configurationValidationPolicy.timeout"
    for name, entry in _object(value.get("components")).items():
        run_with = _object(_object(entry).get("runWith"))
        if run_with.get("windowsUser"):
            yield f"components.{name}.runWith.windowsUser"
        limits = _object(run_with.get("systemResourceLimits"))
        yield from (
            f"components.{name}.runWith.systemResourceLimits.{key}"
            for key, limit in limits.items()
            if key != "memory" and limit is not None
        )


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}


def local(
    deployment_id: str,
    *,
    add: Mapping[str, str],
    remove: Sequence[str] = (),
    configuration: Mapping[str, JsonObject] | None = None,
    run_with: Mapping[str, JsonObject] | None = None,
    recipes: str = "",
    artifacts: str = "",
    rollback: bool = True,
    created_ms: int,
) -> JsonObject:
    """The document of a local deployment; `configuration` = {component: {MERGE, RESET}} as AWS's CLI has it."""
    components: JsonObject = {}
    names: list[str] = [*add, *(configuration or {}), *(run_with or {})]
    for name in dict.fromkeys(names):
        entry: JsonObject = {"version": add.get(name, "")}
        update = (configuration or {}).get(name)
        if update is not None:
            known = {key.lower(): key for key in update}
            unknown = known.keys() - {"merge", "reset"}
            if unknown:
                raise Invalid(
                    f"configuration of {name}: unknown key {known[unknown.pop()]!r}; MERGE and RESET are known"
                )
            entry["configurationUpdate"] = {key.lower(): each for key, each in update.items()}
        if run_with and name in run_with:
            entry["runWith"] = run_with[name]
        components[name] = entry
    return {
        "deploymentId": deployment_id,
        "configurationArn": LOCAL,
        "components": components,
        "x-marram-remove": list(remove),
        "x-marram-recipes": recipes,
        "x-marram-artifacts": artifacts,
        "failureHandlingPolicy": "ROLLBACK" if rollback else "DO_NOTHING",
        "creationTimestamp": created_ms,
    }


def _target(arn: str) -> tuple[str, str]:
    """`arn:...:configuration:thinggroup/g:7` -> ("thinggroup/g", "7")."""
    if arn == LOCAL:
        return LOCAL, ""
    tail = arn.rpartition(":configuration:")[2]
    target, _, revision = tail.rpartition(":")
    if not target.startswith(("thinggroup/", "thing/")):
        raise Invalid(f"configurationArn: {arn!r} ends neither in thinggroup/NAME:N nor in thing/NAME:N")
    return target, revision


def _wish(name: str, entry: JsonValue) -> Wish:
    place = f"components.{name}"
    if not isinstance(entry, dict):
        raise Invalid(f"{place}: must be an object")
    requirement = _text(entry, "version", "", place)
    if requirement:
        try:
            semver.parse_range(requirement)
        except Invalid as exc:
            raise Invalid(f"{place}.version: {exc.message}") from exc
    update = entry.get("configurationUpdate") or {}
    if not isinstance(update, dict):
        raise Invalid(f"{place}.configurationUpdate: must be an object")
    merge = update.get("merge")
    if isinstance(merge, str):  # the cloud's form has text here, the job's an object
        merge = codec.loads(merge)
    merge = {} if merge is None else merge
    if not isinstance(merge, dict):
        raise Invalid(f"{place}.configurationUpdate.merge: must be an object, not {codec.kind(merge)}")
    reset = _texts(update, "reset", place)
    for text in reset:
        config_tree.pointer(text)
    run_with = entry.get("runWith")
    if run_with is not None and not isinstance(run_with, dict):
        raise Invalid(f"{place}.runWith: must be an object")
    memory = _object(_object(run_with).get("systemResourceLimits")).get("memory")
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int | float) or memory < 0):
        raise Invalid(f"{place}.runWith.systemResourceLimits.memory: kilobytes, a number")
    return Wish(requirement=requirement, merge=merge, reset=tuple(reset), run_with=run_with)


def _text(value: JsonObject, key: str, default: str | None = None, place: str = "") -> str:
    found = value.get(key)
    if found is None and default is not None:
        return default
    if not isinstance(found, str):
        raise Invalid(f"{place + '.' if place else ''}{key}: {'missing' if found is None else 'must be text'}")
    return found


def _texts(value: JsonObject, key: str, place: str = "") -> list[str]:
    found = value.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise Invalid(f"{place + '.' if place else ''}{key}: must be a list of texts")
    return [str(each) for each in found]
