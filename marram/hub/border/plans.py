"""The compiled API models: which operations a service has, which request is which, what its shapes look like.

Source: botocore's models, through tools/plans.py. A plan is loaded at its service's first call.
Not here: bytes to values (awsjson.py, s3rest.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from marram.core.errors import Invalid, NotFound

SERVICES: Final = ("iot", "iot-data", "iot-jobs-data", "greengrassv2", "s3", "sts", "iam", "sagemaker", "marram")

# By the service name of a request's signature. Older SDKs sign iot-data as `iotdevicegateway`.
BY_SIGNING_NAME: Final[Mapping[str, str]] = {
    "iot": "iot",
    "execute-api": "iot",  # what older SDKs sign for it, and those of JavaScript
    "iotdata": "iot-data",
    "iotdevicegateway": "iot-data",
    "iot-jobs-data": "iot-jobs-data",
    "greengrass": "greengrassv2",
    "s3": "s3",
    "sts": "sts",
    "iam": "iam",
    "sagemaker": "sagemaker",
    "marram": "marram",
}

# Devices publish over HTTPS with the topic's slashes as they are; boto3 encodes them.
_GREEDY: Final[Mapping[tuple[str, str], str]] = {
    ("iot-data", "/topics/{topic}"): "/topics/{topic+}",
    ("iot-data", "/retainedMessage/{topic}"): "/retainedMessage/{topic+}",
}

Shape = Mapping[str, Any]
Ref = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlannedOperation:
    name: str
    method: str
    status: int
    input: str | None
    output: str | None
    errors: tuple[str, ...]
    segments: tuple[str, ...]  # "{name}" and "{name+}" stand for values
    literal_query: Mapping[str, str]
    needs_query: frozenset[str]  # required members that tell operations of one path apart
    needs_headers: frozenset[str]
    result_wrapper: str | None
    input_name: str | None

    @property
    def rank(self) -> tuple[int, int]:
        """Candidates of one path are tried in this order: the one that asks most comes first."""
        asks = len(self.literal_query) + len(self.needs_query) + len(self.needs_headers)
        return -asks, sum(segment.startswith("{") for segment in self.segments)


class Plan:
    def __init__(self, data: Mapping[str, Any]) -> None:
        self.service: str = data["service"]
        self.protocol: str = data["protocol"]
        self.json_version: str = data["json_version"]
        self.signing_name: str = data["signing_name"]
        self.target_prefix: str | None = data["target_prefix"]
        self.api_version: str = data["api_version"]
        self.xml_namespace: str | None = data["xml_namespace"]
        self.shapes: Mapping[str, Shape] = data["shapes"]
        self.operations = {name: self._operation(name, found) for name, found in data["operations"].items()}
        self._by_route: dict[tuple[str, int, str], list[PlannedOperation]] = {}
        self._greedy: dict[str, list[PlannedOperation]] = {}
        for operation in self.operations.values():
            if operation.segments and operation.segments[-1].endswith("+}"):
                self._greedy.setdefault(operation.method, []).append(operation)
            else:
                first = operation.segments[0] if operation.segments else ""
                key = (operation.method, len(operation.segments), "" if first.startswith("{") else first)
                self._by_route.setdefault(key, []).append(operation)
        for group in (*self._by_route.values(), *self._greedy.values()):
            group.sort(key=lambda operation: operation.rank)

    def error_code(self, name: str) -> str:
        """What an error is called on the wire: the query protocol has codes beside the names of its shapes."""
        return str(self.shapes.get(name, {}).get("error", {}).get("code", name)) if self.protocol == "query" else name

    def error_status(self, code: str) -> int | None:
        """The status that the model gives to an error, by its code or its shape's name."""
        shape = self.shapes.get(code)
        if shape is not None and "error" in shape:
            return int(shape["error"].get("httpStatusCode", 400))
        return None

    def route(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[PlannedOperation, dict[str, str]] | None:
        """The operation of a REST request and the values in its path. None: unknown. Raises Invalid for bad encoding."""
        # S3: a trailing slash after a bucket is no empty key; inside a key slashes are data.
        parts = path[1:].split("/")
        if self.service == "s3":
            return self._route_s3(method, path, query, headers)
        if parts[-1] == "":
            parts.pop()
        count, first = len(parts), parts[0] if parts else ""
        for key in ((method, count, first), (method, count, "")):
            for operation in self._by_route.get(key, ()):
                if _accepts(operation, query, headers) and _matches(operation.segments, parts):
                    return operation, _values(operation.segments, parts)
        for operation in self._greedy.get(method, ()):
            width = len(operation.segments)
            if (
                count >= width
                and _accepts(operation, query, headers)
                and _matches(operation.segments[:-1], parts[: width - 1])
            ):
                joined = [*parts[: width - 1], "/".join(path[1:].split("/")[width - 1 :])]
                return operation, _values(operation.segments, joined)
        return None

    def _route_s3(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[PlannedOperation, dict[str, str]] | None:
        bucket, _, key = path[1:].partition("/")
        width = 2 if key else 1 if bucket else 0
        names = ("{Bucket}", "{Key+}")[:width]
        candidates = self._greedy.get(method, []) if width == 2 else self._by_route.get((method, width, ""), [])
        for operation in candidates:
            if operation.segments == names and _accepts(operation, query, headers):
                return operation, {
                    name.strip("{+}"): decode(value) for name, value in zip(names, (bucket, key), strict=False)
                }
        return None

    def _operation(self, name: str, data: Mapping[str, Any]) -> PlannedOperation:
        uri: str = _GREEDY.get((self.service, data["uri"])) or data["uri"]
        path, _, text = uri.partition("?")
        literal = {key: value for key, _, value in (item.partition("=") for item in text.split("&") if item)}
        needs_query: set[str] = set()
        needs_headers: set[str] = set()
        if self.protocol == "rest-xml" and data.get("input"):
            shape = self.shapes[data["input"]]
            for member in shape.get("required", ()):
                ref = shape["members"][member]
                if ref.get("location") == "querystring":
                    needs_query.add(ref["locationName"])
                elif ref.get("location") == "header":
                    needs_headers.add(ref["locationName"].lower())
        # `x-id` only names the operation again; clients may leave it out.
        literal.pop("x-id", None)
        return PlannedOperation(
            name=name, method=data["method"], status=data.get("status", 200), input=data.get("input"),
            output=data.get("output"), errors=tuple(data.get("errors", ())),
            segments=tuple(part for part in path[1:].split("/") if part),
            literal_query=literal, needs_query=frozenset(needs_query), needs_headers=frozenset(needs_headers),
            result_wrapper=data.get("result_wrapper"), input_name=data.get("input_name"),
        )  # fmt: skip


def _accepts(operation: PlannedOperation, query: Mapping[str, str], headers: Mapping[str, str]) -> bool:
    for key, value in operation.literal_query.items():
        if key not in query or (value and query[key] != value):
            return False
    return operation.needs_query <= query.keys() and operation.needs_headers <= headers.keys()


def _matches(segments: Sequence[str], parts: Sequence[str]) -> bool:
    return all((segment[0] == "{" and part) or segment == part for segment, part in zip(segments, parts, strict=True))


def _values(segments: Sequence[str], parts: Sequence[str]) -> dict[str, str]:
    return {
        segment.strip("{+}"): decode(part) for segment, part in zip(segments, parts, strict=True) if segment[0] == "{"
    }


def decode(text: str) -> str:
    """Percent-decoded once. Raises Invalid when the bytes are no UTF-8."""
    if "%" not in text:
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise Invalid("the path or query is not UTF-8 when decoded") from error


@cache
def load(service: str) -> Plan:
    """Raises NotFound for a service without a plan; a missing plan file is a broken build and says so."""
    if service not in SERVICES:
        raise NotFound(f"there is no service {service}")
    path = resources.files("marram.hub.border").joinpath("plans", f"{service}.json")
    try:
        return Plan(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise RuntimeError(f"the API plan of {service} is missing: run `make setup`") from error
