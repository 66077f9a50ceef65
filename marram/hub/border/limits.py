"""Every limit of the hub in one table: what it is, AWS's figure, ours, where it is kept. docs/limits.md is made of it.

`Limits` holds those that marram.toml [limits] can set; `[hub] limits = "aws"` turns on AWS's rates, which are off else. FIXED
are those of a protocol or of the code. Sources: AWS General Reference, "AWS IoT Core endpoints and quotas"; the registry's
rates are Service Quotas' own list. Not here: how a limit is kept (throttle.py, kit/net.py, hub/broker/settings.py).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from marram.core.errors import NotFound
from marram.hub.border import plans
from marram.hub.border.https import Bounds
from marram.hub.broker.settings import AWS_RATES
from marram.hub.broker.settings import Settings as BrokerSettings
from marram.kit import config
from marram.kit.config import BadSetting
from marram.kit.net import Accept

MOST: Final = 1 << 40
MODES: Final = ("default", "aws")
API_DEFAULT: Final = 10  # what AWS allows of most operations that no list of quotas names; unconfirmed for each of them

_TEN = (
    "ListThings", "ListThingTypes", "ListThingGroups", "ListPrincipalThings", "ListPrincipalThingsV2", "ListThingPrincipals",
    "ListThingPrincipalsV2", "ListBillingGroups", "ListTagsForResource", "TagResource", "UntagResource",
)  # fmt: skip
_FIFTEEN = (
    "CreateThingType", "DeprecateThingType", "DeleteThingType", "DeleteThingGroup", "UpdateThingGroup", "DeleteBillingGroup",
    "UpdateBillingGroup", "RemoveThingFromBillingGroup",
)  # fmt: skip
_HUNDRED = (
    "CreateThing", "UpdateThing", "DeleteThing", "DescribeThingType", "DescribeThingGroup", "DescribeBillingGroup",
    "AddThingToThingGroup", "RemoveThingFromThingGroup", "AttachThingPrincipal", "DetachThingPrincipal",
    "ListThingGroupsForThing",
)  # fmt: skip
# Calls a second of an account.
AWS_API: Final[Mapping[str, int]] = {
    **{f"iot:{name}": 5 for name in ("CreateDynamicThingGroup", "DeleteDynamicThingGroup", "UpdateDynamicThingGroup")},
    **{f"iot:{name}": 10 for name in _TEN},
    **{f"iot:{name}": 15 for name in _FIFTEEN},
    **{
        f"iot:{name}": 25
        for name in ("CreateThingGroup", "CreateBillingGroup", "ListThingsInThingGroup", "ListThingsInBillingGroup")
    },
    "iot:AddThingToBillingGroup": 60,
    **{f"iot:{name}": 100 for name in _HUNDRED},
    "iot:DescribeThing": 350,
}
# Services whose operations `limits = "aws"` holds to API_DEFAULT where the list above is silent.
CONTROL_PLANE: Final = ("iot",)


def _limit(default: int, what: str, where: str, aws: int | str | None = None, *, least: int = 1) -> int:
    """A field of Limits. `aws` is a number where `limits = "aws"` sets it; a text is for readers only, None: no such limit.

    What is 0 by default is off by 0.
    """
    least = least if default else 0
    made: int = dataclasses.field(default=default, metadata={"what": what, "where": where, "aws": aws, "least": least})
    return made


_MQTT: Final = "hub/broker"
_NET: Final = "kit/net.py"
_HTTP: Final = "hub/border/https.py"
_API: Final = "hub/border/throttle.py"
_DOOR: Final = "hub/border/mqtt.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The [limits] section. Rates are a second's, 0 is off."""

    # Connections.
    tls_half_open: int = _limit(1024, "TLS handshakes under way on one port", _NET)
    tls_half_open_per_address: int = _limit(
        200, "TLS handshakes under way from one address; 0: no limit", _NET, least=0
    )
    tls_per_address_per_s: int = _limit(0, "TLS handshakes begun by one address", _NET)
    tls_handshake_s: int = _limit(10, "seconds until a handshake is done", _NET)
    mqtt_connections: int = _limit(500_000, "MQTT connections of the hub; 0: no limit", _DOOR, 500_000, least=0)
    mqtt_connections_per_address: int = _limit(0, "MQTT connections from one address", _DOOR)
    mqtt_connect_s: int = _limit(10, "seconds until CONNECT, from the end of the handshake", _DOOR)
    websocket_s: int = _limit(
        86_400, "seconds that a WebSocket lives, if its credentials do not end before", "hub/border/ws.py", 86_400
    )
    http_connections: int = _limit(4096, "HTTP connections of the hub", _HTTP)
    http_connections_per_address: int = _limit(1024, "HTTP connections from one address; 0: no limit", _HTTP, least=0)
    http_head_s: int = _limit(10, "seconds until the head of a request is there, from its first byte", _HTTP)
    http_body_s: int = _limit(30, "seconds for a body; of a stream, for its next piece", _HTTP)
    http_idle_s: int = _limit(75, "seconds between two requests of a connection", _HTTP)
    # Calls.
    api_per_s: int = _limit(
        0, "calls of each operation of the iot API, where [limits.api] does not name it", _API, API_DEFAULT
    )
    join_per_address_per_s: int = _limit(
        3, "calls of the open routes (joining, sessions) by one address; ten times as many at once", _API, least=0
    )
    api: dict[str, int] = dataclasses.field(
        default_factory=dict[str, int],
        metadata={
            "what": 'calls of one operation: [limits.api] with "iot:CreateThing" = 5', "where": _API, "aws": "see below",
        },
    )  # fmt: skip
    # Messages: the broker's settings, under the same names.
    expiry_s: int = _limit(3600, "seconds that a persistent session of MQTT 3.1.1 outlives its connection", _MQTT, 3600)
    max_expiry_s: int = _limit(604_800, "seconds of session expiry that MQTT 5 may ask for", _MQTT, 604_800)
    queue: int = _limit(10_000, "messages that wait for one session, or for a shared subscription", _MQTT, "no figure")
    in_flight: int = _limit(100, "QoS 1 without PUBACK, each way", _MQTT, 100)
    subscriptions: int = _limit(50, "subscriptions of a session", _MQTT, 50)
    will_bytes: int = _limit(64 << 20, "bytes of all wills together", _MQTT)
    publish_per_s: int = _limit(0, "messages from one connection; more is discarded", _MQTT, AWS_RATES["publish_per_s"])
    delivery_per_s: int = _limit(0, "messages to one connection", _MQTT, AWS_RATES["delivery_per_s"])
    bytes_per_s: int = _limit(0, "bytes from one connection; more is read later", _MQTT, AWS_RATES["bytes_per_s"])
    connects_per_s: int = _limit(0, "CONNECTs of the hub", _MQTT, AWS_RATES["connects_per_s"])
    connect_per_client_id_per_s: int = _limit(
        0, "CONNECTs of one client id", _MQTT, AWS_RATES["connect_per_client_id_per_s"]
    )
    stored_drain_per_s: int = _limit(0, "stored messages to one session", _MQTT, AWS_RATES["stored_drain_per_s"])
    shared_drain_per_s: int = _limit(
        0, "to one member of a shared subscription", _MQTT, AWS_RATES["shared_drain_per_s"]
    )
    subscriptions_per_s: int = _limit(0, "filters subscribed to, of the hub", _MQTT, AWS_RATES["subscriptions_per_s"])

    def __post_init__(self) -> None:
        """Raises BadSetting."""
        for each in _numbers():
            _check(each.name, getattr(self, each.name), each.metadata["least"])
        _check_table(self.api)
        for name, rate in self.api.items():
            _check(name, rate, 0)
            service, _, operation = name.partition(":")
            try:
                known = operation in plans.load(service).operations
            except NotFound:
                known = False
            if not known:
                raise BadSetting(f"[limits.api] {name!r} is no operation; they read like iot:CreateThing")

    @property
    def broker(self) -> BrokerSettings:
        return BrokerSettings(**{each.name: getattr(self, each.name) for each in dataclasses.fields(BrokerSettings)})

    @property
    def accept(self) -> Accept:
        return Accept(
            half_open=self.tls_half_open, half_open_per_address=self.tls_half_open_per_address,
            per_address_per_s=self.tls_per_address_per_s, handshake_s=self.tls_handshake_s,
        )  # fmt: skip

    @property
    def http(self) -> Bounds:
        return Bounds(
            head_s=self.http_head_s, body_s=self.http_body_s, idle_s=self.http_idle_s,
            connections=self.http_connections, connections_per_address=self.http_connections_per_address,
        )  # fmt: skip

    def rate_of(self, service: str, operation: str) -> int:
        """Calls a second, 0: no limit."""
        named = self.api.get(f"{service}:{operation}")
        return named if named is not None else self.api_per_s if service in CONTROL_PLANE else 0


def aws() -> Limits:
    """With every rate that AWS has."""
    rates = {each.name: each.metadata["aws"] for each in _numbers() if isinstance(each.metadata["aws"], int)}
    return Limits(**rates, api=dict(AWS_API))


def load(mode: str, path: Path | None = None, environ: Mapping[str, str] | None = None) -> Limits:
    """`mode`: [hub] limits. What [limits] names counts over it; [limits.api] adds to its list. Raises BadSetting."""
    if mode not in MODES:
        raise BadSetting(f"[hub] limits must be one of {', '.join(MODES)}, not {mode!r}")
    base = aws() if mode == "aws" else Limits()
    made = config.load(Limits, "limits", path=path, environ=environ, base=base)
    return dataclasses.replace(made, api={**base.api, **made.api})


def _check_table(value: object) -> None:
    if not isinstance(value, dict):
        raise BadSetting(f"[limits] api must be a table, not {value!r}")


def _check(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST:
        raise BadSetting(f"[limits] {name} must be a whole number from {least} to {MOST}, not {value!r}")


def _numbers() -> "list[dataclasses.Field[Any]]":
    return [each for each in dataclasses.fields(Limits) if each.name != "api"]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A limit that no setting changes. `ours` is a module and the name of its constant, so that the page cannot lie."""

    name: str
    what: str
    ours: str
    aws: str
    where: str


FIXED: Final = (
    Fixed("payload", "bytes of a message's payload", "marram.hub.broker.session:MAX_PAYLOAD", "131072", _MQTT),
    Fixed("filters", "filters of one SUBSCRIBE", "marram.hub.broker.subscribing:MAX_FILTERS", "8", _MQTT),
    Fixed("topic", "bytes of a topic", "marram.core.topic:MAX_BYTES", "256", "core/topic.py"),
    Fixed("slashes", "slashes of a topic, behind reserved beginnings", "marram.core.topic:MAX_SLASHES", "7", "core/topic.py"),
    Fixed("client id", "bytes of a client id", "marram.hub.border.mqtt:MAX_CLIENT_ID", "128", _DOOR),
    Fixed("keep-alive", "the shortest, in seconds; less is raised to it", "marram.hub.border.mqtt:MIN_KEEP_ALIVE_S", "30", _DOOR),
    Fixed("keep-alive", "the longest, and the one of 0", "marram.hub.border.mqtt:MAX_KEEP_ALIVE_S", "1200", _DOOR),
    Fixed("topic aliases", "of a connection, each way", "marram.core.mqtt.connection:TOPIC_ALIASES", "8", "core/mqtt"),
    Fixed("message expiry", "seconds at most", "marram.hub.broker.delivery:MAX_MESSAGE_EXPIRY_S", "604800", _MQTT),
    Fixed("sessions", "connected or waiting", "marram.hub.broker.connecting:MAX_SESSIONS", "no figure", _MQTT),
    Fixed("unread", "bytes that wait for a client that does not read", "marram.hub.broker.session:MAX_PENDING_BYTES", "no figure", _MQTT),
    Fixed("WebSocket frame", "bytes of one frame", "marram.core.websocket:MAX_FRAME", "no figure", "core/websocket.py"),
    Fixed("HTTP head", "bytes of a request's head", "marram.core.http1:MAX_HEAD", "no figure", "core/http1.py"),
    Fixed("HTTP headers", "lines of a head", "marram.core.http1:MAX_HEADERS", "no figure", "core/http1.py"),
    Fixed("HTTP body", "bytes of a signed request, objects of S3 apart", "marram.hub.border.chain:BODY_LIMIT", "no figure", _HTTP),
    Fixed("HTTP body", "bytes of a request that is not signed", "marram.hub.border.chain:BODY_LIMIT_RAW", "no figure", _HTTP),
    Fixed("query", "parameters of a request", "marram.hub.border.intent:MAX_PARAMETERS", "no figure", "hub/border/intent.py"),
    Fixed("JSON depth", "levels of a document", "marram.core.codec:MAX_DEPTH", "no figure", "core/codec.py"),
    Fixed("policy versions", "of one policy", "marram.hub.identity.policies:MAX_VERSIONS", "5", "hub/identity"),
    Fixed("policies", "of one target", "marram.hub.identity.policies:MAX_POLICIES", "10", "hub/identity"),
    Fixed("shadow", "bytes of its state (`[shadow] max_document_bytes`, to 30720)", "marram.core.shadow:MAX_BYTES", "8192", "hub/shadow"),
    Fixed("shadow depth", "levels of desired or reported", "marram.core.shadow:MAX_DEPTH", "8", "core/shadow.py"),
    Fixed("shadow requests", "in flight on a connection (`[shadow] in_flight`)", "marram.hub.shadow.service:IN_FLIGHT", "10", "hub/shadow"),
    Fixed("client token", "bytes of a shadow request's clientToken", "marram.core.shadow:MAX_TOKEN_BYTES", "64", "core/shadow.py"),
    Fixed("policy document", "characters without white space", "marram.core.policy.documents:IOT_LIMIT", "2048", "core/policy"),
    Fixed("attributes", "of a thing with a type", "marram.hub.registry.names:MAX_ATTRIBUTES", "50", "hub/registry"),
    Fixed("group depth", "levels of thing groups", "marram.hub.registry.groups:MAX_DEPTH", "7", "hub/registry"),
    Fixed("rule actions", "of one rule", "marram.hub.rules.rule:MAX_ACTIONS", "10", "hub/rules"),
)  # fmt: skip
