"""What a slice declares: operations of the APIs, reserved MQTT topics, migrations. Borders and broker read it.

A slice's `api.py` functions are `async def name(service, call, params) -> result`, with wire member names on both sides;
A page token is the slice's own last key (any JSON value) on its side; the border seals it on the wire.
`topics.py` functions are `async def name(service, message) -> None`. `service` is what the composition root built under
the slice's name. Not here: bytes, codes, signatures (hub/border), and which slices run (marram/serve).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

if TYPE_CHECKING:  # identity lies above this module in the order of slices
    from marram.hub.identity.service import Subject

Params: TypeAlias = Mapping[str, Any]  # validated against the service's model by the border before a function sees it
Result: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """`package` holds `api`, `topics` and `migrations/`; the name is the key of the service in the composition root."""

    name: str
    package: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One authenticated and authorised request."""

    subject: "Subject"
    account: str
    region: str
    request_id: str
    source_ip: str
    now_ms: int
    extra: dict[str, object] = field(default_factory=dict[str, object])  # filled by the border


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicMessage:
    """One publish on a reserved topic, already allowed by policy. `params` are the names in the template.

    in_flight: of this client's requests on topics `at_once`, how many are not done, this one among them.
    """

    topic: str
    params: Mapping[str, str]
    payload: bytes
    subject: "Subject"
    client_id: str
    time_ms: int
    in_flight: int = 1


OperationFunction: TypeAlias = Callable[[Any, Call, Params], Awaitable[Result]]
TopicFunction: TypeAlias = Callable[[Any, TopicMessage], Awaitable[None]]
ResourceFunction: TypeAlias = Callable[[Call, Params], "str | list[str]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`action` and `resource` are the permission; a public operation needs a valid signature but no right (sts)."""

    service: str
    name: str
    slice: str
    action: str
    resource: ResourceFunction
    function: OperationFunction
    public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    template: str
    slice: str
    function: TopicFunction
    at_once: bool = False
    private: bool = False
    is_hubs_own: Callable[[str], bool] | None = None


ACTION_PREFIX: Final[Mapping[str, str]] = {
    "iot-data": "iot",
    "iot-jobs-data": "iotjobsdata",
    "greengrassv2": "greengrass",
}

OPERATIONS: Final[dict[tuple[str, str], Operation]] = {}
TOPICS: Final[dict[str, Topic]] = {}


def operation(
    service: str, name: str, *, resource: ResourceFunction, action: str | None = None, public: bool = False
) -> Callable[[OperationFunction], OperationFunction]:
    """Declare one operation of botocore's `service`, or of ours (`marram`, name "<slice>/<Operation>").

    `resource` gives the ARN or ARNs that the action is checked on; `anything` where AWS names none.
    """

    def declare(function: OperationFunction) -> OperationFunction:
        short = name.rpartition("/")[2]
        made = Operation(
            service=service,
            name=name,
            slice=_slice_of(function.__module__),
            action=action or f"{ACTION_PREFIX.get(service, service)}:{short}",
            resource=resource,
            function=function,
            public=public,
        )
        known = OPERATIONS.setdefault((service, name), made)
        if known is not made:
            raise RuntimeError(f"operation {service} {name} is declared twice")
        return function

    return declare


def topic(
    template: str, *, at_once: bool = False, private: bool = False, is_hubs_own: Callable[[str], bool] | None = None
) -> Callable[[TopicFunction], TopicFunction]:
    """Declare the handler of a reserved topic; `{name}` stands for one level.

    A client's messages are handled one after another. at_once: each is begun without waiting for those before it, in their
    order; for a handler whose first wait is its one transaction, which keeps the order, so that many share a commit.
    private: nobody but the handler gets what is published there, whatever their policy and their subscriptions say.
    is_hubs_own: of the topics that the template covers, those on which the hub alone speaks; there is no handler for them.
    """

    def declare(function: TopicFunction) -> TopicFunction:
        made = Topic(
            template=template, slice=_slice_of(function.__module__), function=function, at_once=at_once, private=private,
            is_hubs_own=is_hubs_own,
        )  # fmt: skip
        known = TOPICS.setdefault(template, made)
        if known is not made:
            raise RuntimeError(f"reserved topic {template} is declared twice")
        return function

    return declare


def anything(_call: Call, _params: Params) -> str:
    """The resource of actions that have none."""
    return "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A body that is too large to hold: `length` bytes, in pieces."""

    length: int
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A member of a result that is JSON text already, for a large answer of a rest-json operation: the door passes it on
    as it is, so that it is the slice which answers for its shape. Only whole members of the result itself."""

    text: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRequest:
    """A request of the https door outside the AWS APIs (data plane, joining). `params` are the names in the template."""

    method: str
    path: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    subject: "Subject | None"  # of the client certificate; None for auth="none"
    request_id: str
    source_ip: str
    now_ms: int
    authorise: Callable[[str, str], None]  # (action, resource): raises Denied unless the subject may


@dataclass(frozen=True, slots=True, kw_only=True)
class RawResponse:
    status: int = 200
    body: "bytes | Stream" = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content_type: str = "application/json"
    acted_on: "tuple[str, ...]" = ()  # ARNs, of a route that is an act


RouteFunction: TypeAlias = Callable[[Any, RawRequest], Awaitable[RawResponse]]
RouteAuth: TypeAlias = Literal["certificate", "none"]
RouteResource: TypeAlias = Callable[[str, str, Mapping[str, str]], str]  # (region, account, params) -> ARN


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    template: str
    slice: str
    auth: RouteAuth
    action: str | None
    function: RouteFunction
    resource: RouteResource | None = None
    act: str = ""


class Act(Protocol):
    """What the audit log says of an operation, or of a route that is one."""

    @property
    def service(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def action(self) -> str: ...


@dataclass(frozen=True, slots=True)
class RouteAct:
    name: str
    action: str
    service: str = "marram"


ROUTES: Final[dict[tuple[str, str], Route]] = {}


def route(
    method: str,
    template: str,
    *,
    auth: RouteAuth,
    action: str | None = None,
    resource: RouteResource | None = None,
    act: str = "",
) -> Callable[[RouteFunction], RouteFunction]:
    """Declare a raw route of the https door; `{name}` stands for one path segment.

    The function is `async def name(service, request) -> RawResponse`. auth="certificate": an active client certificate, and,
    with `action`, a policy that allows it on `resource` ("*" without one); what only the body names, the function asks
    `request.authorise` for, and what else the certificate may see is its to decide.
    auth="none": anybody, rate limited by the door. act: the operation that the audit log calls it, when it succeeds.
    Errors are raised as everywhere; the door writes them as rest-json.
    """

    def declare(function: RouteFunction) -> RouteFunction:
        made = Route(
            method=method,
            template=template,
            slice=_slice_of(function.__module__),
            auth=auth,
            action=action,
            function=function,
            resource=resource,
            act=act,
        )
        known = ROUTES.setdefault((method, template), made)
        if known is not made:
            raise RuntimeError(f"route {method} {template} is declared twice")
        return function

    return declare


def _slice_of(module: str) -> str:
    # marram.hub.<slice>.api..., marram.ml.<slice>.api...
    return module.split(".")[2]
