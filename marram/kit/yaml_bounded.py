"""YAML in: PyYAML's pure loader with bounds, down to what JSON has.

Size before nodes before depth. Anchors and aliases are refused (no exponential growth, and AWS's own reader has none), tags
too; duplicate keys as well. Scalars follow the YAML 1.2 core schema: `2020-01-25` and `no` are text, not a date and false.
The package is imported when first needed: a core that boots from its own database never loads it.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, Final

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid

MAX_BYTES: Final = 256 << 10
MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 48
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]{1,18}|0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?")


def loads(
    data: bytes, *, max_bytes: int = MAX_BYTES, max_nodes: int = MAX_NODES, max_depth: int = MAX_DEPTH
) -> JsonValue:
    """One document. Raises Invalid with line and column."""
    if len(data) > max_bytes:
        raise Invalid(f"YAML of {len(data)} bytes is over the limit of {max_bytes}", limit=max_bytes)
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise Invalid(f"not UTF-8 at byte {exc.start}") from exc
    import yaml  # late: see above

    try:
        return _Reader(max_nodes, max_depth).document(iter(yaml.parse(text, Loader=yaml.SafeLoader)))
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        place = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise Invalid(f"not YAML: {getattr(exc, 'problem', None) or exc}{place}") from exc


def loads_object(data: bytes, *, what: str = "document") -> JsonObject:
    """As `loads`, for texts that must be a mapping. JSON is YAML here too, and read by the JSON reader."""
    value = codec.loads(data, max_bytes=MAX_BYTES) if data.lstrip()[:1] == b"{" else loads(data)
    if not isinstance(value, dict):
        raise Invalid(f"{what} must be a mapping, not {codec.kind(value)}")
    return value


class _Reader:
    """Builds values from the parser's events: nothing is composed twice, so what is counted is all there is."""

    def __init__(self, max_nodes: int, max_depth: int) -> None:
        self._nodes = max_nodes
        self._depth = max_depth

    def document(self, stream: Iterator[Any]) -> JsonValue:
        result: JsonValue = None
        documents = 0
        for event in stream:
            name = type(event).__name__
            if name == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    raise Invalid("more than one YAML document")
            elif name in ("ScalarEvent", "SequenceStartEvent", "MappingStartEvent", "AliasEvent"):
                result = self._value(event, stream, 0)
        return result

    def _value(self, event: Any, stream: Iterator[Any], depth: int) -> JsonValue:
        name = type(event).__name__
        place = _place(event)
        self._nodes -= 1
        if self._nodes < 0:
            raise Invalid(f"YAML has too many values{place}")
        if depth > self._depth:
            raise Invalid(f"YAML is nested too deep{place}")
        if name == "AliasEvent" or getattr(event, "anchor", None):
            raise Invalid(f"YAML anchors and aliases are not accepted{place}")
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise Invalid(f"YAML tag {tag} is not accepted{place}")
        if name == "ScalarEvent":
            text = str(getattr(event, "value", ""))
            return _scalar(text, place) if getattr(event, "style", None) is None and tag is None else text
        if name == "SequenceStartEvent":
            items: list[JsonValue] = []
            for inner in stream:
                if type(inner).__name__ == "SequenceEndEvent":
                    break
                items.append(self._value(inner, stream, depth + 1))
            return items
        made: JsonObject = {}
        for inner in stream:
            if type(inner).__name__ == "MappingEndEvent":
                break
            if type(inner).__name__ != "ScalarEvent":
                raise Invalid(f"a YAML key must be plain text{_place(inner)}")
            key = str(inner.value)
            if getattr(inner, "anchor", None) or key == "<<":
                raise Invalid(f"YAML anchors and merges are not accepted{_place(inner)}")
            if key in made:
                raise Invalid(f"duplicate key {key!r}{_place(inner)}")
            made[key] = self._value(next(stream), stream, depth + 1)
        return made


def _scalar(text: str, place: str) -> JsonValue:
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise Invalid(f"the number {text} is too large{place}")
        return value
    if text.lower() in (".nan", ".inf", "-.inf", "+.inf"):
        raise Invalid(f"{text} is not a number that JSON has{place}")
    return text


def _place(event: Any) -> str:
    mark = getattr(event, "start_mark", None)
    return f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
