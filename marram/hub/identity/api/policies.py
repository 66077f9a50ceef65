"""iot operations on policies, their versions and attachments."""

from collections.abc import Sequence

from marram.core import arn
from marram.core.codec import JsonValue
from marram.core.errors import NotFound
from marram.hub import tagging
from marram.hub.identity.api import pages
from marram.hub.identity.service import Identity
from marram.hub.identity.store import Policy
from marram.hub.slice import Call, Params, Result, anything, operation


def _policy_arn(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"policy/{params['policyName']}")


def _target(_call: Call, params: Params) -> str:
    return str(params["target"])


def _principal(_call: Call, params: Params) -> str:
    return str(params.get("principal") or "*")


@operation("iot", "CreatePolicy", resource=_policy_arn)
async def create_policy(service: Identity, call: Call, params: Params) -> Result:
    name, document = params["policyName"], params["policyDocument"]
    await service.policies.create(name, document, tagging.read(params))
    return {
        "policyName": name,
        "policyArn": service.policies.arn_of(name),
        "policyDocument": document,
        "policyVersionId": "1",
    }


@operation("iot", "GetPolicy", resource=_policy_arn)
async def get_policy(service: Identity, call: Call, params: Params) -> Result:
    policy, version = await service.policies.policy(params["policyName"])
    return {
        **named(service, policy.name),
        "policyDocument": version.document,
        "defaultVersionId": str(policy.default_version),
        "creationDate": policy.created_ms,
        "lastModifiedDate": policy.modified_ms,
        "generationId": _generation(policy),
    }


@operation("iot", "ListPolicies", resource=anything)
async def list_policies(service: Identity, call: Call, params: Params) -> Result:
    asked = pages.by_age(params)
    rows = await service.policies.page(asked)
    shown, last = pages.cut(rows, asked.limit - 1, lambda row: [row.created_ms, row.name, asked.ascending])
    return {"policies": [named(service, row.name) for row in shown], "nextMarker": last}


@operation("iot", "DeletePolicy", resource=_policy_arn)
async def delete_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.policies.delete(params["policyName"])
    return {}


@operation("iot", "CreatePolicyVersion", resource=_policy_arn)
async def create_policy_version(service: Identity, call: Call, params: Params) -> Result:
    name, document, as_default = params["policyName"], params["policyDocument"], bool(params.get("setAsDefault"))
    number = await service.policies.create_version(name, document, as_default=as_default)
    return {
        "policyArn": service.policies.arn_of(name),
        "policyDocument": document,
        "policyVersionId": str(number),
        "isDefaultVersion": as_default,
    }


@operation("iot", "ListPolicyVersions", resource=_policy_arn)
async def list_policy_versions(service: Identity, call: Call, params: Params) -> Result:
    policy, versions = await service.policies.versions(params["policyName"])
    return {
        "policyVersions": [
            {
                "versionId": str(version.version),
                "isDefaultVersion": version.version == policy.default_version,
                "createDate": version.created_ms,
            }
            for version in versions
        ]
    }


@operation("iot", "GetPolicyVersion", resource=_policy_arn)
async def get_policy_version(service: Identity, call: Call, params: Params) -> Result:
    policy, version = await service.policies.version(params["policyName"], params["policyVersionId"])
    return {
        **named(service, policy.name),
        "policyDocument": version.document,
        "policyVersionId": str(version.version),
        "isDefaultVersion": version.version == policy.default_version,
        "creationDate": version.created_ms,
        "lastModifiedDate": version.created_ms,
        "generationId": _generation(policy),
    }


@operation("iot", "SetDefaultPolicyVersion", resource=_policy_arn)
async def set_default_policy_version(service: Identity, call: Call, params: Params) -> Result:
    await service.policies.set_default_version(params["policyName"], params["policyVersionId"])
    return {}


@operation("iot", "DeletePolicyVersion", resource=_policy_arn)
async def delete_policy_version(service: Identity, call: Call, params: Params) -> Result:
    await service.policies.delete_version(params["policyName"], params["policyVersionId"])
    return {}


@operation("iot", "AttachPolicy", resource=_target)
async def attach_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.policies.attach(params["policyName"], params["target"])
    return {}


@operation("iot", "DetachPolicy", resource=_target)
async def detach_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.policies.detach(params["policyName"], params["target"])
    return {}


@operation("iot", "ListAttachedPolicies", resource=_target)
async def list_attached_policies(service: Identity, call: Call, params: Params) -> Result:
    return await _attached(service, params["target"], params, recursive=bool(params.get("recursive")))


@operation("iot", "ListTargetsForPolicy", resource=_policy_arn)
async def list_targets_for_policy(service: Identity, call: Call, params: Params) -> Result:
    shown, token = await _targets(service, params)
    return {"targets": shown, "nextMarker": token}


# The older names of the same, for certificates


@operation("iot", "AttachPrincipalPolicy", resource=_principal)
async def attach_principal_policy(service: Identity, call: Call, params: Params) -> Result:
    service.certificates.of_arn(params["principal"])
    await service.policies.attach(params["policyName"], params["principal"])
    return {}


@operation("iot", "DetachPrincipalPolicy", resource=_principal)
async def detach_principal_policy(service: Identity, call: Call, params: Params) -> Result:
    service.certificates.of_arn(params["principal"])
    if not await service.policies.detach(params["policyName"], params["principal"]):
        raise NotFound(f"policy {params['policyName']} is not attached to {params['principal']}")
    return {}


@operation("iot", "ListPrincipalPolicies", resource=_principal)
async def list_principal_policies(service: Identity, call: Call, params: Params) -> Result:
    service.certificates.of_arn(params["principal"])
    return await _attached(service, params["principal"], params)


@operation("iot", "ListPolicyPrincipals", resource=_policy_arn)
async def list_policy_principals(service: Identity, call: Call, params: Params) -> Result:
    shown, token = await _targets(service, params)
    return {"principals": shown, "nextMarker": token}


async def _attached(service: Identity, target: str, params: Params, *, recursive: bool = False) -> Result:
    limit = pages.limit(params)
    names = await service.policies.attached(target, pages.text(params.get("marker")), limit + 1, recursive=recursive)
    shown, last = pages.cut(names, limit, lambda row: row)
    return {"policies": [named(service, row) for row in shown], "nextMarker": last}


async def _targets(service: Identity, params: Params) -> tuple[Sequence[str], JsonValue]:
    limit = pages.limit(params)
    found = await service.policies.targets(params["policyName"], pages.text(params.get("marker")), limit + 1)
    return pages.cut(found, limit, lambda row: arn.parse(row).resource)


def named(service: Identity, name: str) -> dict[str, object]:
    return {"policyName": name, "policyArn": service.policies.arn_of(name)}


def _generation(policy: Policy) -> str:
    return f"{policy.created_ms}-{policy.last_version}"
