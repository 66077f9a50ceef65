"""iam operations on users, their access keys and tags."""

from marram.core.errors import Invalid
from marram.hub.identity.api.iam_pages import (
    NO_BOUNDARY,
    after,
    identity,
    page,
    page_of_names,
    refuse,
    shown_tags,
    size,
    tags,
    user_arn,
    user_named,
)
from marram.hub.identity.entities import merged, without
from marram.hub.identity.service import Identity
from marram.hub.identity.store_iam import Entity
from marram.hub.slice import Call, Params, Result, anything, operation


def _both_users(call: Call, params: Params) -> list[str]:
    """Renaming needs the right on what it was and on what it will be."""
    users, before = identity(call).users, user_arn(call, params)
    if not params.get("NewUserName") and not params.get("NewPath"):
        return [before]
    path = params.get("NewPath") or before.partition(":user")[2].rpartition("/")[0] + "/"
    return [before, users.arn_new(str(params.get("NewUserName") or params["UserName"]), str(path))]


@operation("iam", "CreateUser", resource=user_arn)
async def create_user(service: Identity, call: Call, params: Params) -> Result:
    refuse(params, NO_BOUNDARY)
    made = await service.users.create(params["UserName"], params.get("Path") or "/", tags(params))
    return {"User": _shown(service, made)}


@operation("iam", "GetUser", resource=user_arn)
async def get_user(service: Identity, call: Call, params: Params) -> Result:
    return {"User": _shown(service, await service.users.get(user_named(call, params)))}


@operation("iam", "ListUsers", resource=anything)
async def list_users(service: Identity, call: Call, params: Params) -> Result:
    found = await service.users.page(params.get("PathPrefix") or "/", after(params), size(params) + 1)
    return page("Users", found, params, lambda user: _shown(service, user, tagged=False), lambda user: user.name)


@operation("iam", "UpdateUser", resource=_both_users)
async def update_user(service: Identity, call: Call, params: Params) -> Result:
    await service.users.rename(params["UserName"], params.get("NewUserName"), params.get("NewPath"))
    return {}


@operation("iam", "DeleteUser", resource=user_arn)
async def delete_user(service: Identity, call: Call, params: Params) -> Result:
    await service.users.delete(params["UserName"])
    return {}


@operation("iam", "TagUser", resource=user_arn)
async def tag_user(service: Identity, call: Call, params: Params) -> Result:
    given = tags(params)
    await service.users.set_tags(params["UserName"], lambda present: merged(present, given))
    return {}


@operation("iam", "UntagUser", resource=user_arn)
async def untag_user(service: Identity, call: Call, params: Params) -> Result:
    await service.users.set_tags(params["UserName"], lambda present: without(present, params["TagKeys"]))
    return {}


@operation("iam", "ListUserTags", resource=user_arn)
async def list_user_tags(service: Identity, call: Call, params: Params) -> Result:
    found = dict((await service.users.get(params["UserName"])).tags)
    return page_of_names("Tags", sorted(found), params, lambda key: {"Key": key, "Value": found[key]})


# There are no groups and no second factors; tools ask before they delete a user.


@operation("iam", "ListGroups", resource=anything)
async def list_groups(service: Identity, call: Call, params: Params) -> Result:
    return {"Groups": [], "IsTruncated": False}


@operation("iam", "ListGroupsForUser", resource=user_arn)
async def list_groups_for_user(service: Identity, call: Call, params: Params) -> Result:
    await service.users.get(params["UserName"])
    return {"Groups": [], "IsTruncated": False}


@operation("iam", "ListMFADevices", resource=user_arn)
async def list_mfa_devices(service: Identity, call: Call, params: Params) -> Result:
    await service.users.get(user_named(call, params))
    return {"MFADevices": [], "IsTruncated": False}


# access keys


@operation("iam", "CreateAccessKey", resource=user_arn)
async def create_access_key(service: Identity, call: Call, params: Params) -> Result:
    name = user_named(call, params)
    made, secret = await service.keys.add(name)
    return {
        "AccessKey": {
            "UserName": name,
            "AccessKeyId": made.id,
            "Status": made.status,
            "SecretAccessKey": secret,
            "CreateDate": made.created_ms,
        }
    }


@operation("iam", "ListAccessKeys", resource=user_arn)
async def list_access_keys(service: Identity, call: Call, params: Params) -> Result:
    name = user_named(call, params)
    found = {key.id: key for key in await service.keys.of(name)}

    def shown(key_id: str) -> dict[str, object]:
        key = found[key_id]
        return {"UserName": name, "AccessKeyId": key.id, "Status": key.status, "CreateDate": key.created_ms}

    return page_of_names("AccessKeyMetadata", sorted(found), params, shown)


@operation("iam", "UpdateAccessKey", resource=user_arn)
async def update_access_key(service: Identity, call: Call, params: Params) -> Result:
    status = params["Status"]
    if status not in ("Active", "Inactive"):
        raise Invalid(f"Status must be Active or Inactive, not {status}", kind="input")
    await service.keys.set_status(user_named(call, params), params["AccessKeyId"], status)
    return {}


@operation("iam", "DeleteAccessKey", resource=user_arn)
async def delete_access_key(service: Identity, call: Call, params: Params) -> Result:
    await service.keys.remove(user_named(call, params), params["AccessKeyId"])
    return {}


@operation("iam", "GetAccessKeyLastUsed", resource=anything)
async def get_access_key_last_used(service: Identity, call: Call, params: Params) -> Result:
    owner, key = await service.keys.info(params["AccessKeyId"])
    used: dict[str, object] = {
        "ServiceName": key.used_service or "N/A",
        "Region": call.region if key.used_ms else "N/A",
    }
    return {
        "UserName": owner.name,
        "AccessKeyLastUsed": used | ({"LastUsedDate": key.used_ms} if key.used_ms else {}),
    }


def _shown(service: Identity, user: Entity, *, tagged: bool = True) -> dict[str, object]:
    found: dict[str, object] = {
        "Path": user.path,
        "UserName": user.name,
        "UserId": user.id,
        "Arn": service.users.arn_of(user),
        "CreateDate": user.created_ms,
    }
    return found | ({"Tags": shown_tags(user.tags)} if tagged and user.tags else {})
