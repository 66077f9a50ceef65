"""iam operations on roles, their trust policies and tags."""

from urllib.parse import quote

from marram.hub.identity.api.iam_pages import (
    NO_BOUNDARY,
    after,
    page,
    page_of_names,
    refuse,
    role_arn,
    shown_tags,
    size,
    tags,
)
from marram.hub.identity.entities import merged, without
from marram.hub.identity.roles import DEFAULT_SESSION_S
from marram.hub.identity.service import Identity
from marram.hub.identity.store_iam import Entity
from marram.hub.slice import Call, Params, Result, anything, operation


@operation("iam", "CreateRole", resource=role_arn)
async def create_role(service: Identity, call: Call, params: Params) -> Result:
    refuse(params, NO_BOUNDARY)
    made = await service.roles.create(
        params["RoleName"],
        params.get("Path") or "/",
        params["AssumeRolePolicyDocument"],
        description=params.get("Description") or "",
        max_session_s=int(params.get("MaxSessionDuration") or DEFAULT_SESSION_S),
        tags=tags(params),
    )
    return {"Role": _shown(service, made, whole=True)}


@operation("iam", "GetRole", resource=role_arn)
async def get_role(service: Identity, call: Call, params: Params) -> Result:
    return {"Role": _shown(service, await service.roles.get(params["RoleName"]), whole=True)}


@operation("iam", "ListRoles", resource=anything)
async def list_roles(service: Identity, call: Call, params: Params) -> Result:
    found = await service.roles.page(params.get("PathPrefix") or "/", after(params), size(params) + 1)
    return page("Roles", found, params, lambda role: _shown(service, role, whole=False), lambda role: role.name)


@operation("iam", "UpdateRole", resource=role_arn)
async def update_role(service: Identity, call: Call, params: Params) -> Result:
    duration = params.get("MaxSessionDuration")
    await service.roles.update(
        params["RoleName"],
        description=params.get("Description"),
        max_session_s=int(duration) if duration is not None else None,
    )
    return {}


@operation("iam", "UpdateRoleDescription", resource=role_arn)
async def update_role_description(service: Identity, call: Call, params: Params) -> Result:
    changed = await service.roles.update(params["RoleName"], description=params["Description"])
    return {"Role": _shown(service, changed, whole=True)}


@operation("iam", "UpdateAssumeRolePolicy", resource=role_arn)
async def update_assume_role_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.roles.update_trust(params["RoleName"], params["PolicyDocument"])
    return {}


@operation("iam", "DeleteRole", resource=role_arn)
async def delete_role(service: Identity, call: Call, params: Params) -> Result:
    await service.roles.delete(params["RoleName"])
    return {}


@operation("iam", "TagRole", resource=role_arn)
async def tag_role(service: Identity, call: Call, params: Params) -> Result:
    given = tags(params)
    await service.roles.set_tags(params["RoleName"], lambda present: merged(present, given))
    return {}


@operation("iam", "UntagRole", resource=role_arn)
async def untag_role(service: Identity, call: Call, params: Params) -> Result:
    await service.roles.set_tags(params["RoleName"], lambda present: without(present, params["TagKeys"]))
    return {}


@operation("iam", "ListRoleTags", resource=role_arn)
async def list_role_tags(service: Identity, call: Call, params: Params) -> Result:
    found = dict((await service.roles.get(params["RoleName"])).tags)
    return page_of_names("Tags", sorted(found), params, lambda key: {"Key": key, "Value": found[key]})


# There are no instances; tools ask before they delete a role.


@operation("iam", "ListInstanceProfilesForRole", resource=role_arn)
async def list_instance_profiles_for_role(service: Identity, call: Call, params: Params) -> Result:
    await service.roles.get(params["RoleName"])
    return {"InstanceProfiles": [], "IsTruncated": False}


def _shown(service: Identity, role: Entity, *, whole: bool) -> dict[str, object]:
    found: dict[str, object] = {
        "Path": role.path,
        "RoleName": role.name,
        "RoleId": role.id,
        "Arn": service.roles.arn_of(role),
        "CreateDate": role.created_ms,
        "AssumeRolePolicyDocument": quote(role.trust, safe="-_.~"),  # IAM sends documents percent-encoded
        "MaxSessionDuration": role.max_session_s,
    }
    if role.description:
        found["Description"] = role.description
    return found | ({"Tags": shown_tags(role.tags)} if whole and role.tags else {})
