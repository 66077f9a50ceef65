"""Role aliases, and the credentials provider: a device gets temporary credentials for its certificate."""

from marram.core import arn, codec
from marram.core.errors import Invalid
from marram.hub import tagging
from marram.hub.identity.api import pages
from marram.hub.identity.base import moment
from marram.hub.identity.service import Identity
from marram.hub.identity.store_iam import Alias
from marram.hub.slice import Call, Params, RawRequest, RawResponse, Result, anything, operation, route

DEFAULT_DURATION_S = 3600
THING_HEADER = "x-amzn-iot-thingname"


def _alias_arn(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"rolealias/{params['roleAlias']}")


@operation("iot", "CreateRoleAlias", resource=_alias_arn)
async def create_role_alias(service: Identity, call: Call, params: Params) -> Result:
    name = params["roleAlias"]
    duration = int(params.get("credentialDurationSeconds") or DEFAULT_DURATION_S)
    await service.assuming.create_alias(name, params["roleArn"], duration, tagging.read(params))
    return _named(service, name)


@operation("iot", "DescribeRoleAlias", resource=_alias_arn)
async def describe_role_alias(service: Identity, call: Call, params: Params) -> Result:
    found = await service.assuming.alias(params["roleAlias"])
    return {"roleAliasDescription": _described(service, found, call.account)}


@operation("iot", "UpdateRoleAlias", resource=_alias_arn)
async def update_role_alias(service: Identity, call: Call, params: Params) -> Result:
    duration = params.get("credentialDurationSeconds")
    await service.assuming.update_alias(
        params["roleAlias"], params.get("roleArn"), int(duration) if duration is not None else None
    )
    return _named(service, params["roleAlias"])


@operation("iot", "DeleteRoleAlias", resource=_alias_arn)
async def delete_role_alias(service: Identity, call: Call, params: Params) -> Result:
    await service.assuming.delete_alias(params["roleAlias"])
    return {}


@operation("iot", "ListRoleAliases", resource=anything)
async def list_role_aliases(service: Identity, call: Call, params: Params) -> Result:
    limit = pages.limit(params)
    match params.get("marker"):
        case None:
            after, ascending = None, bool(params.get("ascendingOrder"))
        case [str(after), bool(ascending)]:
            pass
        case _:
            raise Invalid("the page token is not valid")
    found = await service.assuming.aliases(after, limit + 1, ascending=ascending)
    shown, last = pages.cut(found, limit, lambda name: [name, ascending])
    return {"roleAliases": list(shown), "nextMarker": last}


@route("GET", "/role-aliases/{alias}/credentials", auth="certificate")
async def credentials(service: Identity, request: RawRequest) -> RawResponse:
    """Judged there, with the thing that the device says it is: iot:AssumeRoleWithCertificate on the alias."""
    assert request.subject is not None
    made = await service.assuming.for_device(
        request.params["alias"], request.subject, request.headers.get(THING_HEADER), request.source_ip
    )
    answer = {
        "credentials": {
            "accessKeyId": made.access_key_id,
            "secretAccessKey": made.secret,
            "sessionToken": made.token,
            "expiration": moment(made.expires_ms),
        }
    }
    return RawResponse(body=codec.dumps(answer), headers={"cache-control": "no-store"})


def _named(service: Identity, name: str) -> dict[str, object]:
    return {"roleAlias": name, "roleAliasArn": service.assuming.alias_arn(name)}


def _described(service: Identity, alias: Alias, account: str) -> dict[str, object]:
    return {
        **_named(service, alias.name),
        "roleArn": alias.role_arn,
        "owner": account,
        "credentialDurationSeconds": alias.duration_s,
        "creationDate": alias.created_ms,
        "lastModifiedDate": alias.modified_ms,
    }
