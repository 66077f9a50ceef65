"""What the fault tests share: a hub as a process (in a network namespace if asked), devices, paho with everything it was told."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import paho.mqtt.client as paho
from botocore.config import Config
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

FULL = os.environ.get("MARRAM_FULL") == "1"
LIMIT_S = 20.0
ALLOW = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
MARRAM = (sys.executable, "-m", "marram.cli.main")


def until(test: Callable[[], Any], what: str = "it", limit_s: float = LIMIT_S) -> Any:
    """What `test` gives, once that is true."""
    end = time.monotonic() + limit_s
    while not (found := test()):
        assert time.monotonic() < end, f"{what} did not happen within {limit_s:g} s"
        time.sleep(0.01)
    return found


def marram(*words: object, prefix: Sequence[str] = (), timeout: float = 50) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*prefix, *MARRAM, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False
    )


@dataclass
class Device:
    certificate: Path
    key: Path
    id: str
    arn: str
    policy: str


class Program:
    """`marram hub up` or `marram edge up`; what it prints and logs is in `log`."""

    noun = ""

    def __init__(self, folder: Path, log: Path, *arguments: str, prefix: Sequence[str] = ()) -> None:
        self.folder, self.log, self.arguments, self.prefix = folder, log, arguments, prefix
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, limit_s: float = 30.0) -> None:
        began = self.log.stat().st_size if self.log.exists() else 0
        where = "--data" if self.noun == "hub" else "--root"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *MARRAM, self.noun, "up", where, str(self.folder), "--ports", "auto", *self.arguments],
                stdout=log, stderr=log, env={**os.environ, "MARRAM_HUB_LOG_LEVEL": "info"},
            )  # fmt: skip
        ready = f"marram {self.noun} ready"
        until(lambda: ready in self.said(began) or self.process.poll() is not None, ready, limit_s)
        assert self.process.poll() is None, self.said(began)[-3000:]

    def said(self, after: int = 0) -> str:
        with self.log.open("rb") as log:
            log.seek(after)
            return log.read().decode(errors="replace")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def close(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def metric(self, name: str) -> float:
        raise NotImplementedError


class Hub(Program):
    noun = "hub"

    def __init__(self, folder: Path, log: Path, *arguments: str, prefix: Sequence[str] = ()) -> None:
        super().__init__(folder, log, "--no-console", *arguments, prefix=prefix)
        self.keys = log.parent

    def start(self, limit_s: float = 30.0) -> None:
        super().start(limit_s)
        self.info = json.loads((self.folder / "hub.json").read_text())
        self.ca = self.info["ca_file"]

    def port(self, door: str) -> int:
        return int(self.info["endpoints"][door].rpartition(":")[2])

    def client(self, service: str, **changes: Any) -> Any:
        admin = self.info["admin"]
        options = {
            "endpoint_url": f"http://127.0.0.1:{self.port('api')}",
            "region_name": self.info["region"],
            "aws_access_key_id": admin["access_key_id"],
            "aws_secret_access_key": admin["secret_access_key"],
            "config": Config(retries={"max_attempts": 0}),
        }
        return boto3.session.Session().client(service, **{**options, **changes})

    def device(self, name: str, document: object = ALLOW, *, attach: bool = True) -> Device:
        iot = self.client("iot")
        made = iot.create_keys_and_certificate(setAsActive=True)
        device = Device(
            self.keys / f"{name}.pem", self.keys / f"{name}.key", made["certificateId"], made["certificateArn"], name
        )
        if attach:
            iot.create_policy(policyName=name, policyDocument=json.dumps(document))
            iot.attach_policy(policyName=name, target=device.arn)
        device.certificate.write_text(made["certificatePem"])
        device.key.write_text(made["keyPair"]["PrivateKey"])
        return device

    def mosquitto(self, device: Device | None, program: str, *words: object) -> list[str]:
        own = ["--cert", str(device.certificate), "--key", str(device.key)] if device else []
        return [program, "-h", "localhost", "-p", str(self.port("mqtt")), "--cafile", self.ca, *own, *map(str, words)]

    def metrics(self) -> dict[str, float]:
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{self.port('api')}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line and not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


class Edge(Program):
    noun = "edge"

    def status(self) -> dict[str, Any]:
        done = marram("edge", "status", "--root", self.folder, "--json", prefix=self.prefix)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


class Paho:
    """paho-mqtt as people use it; `acks` has (packet id, reason code, reason string) of each PUBACK or QoS 0 sent."""

    def __init__(
        self,
        hub: Hub,
        device: Device,
        client_id: str,
        *,
        v5: bool = False,
        clean: bool = True,
        reconnect: bool = False,
        wait: bool = True,
    ) -> None:
        self.v5 = v5
        options = {} if v5 else {"clean_session": clean}
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5 if v5 else paho.MQTTv311,
            reconnect_on_failure=reconnect, **options,
        )  # fmt: skip
        context = ssl.create_default_context(cafile=hub.ca)
        context.load_cert_chain(device.certificate, device.key)
        self.client.tls_set_context(context)
        self.client.max_inflight_messages_set(50)
        self.client.reconnect_delay_set(1, 1)
        self.got: list[paho.MQTTMessage] = []
        self.acks: list[tuple[int, int, str]] = []
        self.connacks: list[tuple[int, str]] = []
        self.ends: list[tuple[int, str]] = []
        self.present = False
        self.subacks: list[list[int]] = []
        self.client.on_message = lambda _c, _u, message: self.got.append(message)
        self.client.on_publish = lambda _c, _u, mid, reason, p: self.acks.append((mid, reason.value, _string(p)))
        self.client.on_connect = self._connect
        self.client.on_subscribe = lambda _c, _u, _m, reasons, _p: self.subacks.append([r.value for r in reasons])
        self.client.on_disconnect = lambda _c, _u, _f, reason, p: self.ends.append((reason.value, _string(p)))
        start: dict[str, Any] = {}
        if v5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 600
            start = {"clean_start": clean, "properties": properties}
        self.client.connect("localhost", hub.port("mqtt"), 60, **start)
        self.client.loop_start()
        if wait:
            until(lambda: self.connacks or self.ends, "an answer to CONNECT")

    def _connect(self, _client: object, _user: object, flags: Any, reason: Any, properties: Any) -> None:
        self.present = flags.session_present
        self.connacks.append((reason.value, _string(properties)))

    @property
    def accepted(self) -> bool:
        return bool(self.connacks) and self.connacks[-1][0] == 0

    def subscribe(self, text: str, qos: int = 1) -> int:
        count = len(self.subacks)
        self.client.subscribe(text, qos)
        until(lambda: len(self.subacks) > count or self.ends, "SUBACK")
        return self.subacks[-1][0] if len(self.subacks) > count else -1

    def publish(self, topic: str, payload: bytes | str, qos: int = 1, *, retain: bool = False) -> int:
        return self.client.publish(topic, payload, qos, retain).mid

    def ack(self, mid: int) -> tuple[int, str]:
        """(reason code, reason string) of its PUBACK."""
        until(lambda: any(ack[0] == mid for ack in list(self.acks)), f"PUBACK {mid}")
        return next(ack[1:] for ack in self.acks if ack[0] == mid)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def _string(properties: Any) -> str:
    return str(getattr(properties, "ReasonString", "") or "")
