"""sts: who a key is, and temporary credentials."""

from typing import cast

from marram.core.policy.variables import Values
from marram.hub.identity.api.iam_pages import refuse
from marram.hub.identity.assuming import SESSION_POLICY_LIMIT
from marram.hub.identity.service import Identity
from marram.hub.identity.sessions import Minted
from marram.hub.slice import Call, Params, Result, anything, operation

_NO_MFA = {"SerialNumber": "there are no second factors", "TokenCode": "there are no second factors"}


@operation("sts", "GetCallerIdentity", resource=anything, public=True)
async def get_caller_identity(service: Identity, call: Call, params: Params) -> Result:
    named = call.subject.attributes.get("aws:userid", call.subject.principal)
    return {"UserId": named, "Account": call.account, "Arn": call.subject.arn}


@operation("sts", "AssumeRole", resource=anything, public=True)
async def assume_role(service: Identity, call: Call, params: Params) -> Result:
    refuse(
        params,
        {
            **_NO_MFA,
            "Tags": "session tags are not supported",
            "TransitiveTagKeys": "session tags are not supported",
            "SourceIdentity": "a source identity is not supported",
            "ProvidedContexts": "provided contexts are not supported",
        },
    )
    duration, policy = params.get("DurationSeconds"), params.get("Policy")
    got = service.assuming.role(
        call.subject,
        params["RoleArn"],
        params["RoleSessionName"],
        duration_s=int(duration) if duration is not None else None,
        external_id=params.get("ExternalId"),
        policy=policy,
        policy_arns=[str(item["arn"]) for item in params.get("PolicyArns") or ()],
        context=cast("Values", call.extra["seen"]),
    )
    answer: dict[str, object] = {
        "Credentials": _credentials(got.minted),
        "AssumedRoleUser": {"AssumedRoleId": got.id, "Arn": got.arn},
    }
    packed = {"PackedPolicySize": -(-len(policy) * 100 // SESSION_POLICY_LIMIT)} if policy is not None else {}
    return answer | packed


@operation("sts", "GetSessionToken", resource=anything, public=True)
async def get_session_token(service: Identity, call: Call, params: Params) -> Result:
    refuse(params, _NO_MFA)
    duration = params.get("DurationSeconds")
    made = service.assuming.session_token(call.subject, int(duration) if duration is not None else None)
    return {"Credentials": _credentials(made)}


def _credentials(made: Minted) -> dict[str, object]:
    return {
        "AccessKeyId": made.access_key_id,
        "SecretAccessKey": made.secret,
        "SessionToken": made.token,
        "Expiration": made.expires_ms,
    }
