"""Requests and responses of rest-xml, which is S3: bytes to parameters, results to bytes, checked object bodies.

Not here: objects (hub/objects), signatures (core/sigv4.py).
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape

from marram.core import sigv4
from marram.core.errors import Invalid
from marram.hub.border.awsjson import Parsed, Response, read_locations, write_locations
from marram.hub.border.errors import Fault
from marram.hub.border.plans import Plan, PlannedOperation
from marram.hub.border.shapes import Shapes, local, missing, parse_xml
from marram.hub.slice import Stream

_NAMESPACE: Final = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_HASH_ON_LOOP: Final = 64 << 10  # bytes that may be hashed on the event loop at once
_DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'


def streams_body(plan: Plan, operation: PlannedOperation) -> bool:
    """Whether the input's payload is an object's bytes, which are never held whole."""
    if operation.input is None:
        return False
    shape = plan.shapes[operation.input]
    payload = shape.get("payload")
    if payload is None:
        return False
    ref = shape["members"][payload]
    return bool(plan.shapes[ref["shape"]]["type"] == "blob")


def parse(
    shapes: Shapes, plan: Plan, operation: PlannedOperation, request: Parsed, stream: AsyncIterator[bytes] | None
) -> dict[str, Any]:
    if operation.input is None:
        return {}
    shape = plan.shapes[operation.input]
    params, _ = read_locations(shapes, plan, operation, request)
    payload = shape.get("payload")
    if payload is not None:
        ref = shape["members"][payload]
        if stream is not None:
            params[payload] = stream
        elif request.body:
            element = parse_xml(request.body)
            wanted = ref.get("locationName", payload)
            if local(element) != wanted:
                raise Invalid(f"the body must be a {wanted} element, not {local(element)[:60]}", kind="malformed_xml")
            params[payload] = shapes.read_xml(ref, element, payload)
    elif request.body:
        raise Invalid(f"{operation.name} takes no body")
    for member in shape.get("required", ()):
        if member not in params:
            raise missing(member)
    return params


def write(shapes: Shapes, plan: Plan, operation: PlannedOperation, result: Mapping[str, Any]) -> Response:
    headers: dict[str, str] = {}
    if operation.output is None:
        return Response(operation.status if operation.status != 200 or operation.method != "DELETE" else 204, headers)
    shape = plan.shapes[operation.output]
    rest, status = write_locations(shapes, plan, operation, result, headers)
    # Names of user metadata are lower case on the wire.
    payload = shape.get("payload")
    if payload is not None:
        value = rest.pop(payload, None)
        if rest:
            raise RuntimeError(f"{operation.name}: the model has no place for {', '.join(sorted(rest))}")
        ref = shape["members"][payload]
        if plan.shapes[ref["shape"]]["type"] == "blob":
            return Response(206 if "content-range" in headers else status, headers, value if value is not None else b"")
        return Response(status, headers, b"" if value is None else _document(shapes, ref, value, payload))
    in_body = any(ref.get("location") is None for ref in shape.get("members", {}).values())
    if not in_body:
        return Response(204 if operation.method == "DELETE" else status, headers)
    if operation.name == "GetBucketLocation":  # the one result that is a bare element
        text = escape(str(rest.get("LocationConstraint", "")))
        body = f"{_DECLARATION}<LocationConstraint{_NAMESPACE}>{text}</LocationConstraint>"
        return Response(200, {"content-type": "application/xml"}, body.encode())
    headers["content-type"] = "application/xml"
    tag = shape.get("locationName", operation.output.removesuffix("Output") + "Result")
    return Response(status, headers, _document(shapes, {"shape": operation.output}, rest, tag))


def _document(shapes: Shapes, ref: Mapping[str, Any], value: Mapping[str, Any], tag: str) -> bytes:
    out: list[str] = []
    shapes.write_xml(ref, value, tag, out, _NAMESPACE)
    return (_DECLARATION + "".join(out)).encode()


def write_fault(fault: Fault, text: str, request_id: str, resource: str, *, head: bool) -> Response:
    if head or fault.status == 304:
        return Response(fault.status, {})
    body = (
        f"{_DECLARATION}<Error><Code>{fault.code}</Code><Message>{escape(text)}</Message>"
        f"<Resource>{escape(resource)}</Resource><RequestId>{request_id}</RequestId></Error>"
    )
    return Response(fault.status, {"content-type": "application/xml"}, body.encode())


class CheckedBody:
    """An object's bytes as they arrive, with every statement about them checked before the end is reached.

    Iterating raises Invalid (kind "digest" or "incomplete_body") or Unauthenticated instead of ending normally when the
    signed hash, Content-MD5 or a checksum does not agree: what consumes it must not make the object visible before the end.
    After a good end `checksums` holds {algorithm: base64} as verified.
    """

    def __init__(
        self,
        source: AsyncIterator[bytes],
        headers: Mapping[str, str],
        *,
        payload: str,
        chunks: sigv4.ChunkDecoder | None,
    ) -> None:
        """payload: the x-amz-content-sha256 that the signature covers. chunks: the decoder of an aws-chunked body."""
        self._source = source
        self._chunks = chunks
        self._sha256 = hashlib.sha256() if len(payload) == 64 else None
        self._stated_sha256 = payload
        self._md5 = hashlib.md5(usedforsecurity=False) if "content-md5" in headers else None
        self._stated_md5 = _digest(headers["content-md5"], 16, "Content-MD5") if self._md5 else b""
        self._stated: dict[str, str] = {}
        self._running: dict[str, sigv4.Checksum] = {}
        for name, value in headers.items():
            if name.startswith("x-amz-checksum-") and name[15:] in sigv4.CHECKSUMS:
                self._stated[name[15:]] = value
        for name in headers.get("x-amz-trailer", "").split(","):
            name = name.strip().lower()
            if name.startswith("x-amz-checksum-"):
                self._running[name[15:]] = sigv4.checksum(name[15:])
            elif name:
                raise Invalid(f"the trailer {name[:60]} is not supported")
        for name in self._stated:
            self._running[name] = sigv4.checksum(name)
        self.checksums: dict[str, str] = {}
        length = headers.get("x-amz-decoded-content-length" if chunks else "content-length")
        self.length = int(length) if length is not None and length.isascii() and length.isdigit() else None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        async for piece in self._source:
            data = self._chunks.feed(piece) if self._chunks is not None else piece
            if data:
                await self._update(data)
                yield data
        self._check()

    async def _update(self, data: bytes) -> None:
        for digest in (self._sha256, self._md5):
            if digest is not None:
                if len(data) > _HASH_ON_LOOP:
                    await asyncio.to_thread(digest.update, data)
                else:
                    digest.update(data)
        for running in self._running.values():
            if len(data) > _HASH_ON_LOOP or (isinstance(running, sigv4.TableCrc) and len(data) > 1024):
                await asyncio.to_thread(running.update, data)
            else:
                running.update(data)

    def _check(self) -> None:
        if self._chunks is not None:
            self._chunks.finish()
            for name, value in self._chunks.trailers.items():
                if name.startswith("x-amz-checksum-"):
                    self._stated[name[15:]] = value
        if self._sha256 is not None and not hmac.compare_digest(self._sha256.hexdigest(), self._stated_sha256):
            raise Invalid("The provided x-amz-content-sha256 header does not match what was received.", kind="digest")
        if self._md5 is not None and self._md5.digest() != self._stated_md5:
            raise Invalid("The Content-MD5 you specified did not match what we received.", kind="digest")
        for name, running in self._running.items():
            stated = self._stated.get(name)
            if stated is None:
                raise Invalid(f"the trailer x-amz-checksum-{name} was announced and is missing", kind="digest")
            found = sigv4.encode_digest(running.digest())
            if found != stated:
                raise Invalid(f"The {name.upper()} you specified did not match the calculated checksum.", kind="digest")
            self.checksums[name] = found


def _digest(text: str, size: int, what: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"{what} is not base64", kind="digest") from error
    if len(value) != size:
        raise Invalid(f"{what} is not a digest of {size} bytes", kind="digest")
    return value


def is_stream(body: "bytes | Stream") -> bool:
    return isinstance(body, Stream)
