"""Which wishes are not reached, and since when: the leaves of a delta by JSON pointer, each with a time. Pure.

A leaf counts from the update that made it differ. Saying the same wish again does not start it anew; another wish does, and
so does a report that was right in between. Arrays are one leaf, as in the merge. Our own: AWS has nothing like it.
"""

from collections.abc import Mapping

from marram.core.codec import JsonValue
from marram.core.shadow import Document, Section, same


def leaves(difference: Section) -> dict[str, JsonValue]:
    """The leaves of a delta by JSON pointer (RFC 6901)."""
    found: dict[str, JsonValue] = {}
    _walk(difference, "", found)
    return found


def since(before: Section, known: Mapping[str, int], after: Section, now_ms: int) -> dict[str, int]:
    """When each leaf of the delta `after` began to differ. `before`: the delta until now; `known`: its times."""
    if not after:
        return {}
    old, new = leaves(before), leaves(after)
    return {
        pointer: known[pointer] if pointer in known and same(old.get(pointer), wanted) else now_ms
        for pointer, wanted in new.items()
    }


def by_stamps(document: Document, difference: Section) -> dict[str, int]:
    """The best guess for a shadow that was written before times were kept: the later of the two stamps of each leaf."""
    return {
        pointer: max(_stamp(document.desired_meta, pointer), _stamp(document.reported_meta, pointer)) * 1000
        for pointer in leaves(difference)
    }


def _walk(section: Section, above: str, found: dict[str, JsonValue]) -> None:
    for key, value in section.items():
        pointer = f"{above}/{key.replace('~', '~0').replace('/', '~1')}"
        if isinstance(value, dict):
            _walk(value, pointer, found)
        else:
            found[pointer] = value


def _stamp(meta: JsonValue, pointer: str) -> int:
    """The newest stamp at the pointer, or on the way to it: the other side may have a leaf where this one goes deeper."""
    for part in pointer.split("/")[1:]:
        inner = meta.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(meta, dict) else None
        if inner is None:
            break
        meta = inner
    else:
        return _newest(meta)
    stamp = meta.get("timestamp") if isinstance(meta, dict) else None
    return stamp if isinstance(stamp, int) else 0


def _newest(meta: JsonValue) -> int:
    if isinstance(meta, int):
        return meta
    inner = meta.values() if isinstance(meta, dict) else meta if isinstance(meta, list) else ()
    return max(map(_newest, inner), default=0)
