"""Certificates: their rows, their status, the things they are attached to.

Not here: how they are made (pki.py), who they are when they connect (subjects.py), their policies (policies.py).
"""

import re
from typing import Final

from marram.core import arn
from marram.core.errors import Conflict, Invalid, NotFound
from marram.hub.identity import pki, store
from marram.hub.identity.base import Base, certificate_target
from marram.hub.identity.model import Page
from marram.hub.identity.pki import Issued, Pki
from marram.hub.identity.store import Certificate
from marram.kit.db import Tx

CERTIFICATE_ID: Final = re.compile(r"[0-9a-f]{64}")


class Certificates:
    def __init__(self, base: Base, pki: Pki) -> None:
        self._base, self._pki = base, pki

    async def create(self, csr_pem: str | None = None, *, active: bool = False) -> Issued:
        """Sign a request, or make key and certificate. Raises Invalid for a request that cannot be signed."""
        issued = self._pki.issue_device(csr_pem)
        await self._base.db.write(lambda tx: self.add(tx, issued.der, active=active))
        return issued

    def add(self, tx: Tx, der: bytes, *, active: bool = False, status: str | None = None) -> str:
        """Record a certificate inside somebody's transaction. Raises AlreadyExists. Returns its id."""
        certificate_id = pki.certificate_id(der)
        store.add_certificate(tx, certificate_id, der, status or ("ACTIVE" if active else "INACTIVE"))
        self._base.touch_certificate(tx, certificate_id)
        return certificate_id

    def get(self, tx: Tx, certificate_id: str) -> Certificate:
        """Raises NotFound."""
        found = store.certificate(tx, certificate_id)
        if found is None:
            raise NotFound(f"certificate {certificate_id} does not exist")
        return found

    def find(self, tx: Tx, certificate_id: str) -> Certificate | None:
        return store.certificate(tx, certificate_id)

    async def certificate(self, certificate_id: str) -> Certificate:
        return self._base.db.read_now(lambda tx: self.get(tx, certificate_id))

    async def page(self, page: Page) -> list[Certificate]:
        return await self._base.db.read(
            lambda tx: store.certificates(tx, page.after, page.limit, ascending=page.ascending)
        )

    async def set_status(self, certificate_id: str, status: str) -> None:
        """Raises NotFound; Invalid for a status that only AWS's transfers and provisioning set."""
        if status not in ("ACTIVE", "INACTIVE", "REVOKED"):
            raise Invalid(f"newStatus must be ACTIVE, INACTIVE or REVOKED, not {status}")
        await self._base.db.write(lambda tx: self.set_status_tx(tx, certificate_id, status))

    def set_status_tx(self, tx: Tx, certificate_id: str, status: str) -> None:
        """Within somebody's transaction. Raises NotFound."""
        if self.get(tx, certificate_id).status != status:
            store.set_status(tx, certificate_id, status)
            self._base.touch_certificate(tx, certificate_id)

    async def delete(self, certificate_id: str, *, force: bool = False) -> None:
        """Raises Conflict while it is active, attached to a thing, or, without `force`, has a policy."""
        await self._base.db.write(lambda tx: self.delete_tx(tx, certificate_id, force=force))

    def delete_tx(self, tx: Tx, certificate_id: str, *, force: bool = False) -> None:
        """As `delete`, inside somebody's transaction."""
        if self.get(tx, certificate_id).status == "ACTIVE":
            raise Conflict(
                f"certificate {certificate_id} is ACTIVE: set it to INACTIVE or REVOKED first",
                kind="certificate_state",
            )
        if store.things_of(tx, certificate_id, limit=1):
            raise Conflict(f"certificate {certificate_id} is attached to a thing: detach it first")
        target = certificate_target(certificate_id)
        if store.attached(tx, target, limit=1) and not force:
            raise Conflict(f"certificate {certificate_id} has policies attached: detach them, or force")
        store.detach_all(tx, target)
        store.delete_certificate(tx, certificate_id)
        self._base.touch_certificate(tx, certificate_id)

    def is_used(self, tx: Tx, certificate_id: str) -> bool:
        """Whether a thing or a policy is attached."""
        return bool(
            store.things_of(tx, certificate_id, limit=1)
            or store.attached(tx, certificate_target(certificate_id), limit=1)
        )

    # things and their principals (the registry's half is marram.hub.registry.service)

    def attach_thing(self, tx: Tx, thing: str, certificate_id: str, *, exclusive: bool = False) -> None:
        """Raises NotFound for an unknown certificate, Conflict when exclusiveness does not allow it. Again is fine."""
        self.get(tx, certificate_id)
        others = [row for row in store.things_of(tx, certificate_id) if row[0] != thing]
        if others and (exclusive or any(bound for _, bound in others)):
            raise Invalid(
                f"certificate {certificate_id} is attached to thing {others[0][0]}, and one of the two is exclusive"
            )
        if store.attach_thing(tx, thing, certificate_id, exclusive=exclusive):
            self._base.touch_certificate(tx, certificate_id)

    def detach_thing(self, tx: Tx, thing: str, certificate_id: str) -> bool:
        """False when it was not attached."""
        detached = store.detach_thing(tx, thing, certificate_id)
        if detached:
            self._base.touch_certificate(tx, certificate_id)
        return detached

    def principals_of(self, tx: Tx, thing: str, after: str = "", limit: int = 1 << 30) -> list[tuple[str, bool]]:
        """(certificate id, exclusive)."""
        return store.principals_of(tx, thing, after, limit)

    def things_of(self, tx: Tx, certificate_id: str, after: str = "", limit: int = 1 << 30) -> list[tuple[str, bool]]:
        """(thing, exclusive)."""
        return store.things_of(tx, certificate_id, after, limit)

    def thing_changed(self, tx: Tx, thing: str) -> None:
        """The registry says: type, attributes or groups of the thing are others now."""
        for certificate_id, _ in store.principals_of(tx, thing):
            self._base.changed(tx, certificate_id)

    # ARNs

    def arn_of(self, certificate_id: str) -> str:
        return self._base.iot(f"cert/{certificate_id}")

    def of_arn(self, principal_arn: str) -> str:
        """The certificate id in a principal's ARN. Raises Invalid for anything else."""
        target = target_of(self._base, principal_arn)
        if not target.startswith("cert/"):
            raise Invalid(f"{principal_arn!r} is not the ARN of a certificate")
        return target.removeprefix("cert/")


def target_of(base: Base, text: str) -> str:
    """The part of a target's ARN after the account. Raises Invalid when it is neither certificate nor group of this hub."""
    parsed = arn.parse(text)
    resource = parsed.resource
    named = resource.startswith("thinggroup/") or CERTIFICATE_ID.fullmatch(resource.removeprefix("cert/"))
    if parsed.service != "iot" or not named:
        raise Invalid(
            f"{text!r} is not the ARN of a certificate (.../cert/<id>) or thing group (.../thinggroup/<name>)"
        )
    if (parsed.region, parsed.account) != (base.region, base.account):
        raise Invalid(f"{text!r} is of another account or region: this hub is {base.account} in {base.region}")
    return resource
