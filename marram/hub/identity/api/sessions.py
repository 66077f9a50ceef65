"""Opening a session for a person: the link by a signed call, the session itself by the link alone."""

from marram.core import codec
from marram.core.errors import Invalid
from marram.hub.identity.service import Identity
from marram.hub.slice import Call, Params, RawRequest, RawResponse, Result, anything, operation, route


@operation("marram", "identity/CreateLoginLink", resource=anything)
async def create_login_link(service: Identity, call: Call, params: Params) -> Result:
    token, expires_ms = await service.sessions.create_link(call.subject)
    return {"token": token, "expiresMs": expires_ms}


@operation("marram", "identity/GetMetricsToken", resource=anything)
async def get_metrics_token(service: Identity, call: Call, params: Params) -> Result:
    return {"token": service.metrics_token}


@route("POST", "/marram/session", auth="none", act="identity/OpenSession")
async def open_session(service: Identity, request: RawRequest) -> RawResponse:
    body = codec.loads_object(request.body, what="request", max_bytes=4096)
    token = body.get("token")
    if not isinstance(token, str):
        raise Invalid("token must be a string")
    made = await service.sessions.open_link(token)
    answer = {
        "accessKeyId": made.access_key_id,
        "secretAccessKey": made.secret,
        "sessionToken": made.token,
        "expiresMs": made.expires_ms,
    }
    who = service.session(made.access_key_id, made.token).subject.arn
    return RawResponse(body=codec.dumps(answer), headers={"cache-control": "no-store"}, acted_on=(who,))
