"""What can be searched and aggregated: the fields of a thing and of a thing group, and what is indexed of each.

Of a shadow: strings, numbers, true and false, arrays of such, and objects of them, by dotted names; null and arrays of
objects are not. Versions are for aggregations alone. Device Defender and locations are refused by name.
Sources: AWS IoT developer guide, "Manage thing indexing", "Manage thing group indexing", "Query syntax".
`jobs.<job id>.status` is ours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from marram.core import query
from marram.core import shadow as algebra
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid
from marram.core.query import PRESENT, Entry
from marram.hub.registry.store import Thing, ThingGroup

MAX_FIELDS: Final = 1000  # of one part of a thing
MAX_NAME: Final = 512  # characters of a field's name
MAX_CUSTOM: Final = 5
MAX_SHADOWS: Final = 10

Kind: TypeAlias = Literal["Number", "String", "Boolean"]
Fields: TypeAlias = dict[str, list[Entry]]

THINGS: Final = "AWS_Things"
GROUPS: Final = "AWS_ThingGroups"
REGISTRY: Final = "registry"
CONNECTIVITY: Final = "connectivity"
JOBS: Final = "jobs"

_SECTIONS: Final = ("desired", "reported", "delta", "metadata")
_REGISTRY_KINDS: Final[Mapping[str, Kind]] = {
    "thingId": "String", "thingName": "String", "registry.version": "Number", "registry.thingTypeName": "String",
    "registry.thingGroupNames": "String",
}  # fmt: skip
_CONNECTIVITY_KINDS: Final[Mapping[str, Kind]] = {
    "connectivity.timestamp": "Number", "connectivity.version": "Number", "connectivity.connected": "Boolean",
    "connectivity.disconnectReason": "String",
}  # fmt: skip
_CONNECTIVITY_MORE: Final = ("clientId", "keepAliveDuration", "cleanSession", "sessionExpiry")
GROUP_KINDS: Final[Mapping[str, Kind]] = {
    "description": "String", "parentGroupNames": "String", "thingGroupId": "String", "thingGroupName": "String",
    "version": "Number",
}  # fmt: skip
_OTHER_NAMES: Final = {"registry.thingTypeName": "thingTypeName", "registry.thingGroupNames": "thingGroupNames"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is indexed. named: the named shadows. custom: fields for aggregations, with their kinds."""

    things: bool = False
    shadow: bool = False
    connectivity: bool = False
    named: tuple[str, ...] = ()
    custom: tuple[tuple[str, Kind], ...] = ()
    groups: bool = False
    group_custom: tuple[tuple[str, Kind], ...] = ()

    def has_shadow(self, name: str) -> bool:
        return self.things and (name in self.named if name else self.shadow)

    @property
    def shadows(self) -> tuple[str, ...]:
        return (*([""] if self.shadow else []), *self.named)

    def managed(self) -> dict[str, Kind]:
        """Fields of things that can be aggregated without being asked for."""
        if not self.things:
            return {}
        kinds: dict[str, Kind] = {**_REGISTRY_KINDS}
        for name in self.shadows:
            kinds[f"{part_of_shadow(name)}.version"] = "Number"
            kinds[f"{part_of_shadow(name)}.hasDelta"] = "Boolean"
        if self.connectivity:
            kinds |= _CONNECTIVITY_KINDS
        return kinds

    def resolve(self, name: str) -> str:
        """As the function, of what is indexed. Raises Invalid."""
        field = resolve(name)
        part = part_of(field)
        if part == CONNECTIVITY and not self.connectivity:
            raise Invalid(f"{name} is not indexed: thingConnectivityIndexingMode is OFF")
        if part.startswith("shadow.name.") and part.removeprefix("shadow.name.") not in self.named:
            raise Invalid(f"{name} is not indexed: namedShadowNames has no {part.removeprefix('shadow.name.')!r}")
        if part == "shadow" and not self.shadow:
            raise Invalid(f"{name} is not indexed: thingIndexingMode is not REGISTRY_AND_SHADOW")
        return field

    def check_custom(self, name: str) -> None:
        """Raises Invalid for what cannot be a custom field under these settings."""
        if name in self.managed() or name in _OTHER_NAMES.values() or name in _CONNECTIVITY_KINDS:
            raise Invalid(f"customFields: {name} is a managed field")
        if not name.startswith(("attributes.", "shadow.")):
            raise Invalid(f"customFields: {name!r} is neither attributes.* nor a field of a shadow")
        try:
            self.resolve(name)
        except Invalid as exc:
            raise Invalid(f"customFields: {exc.message}") from exc


def resolve(name: str) -> str:
    """The field of a thing that `name` means in a query. Raises Invalid when it means none."""
    if name in ("thingName", "thingId", "thingTypeName", "thingGroupNames"):
        return name
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    first, _, rest = name.partition(".")
    if rest == "version" and first in ("registry", "shadow", CONNECTIVITY):
        raise Invalid(f"{name} can be aggregated, and cannot be searched")
    if first == "attributes" and rest:
        return name
    if first == "shadow" and rest:
        return _resolve_shadow(name, rest)
    if first == CONNECTIVITY and (name in _CONNECTIVITY_KINDS or rest in _CONNECTIVITY_MORE):
        return name
    if first == JOBS and rest.endswith(".status") and len(rest) > len(".status"):
        return name
    if first == "deviceDefender":
        raise Invalid(f"{name}: Device Defender is not indexed here")
    raise Invalid(
        f"{name!r} is not a field: thingName, thingId, thingTypeName, thingGroupNames, attributes.*, shadow.desired.*,"
        " shadow.reported.*, shadow.delta.*, shadow.metadata.*, shadow.hasDelta, shadow.name.<name>.*, connectivity.*"
        " and jobs.<job id>.status are"
    )


def _resolve_shadow(name: str, rest: str) -> str:
    if rest.startswith("name."):
        _, _, rest = rest.removeprefix("name.").partition(".")
    section, _, path = rest.partition(".")
    if rest == "version":
        raise Invalid(f"{name} can be aggregated, and cannot be searched")
    if rest != "hasDelta" and not (section in _SECTIONS and path):
        raise Invalid(
            f"{name!r} is not a field of a shadow: shadow[.name.<name>] and then hasDelta, or desired, reported, delta or"
            " metadata with a path"
        )
    return name


def resolve_group(name: str) -> str:
    """As `Settings.resolve`, of a thing group."""
    if name in GROUP_KINDS and name != "version":
        return name
    if name.startswith("attributes.") and name != "attributes.":
        return name
    raise Invalid(
        f"{name!r} is not a field of a thing group: thingGroupName, thingGroupId, description, parentGroupNames and"
        " attributes.* are"
    )


def stored_name(name: str) -> str:
    """The indexed field of a field that is aggregated."""
    return _OTHER_NAMES.get(name, name)


def is_bare(name: str) -> bool:
    """Whether a term without a field is looked for in it: what somebody wrote, not what the hub counts."""
    if name.startswith("shadow."):
        rest = name.removeprefix(part_of(name)).removeprefix(".")
        return rest.startswith(("desired.", "reported.", "delta."))
    return not name.startswith(("connectivity.", "jobs.", "registry."))


def part_of(name: str) -> str:
    """Which push a field comes from: registry, connectivity, jobs, or that of one shadow."""
    first, _, rest = name.partition(".")
    if first == "shadow":
        return part_of_shadow(rest.split(".")[1] if rest.startswith("name.") else "")
    return first if first in (CONNECTIVITY, JOBS) else REGISTRY


def part_of_shadow(name: str) -> str:
    return f"shadow.name.{name}" if name else "shadow"


# what is indexed


def of_thing(thing: Thing, groups: list[str]) -> Fields:
    found: Fields = {
        "thingName": query.entries(thing.name),
        "thingId": query.entries(thing.id),
        "registry.version": query.entries(thing.version),
    }
    if thing.type:
        found["thingTypeName"] = query.entries(thing.type)
    if groups:
        found["thingGroupNames"] = _several(groups)
    for name, value in thing.attributes.items():
        found[f"attributes.{name}"] = query.entries(value)
    return found


def of_group(group: ThingGroup, parents: list[str]) -> Fields:
    found: Fields = {
        "thingGroupName": query.entries(group.name),
        "thingGroupId": query.entries(group.id),
        "version": query.entries(group.version),
    }
    if group.description:
        found["description"] = query.entries(group.description)
    if parents:
        found["parentGroupNames"] = _several(parents)
    for name, value in group.attributes.items():
        found[f"attributes.{name}"] = query.entries(value)
    return found


def of_shadow(name: str, document: JsonObject) -> Fields:
    prefix = part_of_shadow(name)
    desired, reported = _section(document, "desired"), _section(document, "reported")
    delta = algebra.delta(algebra.Document(desired=desired, reported=reported)) if desired else {}
    found: Fields = {}
    for section, values in (("desired", desired), ("reported", reported), ("delta", delta)):
        _flatten(f"{prefix}.{section}", values, found)
    metadata = _section(document, "metadata")
    for section in ("desired", "reported"):
        at = f"{prefix}.metadata.{section}."
        stamps: Fields = {}
        _flatten(at[:-1], _section(metadata, section), stamps, are_stamps=True)
        for stamp, entry in stamps.items():  # of what is indexed itself, as AWS
            if f"{prefix}.{section}.{stamp.removeprefix(at).removesuffix('.timestamp')}" in found:
                found[stamp] = entry
    found[f"{prefix}.hasDelta"] = query.entries(bool(delta))
    version = document.get("version")
    if isinstance(version, int) and not isinstance(version, bool):
        found[f"{prefix}.version"] = query.entries(version)
    return found


def shown_shadow(document: JsonObject) -> JsonObject:
    """As a search answers it."""
    desired, reported = _section(document, "desired"), _section(document, "reported")
    delta = algebra.delta(algebra.Document(desired=desired, reported=reported)) if desired else {}
    sections: JsonObject = {"desired": desired, "reported": reported, "delta": delta}
    shown: JsonObject = {name: section for name, section in sections.items() if section}
    shown |= {name: document[name] for name in ("metadata", "version") if name in document}
    return {**shown, "hasDelta": bool(delta)}


def of_connectivity(state: Mapping[str, JsonValue]) -> Fields:
    found: Fields = {}
    for member in ("connected", "timestamp", "version", "disconnectReason", *_CONNECTIVITY_MORE):
        value = state.get(member)
        if isinstance(value, str | int | float):
            found[f"connectivity.{member}"] = query.entries(value)
    found.setdefault("connectivity.connected", query.entries(value=False))  # one that never was connected
    return found


def of_jobs(statuses: Mapping[str, str]) -> Fields:
    return {f"jobs.{job}.status": query.entries(status) for job, status in statuses.items()}


def _section(document: JsonObject, name: str) -> JsonObject:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _flatten(prefix: str, section: JsonObject, into: Fields, *, are_stamps: bool = False) -> None:
    """are_stamps: of metadata, where an array of a section is an array of stamps."""
    for key, value in section.items():
        name = f"{prefix}.{key}"
        if len(name) > MAX_NAME or len(into) >= MAX_FIELDS:
            continue
        if isinstance(value, dict):
            into.setdefault(name, []).append(PRESENT)
            _flatten(name, value, into, are_stamps=are_stamps)
        elif isinstance(value, list):
            if are_stamps:
                times = [item.get("timestamp") for item in value if isinstance(item, dict)]
                into[f"{name}.timestamp"] = _several([time for time in times if isinstance(time, int)])
            elif value and all(isinstance(item, str | int | float) for item in value):
                into.setdefault(name, []).extend(_several(cast("list[str | int | float]", value)))
        elif value is not None:
            into.setdefault(name, []).extend(query.entries(value))


def _several(values: Iterable[str | int | float]) -> list[Entry]:
    return [entry for value in values for entry in query.entries(value)]
