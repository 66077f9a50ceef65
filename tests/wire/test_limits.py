"""Limits on a running hub: what marram.toml says is kept, is told in each protocol's own words, and is counted."""

import json
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

SETTINGS = """
[hub]
limits = "aws"

[limits]
publish_per_s = 1000
http_connections_per_address = 6
mqtt_connections_per_address = 4
tls_half_open_per_address = 3
mqtt_connect_s = 1
tls_handshake_s = 1

[limits.api]
"iot:CreateThing" = 1
"iot-data:GetThingShadow" = 1
"s3:ListBuckets" = 1
"sts:GetCallerIdentity" = 1
"marram:identity/ListKeys" = 1
"greengrassv2:ListComponents" = 1
"sagemaker:ListTrainingJobs" = 1
"""
ALLOW = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}


def hits(hub: Any) -> dict[str, int]:
    text = urllib.request.urlopen(f"{hub.info['endpoints']['api']}/metrics").read().decode()
    return {name: int(count) for name, count in re.findall(r'marram_limit_hits_total{limit="(\w+)"} (\d+)', text)}


@pytest.fixture
def hub(start_hub: Callable[..., Any], tmp_path: Path) -> Any:
    data = tmp_path / "hub"
    data.mkdir()
    (data / "marram.toml").write_text(SETTINGS)
    return start_hub(data)


def test_calls_over_a_rate_are_throttled_in_the_words_of_the_service(hub: Any) -> None:
    calls: list[tuple[str, Callable[[Any, int], Any], str, int]] = [
        ("iot", lambda c, n: c.create_thing(thingName=f"t{n}"), "ThrottlingException", 400),
        ("iot-data", lambda c, n: c.get_thing_shadow(thingName="t0"), "ThrottlingException", 429),
        ("s3", lambda c, n: c.list_buckets(), "SlowDown", 503),
        ("sts", lambda c, n: c.get_caller_identity(), "Throttling", 400),
        ("greengrassv2", lambda c, n: c.list_components(), "ThrottlingException", 429),
        ("sagemaker", lambda c, n: c.list_training_jobs(), "ThrottlingException", 400),
    ]
    for service, call, code, status in calls:
        client = hub.client(service)
        seen: list[tuple[str, int]] = []
        done = 0
        while (code, status) not in seen:
            try:
                call(client, done)
            except ClientError as error:
                seen.append((error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]))
            done += 1
            assert done < 200, (service, seen)
        assert {each[0] for each in seen} <= {code, "ResourceNotFoundException"}, (service, seen)
        if service == "iot":
            assert len(client.list_things()["things"]) == done - 1, "what was throttled was not done"
        client.close()
    assert hits(hub)["api_per_s"] >= len(calls)
    time.sleep(1.1)  # the bucket is a second's
    hub.client("iot").create_thing(thingName="later")


def idle(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10)


def is_closed(held: socket.socket, within_s: float = 10.0) -> bool:
    held.settimeout(within_s)
    try:
        return held.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_connections_are_counted_by_address_and_have_deadlines(hub: Any, tmp_path: Path) -> None:
    # TLS that never begins: the fourth at once, the others at their deadline.
    half = [idle(hub.port("mqtt")) for _ in range(4)]
    assert is_closed(half[3], 5)
    began = time.monotonic()
    assert all(is_closed(each) for each in half[:3]) and time.monotonic() - began < 5
    # A handshake and no CONNECT; and more of them than an address may have.
    made = hub.client("iot").create_keys_and_certificate(setAsActive=True)
    (tmp_path / "c.pem").write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
    context = ssl.create_default_context(cafile=hub.info["ca_file"])
    context.load_cert_chain(tmp_path / "c.pem")
    shaken = [context.wrap_socket(idle(hub.port("mqtt")), server_hostname="localhost") for _ in range(5)]
    assert is_closed(shaken[4], 5)
    assert all(is_closed(each) for each in shaken[:4])
    # HTTP that never asks: the door of the API takes six, one of which asks for the metrics below.
    open_ones = [idle(hub.port("api")) for _ in range(7)]
    assert is_closed(open_ones[6], 5)
    for each in (*half, *shaken, *open_ones):
        each.close()
    for _ in range(100):
        try:
            counted = hits(hub)
            break
        except OSError:
            time.sleep(0.05)  # the hub has not heard of the closing yet
    assert counted["tls_half_open_per_address"] >= 1 and counted["tls_handshake_s"] >= 1
    assert counted["mqtt_connections_per_address"] >= 1 and counted["mqtt_connect_s"] >= 4
    assert counted["http_connections_per_address"] >= 1


def test_connects_of_a_client_id_have_a_rate(hub: Any, tmp_path: Path) -> None:
    iot = hub.client("iot")
    made = iot.create_keys_and_certificate(setAsActive=True)
    iot.create_policy(policyName="p", policyDocument=json.dumps(ALLOW))
    iot.attach_policy(policyName="p", target=made["certificateArn"])
    (tmp_path / "c.pem").write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
    context = ssl.create_default_context(cafile=hub.info["ca_file"])
    context.load_cert_chain(tmp_path / "c.pem")

    def connect() -> bytes:
        with context.wrap_socket(idle(hub.port("mqtt")), server_hostname="localhost") as tls:
            tls.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04same")
            try:
                return tls.recv(4)
            except ConnectionError:
                return b""

    answers = [connect() for _ in range(4)]
    assert answers[0] == b"\x20\x02\x00\x00" and b"\x20\x02\x00\x00" not in answers[1:2]
    assert hits(hub)["connect_per_client_id_per_s"] >= 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[limits]\npublishes = 1\n", "publishes", id="unknown name"),
        pytest.param('[hub]\nlimits = "gcp"\n', "gcp", id="unknown mode"),
        pytest.param('[limits.api]\n"iot:Create" = 1\n', "iot:Create", id="unknown operation"),
    ],
)
def test_a_hub_does_not_start_with_a_limit_it_does_not_know(
    marram: Callable[..., Any], tmp_path: Path, text: str, says: str
) -> None:
    data = tmp_path / "hub"
    data.mkdir()
    (data / "marram.toml").write_text(text)
    done = marram("hub", "up", "--data", str(data), "--ports", "auto", "--no-console")
    assert done.returncode != 0 and says in done.stderr and "Traceback" not in done.stderr
