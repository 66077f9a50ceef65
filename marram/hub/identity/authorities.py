"""Registered CAs, the certificates that they signed, and certificates registered without a CA.

A deactivated CA registers nothing new; certificates of it that are registered work on until each is revoked, as AWS has it.
A certificate is trusted by itself when its CA cannot be told by its key: registered without one, or the CA is gone.
Sources: AWS IoT Core developer guide, "Register your CA certificate", "Deactivate a CA certificate"; botocore model of iot.
Not here: what a first connection leads to (hub/provisioning), TLS contexts (trust.py).
"""

import datetime
import hmac
from dataclasses import replace
from typing import Final

from cryptography import x509

from marram.core.errors import AlreadyExists, Conflict, Invalid, LimitExceeded, NotFound
from marram.hub.identity import foreign, pki, store, store_authorities
from marram.hub.identity.base import Base
from marram.hub.identity.certificates import Certificates
from marram.hub.identity.foreign import BadCertificate
from marram.hub.identity.model import Page
from marram.hub.identity.pki import Pki
from marram.hub.identity.store import Certificate
from marram.hub.identity.store_authorities import Authority
from marram.hub.identity.trust import Trust
from marram.kit.db import Tx
from marram.kit.log import logger

log = logger(__name__)

MAX_OF_ONE_SUBJECT: Final = 10  # botocore model, RegisterCACertificate
GIVEN_STATUS: Final = ("ACTIVE", "INACTIVE", "REVOKED")


class Authorities:
    def __init__(self, base: Base, pki: Pki, certificates: Certificates, trust: Trust) -> None:
        self._base, self._pki, self._certificates, self._trust = base, pki, certificates, trust

    def arn_of(self, authority_id: str) -> str:
        return self._base.iot(f"cacert/{authority_id}")

    def certificate_arn_of(self, certificate_id: str) -> str:
        return self._certificates.arn_of(certificate_id)

    # the registration code

    async def registration_code(self) -> str:
        """The common name that a verification certificate must have; made when there is none."""
        made = self._base.entropy.bytes(32).hex()

        def work(tx: Tx) -> str:
            present = store_authorities.registration_code(tx)
            if present is None:
                store_authorities.set_registration_code(tx, made)
            return present or made

        return await self._base.db.write(work)

    async def delete_registration_code(self) -> None:
        """Raises NotFound."""

        def work(tx: Tx) -> None:
            if not store_authorities.delete_registration_code(tx):
                raise NotFound("there is no registration code")

        await self._base.db.write(work)

    # CAs

    def checked(self, pem: str, verification_pem: str) -> Authority:
        """A CA whose holder has proven to have its key. Raises BadCertificate; Invalid (kind registration_code)."""
        certificate = foreign.read(pem, "caCertificate")
        foreign.check_authority(certificate, self._now())
        proof = foreign.read(verification_pem, "verificationCertificate")
        foreign.check_time(proof, self._now(), "verificationCertificate")
        if not foreign.is_signed_by(proof, certificate):
            raise BadCertificate("verificationCertificate: not signed by the CA's key")
        code = self._base.db.read_now(store_authorities.registration_code)
        names = foreign.common_names(proof)
        if code is None or len(names) != 1 or not hmac.compare_digest(names[0].encode(), code.encode()):
            raise Invalid(
                "verificationCertificate: its common name is not the registration code (GetRegistrationCode)",
                kind="registration_code",
            )
        der = foreign.der_of(certificate)
        if der in self._pki.own_ders:
            raise AlreadyExists("this CA is the hub's own", resourceId=pki.certificate_id(der))
        return Authority(
            id=pki.certificate_id(der),
            der=der,
            subject=foreign.subject_of(certificate),
            status="INACTIVE",
            is_open=False,
        )

    def add(self, tx: Tx, authority: Authority) -> None:
        """Raises AlreadyExists, LimitExceeded."""
        if store_authorities.get(tx, authority.id) is not None:
            raise AlreadyExists(
                f"CA certificate {authority.id} is registered",
                resourceId=authority.id,
                resourceArn=self.arn_of(authority.id),
            )
        namesakes = len(store_authorities.of_subject(tx, authority.subject))
        if namesakes >= MAX_OF_ONE_SUBJECT:
            raise LimitExceeded(
                f"{MAX_OF_ONE_SUBJECT} CA certificates with this subject are registered", limit=MAX_OF_ONE_SUBJECT
            )
        store_authorities.add(tx, replace(authority, created_ms=tx.now_ms, modified_ms=tx.now_ms))
        tx.after_commit(self._trust.renew if namesakes else lambda: self._trust.add(authority.der))

    def save(self, tx: Tx, authority: Authority) -> None:
        store_authorities.save(tx, replace(authority, version=authority.version + 1, modified_ms=tx.now_ms))

    def bearer(self, tx: Tx, authority_id: str) -> str | None:
        """What tells this registration from a later one of the same CA; None when there is none."""
        found = store_authorities.get(tx, authority_id)
        return str(found.created_ms) if found is not None else None

    def get(self, tx: Tx, authority_id: str) -> Authority:
        """Raises NotFound."""
        found = store_authorities.get(tx, authority_id)
        if found is None:
            raise NotFound(f"CA certificate {authority_id} does not exist")
        return found

    async def authority(self, authority_id: str) -> Authority:
        return self._base.db.read_now(lambda tx: self.get(tx, authority_id))

    async def page(self, page: Page, *, template: str | None = None) -> list[Authority]:
        return await self._base.db.read(
            lambda tx: store_authorities.page(tx, page.after, page.limit, ascending=page.ascending, template=template)
        )

    async def delete(self, authority_id: str) -> None:
        """Raises Conflict while it is active. Its registered certificates stay, and stay trusted."""

        def work(tx: Tx) -> None:
            if self.get(tx, authority_id).status == "ACTIVE":
                raise Conflict(
                    f"CA certificate {authority_id} is ACTIVE: set it to INACTIVE first", kind="certificate_state"
                )
            store_authorities.anchor_leaves(tx, authority_id)
            store_authorities.delete(tx, authority_id)
            tx.after_commit(self._trust.renew)

        await self._base.db.write(work)

    def uses_template(self, tx: Tx, template: str) -> bool:
        return store_authorities.uses_template(tx, template)

    async def leaves(self, authority_id: str, page: Page) -> list[Certificate]:
        def work(tx: Tx) -> list[Certificate]:
            self.get(tx, authority_id)
            return store_authorities.leaves(tx, authority_id, page.after, page.limit, ascending=page.ascending)

        return await self._base.db.read(work)

    # certificates

    async def register(self, pem: str, ca_pem: str | None, status: str) -> str:
        """A certificate of a registered CA; `ca_pem` says which, where several have the name. Returns the certificate's id."""
        certificate, ca = self.read_leaf(pem, ca_pem)
        return await self._base.db.write(lambda tx: self.register_tx(tx, certificate, ca, status))

    def read_leaf(self, pem: str, ca_pem: str | None) -> tuple[x509.Certificate, x509.Certificate | None]:
        """Raises BadCertificate."""
        certificate = foreign.read(pem, "certificatePem")
        return certificate, foreign.read(ca_pem, "caCertificatePem") if ca_pem is not None else None

    @staticmethod
    def id_of(certificate: x509.Certificate) -> str:
        return pki.certificate_id(foreign.der_of(certificate))

    def register_tx(self, tx: Tx, certificate: x509.Certificate, ca: x509.Certificate | None, status: str) -> str:
        """Raises BadCertificate, AlreadyExists; Conflict: the CA is inactive, or there are several of that name."""
        _registered_status(status)
        candidates = store_authorities.of_subject(tx, foreign.issuer_of(certificate))
        if ca is not None:
            ca_id = pki.certificate_id(foreign.der_of(ca))
            candidates = [found for found in candidates if found.id == ca_id]
        elif len(candidates) > 1:
            raise Conflict(
                f"{len(candidates)} registered CA certificates have the name of the issuer: say which by caCertificatePem",
                kind="certificate",
            )
        if not candidates:
            raise BadCertificate("certificatePem: the CA certificate that signed it is not registered")
        authority = candidates[0]
        if not foreign.is_signed_by(certificate, x509.load_der_x509_certificate(authority.der)):
            raise BadCertificate(f"certificatePem: not signed by CA certificate {authority.id}")
        if authority.status != "ACTIVE":
            raise Conflict(f"CA certificate {authority.id} is INACTIVE: activate it first", kind="certificate_state")
        return self.adopt(tx, certificate, authority.id, status)

    async def register_alone(self, pem: str, status: str) -> str:
        """A certificate without a CA: it is trusted by itself. Returns its id. Raises BadCertificate, AlreadyExists."""
        certificate = foreign.read(pem, "certificatePem")
        _registered_status(status)
        return await self._base.db.write(lambda tx: self.adopt(tx, certificate, None, status))

    def adopt(self, tx: Tx, certificate: x509.Certificate, authority_id: str | None, status: str) -> str:
        """Record one that was checked. Raises AlreadyExists. Returns its id."""
        der = foreign.der_of(certificate)
        certificate_id = pki.certificate_id(der)
        if store.certificate(tx, certificate_id) is not None or certificate_id in self._pki.own_ids:
            raise AlreadyExists(
                f"certificate {certificate_id} is registered",
                resourceId=certificate_id,
                resourceArn=self._certificates.arn_of(certificate_id),
            )
        self._certificates.add(tx, der, status=status)
        # OpenSSL tells CAs of one name apart by the key that the certificate names, and takes any when it names none.
        anchored = authority_id is None or not foreign.says_its_key(certificate)
        store_authorities.set_origin(tx, certificate_id, authority_id, anchored=anchored)
        if anchored:
            namesakes = store_authorities.of_subject(tx, foreign.issuer_of(certificate)) if authority_id else []
            tx.after_commit(self._trust.renew if len(namesakes) > 1 else lambda: self._trust.add(der))
        return certificate_id

    def authority_of(self, certificate_id: str) -> str | None:
        """The CA that a registered certificate is of."""
        return self._base.db.read_now(lambda tx: store_authorities.authority_of(tx, certificate_id))

    def signer_of(self, tx: Tx, certificate: x509.Certificate) -> Authority | None:
        """The registered CA whose key has signed it."""
        for authority in store_authorities.of_subject(tx, foreign.issuer_of(certificate)):
            if foreign.is_signed_by(certificate, x509.load_der_x509_certificate(authority.der)):
                return authority
        return None

    # claims

    def add_claim(self, tx: Tx, der: bytes, document: str, expires_ms: int) -> None:
        """A certificate of ours that may do what `document` says until then, and is in no list."""
        claim_id = pki.certificate_id(der)
        store_authorities.add_claim(tx, claim_id, document, expires_ms)
        self._base.touch_certificate(tx, claim_id)

    async def end_claims(self) -> int:
        """Forget those whose time is over; who is connected by one is disconnected."""

        def work(tx: Tx) -> int:
            ended = store_authorities.ended_claims(tx)
            for claim_id in ended:
                store_authorities.delete_claim(tx, claim_id)
                self._base.touch_certificate(tx, claim_id)
            return len(ended)

        if not self._base.db.read_now(store_authorities.ended_claims):
            return 0
        return await self._base.db.write(work)

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._base.clock.wall_ms() / 1000, tz=datetime.UTC)


def _registered_status(status: str) -> None:
    """As AWS was measured to answer (ministack, pull request 1755). Raises Conflict, Invalid."""
    if status == "PENDING_ACTIVATION":
        raise Conflict("a certificate is not registered with the status PENDING_ACTIVATION", kind="certificate_state")
    given_status(status)


def given_status(status: str) -> None:
    """Raises Invalid for a status that only AWS's transfers and provisioning set."""
    if status not in GIVEN_STATUS:
        raise Invalid(f"status must be ACTIVE, INACTIVE or REVOKED, not {status}")
