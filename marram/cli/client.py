"""The command line's own client of the hub's APIs: signed requests over http.client. Standard library and core only.

Requests are made from the compiled plans, so that an operation needs no code here. Not here: S3's XML (but objects can be
put and got), MQTT.
"""

import http.client
import shutil
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

from marram.cli.main import HubNotReachable
from marram.core import codec, sigv4
from marram.core.codec import JsonObject
from marram.core.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    Invalid,
    LimitExceeded,
    MarramError,
    NotFound,
    Unavailable,
    Unsupported,
    VersionConflict,
)

if TYPE_CHECKING:
    from marram.hub.border.plans import Plan, PlannedOperation

TIMEOUT_S: Final = 60.0
_BY_STATUS: Final[Mapping[int, type[MarramError]]] = {
    400: Invalid, 401: Denied, 403: Denied, 404: NotFound, 406: Conflict, 409: Conflict, 410: LimitExceeded, 412: VersionConflict,
    413: LimitExceeded, 416: Invalid, 429: LimitExceeded, 501: Unsupported, 503: Unavailable,
}  # fmt: skip
# The JSON protocol of SageMaker says 400 to nearly everything.
_BY_CODE: Final[Mapping[str, type[MarramError]]] = {
    "AccessDeniedException": Denied, "UnrecognizedClientException": Denied, "SignatureDoesNotMatch": Denied,
    "InvalidSignatureException": Denied,
    "ResourceInUse": AlreadyExists, "ConflictException": Conflict, "ResourceLimitExceeded": LimitExceeded,
}  # fmt: skip


class Api:
    def __init__(
        self, endpoint: str, region: str, credentials: sigv4.Credentials, *, ca_file: str | None = None
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"{endpoint!r} is not the URL of a hub's API")
        self._secure, self._host, self._netloc = parts.scheme == "https", parts.hostname, parts.netloc
        self._port = parts.port or (443 if self._secure else 80)
        self.region = region
        self._credentials = credentials
        self._ca_file = ca_file

    @classmethod
    def from_data(cls, folder: Path) -> "Api":
        """As the administrator of the hub that runs on `folder`. Raises NoHub or BadHubJson (serve.folder)."""
        from marram.serve.folder import HUB_JSON, read_hub_json

        hub = read_hub_json(folder / HUB_JSON)
        credentials = sigv4.Credentials(hub.access_key_id, hub.secret_access_key)
        return cls(hub.local_api, hub.region, credentials, ca_file=hub.ca_file)

    def call(self, service: str, operation: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One operation of a service other than S3, members by wire name. Raises ours, by the status of the answer.

        Values in answers of the query protocol (iam, sts) are text, lists and objects; what is empty is "".
        """
        from marram.hub.border import plans  # a device has no plans and no need of them

        plan = plans.load(service)
        planned = plan.operations.get(operation)
        if planned is None:
            raise NotFound(f"{service} has no operation {operation}")
        given = dict(params or {})
        if plan.protocol == "json":
            headers = {
                "x-amz-target": f"{plan.target_prefix}.{operation}",
                "content-type": "application/x-amz-json-1.1",
            }
            return self._json("POST", "/", [], headers, codec.dumps(given), plan.signing_name)
        if plan.protocol == "query":
            form = {"Action": operation, "Version": plan.api_version, **_flat("", given)}
            headers = {"content-type": "application/x-www-form-urlencoded"}
            body = urlencode(form).encode()
            return _answer(self.send("POST", "/", [], headers, body, plan.signing_name), operation)
        if plan.protocol != "rest-json":
            raise Unsupported(f"{service} is not spoken by this client: use an AWS SDK")
        path, query, headers, body = rest_request(plan, planned, given)
        return self._json(planned.method, path, query, headers, body, plan.signing_name)

    def marram(self, operation: str, params: JsonObject | Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One of our own operations, as "timeseries/Query"."""
        headers = {"content-type": "application/json"}
        return self._json("POST", f"/marram/{operation}", [], headers, codec.dumps(dict(params or {})), "marram")

    def put_object(self, bucket: str, key: str, data: bytes) -> None:
        self.send("PUT", f"/{bucket}/{quote(key, safe='/-_.~')}", [], {}, data, "s3")

    def get_object(self, bucket: str, key: str, into: Path) -> None:
        """A large object goes to the file as it comes."""
        with into.open("wb") as file:
            self.send("GET", f"/{bucket}/{quote(key, safe='/-_.~')}", [], {}, b"", "s3", into=file)

    def _json(
        self, method: str, path: str, query: list[tuple[str, str]], headers: dict[str, str], body: bytes, service: str
    ) -> dict[str, Any]:
        data = self.send(method, path, query, headers, body, service)
        if not data:
            return {}
        try:
            value = codec.loads(data)
        except Invalid:
            return {"payload": data}
        return value if isinstance(value, dict) else {"payload": data}

    def send(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        headers: dict[str, str],
        body: bytes,
        service: str,
        *,
        into: BinaryIO | None = None,
    ) -> bytes:
        """One signed request. Raises ours for every status from 400 on."""
        signed = sigv4.sign(
            self._credentials, method=method, path=path, query=query, headers=headers | {"host": self._netloc}, body=body,
            region=self.region, service=service, now_ms=time.time_ns() // 1_000_000,
        )  # fmt: skip
        target = f"{path}?{urlencode(query, quote_via=quote, safe='-_.~')}" if query else path
        connection = self._connection()
        try:
            connection.request(method, target, body or None, signed)
            answer = connection.getresponse()
            if answer.status < 400 and into is not None:
                shutil.copyfileobj(answer, into)
                return b""
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise HubNotReachable(f"no hub answers at {self._netloc}: {error}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise _error(answer.status, answer.headers.get("x-amzn-errortype", ""), data)
        return data

    def _connection(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        context = ssl.create_default_context(cafile=self._ca_file)
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=context)


def rest_request(
    plan: "Plan", operation: "PlannedOperation", given: Mapping[str, Any]
) -> tuple[str, list[tuple[str, str]], dict[str, str], bytes]:
    """(path, query, headers, body) of a rest-json call. Raises Invalid for a member that the model has not."""
    shape: Mapping[str, Any] = plan.shapes[operation.input] if operation.input else {}
    query, body = list(operation.literal_query.items()), b""
    headers: dict[str, str] = {}
    content: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for name, value in given.items():
        ref = shape.get("members", {}).get(name)
        if ref is None:
            raise Invalid(f"{operation.name} has no member {name}")
        wire = ref.get("locationName", name)
        match ref.get("location"):
            case "uri":
                labels[wire] = str(value)
            case "querystring":
                items = cast("list[object]", value) if isinstance(value, list) else [value]
                query += [(wire, _text(item)) for item in items]
            case "header":
                headers[wire.lower()] = _text(value)
            case _ if name == shape.get("payload"):
                body = value if isinstance(value, bytes) else codec.dumps(value)
            case _:
                content[wire] = value
    path = ""
    for segment in operation.segments:
        name = segment.strip("{+}")
        if segment.startswith("{") and name not in labels:
            raise Invalid(f"{operation.name} needs {name}")
        path += "/" + (quote(labels[name], safe="-_.~") if segment.startswith("{") else segment)
    if content or (operation.method in ("POST", "PUT", "PATCH") and not shape.get("payload")):
        body = codec.dumps(content)
        headers["content-type"] = "application/json"
    return path or "/", query, headers, body


def _text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _flat(prefix: str, value: object) -> dict[str, str]:
    """Parameters as the query protocol has them: Tags.member.1.Key."""
    match value:
        case dict():
            items = cast("dict[str, object]", value).items()
            dot = f"{prefix}." if prefix else ""
            return {name: text for key, item in items for name, text in _flat(f"{dot}{key}", item).items()}
        case list():
            rows = enumerate(cast("list[object]", value), 1)
            return {name: text for at, item in rows for name, text in _flat(f"{prefix}.member.{at}", item).items()}
        case _:
            return {prefix: _text(value)}


def _answer(data: bytes, operation: str) -> dict[str, Any]:
    result = ElementTree.fromstring(data).find(f"{{*}}{operation}Result")  # noqa: S314 - the hub's own answer
    found: object = _plain(result) if result is not None else {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _plain(element: ElementTree.Element) -> Any:
    names = [child.tag.rpartition("}")[2] for child in element]
    if not names:
        return element.text or ""
    values = [_plain(child) for child in element]
    return values if set(names) == {"member"} else dict(zip(names, values, strict=True))


def _error(status: int, code: str, data: bytes) -> MarramError:
    text = data.decode("utf-8", "replace")
    try:
        found = codec.loads(data)
    except Invalid:
        found = None
        inner = text.partition("<Message>")[2].partition("</Message>")[0]
        code = code or text.partition("<Code>")[2].partition("</Code>")[0]
        text = unescape(inner, {"&quot;": '"'}) or text[:300]
    if isinstance(found, dict):
        text = str(found.get("message") or found.get("Message") or text)
        code = code or str(found.get("__type", ""))
    cls = _BY_STATUS.get(status, Unavailable if status >= 500 else Invalid)
    if status == 400:
        cls = _BY_CODE.get(code.rpartition("#")[2], cls)
    elif status == 409 and "Exists" in code:
        cls = AlreadyExists
    elif status == 409 and "Version" in code:
        cls = VersionConflict
    return cls(text, code=code, status=status)
