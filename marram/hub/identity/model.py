"""What identity hands out and what it asks of others: who somebody is, and the ports that the registry fills."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from marram.core.policy import evaluate
from marram.core.policy.evaluate import CompiledPolicy, Program
from marram.core.policy.variables import Values
from marram.kit.db import Tx

EVERYBODY: Final = "*"  # principal of a change that may concern all
NOTHING: Final[Mapping[str, str]] = {}

Status = Literal["ACTIVE", "INACTIVE", "REVOKED", "PENDING_ACTIVATION"]
Kind = Literal["certificate", "key", "role", "service"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Temporary credentials, as their sealed token states them. What they may do is looked up at each call.

    owner: the access key or the role (its id) whose rights they have. name: of the session of a role. policies: documents
    that narrow the rights; policy_arns: managed policies that do. certificate, thing, thing_type: of the device that got
    them for its certificate.
    """

    kind: Literal["key", "role"]
    owner: str
    id: str = ""
    issued_ms: int = 0
    expires_ms: int = 0
    name: str = ""
    policies: tuple[str, ...] = ()
    policy_arns: tuple[str, ...] = ()
    certificate: str = ""
    thing: str = ""
    thing_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Somebody whose identity is proven, with all that decides what they may do.

    principal: certificate id, access key id, or `<role id>:<session name>`. session: with temporary credentials. bounds:
    policies that have to allow it as well, those of the session. thing: set when the client id is the name of a thing that the certificate
    is attached to. attributes: values of the policy variables that the subject's own policies name (`iot:ClientId`,
    `iot:Connection.Thing.Attributes[x]`, ...), no others.
    """

    kind: Kind
    principal: str
    arn: str
    policies: tuple[CompiledPolicy, ...] = ()
    thing: str | None = None
    client_id: str | None = None
    attributes: Values = field(default_factory=dict[str, str], hash=False)
    epoch: int = 0
    session: Session | None = None
    bounds: tuple[CompiledPolicy, ...] | None = None
    program: Program = field(init=False, repr=False, compare=False)
    bound: Program | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "program", evaluate.program(self.policies))
        object.__setattr__(self, "bound", evaluate.program(self.bounds) if self.bounds is not None else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Credentials in use. name: whose they are. The secret is in clear, for signatures; it has no place in a log."""

    id: str
    name: str
    secret: str = field(repr=False)
    subject: Subject
    expires_ms: int | None = None  # of temporary credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list: the key after which it goes on, and how many at most."""

    after: tuple[int, str] | None = None
    limit: int = 26
    ascending: bool = False


@dataclass(frozen=True, slots=True)
class PrincipalChanged:
    """Bus: what this principal may do has changed or ended. `principal` is EVERYBODY when a policy of several changed."""

    principal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingFacts:
    """What policies may ask about a thing. groups: all it is in, with their parents."""

    type_name: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    groups: tuple[str, ...] = ()


class Things(Protocol):
    """Filled by the registry."""

    def facts(self, thing: str) -> ThingFacts | None:
        """From memory, on the loop."""
        ...

    def check_group(self, tx: Tx, group: str) -> None:
        """Raises NotFound."""
        ...

    def lineage(self, group: str) -> tuple[str, ...]:
        """The group and its parents, from memory."""
        ...

    def enrol(self, tx: Tx, thing: str, thing_id: str) -> None:
        """Make the thing, with this id, when it does not exist."""
        ...

    def tag(self, tx: Tx, kind: str, name: str, tags: Mapping[str, str]) -> None:
        """Of something of this slice that was just made: "policy", "rolealias". Raises Invalid, LimitExceeded."""
        ...


class Strangers(Protocol):
    """Filled by provisioning: what follows when somebody shows a certificate that is not registered, or not activated."""

    def presented(self, der: bytes) -> None:
        """On the loop, for each such connection: quick, and nothing that it waits for."""
        ...
