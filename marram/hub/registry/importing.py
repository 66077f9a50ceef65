"""Things by the hundred: a batch is one transaction, all or nothing, and again is fine.

Each thing is made, put into its groups and given its certificate as the single calls would do it; a thing that is there
with the same type and attributes is left as it is, and only enters the groups that it is not in.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from marram.core.errors import Invalid, MarramError
from marram.hub.identity import pki
from marram.hub.identity.pki import Issued
from marram.hub.identity.service import Identity
from marram.hub.registry import store
from marram.hub.registry.members import Members
from marram.hub.registry.things import Things
from marram.kit.db import Db, Tx

MAX_PROBLEMS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NewThing:
    name: str
    type: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    groups: Sequence[str] = ()
    csr: str = ""  # PEM of a request: the hub signs it
    certificate: str = ""  # PEM of a certificate that the hub knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    name: str
    id: str
    created: bool
    certificate_arn: str = ""
    certificate_pem: str = ""  # of a request


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    index: int
    thing: str
    message: str


class _Checked(Exception):
    """Carries what a check found out of the transaction that is not to be kept."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__()
        self.problems = problems


class Importing:
    def __init__(self, db: Db, identity: Identity, things: Things, members: Members) -> None:
        self._db, self._identity, self._things, self._members = db, identity, things, members

    async def run(self, batch: Sequence[NewThing]) -> list[Imported]:
        """In the order of the batch. Raises what the first thing that cannot be made raises, naming it; then none is."""
        issued: list[Issued | None] = []
        for index, wanted in enumerate(batch):
            try:
                issued.append(await self._issue(wanted))
            except MarramError as error:
                raise _named(index, wanted, error) from error

        def work(tx: Tx) -> list[Imported]:
            done: list[Imported] = []
            for index, wanted in enumerate(batch):
                try:
                    done.append(self._one(tx, wanted, issued[index]))
                except MarramError as error:
                    raise _named(index, wanted, error) from error
            return done

        return await self._db.write(work)

    async def check(self, batch: Sequence[NewThing]) -> list[Problem]:
        """What `run` would refuse, the first hundred of it. Leaves nothing."""
        issued: list[Issued | None] = []
        unsigned: list[Problem] = []
        for index, wanted in enumerate(batch):
            try:
                issued.append(await self._issue(wanted))
            except MarramError as error:
                issued.append(None)
                unsigned.append(Problem(index=index, thing=wanted.name, message=error.message))
        known = {problem.index for problem in unsigned}

        def work(tx: Tx) -> None:
            problems = list(unsigned)
            for index, wanted in enumerate(batch):
                try:
                    self._one(tx, wanted, issued[index])
                except MarramError as error:
                    if index not in known:
                        problems.append(Problem(index=index, thing=wanted.name, message=error.message))
            raise _Checked(sorted(problems, key=lambda problem: problem.index)[:MAX_PROBLEMS])

        try:
            await self._db.write(work)
        except _Checked as checked:
            return checked.problems
        raise RuntimeError("a check ended without a result")

    def certificate_arns(self, batch: Sequence[NewThing]) -> list[str]:
        """Of the certificates that are named; one that is no PEM is found later, with its place."""
        found: set[str] = set()
        for wanted in batch:
            if wanted.certificate:
                with contextlib.suppress(Invalid):
                    found.add(self._identity.arn_of(pki.certificate_id(_der(wanted.certificate))))
        return sorted(found)

    async def _issue(self, wanted: NewThing) -> Issued | None:
        """The certificate that is asked for. A thing that has one keeps it: an import that is run again issues none twice."""
        if not wanted.csr or self._db.read_now(lambda tx: self._identity.principals_of(tx, wanted.name, limit=1)):
            return None
        return await asyncio.to_thread(self._identity.pki.issue_device, wanted.csr)

    def _one(self, tx: Tx, wanted: NewThing, issued: Issued | None) -> Imported:
        if wanted.csr and wanted.certificate:
            raise Invalid("a thing is given a certificate or a request for one, not both")
        there = store.thing_exists(tx, wanted.name)
        made = self._things.create_tx(tx, wanted.name, type_name=wanted.type, attributes=wanted.attributes)
        for group in wanted.groups:
            self._members.add_tx(tx, group, wanted.name)
        certificate_id = ""
        if issued is not None:
            certificate_id = self._identity.add_certificate(tx, issued.der, active=True)
        elif wanted.certificate:
            certificate_id = pki.certificate_id(_der(wanted.certificate))
        if certificate_id:
            self._identity.attach_thing(tx, wanted.name, certificate_id)
        return Imported(
            name=made.name,
            id=made.id,
            created=not there,
            certificate_arn=self._identity.arn_of(certificate_id) if certificate_id else "",
            certificate_pem=issued.pem if issued is not None else "",
        )


def _named(index: int, wanted: NewThing, error: MarramError) -> MarramError:
    return type(error)(f"things[{index}] {wanted.name[:128]!r}: {error.message}", **error.data)


def _der(pem: str) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(pem.strip())
    except ValueError as error:
        raise Invalid("the certificate is not PEM") from error
