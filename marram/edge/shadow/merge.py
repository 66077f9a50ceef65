"""Two copies of a shadow that changed apart become one: a three-way merge, leaf by leaf. Pure.

`base` is what both sides had when they last agreed. A leaf that one side changed is taken from that side; a leaf that both changed
is taken from the later change (metadata, seconds); a change wins over a removal; in a tie desired goes to the hub and reported to
the device, which is the side that owns it. Both sides compute the same from the same three, so they meet.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, cast

from marram.core.codec import JsonValue
from marram.core.shadow import Document, Section

Path: TypeAlias = tuple[str, ...]
Direction: TypeAlias = Literal["betweenDeviceAndCloud", "deviceToCloud", "cloudToDevice"]
MISSING: Final = object()


def merge(
    base: Document, here: Document, there: Document, direction: Direction = "betweenDeviceAndCloud"
) -> tuple[Section, Section]:
    """(desired, reported) that both sides should have. `here` is the device's copy, `there` the hub's."""
    if direction == "deviceToCloud":
        return here.desired, here.reported
    if direction == "cloudToDevice":
        return there.desired, there.reported
    return (
        _section(base.desired, here.desired, here.desired_meta, there.desired, there.desired_meta, here_wins=False),
        _section(base.reported, here.reported, here.reported_meta, there.reported, there.reported_meta, here_wins=True),
    )


def difference(before: Section, after: Section) -> Section:
    """The patch that turns `before` into `after`: null where a key goes."""
    patch: Section = {key: None for key in before if key not in after}
    for key, wanted in after.items():
        has = before.get(key)
        if isinstance(wanted, dict) and isinstance(has, dict):
            if below := difference(has, wanted):
                patch[key] = below
        elif key not in before or not same(has, wanted):
            patch[key] = wanted
    return patch


def same(one: object, other: object) -> bool:
    # Python says 1 == True; JSON does not.
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, list) and isinstance(other, list):
        items, others = cast("list[object]", one), cast("list[object]", other)
        return len(items) == len(others) and all(map(same, items, others))
    if isinstance(one, dict) and isinstance(other, dict):
        fields, theirs = cast("dict[str, object]", one), cast("dict[str, object]", other)
        return fields.keys() == theirs.keys() and all(same(fields[key], theirs[key]) for key in fields)
    return one == other


def _section(
    base: Section, here: Section, here_meta: Section, there: Section, there_meta: Section, *, here_wins: bool
) -> Section:
    old, mine, theirs = dict(_leaves(base)), dict(_leaves(here)), dict(_leaves(there))
    chosen: list[tuple[int, Path, JsonValue]] = []
    for path in sorted({*mine, *theirs}):
        was, is_here, is_there = old.get(path, MISSING), mine.get(path, MISSING), theirs.get(path, MISSING)
        here_s, there_s = _stamp(here_meta, path), _stamp(there_meta, path)
        if same(is_here, is_there) or same(is_there, was):
            take_here = True
        elif same(is_here, was):
            take_here = False
        elif MISSING in (is_here, is_there):
            take_here = is_there is MISSING
        else:
            take_here = here_s > there_s or (here_s == there_s and here_wins)
        if take_here and path in mine:
            chosen.append((here_s, path, mine[path]))
        elif not take_here and path in theirs:
            chosen.append((there_s, path, theirs[path]))
    result: Section = {}
    # In the order of their times: where one side made a leaf of what the other made an object, the later shape stays.
    for _, path, value in sorted(chosen, key=lambda each: (each[0], each[1])):
        _put(result, path, value)
    return result


def _leaves(section: Mapping[str, JsonValue], above: Path = ()) -> list[tuple[Path, JsonValue]]:
    found: list[tuple[Path, JsonValue]] = []
    for key, value in section.items():
        if isinstance(value, dict) and value:
            found += _leaves(value, (*above, key))
        elif not isinstance(value, dict):
            found.append(((*above, key), value))
    return found


def _stamp(meta: Section, path: Path) -> int:
    """Seconds of the last change at `path`; of an array the newest of its elements; 0 when unknown."""
    value: JsonValue = meta
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return 0
        value = value[key]
    return _newest(value)


def _newest(value: JsonValue) -> int:
    if isinstance(value, list):
        return max(map(_newest, value), default=0)
    if isinstance(value, dict):
        stamp = value.get("timestamp")
        if isinstance(stamp, int) and len(value) == 1:
            return stamp
        return max(map(_newest, value.values()), default=0)
    return 0


def _put(result: Section, path: Path, value: JsonValue) -> None:
    at = result
    for key in path[:-1]:
        below = at.get(key)
        if not isinstance(below, dict):
            below = at[key] = {}
        at = below
    at[path[-1]] = value
