"""Own operations on series: Write, Query, Latest, ListSeries, Flush. Times are Unix milliseconds."""

from typing import cast

from marram.core import arn
from marram.core.errors import Invalid
from marram.hub.slice import Call, Encoded, Params, Result, anything, operation
from marram.hub.timeseries.points import Point
from marram.hub.timeseries.service import MAX_LATEST, MAX_ROWS, TimeSeries


def _series(call: Call, params: Params) -> str:
    return arn.build("marram", call.region, call.account, f"series/{params['series']}")


def _series_or_all(call: Call, params: Params) -> str:
    return _series(call, params) if params.get("series") is not None else anything(call, params)


@operation("marram", "timeseries/Write", resource=_series)
async def write(service: TimeSeries, call: Call, params: Params) -> Result:
    series = str(params["series"])
    given = [
        Point(series, int(p["time_ms"]), _fields(p["fields"]), dict(p.get("dimensions") or {}))
        for p in params["points"]
    ]
    await service.append(given, None)
    return {"written": len(given)}


@operation("marram", "timeseries/Query", resource=_series)
async def query(service: TimeSeries, call: Call, params: Params) -> Result:
    series = str(params["series"])
    from_ms, to_ms = int(params.get("from_ms") or 0), params.get("to_ms")
    if to_ms is not None and to_ms < from_ms:
        raise Invalid(f"to_ms {to_ms} is before from_ms {from_ms}")
    after: tuple[int, int] | None = None
    match params.get("nextToken"):
        case None:
            pass
        case [str() as of, int() as time_ms, int() as offset] if of == series:
            after = (time_ms, offset)
        case _:
            raise Invalid("the page token is of another query")
    page = await service.page(
        series,
        from_ms=from_ms,
        to_ms=to_ms,
        where=params.get("where"),
        limit=min(int(params.get("limit") or 1_000), MAX_ROWS),
        after=after,
    )
    result: dict[str, object] = {"rows": Encoded(page.rows)}
    if page.key is not None:
        result["nextToken"] = [series, *page.key]
    return result


@operation("marram", "timeseries/Latest", resource=_series_or_all)
async def latest(service: TimeSeries, call: Call, params: Params) -> Result:
    limit = min(int(params.get("limit") or 20), MAX_LATEST)
    return {
        "rows": [
            {"series": series, "time_ms": row.time_ms, "dimensions": row.dimensions, "fields": row.fields}
            for series, row in await service.latest(params.get("series"), limit=limit)
        ]
    }


@operation("marram", "timeseries/ListSeries", resource=anything)
async def list_series(service: TimeSeries, call: Call, params: Params) -> Result:
    limit = int(params.get("limit") or 100)
    after = str(params.get("nextToken") or "")
    found = [summary for summary in service.series() if summary.series > after]
    result: dict[str, object] = {
        "series": [
            {"series": item.series, "points": item.points, "first_ms": item.first_ms, "last_ms": item.last_ms}
            for item in found[:limit]
        ]
    }
    if len(found) > limit:
        result["nextToken"] = found[limit - 1].series
    return result


@operation("marram", "timeseries/Flush", resource=anything)
async def flush(service: TimeSeries, call: Call, params: Params) -> Result:
    return {"points": await service.flush()}


def _fields(given: object) -> dict[str, float | int | str | bool]:
    if not isinstance(given, dict):
        raise Invalid("the fields of a point must be an object")
    return cast("dict[str, float | int | str | bool]", given)  # each value is checked by the service
