"""Requests and responses of the AWS protocols rest-json, json 1.0/1.1 and query: bytes to parameters, results to bytes.

Not here: rest-xml (s3rest.py), the shapes themselves (shapes.py), who may call (chain.py).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from marram.core import codec
from marram.core.errors import Invalid
from marram.hub.border.errors import Fault
from marram.hub.border.plans import Plan, PlannedOperation
from marram.hub.border.shapes import Shapes, from_base64, missing
from marram.hub.slice import Encoded, Stream

MAX_QUERY_PARAMETERS: Final = 200

Payload: TypeAlias = "bytes | AsyncIterator[bytes]"


@dataclass(slots=True)
class Request:
    """One request with its body read, or to be read where S3 streams. Headers: names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: Payload
    source_ip: str
    secure: bool = False
    certificate: bytes | None = None  # DER of the client's, on the https door
    version_1_1: bool = True


@dataclass(slots=True)
class Response:
    status: int
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: "bytes | Stream" = b""
    # With status 101: who has the connection from here on.
    upgrade: Callable[[], asyncio.Protocol] | None = None


@dataclass(slots=True)
class Parsed:
    """A request's parts in the form that the protocols need."""

    path: str
    query: dict[str, str]
    labels: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


def parse_rest(shapes: Shapes, plan: Plan, operation: PlannedOperation, request: Parsed) -> dict[str, Any]:
    """Parameters of a rest-json request by wire member name. Raises Invalid naming the member."""
    if operation.input is None:
        if request.body:
            raise Invalid(f"{operation.name} takes no body")
        return {}
    shape = plan.shapes[operation.input]
    params, in_body = read_locations(shapes, plan, operation, request)
    payload = shape.get("payload")
    if payload is not None:
        _read_payload(shapes, plan, shape, payload, request.body, params)
    elif request.body and (in_body or request.body.strip() != b"{}"):
        params.update(shapes.read_json(operation.input)(codec.loads(request.body), ""))
    for member in shape.get("required", ()):
        if member not in params:
            raise missing(member)
    return params


def _read_payload(
    shapes: Shapes, plan: Plan, shape: Mapping[str, Any], payload: str, body: bytes, params: dict[str, Any]
) -> None:
    ref = shape["members"][payload]
    inner = plan.shapes[ref["shape"]]
    if inner["type"] == "blob":
        if body:
            shapes.check(ref["shape"])(body, payload)
            params[payload] = body
    elif inner["type"] == "string":
        if body:
            params[payload] = shapes.read_text(ref)(body.decode(), payload)
    elif body:
        params[payload] = shapes.read_json(ref["shape"])(codec.loads(body), payload)


def read_locations(
    shapes: Shapes, plan: Plan, operation: PlannedOperation, request: Parsed
) -> tuple[dict[str, Any], bool]:
    """What stands in path, query and headers, and whether the shape has members in the body as well."""
    assert operation.input is not None
    params: dict[str, Any] = {}
    in_body = False
    known = set(operation.literal_query)
    takes_any = False
    for member, ref in plan.shapes[operation.input].get("members", {}).items():
        match ref.get("location"):
            case None:
                in_body = True
            case "uri":
                value = request.labels.get(ref.get("locationName", member))
                if value is None:
                    raise missing(member)
                params[member] = shapes.read_text(ref)(value, member)
            case "querystring":
                takes_any |= _read_query(shapes, plan, member, ref, request.query, params, known)
            case "header":
                text = request.headers.get(ref["locationName"].lower())
                if text is not None:
                    inner = plan.shapes[ref["shape"]]
                    if inner["type"] == "list":
                        read = shapes.read_text(inner["member"])
                        params[member] = [read(item.strip(), member) for item in text.split(",")]
                    elif ref.get("jsonvalue"):
                        params[member] = codec.loads(from_base64(text, member))
                    else:
                        params[member] = shapes.read_text(ref)(text, member)
            case "headers":
                prefix = ref["locationName"].lower()
                found = {k[len(prefix) :]: v for k, v in request.headers.items() if k.startswith(prefix)}
                if found:
                    params[member] = found
            case _:  # "statusCode" is of answers
                pass
    if not takes_any:
        for key in request.query:
            # S3 lets clients add parameters of their own that begin with "x-"; they show in logs only.
            if key not in known and not key.lower().startswith("x-"):
                raise Invalid(f"unknown query parameter '{key[:100]}'", member=key)
    return params, in_body


def _read_query(
    shapes: Shapes,
    plan: Plan,
    member: str,
    ref: Mapping[str, Any],
    query: Mapping[str, str],
    params: dict[str, Any],
    known: set[str],
) -> bool:
    """True when the member is a map that takes every parameter."""
    shape = plan.shapes[ref["shape"]]
    name = ref.get("locationName", member)
    if shape["type"] == "map":
        read = shapes.read_text(shape["value"])
        params[member] = {key: read(value, f"{member}.{key}") for key, value in query.items()}
        return True
    known.add(name)
    text = query.get(name)
    if text is None:
        return False
    if shape["type"] == "list":
        read = shapes.read_text(shape["member"])
        # The door joins repeated parameters with a character that no decoded value may hold.
        params[member] = [read(item, f"{member}.{at}") for at, item in enumerate(text.split("\0"), 1)]
        shapes.check(ref["shape"])(params[member], member)
    else:
        params[member] = shapes.read_text(ref)(text, member)
    return False


def parse_json(shapes: Shapes, plan: Plan, operation: PlannedOperation, request: Parsed) -> dict[str, Any]:
    """Parameters of a json 1.0/1.1 request."""
    value = codec.loads(request.body or b"{}")
    if operation.input is None:
        if value != {}:
            raise Invalid(f"{operation.name} takes no parameters")
        return {}
    params: dict[str, Any] = shapes.read_json(operation.input)(value, "")
    return params


def form_of(request: Request) -> dict[str, str]:
    """The parameters of the query protocol, from the form body or, for GET, the query. Raises Invalid."""
    text = request.body.decode("latin-1") if isinstance(request.body, bytes) and request.body else ""
    if not text:
        text = request.target.partition("?")[2]
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict",
                          max_num_fields=MAX_QUERY_PARAMETERS)  # fmt: skip
    except (ValueError, UnicodeDecodeError) as error:
        raise Invalid("the form body is malformed") from error
    form = {key: value for key, value in pairs if not key.startswith("X-Amz-")}
    if len(form) != sum(not key.startswith("X-Amz-") for key, _ in pairs):
        raise Invalid("a form parameter is given twice")
    return form


def parse_query(shapes: Shapes, plan: Plan, operation: PlannedOperation, form: Mapping[str, str]) -> dict[str, Any]:
    version = form.get("Version", plan.api_version)
    if version != plan.api_version:
        raise Invalid(f"Version {version[:40]} is not supported: use {plan.api_version}")
    rest = {key: value for key, value in form.items() if key not in ("Action", "Version")}
    if operation.input is None:
        if rest:
            raise Invalid(f"{operation.name} takes no parameters")
        return {}
    return shapes.read_query(operation.input, rest)


def write(
    shapes: Shapes, plan: Plan, operation: PlannedOperation, result: Mapping[str, Any], request_id: str
) -> Response:
    """The response of a successful call. Raises RuntimeError when the result does not fit the model: our mistake."""
    if plan.protocol == "query":
        return _write_query(shapes, plan, operation, result, request_id)
    headers = {"content-type": "application/json"}
    if plan.protocol == "json":
        headers["content-type"] = f"application/x-amz-json-{plan.json_version}"
        if operation.output is None:
            _must_be_empty(operation, result)
            return Response(200, headers, b"")
        return Response(200, headers, codec.dumps(shapes.write_json(operation.output)(result, operation.name)))
    if operation.output is None:
        _must_be_empty(operation, result)
        return Response(operation.status, headers, b"")
    shape = plan.shapes[operation.output]
    rest, status = write_locations(shapes, plan, operation, result, headers)
    payload = shape.get("payload")
    if payload is None:
        ready = {name: rest.pop(name) for name in list(rest) if isinstance(rest[name], Encoded)}
        body = codec.dumps(shapes.write_json(operation.output)(rest, operation.name))
        for name, value in ready.items():
            key = codec.dumps(shape["members"][name].get("locationName", name))
            body = b"{%b:%b%b%b" % (key, value.text, b"," if len(body) > 2 else b"", body[1:])
        return Response(status, headers, body)
    value = rest.pop(payload, None)
    _must_be_empty(operation, rest)
    if value is None:
        return Response(status, headers, b"")
    kind = plan.shapes[shape["members"][payload]["shape"]]["type"]
    if kind == "blob":
        headers["content-type"] = headers.get("content-type", "application/octet-stream")
        return Response(status, headers, value)
    if kind == "string":
        return Response(status, headers, str(value).encode())
    written = shapes.write_json(shape["members"][payload]["shape"])(value, payload)
    return Response(status, headers, codec.dumps(written))


def write_locations(
    shapes: Shapes, plan: Plan, operation: PlannedOperation, result: Mapping[str, Any], headers: dict[str, str]
) -> tuple[dict[str, Any], int]:
    """Moves what belongs into headers and status there; returns the members left for the body, and the status."""
    assert operation.output is not None
    rest = {key: value for key, value in result.items() if value is not None}
    status = operation.status
    for member, ref in plan.shapes[operation.output].get("members", {}).items():
        location = ref.get("location")
        if location is None or member not in rest:
            continue
        value = rest.pop(member)
        if location == "statusCode":
            status = int(value)
        elif location == "headers":
            headers.update({f"{ref['locationName']}{key}": str(item) for key, item in value.items()})
        elif location == "header":
            headers[ref["locationName"].lower()] = shapes.write_text(ref, value, "rfc822")
    return rest, status


def _write_query(
    shapes: Shapes, plan: Plan, operation: PlannedOperation, result: Mapping[str, Any], request_id: str
) -> Response:
    out: list[str] = []
    if operation.output is not None:
        shapes.write_xml(
            {"shape": operation.output}, result, operation.result_wrapper or f"{operation.name}Result", out
        )
    namespace = f' xmlns="{plan.xml_namespace}"' if plan.xml_namespace else ""
    text = (
        f"<{operation.name}Response{namespace}>{''.join(out)}"
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation.name}Response>"
    )
    return Response(200, {"content-type": "text/xml"}, text.encode())


def _must_be_empty(operation: PlannedOperation, rest: Mapping[str, Any]) -> None:
    if rest:
        raise RuntimeError(f"{operation.name}: the model has no place for {', '.join(sorted(rest))}")


def write_fault(plan: Plan, fault: Fault, text: str, request_id: str, data: Mapping[str, object]) -> Response:
    """An error in the form of the called service's protocol. `data`: members that the error's shape may have."""
    if plan.protocol == "query":
        side = "Sender" if fault.status < 500 else "Receiver"
        namespace = f' xmlns="{plan.xml_namespace}"' if plan.xml_namespace else ""
        body = (
            f"<ErrorResponse{namespace}><Error><Type>{side}</Type><Code>{fault.code}</Code><Message>{escape(text)}"
            f"</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        )
        return Response(fault.status, {"content-type": "text/xml"}, body.encode())
    members = plan.shapes.get(fault.code, {}).get("members", {})
    extra = {key: value for key, value in data.items() if key in members and isinstance(value, str | int)}
    if plan.protocol == "json":
        content = {"__type": fault.code, "message": text, "Message": text} | extra
        return Response(
            fault.status, {"content-type": f"application/x-amz-json-{plan.json_version}"}, codec.dumps(content)
        )
    headers = {"content-type": "application/json", "x-amzn-errortype": fault.code}
    return Response(fault.status, headers, codec.dumps({"message": text} | extra))
