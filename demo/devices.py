"""The machines behind the cores: for each core a sensor and a relay, things of their own, on the core's local broker.

Started by the demo with a JSON file: [{core, root, sensor: {thing, certificate, key}, relay: {...}, ca}]. Unmodified paho, mTLS.
The relay notes each opening with the monotonic time at which it came (relay-N.jsonl); the sensor sends a numbered reading twice
a second with QoS 1 and notes what the core acknowledged (sensor-N.jsonl). Both find their core's port again when it restarts.
"""

import contextlib
import json
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

SENSOR_EVERY_S = 0.5
OPEN = "line/relay/open"
LOCAL = "marram/local/predictions"


def client(thing: dict[str, str], ca: str) -> mqtt.Client:
    made = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=thing["thing"], protocol=mqtt.MQTTv311, clean_session=False
    )
    made.tls_set(ca, thing["certificate"], thing["key"], tls_version=ssl.PROTOCOL_TLS_CLIENT)
    made.reconnect_delay_set(1, 1)
    made.max_queued_messages_set(0)
    return made


class Machine:
    """A paho client that keeps asking the core's address until it is connected."""

    def __init__(self, thing: dict[str, str], ca: str, port_file: Path, notes: Path) -> None:
        self.thing = thing["thing"]
        self._port_file = port_file
        self._notes = notes.open("a", buffering=1)
        self.client = client(thing, ca)
        self.client.on_connect = self._connected
        self.client.on_message = self._message

    def start(self) -> None:
        threading.Thread(target=self._run, name=self.thing, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                port = int(self._port_file.read_text())
                self.client.connect("localhost", port, keepalive=10)
                self.client.loop_forever(retry_first_connection=False)
            except (OSError, ValueError):
                time.sleep(0.2)

    def note(self, **values: object) -> None:
        self._notes.write(json.dumps({"thing": self.thing, **values}) + "\n")

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.note(event="connected", reason=str(reason))
        if not reason.is_failure:
            self.subscribe()

    def subscribe(self) -> None: ...

    def _message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.take(message.topic, bytes(message.payload), time.monotonic_ns())

    def take(self, topic: str, payload: bytes, now_ns: int) -> None: ...


class Relay(Machine):
    """Opens when told; its shadow says how often, and obeys `desired.mode`."""

    opened = 0
    mode = "auto"
    _said = 0.0

    def subscribe(self) -> None:
        shadow = f"$aws/things/{self.thing}/shadow"
        self.client.subscribe([(OPEN, 0), (f"{shadow}/update/delta", 1), (f"{shadow}/get/accepted", 1)])
        self.client.publish(f"{shadow}/get", b"", qos=1)

    def take(self, topic: str, payload: bytes, now_ns: int) -> None:
        body = json.loads(payload)
        if topic == OPEN:
            self.opened += 1
            age_ms = (now_ns - body["due_ns"]) / 1e6
            self.note(event="open", run=body["run"], frame=body["frame"], age_ms=round(age_ms, 3), at=now_ns,
                      read_ms=round((now_ns - body["read_ns"]) / 1e6, 3))  # fmt: skip
            if time.monotonic() - self._said > 2.0:
                self.report()
        elif topic.endswith("/delta"):
            self.obey(body["state"])
        elif topic.endswith("/get/accepted"):
            state = {key: value for key, value in body["state"].items() if key != "delta"}
            self.note(event="shadow", state=state, version=body["version"])
            if delta := body["state"].get("delta"):
                self.obey(delta)

    def ask_shadow(self) -> None:
        self.client.publish(f"$aws/things/{self.thing}/shadow/get", b"", qos=1)

    def obey(self, state: dict[str, Any]) -> None:
        if "mode" in state:
            self.mode = str(state["mode"])
            self.note(event="mode", mode=self.mode)
        self.report()

    def report(self) -> None:
        self._said = time.monotonic()
        body = {"state": {"reported": {"opened": self.opened, "mode": self.mode}}}
        self.client.publish(f"$aws/things/{self.thing}/shadow/update", json.dumps(body), qos=1)


class Sensor(Machine):
    number = 0

    def subscribe(self) -> None:
        self.client.subscribe(LOCAL, 0)

    def take(self, topic: str, payload: bytes, now_ns: int) -> None:
        """Frames that stay local: seen here, and nowhere beyond this core."""
        body = json.loads(payload)
        self.note(event="local", ids=body["ids"], canary=body.get("canary", ""))

    def start(self) -> None:
        super().start()
        threading.Thread(target=self._measure, name=f"{self.thing}-measure", daemon=True).start()

    def _measure(self) -> None:
        while True:
            time.sleep(SENSOR_EVERY_S)
            if not self.client.is_connected():
                continue
            self.number += 1
            number = self.number
            body = {
                "n": number,
                "celsius": round(21 + 3 * ((number * 7919) % 100) / 100, 2),
                "time_ms": time.time_ns() // 10**6,
            }
            self.note(event="sent", n=number)
            sent = self.client.publish(f"line/telemetry/{self.thing}", json.dumps(body), qos=1)
            threading.Thread(target=self._acked, args=(sent, number), daemon=True).start()

    def _acked(self, sent: mqtt.MQTTMessageInfo, number: int) -> None:
        try:
            sent.wait_for_publish(30)
        except (RuntimeError, ValueError):
            return
        if sent.is_published():
            self.note(event="acked", n=number)


def main() -> None:
    folder = Path(sys.argv[1])
    machines: dict[str, Machine] = {}
    for box in json.loads((folder / "devices.json").read_text()):
        port = Path(box["port_file"])
        for kind, made in (("relay", Relay), ("sensor", Sensor)):
            machine = made(box[kind], box["ca"], port, folder / f"{box[kind]['thing']}.jsonl")
            machines[machine.thing] = machine
            machine.start()
    print("devices ready", flush=True)
    for line in sys.stdin:  # `shadow relay-1`: ask the core for it
        asked = machines[line.split()[1]]
        assert isinstance(asked, Relay)
        asked.ask_shadow()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
