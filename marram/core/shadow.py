"""The algebra of a shadow document: merge, delta, versions, metadata. Pure; hub and edge run the same.

Rules: keys merge, null removes, arrays and leaves replace; the delta holds the leaves of desired that differ from reported;
metadata carry a timestamp in seconds for each leaf. Members of a request beside state, version and clientToken are ignored.
Sources: AWS IoT Developer Guide, "Device Shadow service documents", "Device Shadow error messages", "Diagnosing problems
with shadows". Not here: storage, topics, policy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, LimitExceeded, VersionConflict

MAX_BYTES: Final = 8 * 1024
MAX_DEPTH: Final = 8  # levels below `desired` or `reported`; AWS's quota page (its error text says 6)
MAX_TOKEN_BYTES: Final = 64

Section: TypeAlias = dict[str, JsonValue]
_EMPTY: Final = cast("Callable[[], Section]", dict)  # `dict[str, JsonValue]` costs five times as much a call


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """`desired_meta`, `reported_meta`: same shape as the section, leaves are {"timestamp": seconds}. Version 0 = not there."""

    desired: Section = field(default_factory=_EMPTY)
    reported: Section = field(default_factory=_EMPTY)
    desired_meta: Section = field(default_factory=_EMPTY)
    reported_meta: Section = field(default_factory=_EMPTY)
    version: int = 0

    @property
    def exists(self) -> bool:
        return self.version > 0


EMPTY: Final = Document()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One update. A section that is None is not touched; `clear_*` (the section was null) removes it whole.

    is_null: `"state": null`, which is both sections null.
    """

    desired: Section | None = None
    reported: Section | None = None
    clear_desired: bool = False
    clear_reported: bool = False
    version: int | None = None
    token: str | None = None
    is_null: bool = False


def parse_patch(payload: bytes, *, max_bytes: int = MAX_BYTES) -> Patch:
    """Read an update request. Raises Invalid or LimitExceeded with the texts AWS sends."""
    if len(payload) > max_bytes:
        raise LimitExceeded("The payload exceeds the maximum size allowed", limit=max_bytes)
    try:
        text = payload.decode()
    except UnicodeDecodeError as exc:
        raise Invalid("Unsupported documented encoding; supported encoding is UTF-8", kind="encoding") from exc
    try:
        body = codec.loads(text, max_depth=MAX_DEPTH + 4)
    except Invalid as exc:
        deep = "nested deeper" in exc.message
        raise Invalid("JSON contains too many levels of nesting; maximum is 8" if deep else "Invalid JSON") from exc
    if not isinstance(body, dict):
        raise Invalid("Invalid JSON")
    if "state" not in body:
        raise Invalid("Missing required node: state")
    state = body["state"]
    is_null = state is None
    if is_null:
        state = {"desired": None, "reported": None}
    if not isinstance(state, dict):
        raise Invalid("State node must be an object")
    for key in state:
        if key not in {"desired", "reported"}:
            raise Invalid(f"State contains an invalid node: '{key}'")
    version = body.get("version")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 0):
        raise Invalid("Invalid version")
    is_plain = "[" not in text and text.count("{") <= MAX_DEPTH  # too few brackets for what a walk would find
    return Patch(
        desired=_section(state, "desired", "Desired", is_plain=is_plain),
        reported=_section(state, "reported", "Reported", is_plain=is_plain),
        clear_desired="desired" in state and state["desired"] is None,
        clear_reported="reported" in state and state["reported"] is None,
        version=version,
        token=read_token(body),
        is_null=is_null,
    )


def read_token(body: Mapping[str, JsonValue]) -> str | None:
    """The clientToken of a request. Raises Invalid over 64 bytes."""
    token = body.get("clientToken")
    if token is None:
        return None
    if not isinstance(token, str) or len(token.encode()) > MAX_TOKEN_BYTES:
        raise Invalid("Invalid clientToken")
    return token


def apply(before: Document, patch: Patch, now_ms: int, *, max_bytes: int = MAX_BYTES) -> Document:
    """The document after `patch`; `before` is not changed. Metadata do not count for the size.

    Raises VersionConflict, or LimitExceeded when the result is over `max_bytes`.
    """
    if patch.version is not None and patch.version != before.version:
        raise VersionConflict("Version conflict", expected=patch.version, actual=before.version)
    stamp = now_ms // 1000
    desired, desired_meta = _side(before.desired, before.desired_meta, patch.desired, patch.clear_desired, stamp)
    reported, reported_meta = _side(before.reported, before.reported_meta, patch.reported, patch.clear_reported, stamp)
    if len(codec.dumps(desired)) + len(codec.dumps(reported)) > max_bytes:
        raise LimitExceeded("The payload exceeds the maximum size allowed", limit=max_bytes)
    return Document(
        desired=desired,
        reported=reported,
        desired_meta=desired_meta,
        reported_meta=reported_meta,
        version=before.version + 1,
    )


def delta(document: Document) -> Section:
    """The leaves of desired that reported has not, or has otherwise."""
    return difference(document.desired, document.reported)


def delta_meta(document: Document) -> Section:
    """Metadata of the leaves in `delta`, as the delta message carries them."""
    return _pick(document.desired_meta, delta(document))


def state_view(document: Document, *, with_delta: bool = True) -> JsonObject:
    """The `state` of a get answer: empty sections are left out."""
    view: JsonObject = {}
    if document.desired:
        view["desired"] = document.desired
    if document.reported:
        view["reported"] = document.reported
    if with_delta and document.desired and (difference := delta(document)):
        view["delta"] = difference
    return view


def metadata_view(document: Document) -> JsonObject:
    view: JsonObject = {}
    if document.desired_meta:
        view["desired"] = document.desired_meta
    if document.reported_meta:
        view["reported"] = document.reported_meta
    return view


def encode(document: Document) -> bytes:
    """The stored form; `decode` reads it back."""
    return codec.dumps(
        {
            "desired": document.desired,
            "reported": document.reported,
            "desired_meta": document.desired_meta,
            "reported_meta": document.reported_meta,
            "version": document.version,
        }
    )


def decode(data: bytes) -> Document:
    body = codec.loads_own(data)
    if not isinstance(body, dict):
        raise Invalid("not a stored shadow")
    sections = {
        name: value
        for name in ("desired", "reported", "desired_meta", "reported_meta")
        if isinstance(value := body.get(name), dict)
    }
    version = body.get("version")
    if len(sections) != 4 or not isinstance(version, int):
        raise Invalid("not a stored shadow")
    return Document(version=version, **sections)


def accepted(patch: Patch, version: int, now_ms: int) -> JsonObject:
    """Body of `update/accepted`: what was asked, each leaf of it (one that is removed too) with its time.

    version: of the document after it."""
    stamp = now_ms // 1000
    state: JsonObject = {}
    metadata: JsonObject = {}
    for name, part, clear in (
        ("desired", patch.desired, patch.clear_desired),
        ("reported", patch.reported, patch.clear_reported),
    ):
        if clear:
            state[name] = None
        elif part is not None:
            state[name] = part
            metadata[name] = _leaf(part, stamp)
    body: JsonObject = {"state": state, "metadata": metadata, "version": version, "timestamp": stamp}
    if patch.is_null:
        body |= {"state": None, "metadata": {"timestamp": stamp}}
    return with_token(body, patch.token)


def documents(before: Document, after: Document, now_ms: int, token: str | None) -> JsonObject:
    """Body of `update/documents`."""
    body: JsonObject = {"current": _snapshot(after), "timestamp": now_ms // 1000}
    if before.exists:
        body["previous"] = _snapshot(before)
    return with_token(body, token)


def delta_message(
    after: Document, now_ms: int, token: str | None, *, difference: Section | None = None
) -> JsonObject | None:
    """Body of `update/delta`, or None when desired is reached. difference: `delta(after)`, when it is known already."""
    if difference is None:
        difference = delta(after)
    if not difference:
        return None
    body: JsonObject = {
        "version": after.version,
        "timestamp": now_ms // 1000,
        "state": difference,
        "metadata": _pick(after.desired_meta, difference),
    }
    return with_token(body, token)


def with_token(body: JsonObject, token: str | None) -> JsonObject:
    if token is not None:
        body["clientToken"] = token
    return body


def _snapshot(document: Document) -> JsonObject:
    return {
        "state": state_view(document, with_delta=False),
        "metadata": metadata_view(document),
        "version": document.version,
    }


def _section(state: Mapping[str, JsonValue], key: str, title: str, *, is_plain: bool) -> Section | None:
    part = state.get(key)
    if part is None:
        return None
    if not isinstance(part, dict):
        raise Invalid(f"{title} node must be an object")
    if is_plain:
        return part
    if _depth(part) > MAX_DEPTH:
        raise Invalid("JSON contains too many levels of nesting; maximum is 8")
    _no_null_items(part, key)
    return part


def _no_null_items(value: JsonValue, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list):
                _no_null_items(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            if item is None:
                raise Invalid(f"Invalid JSON: the array {where} has a null, and arrays cannot have null values")
            _no_null_items(item, where)


def _depth(value: JsonValue) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(item) for item in value), default=0)
    return 0


def _side(values: Section, meta: Section, patch: Section | None, clear: bool, stamp: int) -> tuple[Section, Section]:
    if clear:
        return {}, {}
    if not patch:
        return values, meta
    return merge(values, patch), stamped(meta, patch, stamp)


def merge(values: Section, patch: Section) -> Section:
    """A section after a patch of it; `values` is not changed."""
    merged = dict(values)
    for key, new in patch.items():
        if new is None:
            merged.pop(key, None)
        elif isinstance(new, dict):
            old = merged.get(key)
            below = merge(old if isinstance(old, dict) else {}, new)
            if below:
                merged[key] = below
            else:  # AWS keeps no empty objects: {"a": {"b": null}} removes a with its last leaf
                merged.pop(key, None)
        else:
            merged[key] = new
    return merged


def stamped(meta: Section, patch: Section, stamp: int) -> Section:
    """The metadata of a section after a patch of it; `meta` is not changed."""
    merged = dict(meta)
    for key, new in patch.items():
        if new is None:
            merged.pop(key, None)
        elif isinstance(new, dict):
            old = merged.get(key)
            below = stamped(old if isinstance(old, dict) and not _is_stamp(old) else {}, new, stamp)
            if below:
                merged[key] = below
            else:
                merged.pop(key, None)
        else:
            merged[key] = _leaf(new, stamp)
    return merged


def _leaf(value: JsonValue, stamp: int) -> JsonValue:
    # An array is one leaf of the merge, but its metadata have a stamp for each element.
    if isinstance(value, list):
        return [_leaf(item, stamp) for item in value]
    if isinstance(value, dict):
        return {key: _leaf(item, stamp) for key, item in value.items()}
    return {"timestamp": stamp}


def _is_stamp(value: Mapping[str, JsonValue]) -> bool:
    return set(value) == {"timestamp"} and isinstance(value["timestamp"], int)


def difference(desired: Section, reported: Section) -> Section:
    """The leaves of `desired` that `reported` has not, or has otherwise."""
    out: Section = {}
    for key, wanted in desired.items():
        has = reported.get(key)
        if isinstance(wanted, dict) and isinstance(has, dict):
            below = difference(wanted, has)
            if below:
                out[key] = below
        elif not same(wanted, has) or key not in reported:
            out[key] = wanted
    return out


def same(one: JsonValue, other: JsonValue) -> bool:
    """Equal as JSON."""
    kind = type(one)
    if kind is type(other) and kind is not dict and kind is not list:
        return one == other
    # Python says 1 == True; JSON does not, and a device that reports 1 has not obeyed "on": true.
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return one == other


def _pick(meta: Section, shape: Section) -> Section:
    picked: Section = {}
    for key, part in shape.items():
        found = meta.get(key)
        if found is None:
            continue
        picked[key] = (
            _pick(found, part) if isinstance(part, dict) and isinstance(found, dict) and not _is_stamp(found) else found
        )
    return picked
