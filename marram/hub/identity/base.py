"""What the parts of identity share: the database, the names of this hub, the port to the registry, and who has changed.

A `Subject` is a snapshot: when `subject.epoch != epoch` something that concerns somebody has changed since it was made.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from marram.core import arn
from marram.core.errors import NotFound, Unsupported
from marram.core.policy.variables import Values
from marram.hub.bus import Bus
from marram.hub.identity.model import EVERYBODY, PrincipalChanged, Strangers, ThingFacts, Things
from marram.kit.clock import Clock, Entropy
from marram.kit.db import Db, Tx


class Base:
    """One for all parts of an Identity."""

    def __init__(self, db: Db, bus: Bus, *, clock: Clock, entropy: Entropy, account: str, region: str) -> None:
        self.db, self.clock, self.entropy = db, clock, entropy
        self.account, self.region = account, region
        self.things: Things = _NoThings()
        self.strangers: Strangers | None = None
        self.epoch = 1
        self._bus = bus
        self._seen: set[str] = set()  # principals that a Subject was given for: only they can have something to refresh
        self._changed_at: dict[str, int] = {}

    # names

    def iot(self, resource: str) -> str:
        return arn.build("iot", self.region, self.account, resource)

    def arn(self, service: str, resource: str) -> str:
        return arn.build(service, self.region, self.account, resource)

    def iam(self, resource: str) -> str:
        return arn.build("iam", "", self.account, resource)

    def with_time(self, context: Values) -> Values:
        """With what conditions may ask about the moment."""
        now_ms = self.clock.wall_ms()
        return {"aws:CurrentTime": moment(now_ms), "aws:EpochTime": str(now_ms // 1000), **context}

    # changes

    def seen(self, principal: str) -> None:
        """Somebody holds a Subject of it now."""
        self._seen.add(principal)

    def changed(self, tx: Tx, principal: str) -> None:
        tx.after_commit(lambda: self._announce(principal))

    def changed_at(self, principal: str) -> int:
        """The epoch of the last change that concerned it."""
        return max(self._changed_at.get(EVERYBODY, 0), self._changed_at.get(principal, 0))

    def role_changed(self, tx: Tx, role_id: str) -> None:
        """What the sessions of a role may do, or those that this policy narrows (its ARN). They go by names that nobody lists
        here: all refresh, when there is one."""
        tx.after_commit(lambda: self._announce(EVERYBODY) if role_id in self._seen else None)

    def touch_certificate(self, tx: Tx, certificate_id: str) -> None:
        tx.touch("identity_certificate", certificate_id)
        self.changed(tx, certificate_id)

    def touch_target(self, tx: Tx, target: str) -> None:
        """The policies of a certificate or a group are others now."""
        kind, _, name = target.partition("/")
        if kind == "cert":
            self.touch_certificate(tx, name)
        else:
            tx.touch("identity_group", name)
            self.changed(tx, EVERYBODY)

    def _announce(self, principal: str) -> None:
        if principal != EVERYBODY and principal not in self._seen:
            return  # nobody holds a Subject of it: provisioning a fleet must not make all the others refresh
        self.epoch += 1
        self._changed_at[principal] = self.epoch
        self._bus.publish(PrincipalChanged(principal))


class _NoThings:
    def facts(self, thing: str) -> ThingFacts | None:
        return None

    def check_group(self, tx: Tx, group: str) -> None:
        raise NotFound(f"thing group {group} does not exist")

    def lineage(self, group: str) -> tuple[str, ...]:
        return (group,)

    def enrol(self, tx: Tx, thing: str, thing_id: str) -> None:
        return None

    def tag(self, tx: Tx, kind: str, name: str, tags: Mapping[str, str]) -> None:
        if tags:
            raise Unsupported("tags need a registry")


def moment(time_ms: int) -> str:
    """As policies and credentials write it: 2026-11-01T00:00:00Z."""
    return datetime.fromtimestamp(time_ms // 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def certificate_target(certificate_id: str) -> str:
    """What policies are attached to, for a certificate."""
    return f"cert/{certificate_id}"
