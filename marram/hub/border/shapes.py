"""Shapes of the API models as closures, built on first use: wire form to validated values, values to wire form.

Values on our side: str, int, float, bool, bytes, list, dict by wire member name; timestamps are milliseconds.
A member that the model does not know is refused, on the way in (Invalid) and on the way out (a mistake of ours).
Not here: where the parts of a request are (awsjson.py, s3rest.py).
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Final, TypeAlias, cast
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from marram.core.errors import Invalid
from marram.hub.border.plans import Plan, Ref, Shape

Reader: TypeAlias = Callable[[Any, str], Any]
Writer: TypeAlias = Callable[[Any, str], Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN: Final = 120  # characters of a refused value that an error repeats
_INT = re.compile(r"-?[0-9]{1,19}")


class Shapes:
    """Readers and writers of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._json_readers: dict[str, Reader] = {}
        self._json_writers: dict[tuple[str, str], Writer] = {}
        self._checks: dict[str, Callable[[Any, str], None]] = {}

    # JSON in.

    def read_json(self, name: str) -> Reader:
        found = self._json_readers.get(name)
        if found is None:
            # A shape may contain itself: what is being built is reached through the table.
            self._json_readers[name] = lambda value, path: self._json_readers[name](value, path)
            found = self._json_readers[name] = self._json_reader(name)
        return found

    def _json_reader(self, name: str) -> Reader:
        shape = self._plan.shapes[name]
        check = self.check(name)
        match shape["type"]:
            case "structure":
                if shape.get("document"):
                    return lambda value, path: value
                return self._json_structure(shape)
            case "list":
                return self._json_list(shape, check)
            case "map":
                return self._json_map(shape, check)
            case "string":

                def string(value: Any, path: str) -> Any:
                    if type(value) is not str:
                        raise wrong_type(value, path, "a string")
                    check(value, path)
                    return value

                return string
            case "integer" | "long":

                def integer(value: Any, path: str) -> Any:
                    if type(value) is not int:
                        raise wrong_type(value, path, "an integer")
                    check(value, path)
                    return value

                return integer
            case "boolean":

                def boolean(value: Any, path: str) -> Any:
                    if type(value) is not bool:
                        raise wrong_type(value, path, "a boolean")
                    return value

                return boolean
            case "double" | "float":

                def number(value: Any, path: str) -> Any:
                    if type(value) not in (int, float):
                        raise wrong_type(value, path, "a number")
                    check(value, path)
                    return float(value)

                return number
            case "timestamp":
                return read_timestamp
            case "blob":

                def blob(value: Any, path: str) -> Any:
                    if type(value) is not str:
                        raise wrong_type(value, path, "base64 text")
                    decoded = from_base64(value, path)
                    check(decoded, path)
                    return decoded

                return blob
            case other:
                raise RuntimeError(f"{self._plan.service}.{name}: type {other} is not known")

    def _json_structure(self, shape: Shape) -> Reader:
        members: dict[str, tuple[str, Reader]] = {}
        for member, ref in shape.get("members", {}).items():
            if ref.get("location") is None:
                members[ref.get("locationName", member)] = (member, self.read_json(ref["shape"]))
        required = tuple(member for member in shape.get("required", ()) if "location" not in shape["members"][member])
        union = bool(shape.get("union"))

        def structure(value: Any, path: str) -> Any:
            if type(value) is not dict:
                raise wrong_type(value, path, "an object")
            out: dict[str, Any] = {}
            for key, item in cast("dict[str, Any]", value).items():
                found = members.get(key)
                if found is None:
                    raise unknown_member(key, path, members)
                if item is not None:
                    name, read = found
                    out[name] = read(item, f"{path}.{name}" if path else name)
            for name in required:
                if name not in out:
                    raise missing(f"{path}.{name}" if path else name)
            if union and len(out) != 1:
                raise Invalid(f"exactly one member of {path or 'the union'} must be set, one of: {', '.join(members)}")
            return out

        return structure

    def _json_list(self, shape: Shape, check: Callable[[Any, str], None]) -> Reader:
        read = self.read_json(shape["member"]["shape"])

        def sequence(value: Any, path: str) -> Any:
            if type(value) is not list:
                raise wrong_type(value, path, "a list")
            check(value, path)
            items = cast("list[object]", value)
            return [read(item, f"{path}.{at}.member") for at, item in enumerate(items, 1)]

        return sequence

    def _json_map(self, shape: Shape, check: Callable[[Any, str], None]) -> Reader:
        check_key, read = self.check(shape["key"]["shape"]), self.read_json(shape["value"]["shape"])

        def mapping(value: Any, path: str) -> Any:
            if type(value) is not dict:
                raise wrong_type(value, path, "an object")
            check(value, path)
            out: dict[str, Any] = {}
            for key, item in cast("dict[str, Any]", value).items():
                check_key(key, f"{path} (a key)")
                if item is not None:
                    out[key] = read(item, f"{path}.{key}")
            return out

        return mapping

    # What holds for a value in any wire form.

    def check(self, name: str) -> Callable[[Any, str], None]:
        found = self._checks.get(name)
        if found is None:
            found = self._checks[name] = self._check(self._plan.shapes[name])
        return found

    def _check(self, shape: Shape) -> Callable[[Any, str], None]:
        kind = shape["type"]
        low, high = shape.get("min"), shape.get("max")
        pattern = re.compile(shape["pattern"], re.ASCII) if shape.get("pattern") is not None else None
        # Regions differ here ("local-1"); S3's LocationConstraint lists AWS's.
        enum = frozenset(shape["enum"]) if shape.get("enum") and "us-west-2" not in shape["enum"] else None
        if kind in ("string", "blob", "list", "map"):
            thing = "length" if kind in ("string", "blob") else "number of items"

            def measured(value: Any, path: str) -> None:
                size = len(value)
                if low is not None and size < low:
                    raise constraint(value, path, f"Member must have {thing} greater than or equal to {low}")
                if high is not None and size > high:
                    raise constraint(value, path, f"Member must have {thing} less than or equal to {high}")
                if enum is not None and value not in enum:
                    raise constraint(value, path, f"Member must satisfy enum value set: [{', '.join(sorted(enum))}]")
                if pattern is not None and pattern.fullmatch(value) is None:
                    text = pattern.pattern if len(pattern.pattern) < 200 else "(the model's character set)"
                    raise constraint(value, path, f"Member must satisfy regular expression pattern: {text}")

            if kind == "string" or low is not None or high is not None:
                return measured
        elif kind in ("integer", "long", "double", "float"):
            if kind == "integer":
                low, high = -(1 << 31) if low is None else low, (1 << 31) - 1 if high is None else high
            elif kind == "long":
                low, high = -(1 << 63) if low is None else low, (1 << 63) - 1 if high is None else high

            def bounded(value: Any, path: str) -> None:
                if not math.isfinite(value):
                    raise constraint(value, path, "Member must be a finite number")
                if low is not None and value < low:
                    raise constraint(value, path, f"Member must have value greater than or equal to {low}")
                if high is not None and value > high:
                    raise constraint(value, path, f"Member must have value less than or equal to {high}")

            return bounded
        return _no_check

    # Text in: path, query, headers, forms, XML.

    def read_text(self, ref: Ref) -> Reader:
        """A scalar written as text. `ref` may choose the format of a timestamp."""
        name = ref["shape"]
        shape = self._plan.shapes[name]
        check = self.check(name)
        kind = shape["type"]

        def text(value: Any, path: str) -> Any:
            made: Any = value
            if kind in ("integer", "long"):
                if _INT.fullmatch(value) is None:
                    raise wrong_type(value, path, "an integer")
                made = int(value)
            elif kind == "boolean":
                if value not in ("true", "false"):
                    raise wrong_type(value, path, "true or false")
                made = value == "true"
            elif kind in ("double", "float"):
                try:
                    made = float(value)
                except ValueError as error:
                    raise wrong_type(value, path, "a number") from error
            elif kind == "timestamp":
                return read_timestamp(value, path)
            elif kind == "blob":
                made = from_base64(value, path)
            check(made, path)
            return made

        return text

    def read_query(self, name: str, form: Mapping[str, str]) -> dict[str, Any]:
        """An input of the query protocol: `Tags.member.1.Key=a`. Every key of `form` must mean something."""
        used: set[str] = set()
        out = self._query_structure(name, form, "", used)
        for key in form:
            if key not in used:
                raise Invalid(f"unknown parameter {_shown(key)}")
        return out

    def _query_value(self, ref: Ref, form: Mapping[str, str], prefix: str, used: set[str]) -> Any:
        shape = self._plan.shapes[ref["shape"]]
        match shape["type"]:
            case "structure":
                return self._query_structure(ref["shape"], form, prefix + ".", used)
            case "list":
                base = prefix if shape.get("flattened") else f"{prefix}.{shape['member'].get('locationName', 'member')}"
                items: list[Any] = []
                while any(k == f"{base}.{len(items) + 1}" or k.startswith(f"{base}.{len(items) + 1}.") for k in form):
                    items.append(self._query_value(shape["member"], form, f"{base}.{len(items) + 1}", used))
                if items:
                    self.check(ref["shape"])(items, prefix)
                elif form.get(prefix) == "":  # how SDKs write an empty list
                    used.add(prefix)
                return items
            case "map":
                raise Invalid(f"{prefix}: maps are not supported in this form")
            case _:
                used.add(prefix)
                return self.read_text(ref)(form[prefix], prefix)

    def _query_structure(self, name: str, form: Mapping[str, str], prefix: str, used: set[str]) -> dict[str, Any]:
        shape = self._plan.shapes[name]
        out: dict[str, Any] = {}
        for member, ref in shape.get("members", {}).items():
            key = prefix + ref.get("locationName", member)
            if key in form or any(k.startswith(key + ".") for k in form):
                if self._plan.shapes[ref["shape"]]["type"] not in ("structure", "list", "map") and key not in form:
                    raise Invalid(f"{key} is not a structure")
                out[member] = self._query_value(ref, form, key, used)
        for member in shape.get("required", ()):
            if member not in out:
                raise missing(prefix + member)
        return out

    def read_xml(self, ref: Ref, element: ElementTree.Element, path: str) -> Any:
        shape = self._plan.shapes[ref["shape"]]
        match shape["type"]:
            case "structure":
                return self._xml_structure(shape, element, path)
            case "list":
                tag = shape["member"].get("locationName", "member")
                items = [
                    self.read_xml(shape["member"], child, f"{path}.{tag}") for child in element if local(child) == tag
                ]
                if len(items) != len(element):
                    raise Invalid(f"{path} may only hold {tag} elements", kind="malformed_xml")
                self.check(ref["shape"])(items, path)
                return items
            case "map":
                raise Invalid(f"{path}: maps are not supported in XML", kind="malformed_xml")
            case _:
                if len(element):
                    raise Invalid(f"{path} must hold text", kind="malformed_xml")
                return self.read_text(ref)((element.text or "").strip("\n\r\t "), path)

    def _xml_structure(self, shape: Shape, element: ElementTree.Element, path: str) -> dict[str, Any]:
        by_tag = {ref.get("locationName", member): (member, ref) for member, ref in shape.get("members", {}).items()}
        out: dict[str, Any] = {}
        for child in element:
            tag = local(child)
            found = by_tag.get(tag)
            if found is None:
                raise Invalid(f"unknown element {_shown(tag)} in {path or local(element)}", kind="malformed_xml")
            member, ref = found
            inner = self._plan.shapes[ref["shape"]]
            where = f"{path}.{member}" if path else member
            if inner["type"] == "list" and (inner.get("flattened") or ref.get("flattened")):
                out.setdefault(member, []).append(self.read_xml(inner["member"], child, where))
            elif member in out:
                raise Invalid(f"{where} is given twice", kind="malformed_xml")
            else:
                out[member] = self.read_xml(ref, child, where)
        for member in shape.get("required", ()):
            if member not in out and "location" not in shape["members"][member]:
                raise missing(f"{path}.{member}" if path else member)
        return out

    # Values out.

    def write_json(self, name: str, timestamps: str = "unixTimestamp") -> Writer:
        key = (name, timestamps)
        found = self._json_writers.get(key)
        if found is None:
            self._json_writers[key] = lambda value, path: self._json_writers[key](value, path)
            found = self._json_writers[key] = self._json_writer(name, timestamps)
        return found

    def _json_writer(self, name: str, timestamps: str) -> Writer:
        shape = self._plan.shapes[name]
        match shape["type"]:
            case "structure":
                if shape.get("document"):
                    return lambda value, path: value
                return self._json_structure_writer(shape)
            case "list":
                write = self.write_json(shape["member"]["shape"])
                return lambda value, path: [write(item, path) for item in value]
            case "map":
                write_value = self.write_json(shape["value"]["shape"])
                return lambda value, path: {key: write_value(item, path) for key, item in value.items()}
            case "timestamp":
                wanted = shape.get("timestampFormat", timestamps)
                if wanted == "unixTimestamp":
                    return lambda value, path: value // 1000 if value % 1000 == 0 else value / 1000
                return lambda value, path: write_timestamp(value, wanted)
            case "blob":
                return lambda value, path: base64.b64encode(value).decode()
            case "string":
                return _out(str)
            case "integer" | "long":
                return _out(int)
            case "boolean":
                return _out(bool)
            case _:
                return _out(int, float)

    def _json_structure_writer(self, shape: Shape) -> Writer:
        members: dict[str, tuple[str, Writer]] = {}
        for member, ref in shape.get("members", {}).items():
            if ref.get("location") in (None, "body"):
                write = self.write_json(ref["shape"], ref.get("timestampFormat", "unixTimestamp"))
                members[member] = (ref.get("locationName", member), write)

        def structure(value: Any, path: str) -> Any:
            out: dict[str, Any] = {}
            for key, item in value.items():
                if item is not None:
                    found = members.get(key)
                    if found is None:
                        raise RuntimeError(f"result has a member that the model does not know: {path}.{key}")
                    out[found[0]] = found[1](item, f"{path}.{key}")
            return out

        return structure

    def write_xml(self, ref: Ref, value: Any, tag: str, out: list[str], namespace: str = "") -> None:
        shape = self._plan.shapes[ref["shape"]]
        match shape["type"]:
            case "structure":
                attributes = ""
                inner: list[str] = []
                for member, part in shape.get("members", {}).items():
                    item = value.get(member)
                    if item is None or part.get("location") is not None:
                        continue
                    name = part.get("locationName", member)
                    if part.get("xmlAttribute"):
                        attributes += f' {name}="{escape(str(item), {chr(34): "&quot;"})}"'
                    else:
                        self.write_xml(part, item, name, inner)
                unknown = value.keys() - shape.get("members", {}).keys()
                if unknown:
                    raise RuntimeError(f"result has members that the model does not know: {', '.join(sorted(unknown))}")
                out += [f"<{tag}{namespace}{attributes}>", *inner, f"</{tag}>"]
            case "list":
                member = shape["member"]
                if shape.get("flattened") or ref.get("flattened"):
                    for item in value:
                        self.write_xml(member, item, tag, out)
                else:
                    out.append(f"<{tag}>")
                    for item in value:
                        self.write_xml(member, item, member.get("locationName", "member"), out)
                    out.append(f"</{tag}>")
            case "map":
                out.append(f"<{tag}>")
                for key, item in value.items():
                    out.append(f"<entry><key>{escape(key)}</key>")
                    self.write_xml(shape["value"], item, "value", out)
                    out.append("</entry>")
                out.append(f"</{tag}>")
            case _:
                text = self.write_text(ref, value, "iso8601")
                out.append(f"<{tag}{namespace}>{escape(text)}</{tag}>")

    def write_text(self, ref: Ref, value: Any, timestamps: str) -> str:
        shape = self._plan.shapes[ref["shape"]]
        match shape["type"]:
            case "boolean":
                return "true" if value else "false"
            case "timestamp":
                return write_timestamp(value, ref.get("timestampFormat") or shape.get("timestampFormat") or timestamps)
            case "blob":
                return base64.b64encode(value).decode()
            case _:
                return str(value)


def _out(*kinds: type) -> Writer:
    def scalar(value: Any, path: str) -> Any:
        if type(value) not in kinds:
            if isinstance(value, str) and str in kinds:  # a NewType is a str; an Enum is written as its value
                return str(getattr(value, "value", value))
            raise RuntimeError(f"result member {path} is {type(value).__name__}, not {kinds[0].__name__}")
        return value

    return scalar


def _no_check(_value: Any, _path: str) -> None:
    return


def constraint(value: Any, path: str, rule: str) -> Invalid:
    return Invalid(
        f"1 validation error detected: Value '{_shown(value)}' at '{path}' failed to satisfy constraint: {rule}",
        member=path,
    )


def missing(path: str) -> Invalid:
    return Invalid(
        f"1 validation error detected: Value null at '{path}' failed to satisfy constraint: Member must not be null",
        member=path,
    )


def wrong_type(value: Any, path: str, wanted: str) -> Invalid:
    return Invalid(f"'{path or 'the body'}' must be {wanted}, not '{_shown(value)}'", member=path, kind="type")


def unknown_member(key: str, path: str, members: Mapping[str, object]) -> Invalid:
    near = next((name for name in members if name.lower() == key.lower()), None)
    hint = f"; did you mean {near}?" if near else f"; known are: {', '.join(sorted(members)) or 'none'}"
    return Invalid(f"unknown member '{_shown(key)}'{f' in {path}' if path else ''}{hint[:1000]}", member=key)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def from_base64(text: str, path: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"'{path}' is not base64") from error


def read_timestamp(value: Any, path: str) -> int:
    """A number of seconds, ISO 8601 or RFC 822, as milliseconds."""
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, int | float):
            return _milliseconds(float(value))
        if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
            return _milliseconds(float(value))
        if value[:1].isalpha():
            return int(parsedate_to_datetime(value).timestamp() * 1000)
        moment = datetime.fromisoformat(value)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        raise wrong_type(value, path, "a time") from error


def _milliseconds(seconds: float) -> int:
    if not math.isfinite(seconds) or abs(seconds) > 253_402_300_799:  # the end of year 9999
        raise ValueError
    return round(seconds * 1000)


def write_timestamp(value_ms: int, form: str) -> str:
    moment = _EPOCH + timedelta(milliseconds=value_ms)
    if form == "iso8601":
        return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{value_ms % 1000:03d}Z"
    if form == "rfc822":
        return format_datetime(moment, usegmt=True)
    return str(value_ms / 1000)


def local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def parse_xml(body: bytes) -> ElementTree.Element:
    """Raises Invalid. A document type is refused: entities have no place in an API call."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise Invalid("the XML may not have a document type", kind="malformed_xml")
    try:
        return ElementTree.fromstring(body)  # noqa: S314 - as above
    except ElementTree.ParseError as error:
        raise Invalid(f"the body is not well-formed XML: {error}", kind="malformed_xml") from error
