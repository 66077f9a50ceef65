"""First connections with a certificate that a registered CA has signed: registered (JITR) or provisioned (JITP) as they come.

The connection that brings the certificate is closed in any case; the device comes again. What is not signed by the key of a
registered, active CA that is open for it leaves no trace. JITR: PENDING_ACTIVATION and an event; so it is for each further
connection until somebody activates it. JITP: certificate, thing and policies in one transaction, or nothing.
Sources: AWS IoT Core developer guide, "Just-in-time provisioning" and "Register a client certificate when the client connects
to AWS IoT just-in-time registration (JITR)".
"""

import asyncio
from typing import Final

from cryptography import x509

from marram.core.errors import MarramError, NotFound
from marram.core.provisioning import CERTIFICATE_ID, Kind
from marram.hub.identity import service as identities
from marram.hub.identity.service import Authority, Identity
from marram.hub.provisioning.claims import by_authority
from marram.hub.provisioning.making import Making, Prepared
from marram.hub.provisioning.templates import InUse, Templates, parse
from marram.kit import metrics
from marram.kit.clock import Clock
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

MAX_WAITING: Final = 1000
AGAIN_MS: Final = 2000  # a certificate that was refused, or announced, is looked at again after that
MAX_REMEMBERED: Final = 10_000
PENDING: Final = "PENDING_ACTIVATION"

_dropped: Final = metrics.counter("marram_arrivals_dropped_total", "First connections not looked at, too many waiting")
_refused: Final = metrics.counter("marram_arrivals_refused_total", "First connections that led to nothing", ("why",))


class Arrivals:
    """Identity's `Strangers`. `run` works them off."""

    def __init__(self, db: Db, identity: Identity, templates: Templates, making: Making, *, clock: Clock) -> None:
        self._db, self._identity, self._templates, self._making = db, identity, templates, making
        self._clock = clock
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        self._waiting: set[bytes] = set()
        self._not_before: dict[str, int] = {}  # by certificate id, monotonic ms

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def presented(self, der: bytes) -> None:
        """On the loop: quick."""
        if der in self._waiting:
            return
        try:
            self._queue.put_nowait(der)
        except asyncio.QueueFull:
            _dropped.inc()
            return
        self._waiting.add(der)

    async def run(self) -> None:
        """Returns when cancelled."""
        while True:
            der = await self._queue.get()
            try:
                await self.arrived(der)
            except MarramError as exc:
                _refused.inc(why=type(exc).__name__)
                log.warning("provisioning.arrival_refused", why=exc.message)
            except Exception as exc:  # a supervisor: one certificate must not stop the others
                log.error("provisioning.arrival_failed", exc_info=exc)
            finally:
                self._waiting.discard(der)

    async def arrived(self, der: bytes) -> None:
        """One certificate. Raises what makes it impossible; then nothing is left of it."""
        certificate = identities.read_foreign(der)
        if certificate is None:
            return
        certificate_id = identities.certificate_id(der)
        if not self._is_time(certificate_id):
            return
        known = self._db.read_now(lambda tx: self._identity.certificates.find(tx, certificate_id))
        if known is not None and known.status != PENDING:
            return
        authority = await self._db.read(lambda tx: self._identity.authorities.signer_of(tx, certificate))
        if authority is None:
            return  # not of a CA that is registered: no word about it, the log line of the door is enough
        if authority.status != "ACTIVE" or not authority.is_open:
            _refused.inc(why="closed")
            log.info("provisioning.closed", certificate=certificate_id, authority=authority.id, status=authority.status)
            return
        if authority.has_template:
            await self._provision(certificate, certificate_id, authority)
        else:
            await self._announce(certificate, certificate_id, authority)

    async def _announce(self, certificate: x509.Certificate, certificate_id: str, authority: Authority) -> None:
        def work(tx: Tx) -> None:
            self._still_open(tx, authority)
            present = self._identity.certificates.find(tx, certificate_id)
            if present is None:
                self._identity.authorities.adopt(tx, certificate, authority.id, PENDING)
            elif present.status != PENDING:
                return
            tx.emit(
                f"$aws/events/certificates/registered/{authority.id}",
                {
                    "certificateId": certificate_id,
                    "caCertificateId": authority.id,
                    "timestamp": tx.now_ms,
                    "certificateStatus": PENDING,
                    "awsAccountId": self._identity.account,
                    "certificateRegistrationTimestamp": None,  # as AWS was measured to send (ministack, pull request 1755)
                },
            )

        await self._db.write(work)
        log.info("provisioning.registered", certificate=certificate_id, authority=authority.id)

    async def _provision(self, certificate: x509.Certificate, certificate_id: str, authority: Authority) -> None:
        use = self._template(authority)
        given = {**identities.certificate_parameters(certificate), CERTIFICATE_ID: certificate_id}
        prepared: Prepared = self._making.prepare(use.template, {}, given, by=self._making.acting(use.role))

        def work(tx: Tx) -> str | None:
            self._still_open(tx, authority)
            present = self._identity.certificates.find(tx, certificate_id)
            if present is None:
                self._identity.authorities.adopt(tx, certificate, authority.id, PENDING)
            elif present.status != PENDING:
                return None
            return self._making.make(tx, prepared).thing

        thing = await self._db.write(work)
        by_authority.inc()
        log.info("provisioning.by_authority", thing=thing, certificate=certificate_id, authority=authority.id)

    def _template(self, authority: Authority) -> InUse:
        if authority.template_name is not None:
            return self._templates.in_use(authority.template_name, Kind.JITP)
        assert authority.template_body is not None and authority.role is not None
        return InUse(template=parse(authority.template_body, Kind.JITP), role=authority.role)

    def _still_open(self, tx: Tx, authority: Authority) -> None:
        now = self._identity.authorities.get(tx, authority.id)
        if now.status != "ACTIVE" or not now.is_open or now.version != authority.version:
            raise NotFound(f"CA certificate {authority.id} was changed meanwhile")

    def _is_time(self, certificate_id: str) -> bool:
        """A device that tries again and again costs a signature check every two seconds, no more."""
        now_ms = self._clock.mono_ns() // 1_000_000
        if self._not_before.get(certificate_id, 0) > now_ms:
            return False
        if len(self._not_before) >= MAX_REMEMBERED:
            self._not_before = {key: at for key, at in self._not_before.items() if at > now_ms}
            if len(self._not_before) >= MAX_REMEMBERED:
                self._not_before.clear()
        self._not_before[certificate_id] = now_ms + AGAIN_MS
        return True
