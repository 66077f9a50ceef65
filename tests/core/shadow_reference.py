"""The shadow algebra once more, slowly: a section is a flat table of paths. Shares nothing with marram.core.shadow."""

from typing import Any


def flat(section: dict[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Leaves by path; an array is one leaf; an empty object is none."""
    table: dict[tuple[str, ...], Any] = {}
    for key, value in section.items():
        path = (*above, key)
        table.update(flat(value, path) if isinstance(value, dict) else {path: value})
    return table


def tree(table: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    section: dict[str, Any] = {}
    for path, value in table.items():
        node = section
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return section


def merge(section: dict[str, Any], stamps: dict[str, Any], patch: dict[str, Any], now_s: int) -> tuple[Any, Any]:
    """(section, metadata) after the patch; `stamps` is {path: seconds}."""
    table, times = flat(section), dict(stamps)
    for path, value in _said(patch):
        for known in list(table):
            if known[: len(path)] == path and (not isinstance(value, dict) or known == path):
                del table[known], times[known]
        if value is not None and not isinstance(value, dict):
            table[path], times[path] = value, now_s
    return tree(table), times


def metadata(section: dict[str, Any], times: dict[tuple[str, ...], int]) -> dict[str, Any]:
    return tree({path: _stamped(value, times[path]) for path, value in flat(section).items()})


def delta(desired: dict[str, Any], reported: dict[str, Any]) -> dict[str, Any]:
    has = flat(reported)
    return tree(
        {path: value for path, value in flat(desired).items() if path not in has or text(has[path]) != text(value)}
    )


def text(value: Any) -> str:
    """A value with its JSON type: 1, 1.0 and true are three, but 1 and 1.0 are one number."""
    if isinstance(value, list):
        return "[" + ",".join(map(text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{text(value[key])}" for key in sorted(value)) + "}"
    return f"n{float(value)}" if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)


def _said(patch: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """What a patch says, parents first."""
    said: list[tuple[tuple[str, ...], Any]] = []
    for key, value in patch.items():
        said.append(((*above, key), value))
        if isinstance(value, dict):
            said += _said(value, (*above, key))
    return said


def _stamped(value: Any, now_s: int) -> Any:
    if isinstance(value, list):
        return [_stamped(item, now_s) for item in value]
    if isinstance(value, dict):
        return {key: _stamped(item, now_s) for key, item in value.items()}
    return {"timestamp": now_s}
