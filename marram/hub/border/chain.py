"""The API door: one request from its head to its answer, as one ordered list of steps (`Api.handle`).

Who serves what is declared by the slices (hub/slice.py). Not here: sockets (https.py), protocols (awsjson.py, s3rest.py),
codes (errors.py), policies (hub/identity).
"""

import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from marram.core import http1, sigv4
from marram.core.errors import (
    Denied,
    Invalid,
    LimitExceeded,
    MarramError,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unsupported,
    VersionConflict,
)
from marram.hub.border import audit, awsjson, errors, intent, passing, plans, s3rest, ws
from marram.hub.border.audit import Auditor, NoAuditor
from marram.hub.border.awsjson import Parsed, Request, Response
from marram.hub.border.errors import Fault
from marram.hub.border.limits import Limits
from marram.hub.border.paging import Pages
from marram.hub.border.plans import Plan, PlannedOperation
from marram.hub.border.rawroutes import RawRoutes
from marram.hub.border.shapes import Shapes
from marram.hub.border.throttle import Throttle
from marram.hub.border.who import IdentityLike, Proof, Who
from marram.hub.identity.model import Subject
from marram.hub.slice import OPERATIONS, ROUTES, Call, Operation, RawRequest, RawResponse, Route, RouteAct
from marram.kit import metrics
from marram.kit.clock import Clock, Entropy, uuid4
from marram.kit.log import Sparing, logger

log = logger(__name__)
strangers = Sparing(log)

BODY_LIMIT: Final = 4 << 20
BODY_LIMIT_RAW: Final = 256 << 10
DEVICE_SERVICES: Final = ("iot-data", "iot-jobs-data")  # what a client certificate may call on the https port

STRANGER: Final = Subject(kind="service", principal="", arn="anonymous")  # of whom the audit log says no more
# Objects are somebody's bytes: a browser that is sent to one must not run it as a page of this host.
_OBJECT_HEADERS: Final = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox"}

_calls = metrics.counter("marram_api_calls_total", "API calls answered", ["service", "operation", "status"])


@dataclass(slots=True)
class _Context:
    """What is known of the request that is being answered; an error is written in these terms."""

    request_id: str
    plan: Plan
    operation: PlannedOperation | None = None
    path: str = "/"


class Api:
    def __init__(
        self,
        *,
        services: Mapping[str, object],
        identity: IdentityLike,
        clock: Clock,
        entropy: Entropy,
        account: str,
        region: str,
        page_key: bytes,
        host_names: Iterable[str] = ("localhost",),
        metrics_text: Callable[[], str] | None = None,
        metrics_token: str | None = None,
        auditor: Auditor | None = None,
        websocket: ws.WebSockets | None = None,
        limits: Limits | None = None,
        operations: Mapping[tuple[str, str], Operation] = OPERATIONS,
        routes: Mapping[tuple[str, str], Route] = ROUTES,
    ) -> None:
        """services: the slices' services by slice name. page_key: 32 bytes that live as long as page tokens should.
        host_names: what S3's virtual-hosted buckets are prefixed to. websocket: the MQTT door; without it there is no /mqtt."""
        self._services = services
        self._identity = identity
        self._clock, self._entropy = clock, entropy
        self._account, self._region = account, region
        self._pages = Pages(page_key)
        self._host_suffixes = tuple(f".{name}" for name in host_names)
        self._metrics_text, self._metrics_token = metrics_text, metrics_token
        self._operations = operations
        self._auditor: Auditor = auditor or NoAuditor()
        self._who = who = Who(identity, clock, region)
        limits = limits or Limits()
        self._websocket = ws.Upgrades(who, clock, websocket, limits.websocket_s) if websocket is not None else None
        self._acts = frozenset(key for key, operation in operations.items() if audit.is_act(operation))
        self._routes = RawRoutes(routes.values())
        self._shapes: dict[str, Shapes] = {}
        self._throttle = Throttle(clock, limits)
        self._check_declarations()

    def _check_declarations(self) -> None:
        """Raises RuntimeError: a route without a permission, a model or a service does not start."""
        for (service, name), operation in self._operations.items():
            if service not in plans.SERVICES or name not in plans.load(service).operations:
                raise RuntimeError(f"operation {service} {name} is declared by {operation.slice} and in no model")
            if not operation.public and (not operation.action or not callable(operation.resource)):
                raise RuntimeError(f"operation {service} {name} has no permission")
            if operation.slice not in self._services:
                raise RuntimeError(f"operation {service} {name}: the service of slice {operation.slice} is not built")
        for route in self._routes.all:
            if route.auth not in ("certificate", "none"):
                raise RuntimeError(f"route {route.method} {route.template} does not say who may call it")
            if route.slice not in self._services:
                raise RuntimeError(f"route {route.method} {route.template}: slice {route.slice} is not built")

    # The transport's side.

    def body_limit(self, head: http1.RequestHead) -> int | None:
        stated = head.headers.get("authorization")
        if stated is None:
            stated = head.target.partition("?")[2]
            if "X-Amz-Signature=" not in stated:
                return BODY_LIMIT_RAW
        # Only S3 puts objects; other services' bodies are small and are read whole.
        return None if head.method == "PUT" and intent.is_for_s3(stated) else BODY_LIMIT

    async def handle(self, request: Request) -> Response:
        """Never raises but for cancellation: every failure is an answer."""
        request_id = uuid4(self._entropy)
        path, _, text = request.target.partition("?")
        context = _Context(request_id, plans.load("iot"), path=path)
        try:
            response = await self._handle(request, path, text, context)
        except Exception as error:  # the border: logs with the traceback and answers INTERNAL
            response = self._failed(request, context, error)
        name = context.operation.name if context.operation is not None else "-"
        _calls.inc(service=context.plan.service, operation=name, status=str(response.status))
        response.headers["x-amzn-requestid"] = request_id
        if context.plan.service == "s3":
            response.headers["x-amz-request-id"] = request_id
            response.headers.update(_OBJECT_HEADERS)
        log.debug(
            "api.call", request_id=request_id, service=context.plan.service, operation=name, status=response.status
        )
        return response

    async def _handle(self, request: Request, path: str, query_text: str, context: _Context) -> Response:
        if path == "/metrics" and request.method == "GET" and self._metrics_text is not None:
            return self._metrics(request)
        pairs = intent.pairs(query_text)
        # Which service, so that a refusal is in its protocol; then who; then what.
        guess = intent.guess_service(request, path, dict(pairs))
        context.plan = plans.load(guess)
        claim = sigv4.claim(request.headers, pairs)
        if not isinstance(request.body, bytes) and (claim is None or claim.service != "s3"):
            raise Unauthenticated("the signature is malformed", reason="incomplete")
        if path == ws.PATH and self._websocket is not None:
            context.plan = plans.load("iot-data")
            return self._websocket.answer(request, path, pairs, claim, context.plan)
        if claim is None:
            found = self._routes.find(request.method, path)
            if found is not None:
                return await self._raw(request, path, dict(pairs), *found, context)
            return await self._with_certificate(request, path, pairs, context)
        service = plans.BY_SIGNING_NAME.get(claim.service)
        if service is None:
            raise Unauthenticated(
                f"Credential should be scoped to correct service: {claim.service[:60]!r} is not served here",
                reason="service",
            )
        context.plan = plan = plans.load(service)
        if service != "s3" and not _is_plain(path):
            # Its signature covers what is left after dots and empty segments are resolved; it would be routed as it is.
            raise Invalid("the path of a signed request holds no empty and no dot segments: encode what is data")
        proof = self._who.by_signature(request, path, pairs, claim, plan)
        s3_path = self._virtual(request, path) if service == "s3" else path
        return await self._call(request, s3_path, pairs, proof.subject, context, proof)

    # Who.

    async def _with_certificate(
        self, request: Request, path: str, pairs: list[tuple[str, str]], context: _Context
    ) -> Response:
        """The https door's device calls: iot-data and iot-jobs-data, signed by the client certificate instead."""
        intent.refuse_authorizer(request.headers, pairs)
        if request.certificate is None:
            raise Unauthenticated("The request is not signed: an Authorization header is missing.", reason="missing")
        query = intent.joined(pairs)
        for service in DEVICE_SERVICES:
            context.plan = plans.load(service)
            if context.plan.route(request.method, path, query, request.headers) is not None:
                break
        else:
            context.plan = plans.load(DEVICE_SERVICES[0])
        subject = self._who.by_certificate(request)
        return await self._call(request, path, pairs, subject, context, None)

    # What.

    async def _call(
        self,
        request: Request,
        path: str,
        pairs: list[tuple[str, str]],
        subject: Subject,
        context: _Context,
        proof: Proof | None,
    ) -> Response:
        plan = context.plan
        shapes = self._shapes.get(plan.service) or self._shapes.setdefault(plan.service, Shapes(plan))
        query = intent.joined(pairs)
        form: dict[str, str] = {}
        labels: dict[str, str] = {}
        operation: PlannedOperation | None
        if plan.protocol == "query":
            form = awsjson.form_of(request)
            operation = plan.operations.get(form.get("Action", ""))
        elif plan.protocol == "json":
            prefix, _, name = request.headers.get("x-amz-target", "").partition(".")
            operation = plan.operations.get(name) if prefix == plan.target_prefix else None
        else:
            operation, labels = plan.route(request.method, path, query, request.headers) or (None, {})
        if operation is None:
            raise _Unknown(intent.unknown_text(plan, request, path, form))
        context.operation = operation
        declared = self._operations.get((plan.service, operation.name))
        if declared is None:
            raise Unsupported(
                f"{plan.service}:{operation.name} is an operation that Marram does not support; docs/api.md lists those it does"
            )
        call = Call(
            subject=subject, account=self._account, region=self._region, request_id=context.request_id,
            source_ip=request.source_ip, now_ms=self._clock.wall_ms(),
            extra={
                "host": request.headers.get("host", ""),
                "secure": request.secure,
                "seen": self._seen(request),
                # For resource functions that have to look a name up.
                "service": self._services[declared.slice],
                # For a second permission that only the operation can name (the source of a copy).
                "authorise": partial(self._authorise, request, subject),
            },
        )  # fmt: skip
        resources: list[str] = []
        try:
            params = await self._params(
                request, Parsed(path, query, labels, request.headers, b""), form, context, call, proof
            )
            if not declared.public:
                named = declared.resource(call, params)
                resources += [named] if isinstance(named, str) else named
                for resource in resources or ("*",):  # none named is no way around the question
                    self._authorise(request, subject, declared.action, resource)
            for role in passing.roles(plan, operation, params):
                to = {passing.SERVICE_KEY: passing.service(plan, operation)}
                self._authorise(request, subject, passing.ACTION, role, to)
            self._throttle.operation(plan.service, operation.name)
            given = self._pages.open(plan.service, operation.name, params)
            result = dict(await declared.function(self._services[declared.slice], call, params))
        except Exception as error:
            await self._audit(call, declared, resources, errors.fault(plan, error, operation).code)
            raise
        await self._audit(call, declared, resources, audit.OK)
        self._pages.seal(plan.service, operation.name, result, given)
        if plan.protocol == "rest-xml":
            return s3rest.write(shapes, plan, operation, result)
        return awsjson.write(shapes, plan, operation, result, context.request_id)

    async def _params(
        self,
        request: Request,
        parsed: Parsed,
        form: dict[str, str],
        context: _Context,
        call: Call,
        proof: Proof | None,
    ) -> dict[str, Any]:
        """The call's parameters. A body that is streamed is `call.extra["body"]` as well, checked as it is read."""
        plan, operation = context.plan, context.operation
        assert operation is not None
        shapes, body = self._shapes[plan.service], request.body
        checked: s3rest.CheckedBody | None = None
        if not isinstance(body, bytes):
            assert proof is not None
            if s3rest.streams_body(plan, operation):
                checked = s3rest.CheckedBody(
                    body, request.headers, payload=proof.payload, chunks=_chunks(request.headers, proof)
                )
                body = b""
            else:
                body = await _read_whole(body, proof.payload)
        parsed.body = body
        call.extra["body"] = checked
        if plan.protocol == "query":
            return awsjson.parse_query(shapes, plan, operation, form)
        if plan.protocol == "json":
            return awsjson.parse_json(shapes, plan, operation, parsed)
        if plan.protocol == "rest-xml":
            return s3rest.parse(shapes, plan, operation, parsed, aiter(checked) if checked is not None else None)
        return awsjson.parse_rest(shapes, plan, operation, parsed)

    async def _audit(self, call: Call, declared: Operation, resources: Sequence[str], outcome: str) -> None:
        if (declared.service, declared.name) not in self._acts:
            return
        try:
            await self._auditor.record(call, declared, resources, outcome)
        except Unavailable as error:  # a full disk: there may be thousands, and the act was refused for it as well
            strangers.info("api.audit_failed", operation=declared.name, reason=error.message)
        except Exception as error:  # a border: the act is done, and its caller is to know
            log.error("api.audit_failed", exc_info=error, request_id=call.request_id, operation=declared.name)

    def _seen(self, request: Request) -> dict[str, str]:
        """What policies may ask about a request."""
        return {
            "aws:SourceIp": request.source_ip,
            "aws:SecureTransport": "true" if request.secure else "false",
            "aws:RequestedRegion": self._region,
        }

    def _authorise(
        self,
        request: Request,
        subject: Subject | None,
        action: str,
        resource: str,
        more: Mapping[str, str] | None = None,
    ) -> None:
        if subject is None:
            raise Unauthenticated("a client certificate is needed here", reason="missing")
        seen = self._seen(request) | dict(more or {})
        if not self._identity.may(subject, action, resource, seen):
            why = self._identity.denial(subject, action, resource, seen)
            raise Denied(why, action=action, resource=resource)

    def _virtual(self, request: Request, path: str) -> str:
        """S3: `bucket.host` is the bucket in the path. A signature covers the path as it was sent."""
        host = request.headers.get("host", "").partition(":")[0].lower()
        for suffix in self._host_suffixes:
            if host.endswith(suffix) and len(host) > len(suffix):
                bucket = host[: -len(suffix)].removesuffix(".s3")
                if bucket not in ("s3", ""):
                    return f"/{bucket}{path}"
        return path

    # Routes outside the AWS APIs.

    async def _raw(
        self,
        request: Request,
        path: str,
        query: dict[str, str],
        route: Route,
        params: dict[str, str],
        context: _Context,
    ) -> Response:
        subject: Subject | None = None
        if route.auth == "certificate":
            subject = self._who.by_certificate(request)
            if route.action is not None:
                made = route.resource
                resource = "*" if made is None else made(self._region, self._account, params)
                self._authorise(request, subject, route.action, resource)
        else:
            self._throttle.address(request.source_ip)
        assert isinstance(request.body, bytes)
        answer = await route.function(
            self._services[route.slice],
            RawRequest(
                method=request.method, path=path, params=params, query=query, headers=request.headers, body=request.body,
                subject=subject, request_id=context.request_id, source_ip=request.source_ip, now_ms=self._clock.wall_ms(),
                authorise=partial(self._authorise, request, subject),
            ),
        )  # fmt: skip
        if route.act:
            await self._audit_route(request, route, answer, subject, context)
        return Response(answer.status, {"content-type": answer.content_type} | dict(answer.headers), answer.body)

    async def _audit_route(
        self, request: Request, route: Route, answer: RawResponse, subject: Subject | None, context: _Context
    ) -> None:
        """Only what succeeded: who merely knocks writes nothing."""
        call = Call(
            subject=subject or STRANGER, account=self._account, region=self._region, request_id=context.request_id,
            source_ip=request.source_ip, now_ms=self._clock.wall_ms(),
        )  # fmt: skip
        try:
            await self._auditor.record(call, RouteAct(route.act, route.action or ""), answer.acted_on, audit.OK)
        except Exception as error:  # a border: the act is done, and its caller is to know
            log.error("api.audit_failed", exc_info=error, request_id=context.request_id, operation=route.act)

    def _metrics(self, request: Request) -> Response:
        assert self._metrics_text is not None
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        loopback = request.source_ip.startswith("127.") or request.source_ip == "::1"
        if not loopback and not (
            self._metrics_token and hmac.compare_digest(given.encode(), self._metrics_token.encode())
        ):
            raise Unauthenticated("metrics are served on loopback, elsewhere to a bearer token", reason="missing")
        return Response(200, {"content-type": "text/plain; version=0.0.4"}, self._metrics_text().encode())

    # Refusals.

    def _failed(self, request: Request, context: _Context, error: Exception) -> Response:
        plan, request_id = context.plan, context.request_id
        if isinstance(error, _Unknown):
            fault = Fault("UnknownOperationException", 404)
        elif isinstance(error, VersionConflict) and error.data.get("kind") == "not_modified":
            fault = Fault("NotModified", 304)
        else:
            fault = errors.fault(plan, error, context.operation)
        text = errors.message(error)
        name = context.operation.name if context.operation is not None else "-"
        if isinstance(error, Unavailable):  # a full disk, an overload: no fault of the code, and there may be thousands
            log.warning(
                "api.unavailable", request_id=request_id, service=plan.service, operation=name, reason=error.message
            )
        elif fault.status >= 500 and fault.status != 501:
            log.error("api.failed", exc_info=error, request_id=request_id, service=plan.service, operation=name)
        elif isinstance(error, Denied):
            strangers.info(
                "api.refused", request_id=request_id, service=plan.service, operation=name, code=fault.code, reason=text
            )
        data = error.data if isinstance(error, MarramError) else {}
        if plan.protocol == "rest-xml":
            return s3rest.write_fault(fault, text, request_id, context.path, head=request.method == "HEAD")
        return awsjson.write_fault(plan, fault, text, request_id, data)


class _Unknown(NotFound):
    """No operation answers to this request."""


def _is_plain(path: str) -> bool:
    parts = path[1:].removesuffix("/").split("/")
    return path == "/" or not any(part in ("", ".", "..") for part in parts)


def _chunks(headers: Mapping[str, str], proof: Proof) -> sigv4.ChunkDecoder | None:
    claim, key, payload = proof.claim, proof.key, proof.payload
    if not payload.startswith("STREAMING-"):
        return None
    length = headers.get("x-amz-decoded-content-length")
    if length is None or not (length.isascii() and length.isdigit()) or len(length) > 15:
        raise Invalid("x-amz-decoded-content-length must be given with an aws-chunked body")
    return sigv4.ChunkDecoder(
        signed=payload != sigv4.STREAMING_UNSIGNED, trailer=payload != sigv4.STREAMING_SIGNED, key=key, date=claim.amz_date,
        scope=claim.scope, seed=claim.signature, decoded_length=int(length),
    )  # fmt: skip


async def _read_whole(stream: AsyncIterator[bytes], payload: str) -> bytes:
    """The body of an S3 PUT that is no object: a small document."""
    pieces: list[bytes] = []
    size = 0
    async for piece in stream:
        size += len(piece)
        if size > BODY_LIMIT:
            raise LimitExceeded(f"the body is over the limit of {BODY_LIMIT} bytes")
        pieces.append(piece)
    body = b"".join(pieces)
    if len(payload) == 64 and not hmac.compare_digest(payload, hashlib.sha256(body).hexdigest()):
        raise Unauthenticated("x-amz-content-sha256 is not the hash of the body.", reason="signature")
    return body
