"""Who asks: the proof that one request carries, by its signature or by its client certificate.

Not here: the signature itself (core/sigv4.py), whose key it is (hub/identity), what they may do (chain.py).
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

from marram.core import sigv4
from marram.core.errors import NotFound, Unauthenticated
from marram.hub.border import intent
from marram.hub.border.awsjson import Request
from marram.hub.border.plans import Plan
from marram.kit.clock import Clock

if TYPE_CHECKING:
    from marram.hub.identity.service import Subject

_PAYLOADS: Final = frozenset(
    {sigv4.UNSIGNED, sigv4.STREAMING_UNSIGNED, sigv4.STREAMING_SIGNED, sigv4.STREAMING_SIGNED_TRAILER}
)


class KeyLike(Protocol):
    @property
    def secret(self) -> str: ...
    @property
    def subject(self) -> "Subject": ...
    @property
    def expires_ms(self) -> int | None:
        """When temporary credentials end."""


class IdentityLike(Protocol):
    """What the door needs of hub/identity."""

    @property
    def epoch(self) -> int: ...
    def key(self, access_key_id: str) -> KeyLike: ...
    def session(self, access_key_id: str, token: str) -> KeyLike: ...
    def certificate_subject(self, der: bytes) -> "Subject": ...
    def key_used(self, access_key_id: str, service: str) -> None: ...
    def may(self, subject: "Subject", action: str, resource: str, context: Mapping[str, str]) -> bool: ...
    def denial(self, subject: "Subject", action: str, resource: str, context: Mapping[str, str]) -> str:
        """The sentence for somebody who may not."""
        ...


@dataclass(frozen=True, slots=True)
class Proof:
    """A good signature: whose it is, the key that it was made with, and what it says of the body."""

    claim: sigv4.Claim
    held: KeyLike
    key: bytes
    payload: str

    @property
    def subject(self) -> "Subject":
        return self.held.subject


class Who:
    def __init__(self, identity: IdentityLike, clock: Clock, region: str) -> None:
        self._identity, self._clock, self._region = identity, clock, region

    def by_signature(
        self, request: Request, path: str, pairs: list[tuple[str, str]], claim: sigv4.Claim, plan: Plan
    ) -> Proof:
        """Raises Unauthenticated. A streamed body is checked as it is read, against `payload`."""
        try:
            if claim.token is not None:
                held = self._identity.session(claim.access_key_id, claim.token)
            else:
                held = self._identity.key(claim.access_key_id)
        except (NotFound, Unauthenticated) as error:
            if claim.token is not None:
                raise
            raise Unauthenticated(
                f"The security token included in the request is invalid: access key {claim.access_key_id[:128]} is not known"
                " or not active here.",
                reason="unknown_key",
            ) from error
        s3 = plan.service == "s3"
        body = request.body
        payload = claim.payload
        if payload is None:
            if s3 and (claim.expires_s is not None or not isinstance(body, bytes)):
                if claim.expires_s is None:
                    raise Unauthenticated("the header x-amz-content-sha256 is missing", reason="incomplete")
                payload = sigv4.UNSIGNED
            else:
                payload = hashlib.sha256(cast(bytes, body)).hexdigest()
        elif isinstance(body, bytes) and len(payload) == 64:
            if not hmac.compare_digest(payload, hashlib.sha256(body).hexdigest()):
                raise Unauthenticated("x-amz-content-sha256 is not the hash of the body.", reason="signature")
        elif not s3 or (len(payload) != 64 and payload not in _PAYLOADS):
            raise Unauthenticated(f"x-amz-content-sha256 {payload[:60]!r} is not supported here", reason="incomplete")
        key = sigv4.verify(
            claim, held.secret, method=request.method, path=path, query=pairs, headers=request.headers,
            payload_hash=payload, now_ms=self._clock.wall_ms(), region=self._region,
        )  # fmt: skip
        if claim.token is None:
            self._identity.key_used(claim.access_key_id, plan.signing_name)
        return Proof(claim, held, key, payload)

    def by_certificate(self, request: Request) -> "Subject":
        """Raises Unauthenticated; Denied for a page of another host."""
        if request.certificate is None:
            raise Unauthenticated("a client certificate is needed here", reason="missing")
        intent.refuse_other_origin(request.headers)
        return self._identity.certificate_subject(request.certificate)
