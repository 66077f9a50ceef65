"""Edge cores that join: the one-use token, and what a core gets for it."""

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from marram.core.errors import Denied, Invalid, Unauthenticated
from marram.hub.identity import pki, store
from marram.hub.identity.base import Base, certificate_target
from marram.hub.identity.certificates import Certificates
from marram.hub.identity.pki import Pki
from marram.hub.identity.policies import Policies
from marram.kit import clock as clocks
from marram.kit.db import Tx
from marram.kit.log import logger

log = logger(__name__)

THING: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
TOKEN_LIFE_MS: Final = 15 * 60 * 1000
CORE_POLICY: Final = "MarramCoreDevice"
# What an edge core may do: AWS's own default for core devices, but only under its own client ids. The certificate's
# common name is set at joining; a core bridges for others, so topics and shadows are not narrowed to its own.
CORE_DOCUMENT: Final = (
    '{"Version":"2012-10-17","Statement":['
    '{"Effect":"Allow","Action":"iot:Connect","Resource":['
    '"arn:aws:iot:*:*:client/${iot:Certificate.Subject.CommonName}",'
    '"arn:aws:iot:*:*:client/${iot:Certificate.Subject.CommonName}#*"]},'
    '{"Effect":"Allow","Action":["iot:Publish","iot:Receive","iot:RetainPublish","iot:Subscribe",'
    '"iot:GetThingShadow","iot:UpdateThingShadow","iot:DeleteThingShadow","iot:ListNamedShadowsForThing",'
    '"iot:AssumeRoleWithCertificate","greengrass:*"],"Resource":"*"}]}'
)


class Joining:
    """`endpoints` is asked at each joining: {"mqtt": url, "https": url}."""

    def __init__(
        self,
        base: Base,
        pki: Pki,
        certificates: Certificates,
        policies: Policies,
        endpoints: Callable[[], Mapping[str, str]],
    ) -> None:
        self._base, self._pki, self._certificates, self._policies = base, pki, certificates, policies
        self._endpoints = endpoints

    async def create_token(self, *, thing: str = "", policy: str = "", life_ms: int = TOKEN_LIFE_MS) -> tuple[str, int]:
        """(token, when it ends). One use. thing: the only one it may join as. policy: instead of MarramCoreDevice."""
        if thing and not THING.fullmatch(thing):
            raise Invalid(f"{thing!r} is not a thing name: 1 to 128 of a-z A-Z 0-9 : _ -")
        if not 0 < life_ms <= TOKEN_LIFE_MS:
            raise Invalid(f"a join token lives 1 to {TOKEN_LIFE_MS // 1000} seconds")
        secret = urlsafe_b64encode(self._base.entropy.bytes(32)).decode().rstrip("=")
        ends_ms = self._base.clock.wall_ms() + life_ms

        def work(tx: Tx) -> None:
            if policy:
                self._policies.get(tx, policy)
            store.add_token(tx, _digest(secret), thing, policy, ends_ms)

        await self._base.db.write(work)
        return f"mrm1.{secret}.{self._pki.root_fingerprint}", ends_ms

    async def join(
        self, token: str, thing: str, csr_pem: str | None = None, *, names: Sequence[str] = ()
    ) -> dict[str, object]:
        """Make `thing` a core device: certificate, thing, policy, in one commit with the end of the token.

        Without a request the hub makes the key and the bundle holds it. names: what the certificate of the core's own
        listener covers beside localhost, 127.0.0.1 and the thing's name; it is on the same key.
        Raises Unauthenticated for a token that is wrong, used or too old; Denied when it is bound to another thing, or to
        none and the thing has a certificate: whoever holds a token must not become a machine that is there already.
        """
        if not THING.fullmatch(thing):
            raise Invalid(f"{thing!r} is not a thing name: 1 to 128 of a-z A-Z 0-9 : _ -")
        digest = _digest(_secret_of(token))
        self._base.db.read_now(lambda tx: self._check_token(tx, digest, thing))  # before any key is made
        issued = self._pki.issue_device(csr_pem, name=thing)
        thing_id = clocks.uuid4(self._base.entropy)
        own = [thing] if pki.HOST.fullmatch(thing) and not self._pki.is_own_name(thing) else []
        listener = self._pki.issue_local_server(issued.pem, [*own, *names])

        def work(tx: Tx) -> tuple[str, int]:
            policy = self._check_token(tx, digest, thing)
            others = len(store.principals_of(tx, thing))
            store.use_token(tx, digest)
            certificate_id = self._certificates.add(tx, issued.der, active=True)
            self._base.things.enrol(tx, thing, thing_id)
            self._certificates.attach_thing(tx, thing, certificate_id)
            if not policy:
                policy = CORE_POLICY
                if store.policy(tx, policy) is None:
                    self._policies.create_tx(tx, policy, CORE_DOCUMENT)
            self._policies.attach_tx(tx, policy, certificate_target(certificate_id))
            return certificate_id, others

        certificate_id, others = await self._base.db.write(work)
        log.info(
            "identity.core_joined", thing=thing, certificate=certificate_id, own_key=csr_pem is not None,
            other_certificates=others,
        )  # fmt: skip
        bundle: dict[str, object] = {
            "format": 1,
            "thingName": thing,
            "accountId": self._base.account,
            "region": self._base.region,
            "certificateId": certificate_id,
            "certificateArn": self._certificates.arn_of(certificate_id),
            "certificatePem": issued.pem,
            "localServerCertificatePem": listener.pem,
            "rootCaPem": self._pki.root_pem,
            "signingKey": self._pki.public_signing_key.hex(),
            "endpoints": dict(self._endpoints()),
        }
        if issued.private_key_pem is not None:
            bundle["privateKeyPem"] = issued.private_key_pem
        return bundle

    def _check_token(self, tx: Tx, digest: bytes, thing: str) -> str:
        """The policy that the token names, or empty."""
        found = store.token(tx, digest)
        if found is None:
            raise Unauthenticated(
                "the join token is wrong, used or over 15 minutes old: make a new one", reason="join_token"
            )
        bound, policy = found
        if bound and bound != thing:
            raise Denied(f"the join token is for thing {bound}, not {thing}")
        if not bound and store.principals_of(tx, thing, limit=1):
            raise Denied(
                f"thing {thing} has a certificate: to put another machine in its place make a token for it"
                f" (marram hub join-token --thing {thing}), else join under another name"
            )
        return policy


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _secret_of(token: str) -> str:
    parts = token.split(".")
    if len(parts) != 3 or parts[0] != "mrm1" or not parts[1]:
        raise Invalid("the join token must read mrm1.<secret>.<sha256 of the root certificate>")
    return parts[1]
