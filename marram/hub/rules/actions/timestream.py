"""timestream: the result's columns as one point of the series `<databaseName>.<tableName>`.

Numbers, texts and booleans are fields; objects and arrays are kept as their JSON text; null is left out. A column with the
name of a dimension is not written twice. The point's time is the setting `timestamp`, else when the hub got the message.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from marram.core import codec
from marram.core.errors import Invalid
from marram.core.sql.template import Template
from marram.hub.rules.action import Event, Out, action, only, parse_template
from marram.hub.timeseries import points
from marram.hub.timeseries.points import Field, Point

WHAT: Final = "the action timestream"
# unit -> how many of it make a millisecond, or how many milliseconds make one of it
_PER_MS: Final = {"SECONDS": 0.001, "MILLISECONDS": 1, "MICROSECONDS": 1_000, "NANOSECONDS": 1_000_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timestream:
    series: str
    dimensions: tuple[tuple[str, Template], ...]
    time: Template | None
    unit: str
    reads_payload: bool = True


def _parse(settings: Mapping[str, Any]) -> Timestream:
    only(settings, {"roleArn", "databaseName", "tableName", "dimensions", "timestamp"}, WHAT)
    database, table = (_name(settings, key) for key in ("databaseName", "tableName"))
    series = f"{database}.{table}"
    points.check_series(series)
    dimensions: dict[str, Template] = {}
    for given in settings.get("dimensions") or ():
        name = str(given["name"])
        if name in dimensions:
            raise Invalid(f"{WHAT}: the dimension {name!r} appears twice")
        dimensions[name] = parse_template(given, "value", f"{WHAT}, dimension {name!r}")
    stamp = settings.get("timestamp")
    unit = str(stamp["unit"]) if stamp else "MILLISECONDS"
    if unit not in _PER_MS:
        raise Invalid(f"{WHAT}: the unit {unit!r} of timestamp is none of {', '.join(_PER_MS)}")
    time = parse_template(stamp, "value", f"{WHAT}, timestamp") if stamp else None
    return Timestream(series=series, dimensions=tuple(dimensions.items()), time=time, unit=unit)


@action("timestream", parse=_parse)
async def timestream(settings: Timestream, event: Event, out: Out) -> None:
    if not isinstance(event.row, dict):
        raise Invalid(f"the result is not an object but {codec.kind(event.row)}: it has no columns to store")
    message = event.message
    dimensions = {name: value.render(message) for name, value in settings.dimensions}
    fields: dict[str, Field] = {}
    for name, value in event.row.items():
        if value is None or name in dimensions:
            continue
        fields[name] = codec.dumps(value).decode() if isinstance(value, dict | list) else value
    out.append([Point(settings.series, _time_ms(settings, event), fields, dimensions)])


def _time_ms(settings: Timestream, event: Event) -> int:
    if settings.time is None:
        return event.message.received_ms
    text = settings.time.render(event.message)
    try:
        # Integers first: nanoseconds do not fit a double.
        value: int | float = int(text) if text.lstrip("-").isdecimal() else float(text)
        if settings.unit == "SECONDS":
            return int(value * 1_000)
        return int(value // int(_PER_MS[settings.unit]))
    except (ValueError, OverflowError) as exc:
        raise Invalid(f"timestamp is {text[:40]!r}, which is not a time in {settings.unit}") from exc


def _name(settings: Mapping[str, Any], key: str) -> str:
    value = str(settings.get(key) or "")
    if "${" in value:
        raise Invalid(f"{WHAT}: {key} takes no template")
    if not value:
        raise Invalid(f"{WHAT}: {key} is missing")
    return value
