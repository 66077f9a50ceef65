"""The table of limits: what marram.toml may say, what it may not, that it is the broker's, and that its page is of it."""

import dataclasses
from pathlib import Path

import pytest

from marram.core.errors import LimitExceeded
from marram.hub.border import limits
from marram.hub.border.limits import AWS_API, Limits
from marram.hub.border.throttle import Throttle
from marram.hub.broker.settings import AWS_RATES
from marram.hub.broker.settings import Settings as BrokerSettings
from marram.kit import metrics
from marram.kit.clock import FakeClock
from marram.kit.config import BadSetting
from tools import limits as page

CREATE, DESCRIBE = ("iot", "CreateThing"), ("iot", "DescribeThing")


def hits(name: str) -> float:
    return metrics.counter("marram_limit_hits_total", "", ("limit",)).labels(limit=name).value


def loaded(folder: Path, text: str, mode: str = "default", environ: dict[str, str] | None = None) -> Limits:
    path = folder / "marram.toml"
    path.write_text(text)
    return limits.load(mode, path, environ)


def test_by_default_no_rate_of_aws_is_on() -> None:
    made = Limits()
    assert all(getattr(made, name) == 0 for name in AWS_RATES)
    assert made.rate_of(*CREATE) == 0
    assert made.broker == BrokerSettings()


def test_the_brokers_settings_have_the_same_names_and_defaults() -> None:
    ours = {each.name: each.default for each in dataclasses.fields(Limits)}
    for each in dataclasses.fields(BrokerSettings):
        assert ours[each.name] == each.default, each.name


def test_aws_turns_every_rate_of_aws_on() -> None:
    made = limits.load("aws")
    assert {name: getattr(made.broker, name) for name in AWS_RATES} == AWS_RATES
    assert made.rate_of(*CREATE) == 100 and made.rate_of("iot", "CreateDynamicThingGroup") == 5
    assert made.rate_of("iot", "CreateTopicRule") == limits.API_DEFAULT
    assert made.rate_of("s3", "PutObject") == 0


def test_a_file_and_the_environment_count_over_the_mode(tmp_path: Path) -> None:
    text = '[limits]\npublish_per_s = 7\n[limits.api]\n"iot:CreateThing" = 3\n"s3:PutObject" = 2\n'
    made = loaded(tmp_path, text, "aws", {"MARRAM_LIMITS_CONNECTS_PER_S": "9"})
    assert (made.publish_per_s, made.connects_per_s, made.bytes_per_s) == (7, 9, 524_288)
    assert (made.rate_of(*CREATE), made.rate_of(*DESCRIBE), made.rate_of("s3", "PutObject")) == (3, 350, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[limits]\npublish_per_sec = 1\n", "line 2.*publish_per_sec", id="unknown name"),
        pytest.param("[limits]\npublish_per_s = -1\n", "publish_per_s", id="negative"),
        pytest.param("[limits]\npublish_per_s = 1.5\n", "publish_per_s", id="not whole"),
        pytest.param("[limits]\npublish_per_s = true\n", "publish_per_s", id="a truth"),
        pytest.param('[limits]\npublish_per_s = "100"\n', "publish_per_s", id="a text"),
        pytest.param("[limits]\nhttp_head_s = 0\n", "http_head_s", id="no time at all"),
        pytest.param("[limits]\nin_flight = 0\n", "in_flight", id="nothing in flight"),
        pytest.param("[limits]\napi = 5\n", "api", id="no table"),
        pytest.param('[limits.api]\n"iot:CreateThings" = 5\n', "CreateThings", id="no operation"),
        pytest.param('[limits.api]\n"iott:CreateThing" = 5\n', "iott:CreateThing", id="no service"),
        pytest.param('[limits.api]\n"iot:CreateThing" = -5\n', "CreateThing", id="negative rate"),
        pytest.param('[limits.api]\n"iot:CreateThing" = "5"\n', "CreateThing", id="rate as text"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        loaded(tmp_path, text)


def test_a_mode_that_is_none() -> None:
    with pytest.raises(BadSetting, match="azure"):
        limits.load("azure")


def test_calls_of_an_operation_have_a_bucket_of_their_own() -> None:
    clock = FakeClock()
    throttle = Throttle(clock, Limits(api={"iot:CreateThing": 2}))
    before = hits("api_per_s")
    for _ in range(2):
        throttle.operation(*CREATE)
    with pytest.raises(LimitExceeded, match="2 times a second") as caught:
        throttle.operation(*CREATE)
    assert caught.value.data["kind"] == "rate" and hits("api_per_s") == before + 1
    for _ in range(50):
        throttle.operation(*DESCRIBE)
    clock.advance(500)
    throttle.operation(*CREATE)
    with pytest.raises(LimitExceeded):
        throttle.operation(*CREATE)


def test_open_routes_are_limited_by_address_with_bounded_memory() -> None:
    clock = FakeClock()
    throttle = Throttle(clock, Limits())
    before = hits("join_per_address_per_s")
    for _ in range(30):
        throttle.address("10.0.0.1")
    with pytest.raises(LimitExceeded):
        throttle.address("10.0.0.1")
    assert hits("join_per_address_per_s") == before + 1
    for number in range(20_000):
        throttle.address(f"10.1.{number >> 8}.{number & 255}")
    assert len(throttle._addresses) <= 10_000
    off = Throttle(clock, Limits(join_per_address_per_s=0))
    for _ in range(100):
        off.address("10.0.0.1")


def test_its_page_is_as_the_table() -> None:
    assert page.PAGE.read_text() == page.render(), "run tools/limits.py"
    text = page.render()
    assert all(f"`{name}`" in text for name in (*AWS_API, *(each.name for each in dataclasses.fields(BrokerSettings))))
