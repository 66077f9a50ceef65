"""Which certificates are a thing's. Identity keeps the attachments, as it judges them on every connection; here is what
needs a thing."""

from marram.core.errors import NotFound
from marram.hub.identity.service import Identity
from marram.hub.registry import things
from marram.kit.db import Db, Tx


class Principals:
    def __init__(self, db: Db, identity: Identity) -> None:
        self._db, self._identity = db, identity

    async def attach(self, thing: str, principal_arn: str, *, exclusive: bool = False) -> None:
        """exclusive: this thing is the certificate's only one. Raises NotFound for an unknown thing or certificate, Invalid
        where another thing of the certificate does not allow it. Again is fine."""
        certificate_id = self._identity.certificate_of(principal_arn)

        def work(tx: Tx) -> None:
            things.get(tx, thing)
            self._identity.attach_thing(tx, thing, certificate_id, exclusive=exclusive)

        await self._db.write(work)

    async def detach(self, thing: str, principal_arn: str) -> None:
        """Raises NotFound when the two are not attached."""
        certificate_id = self._identity.certificate_of(principal_arn)

        def work(tx: Tx) -> None:
            things.get(tx, thing)
            if not self._identity.detach_thing(tx, thing, certificate_id):
                raise NotFound(f"{principal_arn} is not attached to thing {thing}")

        await self._db.write(work)

    async def of_thing(self, thing: str, after: str, limit: int) -> list[tuple[str, bool]]:
        """(ARN, exclusive). Raises NotFound for an unknown thing."""

        def work(tx: Tx) -> list[tuple[str, bool]]:
            things.get(tx, thing)
            return self._identity.principals_of(tx, thing, after, limit)

        return [(self._identity.arn_of(found), exclusive) for found, exclusive in self._db.read_now(work)]

    async def things_of(self, principal_arn: str, after: str, limit: int) -> list[tuple[str, bool]]:
        """(thing, exclusive). Raises NotFound for an unknown certificate."""
        certificate_id = self._identity.certificate_of(principal_arn)
        await self._identity.certificate(certificate_id)
        return await self._db.read(lambda tx: self._identity.things_of(tx, certificate_id, after, limit))

    async def certificates_of(self, thing: str) -> list[str]:
        """Certificate ids attached to a thing; none when it does not exist."""
        return self._db.read_now(lambda tx: [found for found, _ in self._identity.principals_of(tx, thing)])
