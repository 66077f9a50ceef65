"""iam operations on inline and managed policies of users and roles, and what they come to."""

from typing import Literal, cast
from urllib.parse import quote

from marram.core import arn
from marram.core.errors import Invalid, NotFound
from marram.hub.identity.api.iam_pages import (
    identity,
    page,
    page_of_names,
    policy_arn,
    refuse,
    role_arn,
    shown_tags,
    size,
    tags,
    user_arn,
)
from marram.hub.identity.entities import Entities, merged, without
from marram.hub.identity.managed import ManagedInfo, Scope
from marram.hub.identity.service import Identity
from marram.hub.identity.store_iam import Entity, ManagedVersion
from marram.hub.slice import Call, Params, Result, anything, operation


def _new_policy(call: Call, params: Params) -> str:
    return identity(call).managed.arn_of(str(params.get("Path") or "/"), str(params["PolicyName"]))


# inline


@operation("iam", "PutUserPolicy", resource=user_arn)
async def put_user_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.users.put_policy(params["UserName"], params["PolicyName"], params["PolicyDocument"])
    return {}


@operation("iam", "PutRolePolicy", resource=role_arn)
async def put_role_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.roles.put_policy(params["RoleName"], params["PolicyName"], params["PolicyDocument"])
    return {}


@operation("iam", "GetUserPolicy", resource=user_arn)
async def get_user_policy(service: Identity, call: Call, params: Params) -> Result:
    user, document = await service.users.policy(params["UserName"], params["PolicyName"])
    return {"UserName": user.name, "PolicyName": params["PolicyName"], "PolicyDocument": _encoded(document)}


@operation("iam", "GetRolePolicy", resource=role_arn)
async def get_role_policy(service: Identity, call: Call, params: Params) -> Result:
    role, document = await service.roles.policy(params["RoleName"], params["PolicyName"])
    return {"RoleName": role.name, "PolicyName": params["PolicyName"], "PolicyDocument": _encoded(document)}


@operation("iam", "ListUserPolicies", resource=user_arn)
async def list_user_policies(service: Identity, call: Call, params: Params) -> Result:
    return page_of_names("PolicyNames", await service.users.policies(params["UserName"]), params, str)


@operation("iam", "ListRolePolicies", resource=role_arn)
async def list_role_policies(service: Identity, call: Call, params: Params) -> Result:
    return page_of_names("PolicyNames", await service.roles.policies(params["RoleName"]), params, str)


@operation("iam", "DeleteUserPolicy", resource=user_arn)
async def delete_user_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.users.delete_policy(params["UserName"], params["PolicyName"])
    return {}


@operation("iam", "DeleteRolePolicy", resource=role_arn)
async def delete_role_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.roles.delete_policy(params["RoleName"], params["PolicyName"])
    return {}


# managed: attaching


@operation("iam", "AttachUserPolicy", resource=user_arn)
async def attach_user_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.users.attach(params["UserName"], params["PolicyArn"])
    return {}


@operation("iam", "AttachRolePolicy", resource=role_arn)
async def attach_role_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.roles.attach(params["RoleName"], params["PolicyArn"])
    return {}


@operation("iam", "DetachUserPolicy", resource=user_arn)
async def detach_user_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.users.detach(params["UserName"], params["PolicyArn"])
    return {}


@operation("iam", "DetachRolePolicy", resource=role_arn)
async def detach_role_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.roles.detach(params["RoleName"], params["PolicyArn"])
    return {}


@operation("iam", "ListAttachedUserPolicies", resource=user_arn)
async def list_attached_user_policies(service: Identity, call: Call, params: Params) -> Result:
    return await _attached(service.users, params["UserName"], params)


@operation("iam", "ListAttachedRolePolicies", resource=role_arn)
async def list_attached_role_policies(service: Identity, call: Call, params: Params) -> Result:
    return await _attached(service.roles, params["RoleName"], params)


async def _attached(entities: Entities, name: str, params: Params) -> Result:
    prefix = str(params.get("PathPrefix") or "/")
    arns = [text for text in await entities.attached(name) if text.partition(":policy")[2].startswith(prefix)]
    return page_of_names(
        "AttachedPolicies",
        arns,
        params,
        lambda text: {"PolicyName": text.rpartition("/")[2], "PolicyArn": text},
    )


@operation("iam", "ListEntitiesForPolicy", resource=policy_arn)
async def list_entities_for_policy(service: Identity, call: Call, params: Params) -> Result:
    if params.get("PolicyUsageFilter") == "PermissionsBoundary":
        return {"PolicyUsers": [], "PolicyRoles": [], "PolicyGroups": [], "IsTruncated": False}
    wanted = {"User": "user", "Role": "role"}.get(str(params.get("EntityFilter")), "")
    if params.get("EntityFilter") and not wanted:
        return {"PolicyUsers": [], "PolicyRoles": [], "PolicyGroups": [], "IsTruncated": False}
    prefix = str(params.get("PathPrefix") or "/")
    owners = [
        owner
        for owner in await service.managed.entities(params["PolicyArn"])
        if owner.path.startswith(prefix) and (not wanted or owner.kind == wanted)
    ]
    found = {f"{owner.kind}/{owner.name}": owner for owner in owners}
    answer = page_of_names("all", sorted(found), params, lambda key: found[key])
    shown = cast("list[Entity]", answer.pop("all"))
    users = [{"UserName": owner.name, "UserId": owner.id} for owner in shown if owner.kind == "user"]
    roles = [{"RoleName": owner.name, "RoleId": owner.id} for owner in shown if owner.kind == "role"]
    return {"PolicyUsers": users, "PolicyRoles": roles, "PolicyGroups": [], **answer}


# managed: the policies


@operation("iam", "CreatePolicy", resource=_new_policy)
async def create_policy(service: Identity, call: Call, params: Params) -> Result:
    made = await service.managed.create(
        params["PolicyName"],
        params.get("Path") or "/",
        params.get("Description") or "",
        params["PolicyDocument"],
        tags(params),
    )
    return {"Policy": _shown(made)}


@operation("iam", "GetPolicy", resource=policy_arn)
async def get_policy(service: Identity, call: Call, params: Params) -> Result:
    return {"Policy": _shown(await service.managed.get(params["PolicyArn"]))}


@operation("iam", "ListPolicies", resource=anything)
async def list_policies(service: Identity, call: Call, params: Params) -> Result:
    refuse(
        {"PolicyUsageFilter": params.get("PolicyUsageFilter") == "PermissionsBoundary"},
        {"PolicyUsageFilter": "permissions boundaries are not supported"},
    )
    side, name = params.get("Marker") or ("", "")
    scope = cast("Scope", params.get("Scope") or "All")
    found = await service.managed.page(
        scope, str(params.get("PathPrefix") or "/"), (str(side), str(name)), size(params) + 1,
        attached=bool(params.get("OnlyAttached")),
    )  # fmt: skip
    return page("Policies", found, params, _listed, lambda row: ["aws" if row.builtin else "account", row.name])


@operation("iam", "DeletePolicy", resource=policy_arn)
async def delete_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.managed.delete(params["PolicyArn"])
    return {}


@operation("iam", "CreatePolicyVersion", resource=policy_arn)
async def create_policy_version(service: Identity, call: Call, params: Params) -> Result:
    as_default = bool(params.get("SetAsDefault"))
    made = await service.managed.create_version(params["PolicyArn"], params["PolicyDocument"], as_default=as_default)
    return {"PolicyVersion": _version(made, default=made.version if as_default else 0)}


@operation("iam", "GetPolicyVersion", resource=policy_arn)
async def get_policy_version(service: Identity, call: Call, params: Params) -> Result:
    policy, version = await service.managed.version(params["PolicyArn"], params["VersionId"])
    return {
        "PolicyVersion": {
            **_version(version, default=policy.default_version),
            "Document": _encoded(version.document),
        }
    }


@operation("iam", "ListPolicyVersions", resource=policy_arn)
async def list_policy_versions(service: Identity, call: Call, params: Params) -> Result:
    policy, versions = await service.managed.versions(params["PolicyArn"])
    found = {f"{99_999_999_999 - version.version}": version for version in versions}  # newest first
    return page_of_names(
        "Versions", sorted(found), params, lambda key: _version(found[key], default=policy.default_version)
    )


@operation("iam", "SetDefaultPolicyVersion", resource=policy_arn)
async def set_default_policy_version(service: Identity, call: Call, params: Params) -> Result:
    await service.managed.set_default(params["PolicyArn"], params["VersionId"])
    return {}


@operation("iam", "DeletePolicyVersion", resource=policy_arn)
async def delete_policy_version(service: Identity, call: Call, params: Params) -> Result:
    await service.managed.delete_version(params["PolicyArn"], params["VersionId"])
    return {}


@operation("iam", "TagPolicy", resource=policy_arn)
async def tag_policy(service: Identity, call: Call, params: Params) -> Result:
    given = tags(params)
    await service.managed.set_tags(params["PolicyArn"], lambda present: merged(present, given))
    return {}


@operation("iam", "UntagPolicy", resource=policy_arn)
async def untag_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.managed.set_tags(params["PolicyArn"], lambda present: without(present, params["TagKeys"]))
    return {}


@operation("iam", "ListPolicyTags", resource=policy_arn)
async def list_policy_tags(service: Identity, call: Call, params: Params) -> Result:
    found = dict((await service.managed.get(params["PolicyArn"])).tags)
    return page_of_names("Tags", sorted(found), params, lambda key: {"Key": key, "Value": found[key]})


# what they come to


def _source(call: Call, params: Params) -> str:
    return str(params["PolicySourceArn"])


@operation("iam", "SimulatePrincipalPolicy", resource=_source)
async def simulate_principal_policy(service: Identity, call: Call, params: Params) -> Result:
    refuse(
        params,
        {
            "PermissionsBoundaryPolicyInputList": "permissions boundaries are not supported",
            "ResourcePolicy": "resource policies are not supported",
            "ResourceOwner": "a hub is one account",
            "CallerArn": "the caller is the policy source",
            "ResourceHandlingOption": "it is of EC2",
        },
    )
    subject = service.simulated(entity_of(service, str(params["PolicySourceArn"])), params.get("PolicyInputList") or [])
    context: dict[str, str | tuple[str, ...]] = {
        str(entry["ContextKeyName"]): tuple(map(str, entry.get("ContextKeyValues") or ()))
        for entry in params.get("ContextEntries") or ()
    }
    singles = {key: value[0] if len(value) == 1 else value for key, value in context.items()}
    cases = [
        (str(action), str(resource))
        for action in params["ActionNames"]
        for resource in params.get("ResourceArns") or ["*"]
    ]
    keys = {f"{at:06d}": case for at, case in enumerate(cases)}

    def judged(key: str) -> dict[str, object]:
        action, resource = keys[key]
        verdict = service.explain(subject, action, resource, singles)
        decisions = {"allowed": "allowed", "explicit deny": "explicitDeny", "implicit deny": "implicitDeny"}
        return {
            "EvalActionName": action,
            "EvalResourceName": resource,
            "EvalDecision": decisions[verdict.decision],
            "MatchedStatements": [{"SourcePolicyId": match.policy} for match in verdict.matches],
            "MissingContextValues": list(verdict.missing),
        }

    return page_of_names("EvaluationResults", sorted(keys), params, judged)


def entity_of(service: Identity, text: str) -> tuple[Literal["user", "role"], str]:
    parsed = arn.parse(text)
    kind, _, rest = parsed.resource.partition("/")
    if parsed.service != "iam" or kind not in ("user", "role"):
        raise Invalid(f"{text!r} is not the ARN of a user or a role", kind="input")
    name = rest.rpartition("/")[2]
    entities = service.users if kind == "user" else service.roles
    if entities.arn_named(name) != text:
        raise NotFound(f"{text} does not exist")
    return ("user" if kind == "user" else "role"), name


def _encoded(document: str) -> str:
    """IAM sends documents percent-encoded; SDKs decode them."""
    return quote(document, safe="-_.~")


def _listed(policy: ManagedInfo) -> dict[str, object]:
    return {key: value for key, value in _shown(policy).items() if key not in ("Description", "Tags")}


def _shown(policy: ManagedInfo) -> dict[str, object]:
    found: dict[str, object] = {
        "PolicyName": policy.name,
        "PolicyId": policy.id,
        "Arn": policy.arn,
        "Path": policy.path,
        "DefaultVersionId": f"v{policy.default_version}",
        "AttachmentCount": policy.attachments,
        "PermissionsBoundaryUsageCount": 0,
        "IsAttachable": True,
        "CreateDate": policy.created_ms,
        "UpdateDate": policy.modified_ms,
    }
    if policy.description:
        found["Description"] = policy.description
    return found | ({"Tags": shown_tags(policy.tags)} if policy.tags else {})


def _version(version: ManagedVersion, *, default: int) -> dict[str, object]:
    return {
        "VersionId": f"v{version.version}",
        "IsDefaultVersion": version.version == default,
        "CreateDate": version.created_ms,
    }
