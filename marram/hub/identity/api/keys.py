"""A user, a policy and a key in one step; all keys in one list."""

from marram.hub.identity.api import pages
from marram.hub.identity.service import Identity
from marram.hub.slice import Call, Params, Result, anything, operation


@operation("marram", "identity/CreateKey", resource=anything)
async def create_key(service: Identity, call: Call, params: Params) -> Result:
    made = await service.keys.create(params["name"], params["policy"])
    return {"accessKeyId": made.id, "secretAccessKey": made.secret, "name": made.name, "arn": made.subject.arn}


@operation("marram", "identity/ListKeys", resource=anything)
async def list_keys(service: Identity, call: Call, params: Params) -> Result:
    limit = pages.limit(params, "maxResults")
    name, key_id = params.get("nextToken") or ("", "")
    rows = await service.keys.page((str(name), str(key_id)), limit + 1)
    shown, last = pages.cut(rows, limit, lambda row: [row.name, row.id])
    keys = [
        {
            "accessKeyId": row.id,
            "name": row.name,
            "arn": row.arn,
            "policy": row.policy,
            "createdDate": row.created_ms,
            "status": row.status,
            "lastUsedDate": row.used_ms or None,
            "lastUsedService": row.used_service or None,
        }
        for row in shown
    ]
    return {"keys": keys, "nextToken": last}


@operation("marram", "identity/DeleteKey", resource=anything)
async def delete_key(service: Identity, call: Call, params: Params) -> Result:
    await service.keys.delete(params["accessKeyId"])
    return {}
