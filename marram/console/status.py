"""What the status page shows, read through the public API with the viewer's own session."""

from collections.abc import Mapping

from marram.console.client import Hub, Session
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Denied, Unavailable

PREDICTIONS = "marram.predictions"


async def collect(hub: Hub, session: Session) -> JsonObject:
    """{"cores": [...], "predictions": [...], "models": [...], "missing": [...]}; a part that cannot be read is named."""
    missing: list[JsonValue] = []
    cores = await _cores(hub, session, missing)
    return {
        "cores": cores,
        "predictions": await _part(hub, session, "timeseries/Latest", {"limit": 20}, "rows", missing),
        "models": await _part(hub, session, "models/ListModels", {}, "models", missing),
        "missing": missing,
    }


async def _cores(hub: Hub, session: Session, missing: list[JsonValue]) -> list[JsonValue]:
    out: list[JsonValue] = []
    try:
        listed = await hub.greengrass(session, "coreDevices")
        for core in _dicts(listed.get("coreDevices")):
            name = str(core["coreDeviceThingName"])
            installed = await hub.greengrass(
                session, f"coreDevices/{name}/installedComponents", {"topologyFilter": "ALL"}
            )
            entry: JsonObject = {**core, "components": list(_dicts(installed.get("installedComponents")))}
            out.append(entry)
    except (Denied, Unavailable) as error:
        missing.append(f"cores: {error.message}")
    return out


async def _part(
    hub: Hub, session: Session, operation: str, request: JsonObject, key: str, missing: list[JsonValue]
) -> list[JsonValue]:
    try:
        return list(_dicts((await hub.marram(session, operation, request)).get(key)))
    except (Denied, Unavailable) as error:
        missing.append(f"{operation}: {error.message}")
        return []


def _dicts(value: JsonValue) -> list[JsonObject]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
