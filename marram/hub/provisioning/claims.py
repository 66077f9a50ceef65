"""Fleet provisioning: a device with a claim certificate gets one of its own, and is provisioned with it.

The new certificate is PENDING_ACTIVATION and useless until RegisterThing; it goes with its ownership token after an hour.
The token is sealed, names the certificate, and is good for the client id and claim that asked for the certificate, once: a
certificate that is provisioned does not wait any more. Replies go to the asking connection alone.
Sources: AWS IoT Core developer guide, "Device provisioning MQTT API" and "Provisioning devices that don't have device
certificates using fleet provisioning"; binding to the client and single use: our choice, the guide is silent.
Not here: wire names and formats (topics.py), what templates make (making.py).
"""

import asyncio
import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Corrupt, Denied, Invalid, LimitExceeded
from marram.core.provisioning import CERTIFICATE_ID, Kind
from marram.hub.identity.service import Identity, Issued, Subject
from marram.hub.provisioning import store
from marram.hub.provisioning.making import Making
from marram.hub.provisioning.templates import Templates
from marram.kit import metrics
from marram.kit.clock import Clock
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

TOKEN_LIFE_MS: Final = 3600 * 1000
CLAIM_LIFE_MS: Final = 5 * 60 * 1000
MAX_PENDING: Final = 1000  # of one claim: whoever has stolen one can fill the table no further
ENDED_AT_ONCE: Final = 200
_LABEL: Final = "ownership"

_provisioned: Final = metrics.counter("marram_provisioned_total", "Devices provisioned", ("by",))
by_claim: Final = _provisioned.labels(by="claim")
by_authority: Final = _provisioned.labels(by="authority")
by_operator: Final = _provisioned.labels(by="operator")


class Replies(Protocol):
    """Filled by the broker."""

    def answer(self, client_id: str, principal: str, topic: str, payload: bytes) -> bool: ...


class BadToken(Invalid):
    """Not a token for this certificate, this client and this moment."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """The connection that asks."""

    subject: Subject
    client_id: str


class Claims:
    def __init__(
        self, db: Db, identity: Identity, templates: Templates, making: Making, replies: Replies, *, clock: Clock
    ) -> None:
        self._db, self._identity, self._templates, self._making = db, identity, templates, making
        self._replies, self._clock = replies, clock

    # for operators

    async def create_claim(self, template: str) -> tuple[Issued, int]:
        """A certificate for five minutes that may provision by this template and do nothing else; and when it ends."""
        self._templates.in_use(template, Kind.FLEET)
        ends_ms = self._clock.wall_ms() + CLAIM_LIFE_MS
        issued = self._identity.pki.issue_device(ends_ms=ends_ms)
        document = claim_document(self._identity.region, self._identity.account, template)
        await self._db.write(lambda tx: self._identity.authorities.add_claim(tx, issued.der, document, ends_ms))
        return issued, ends_ms

    # for devices

    async def create_certificate(self, asker: Asker, csr_pem: str | None = None) -> tuple[Issued, str]:
        """(certificate, ownership token). Raises Invalid (kind csr), LimitExceeded (kind rate), Denied."""
        principal = self._check(asker)
        try:
            issued = await asyncio.to_thread(self._identity.pki.issue_device, csr_pem)
        except Invalid as exc:
            raise Invalid(exc.message, kind="csr") from exc
        expires_ms = self._clock.wall_ms() + TOKEN_LIFE_MS

        def work(tx: Tx) -> None:
            if store.count_pending(tx, principal) >= MAX_PENDING:
                raise LimitExceeded(
                    f"{MAX_PENDING} certificates of this claim wait to be provisioned", limit=MAX_PENDING, kind="rate"
                )
            self._identity.add_certificate(tx, issued.der, status="PENDING_ACTIVATION")
            store.add_pending(tx, issued.id, principal, expires_ms)

        await self._db.write(work)
        sealed = self._identity.pki.seal(
            codec.dumps({"c": issued.id, "p": principal, "i": asker.client_id, "e": expires_ms}), label=_LABEL
        )
        return issued, base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    async def register(
        self, asker: Asker, template: str, token: object, parameters: Mapping[str, str]
    ) -> tuple[Mapping[str, JsonValue], str | None]:
        """(device configuration, thing name). Raises BadToken, NotFound, BadParameters, Conflict, Invalid, LimitExceeded."""
        certificate_id = self._certificate_of(token, asker)
        use = self._templates.in_use(template, Kind.FLEET)
        by = self._making.acting(use.role)
        prepared = self._making.prepare(use.template, parameters, {CERTIFICATE_ID: certificate_id}, by=by)

        def work(tx: Tx) -> str | None:
            if not store.is_pending(tx, certificate_id):
                raise BadToken("The certificate ownership token was used, or its certificate is gone.")
            store.end_pending(tx, certificate_id)
            return self._making.make(tx, prepared).thing

        thing = await self._db.write(work)
        by_claim.inc()
        log.info("provisioning.by_claim", template=template, thing=thing, certificate=certificate_id,
                 claim=asker.subject.principal)  # fmt: skip
        return prepared.plan.configuration, thing

    def answer(self, asker: Asker, topic: str, payload: bytes) -> None:
        if not self._replies.answer(asker.client_id, asker.subject.principal, topic, payload):
            log.info("provisioning.nobody_listens", topic=topic, client=asker.client_id)

    async def end_pending(self) -> int:
        """Certificates whose token has ended go, unless somebody attached or activated them by the API."""

        def work(tx: Tx) -> int:
            ended = store.ended_pending(tx, ENDED_AT_ONCE)
            for certificate_id in ended:
                store.end_pending(tx, certificate_id)
                found = self._identity.certificates.find(tx, certificate_id)
                is_unused = found is not None and found.status == "PENDING_ACTIVATION"
                if is_unused and not self._identity.certificates.is_used(tx, certificate_id):
                    self._identity.certificates.delete_tx(tx, certificate_id)
            return len(ended)

        if not self._db.read_now(lambda tx: store.ended_pending(tx, 1)):
            return 0
        return await self._db.write(work)

    def _check(self, asker: Asker) -> str:
        """The claim's certificate id; it is still one that may ask. Raises Denied."""
        if asker.subject.kind != "certificate" or not asker.client_id:
            raise Denied("certificates are made for devices that connect by a certificate, over MQTT")
        return self._identity.refresh(asker.subject).principal

    def _certificate_of(self, token: object, asker: Asker) -> str:
        principal = self._check(asker)
        if not isinstance(token, str) or not token:
            raise BadToken("Certificate ownership token cannot be empty.")
        try:
            sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            body: JsonObject = codec.loads_object(self._identity.pki.unseal(sealed, label=_LABEL))
        except (Corrupt, Invalid, binascii.Error, ValueError) as exc:
            raise BadToken("The certificate ownership token is not valid.") from exc
        expires_ms = body["e"]
        if not isinstance(expires_ms, int) or expires_ms <= self._clock.wall_ms():
            raise BadToken("The certificate ownership token has expired.")
        if (body["p"], body["i"]) != (principal, asker.client_id):
            raise BadToken("The certificate ownership token is of another client.")
        return str(body["c"])


def claim_document(region: str, account: str, template: str) -> str:
    """The policy of a temporary claim: connect, and the topics of provisioning by this template."""
    topics = ("$aws/certificates/create/*", "$aws/certificates/create-from-csr/*",
              f"$aws/provisioning-templates/{template}/provision/*")  # fmt: skip

    def arns(kind: str) -> list[JsonValue]:
        return [f"arn:aws:iot:{region}:{account}:{kind}/{name}" for name in topics]

    return codec.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
                {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": arns("topic")},
                {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": arns("topicfilter")},
            ],
        }
    ).decode()
