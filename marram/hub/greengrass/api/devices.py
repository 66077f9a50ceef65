"""greengrassv2 operations on core devices and their client devices."""

from marram.core import arn
from marram.hub.greengrass.service import Greengrass
from marram.hub.greengrass.store import Core
from marram.hub.slice import Call, Params, Result, operation


def _core_arn(call: Call, params: Params) -> str:
    return arn.build("greengrass", call.region, call.account, f"coreDevices:{params['coreDeviceThingName']}")


def _any_core(call: Call, _params: Params) -> str:
    return arn.build("greengrass", call.region, call.account, "coreDevices:*")


@operation("greengrassv2", "GetCoreDevice", resource=_core_arn)
async def get_core_device(service: Greengrass, call: Call, params: Params) -> Result:
    found = await service.devices.get(params["coreDeviceThingName"])
    return {**_summary(found), "coreVersion": found.nucleus_version, "tags": {}}


@operation("greengrassv2", "DeleteCoreDevice", resource=_core_arn)
async def delete_core_device(service: Greengrass, call: Call, params: Params) -> Result:
    await service.devices.forget(params["coreDeviceThingName"])
    return {}


@operation("greengrassv2", "ListCoreDevices", resource=_any_core)
async def list_core_devices(service: Greengrass, call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or 100)
    after = params.get("nextToken") or ""
    found = await service.devices.page(after=str(after), limit=limit + 1)
    wanted = {"status": params.get("status"), "runtime": params.get("runtime")}
    members: set[str] | None = None
    if params.get("thingGroupArn"):
        members = set(await service.members(params["thingGroupArn"]))
    chosen = [
        _summary(item)
        for item in found[:limit]
        if wanted["status"] in (None, item.status)
        and wanted["runtime"] in (None, item.runtime)
        and (members is None or item.thing in members)
    ]
    result: dict[str, object] = {"coreDevices": chosen}
    if len(found) > limit:
        result["nextToken"] = found[limit - 1].thing
    return result


@operation("greengrassv2", "ListInstalledComponents", resource=_core_arn)
async def list_installed_components(service: Greengrass, call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or 100)
    start = params.get("nextToken") or 0
    assert isinstance(start, int)
    every = params.get("topologyFilter", "ROOT") == "ALL"
    found = [item for item in await service.devices.installed(params["coreDeviceThingName"]) if every or item.is_root]
    result: dict[str, object] = {
        "installedComponents": [
            {
                "componentName": item.name,
                "componentVersion": item.version,
                "lifecycleState": item.state,
                "lifecycleStateDetails": item.details,
                "isRoot": item.is_root,
                "lastStatusChangeTimestamp": item.changed_ms,
                "lastReportedTimestamp": item.reported_ms,
                "lastInstallationSource": item.source,
                "lifecycleStatusCodes": [],
            }
            for item in found[start : start + limit]
        ]
    }
    if len(found) > start + limit:
        result["nextToken"] = start + limit
    return result


@operation("greengrassv2", "BatchAssociateClientDeviceWithCoreDevice", resource=_core_arn)
async def batch_associate(service: Greengrass, call: Call, params: Params) -> Result:
    entries: list[Params] = params.get("entries") or []
    things = [str(entry["thingName"]) for entry in entries]
    refused = await service.devices.associate(params["coreDeviceThingName"], things)
    return {"errorEntries": _errors(refused)}


@operation("greengrassv2", "BatchDisassociateClientDeviceFromCoreDevice", resource=_core_arn)
async def batch_disassociate(service: Greengrass, call: Call, params: Params) -> Result:
    entries: list[Params] = params.get("entries") or []
    things = [str(entry["thingName"]) for entry in entries]
    refused = await service.devices.disassociate(params["coreDeviceThingName"], things)
    return {"errorEntries": _errors(refused)}


@operation("greengrassv2", "ListClientDevicesAssociatedWithCoreDevice", resource=_core_arn)
async def list_client_devices(service: Greengrass, call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or 100)
    after = params.get("nextToken") or ""
    found = await service.devices.clients(params["coreDeviceThingName"], after=str(after), limit=limit + 1)
    result: dict[str, object] = {
        "associatedClientDevices": [
            {"thingName": thing, "associationTimestamp": since} for thing, since in found[:limit]
        ]
    }
    if len(found) > limit:
        result["nextToken"] = found[limit - 1][0]
    return result


def _summary(found: Core) -> dict[str, object]:
    return {
        "coreDeviceThingName": found.thing,
        "status": found.status,
        "lastStatusUpdateTimestamp": found.reported_ms,
        "platform": found.platform,
        "architecture": found.architecture,
        "runtime": found.runtime,
    }


def _errors(refused: dict[str, str]) -> list[dict[str, str]]:
    return [{"thingName": thing, "code": "ResourceNotFoundException", "message": why} for thing, why in refused.items()]
