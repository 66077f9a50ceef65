"""Joining of edge cores: the token, the root certificate, the exchange."""

from collections.abc import Mapping
from typing import Final

from marram.core import arn, codec
from marram.core.errors import Invalid
from marram.hub.identity.service import Identity
from marram.hub.slice import Call, Params, RawRequest, RawResponse, Result, anything, operation, route

MAX_JOIN_BYTES: Final = 64 << 10


@operation("marram", "identity/CreateJoinToken", resource=anything)
async def create_join_token(service: Identity, call: Call, params: Params) -> Result:
    token, ends_ms = await service.joining.create_token(
        thing=params.get("thingName") or "",
        policy=params.get("policyName") or "",
        life_ms=int(params.get("expiresInSeconds") or 900) * 1000,
    )
    return {"token": token, "expiresDate": ends_ms}


@route("GET", "/marram/ca", auth="none")
async def root_certificate(service: Identity, request: RawRequest) -> RawResponse:
    """The root certificate, PEM: public. A core that joins fetches it before it trusts anything, and checks its fingerprint."""
    return RawResponse(body=service.pki.root_pem.encode(), content_type="application/x-pem-file")


@route("POST", "/marram/join", auth="none", act="identity/Join")
async def join(service: Identity, request: RawRequest) -> RawResponse:
    """Body {token, thingName, csrPem?, names?}; the answer is the bundle of Identity.join."""
    body = codec.loads_object(request.body, what="join request", max_bytes=MAX_JOIN_BYTES, max_depth=4)
    if unknown := body.keys() - {"token", "thingName", "csrPem", "names"}:
        raise Invalid(f"join request: unknown member {min(unknown)!r}")
    names = body.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > 32:
        raise Invalid("join request: names must be a list of at most 32 host names or addresses")
    bundle = await service.joining.join(
        _string(body, "token"),
        _string(body, "thingName"),
        _string(body, "csrPem") if body.get("csrPem") is not None else None,
        names=[str(name) for name in names],
    )
    thing = arn.build("iot", service.region, service.account, f"thing/{bundle['thingName']}")
    return RawResponse(
        body=codec.dumps(bundle), headers={"cache-control": "no-store"}, acted_on=(thing, str(bundle["certificateArn"]))
    )


def _string(body: Mapping[str, object], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise Invalid(f"join request: {name} must be a string")
    return value
