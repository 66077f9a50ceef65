"""The time series through the API door, as the console and the command line ask."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from marram.cli.client import Api
from marram.core import sigv4
from marram.core.errors import Denied, Invalid, NotFound

T0 = 1_750_000_000_000


def test_points_are_written_paged_and_seen_as_latest(start_hub: Callable[..., Any]) -> None:
    hub = start_hub()
    api = Api.from_data(hub.data)
    given = [
        {"time_ms": T0 + n, "fields": {"n": n, "x": n / 4, "ü": '"'}, "dimensions": {"core": f"e{n % 3}"}}
        for n in range(10)
    ]
    assert api.marram("timeseries/Write", {"series": "line.a", "points": given}) == {"written": 10}
    for _ in ("tail", "files"):
        first = api.marram("timeseries/Query", {"series": "line.a", "limit": 7})
        rest = api.marram("timeseries/Query", {"series": "line.a", "nextToken": first["nextToken"]})
        assert first["rows"] + rest["rows"] == given
        assert "nextToken" not in rest
        latest = api.marram("timeseries/Latest", {"limit": 2})
        assert latest == {"rows": [{"series": "line.a", **given[n]} for n in (9, 8)]}
        assert len(api.marram("timeseries/Latest", {"series": "line.a"})["rows"]) == 3
        api.marram("timeseries/Flush", {})
    assert api.marram("timeseries/Query", {"series": "line.a", "from_ms": T0 + 100}) == {"rows": []}
    with pytest.raises(NotFound, match="no series"):
        api.marram("timeseries/Latest", {"series": "other"})
    for limit in (0, 1001):
        with pytest.raises(Invalid, match="limit"):
            api.marram("timeseries/Latest", {"limit": limit})


def test_latest_over_all_series_needs_the_right_to_all(
    start_hub: Callable[..., Any], marram: Callable[..., Any]
) -> None:
    hub = start_hub()
    api = Api.from_data(hub.data)
    for series in ("mine", "theirs"):
        point = {"time_ms": T0, "fields": {"n": 1}}
        api.marram("timeseries/Write", {"series": series, "points": [point]})
    policy = hub.data / "policy.json"
    policy.write_text(
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "marram:Latest",'
        ' "Resource": "arn:aws:marram:*:*:series/mine"}]}'
    )
    made = marram("key", "create", "--data", hub.data, "--name", "limited", "--policy", policy, "--json")
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)
    limited = Api(
        hub.info["endpoints"]["api"], hub.info["region"],
        sigv4.Credentials(key["accessKeyId"], key["secretAccessKey"]),
    )  # fmt: skip
    assert [row["series"] for row in limited.marram("timeseries/Latest", {"series": "mine"})["rows"]] == ["mine"]
    for refused in ({"series": "theirs"}, {}):
        with pytest.raises(Denied):
            limited.marram("timeseries/Latest", refused)
