"""What the status page shows, read through the public API with the viewer's own session."""

from collections.abc import Mapping
from typing import Final

from marram.console.client import Hub, Session
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import MarramError

ROWS: Final = 20
TEXT: Final = 200


async def collect(hub: Hub, session: Session) -> JsonObject:
    """{"cores": [...], "predictions": [...], "models": [...], "missing": [...]}; a part that cannot be read is named.

    A model: {name, version, status, accuracy, ece, against, reasons, published}; `against` is
    {version, accuracy, ece, lead, interval} of the incumbent on the same gate set, null for a first version.
    """
    missing: list[JsonValue] = []
    cores = await _cores(hub, session, missing)
    predictions = await _part(hub, session, "timeseries/Latest", {"limit": ROWS}, "rows", missing)
    versions = await _part(hub, session, "models/ListModelVersions", {"limit": ROWS}, "versions", missing)
    return {
        "cores": cores,
        "predictions": predictions,
        "models": [_model(version) for version in _dicts(versions)],
        "missing": missing,
    }


def _model(version: JsonObject) -> JsonObject:
    evaluation = _dict(version.get("evaluation"))
    figures = [
        {"accuracy": found.get("accuracy"), "ece": found.get("ece")} for found in _dicts(evaluation.get("models"))
    ]
    own, others = (figures[0], figures[1:]) if figures else ({}, [])
    against: JsonObject | None = None
    if version.get("incumbent") is not None and others:
        lead = _dict(evaluation.get("lead"))
        against = {
            "version": version["incumbent"], **others[0], "lead": lead.get("accuracy"), "interval": lead.get("interval"),
        }  # fmt: skip
    return {
        "name": version.get("name"),
        "version": version.get("version"),
        "status": version.get("status"),
        "accuracy": own.get("accuracy"),
        "ece": own.get("ece"),
        "against": against,
        "reasons": version.get("reasons") or [],
        "published": [
            f"{item.get('componentName')} {item.get('componentVersion')}" for item in _dicts(version.get("published"))
        ],
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
    except MarramError as error:
        missing.append(f"cores: {error.message}")
    return out


async def _part(
    hub: Hub, session: Session, operation: str, request: JsonObject, key: str, missing: list[JsonValue]
) -> list[JsonValue]:
    try:
        return list(_dicts((await hub.marram(session, operation, request)).get(key)))
    except MarramError as error:
        missing.append(f"{operation}: {error.message}")
        return []


def share(value: object) -> str:
    """0.974 as 97.4 %."""
    return f"{value * 100:.1f} %" if isinstance(value, int | float) else "-"


def points(value: object) -> str:
    """A difference of two shares in points, with its sign."""
    return f"{value * 100:+.1f}" if isinstance(value, int | float) else "-"


def figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def value_of(value: object) -> str:
    """A field of a point, short: the whole one is in the JSON twin."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.5g}"
        case _:
            text = str(value)
            return text if len(text) <= TEXT else f"{text[:TEXT]}..."


def _dicts(value: JsonValue) -> list[JsonObject]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _dict(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}
