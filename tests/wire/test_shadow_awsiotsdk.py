"""Shadows with the unmodified awsiotsdk (3.1.1 and 5, first and second client), by a certificate for its own thing alone."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from awscrt import mqtt, mqtt_request_response
from awsiot import ServiceStreamOptions, V2ServiceException, iotshadow
from botocore.exceptions import ClientError

from tests.wire.sdk_device import LIMIT_S, SdkDevice

QOS = mqtt.QoS.AT_LEAST_ONCE
MINE = "${iot:Connection.Thing.ThingName}"
ARN = "arn:aws:iot:*:*:"
OWN_SHADOW = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}client/{MINE}"},
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": f"{ARN}topic/$aws/things/{MINE}/shadow/*"},
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/$aws/things/{MINE}/shadow/*"},
    ],
}  # fmt: skip


class Device(SdkDevice):
    def __init__(self, hub: Any, folder: Path, thing: str, policy: dict[str, Any] = OWN_SHADOW) -> None:
        super().__init__(hub, folder, thing, policy)

    def connect(self, version: str, **more: Any) -> Any:
        """A connection of 3.1.1 comes back soon after it broke, and says that it did."""
        self.interrupted = threading.Event()
        return super().connect(
            version, reconnect_min_timeout_secs=1, reconnect_max_timeout_secs=1,
            on_connection_interrupted=lambda **_: self.interrupted.set(), **more,
        )  # fmt: skip


@pytest.fixture
def hub(start_hub: Callable[..., Any]) -> Any:
    return start_hub()


@pytest.fixture
def device(hub: Any, tmp_path: Path) -> Iterator[Device]:
    made = Device(hub, tmp_path, "lamp")
    yield made
    made.close()


def done(future: "Future[Any]") -> Any:
    return future.result(LIMIT_S)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_the_life_of_a_shadow(hub: Any, device: Device, version: str) -> None:
    shadow = iotshadow.IotShadowClient(device.connect(version))
    seen: dict[str, Queue[Any]] = {}
    for name, kind in (
        ("get_shadow_accepted", iotshadow.GetShadowSubscriptionRequest),
        ("get_shadow_rejected", iotshadow.GetShadowSubscriptionRequest),
        ("update_shadow_accepted", iotshadow.UpdateShadowSubscriptionRequest),
        ("update_shadow_rejected", iotshadow.UpdateShadowSubscriptionRequest),
        ("delete_shadow_accepted", iotshadow.DeleteShadowSubscriptionRequest),
        ("shadow_delta_updated_events", iotshadow.ShadowDeltaUpdatedSubscriptionRequest),
        ("shadow_updated_events", iotshadow.ShadowUpdatedSubscriptionRequest),
    ):
        seen[name] = Queue()
        subscribe = getattr(shadow, f"subscribe_to_{name}")
        done(subscribe(kind(thing_name="lamp"), QOS, seen[name].put)[0])

    def next_of(name: str) -> Any:
        return seen[name].get(timeout=LIMIT_S)

    def update(**members: Any) -> None:
        done(shadow.publish_update_shadow(iotshadow.UpdateShadowRequest(thing_name="lamp", **members), QOS))

    done(shadow.publish_get_shadow(iotshadow.GetShadowRequest(thing_name="lamp", client_token="t0"), QOS))
    missing = next_of("get_shadow_rejected")
    assert (missing.code, missing.client_token) == (404, "t0")
    assert missing.message == "No shadow exists with name: 'lamp'"

    update(state=iotshadow.ShadowState(reported={"on": False, "level": 3}), client_token="t1")
    accepted = next_of("update_shadow_accepted")
    assert (accepted.client_token, accepted.version) == ("t1", 1)
    assert accepted.state.reported == {"on": False, "level": 3}
    assert accepted.metadata.reported["on"]["timestamp"] and accepted.timestamp is not None
    documents = next_of("shadow_updated_events")
    assert documents.current.state.reported == {"on": False, "level": 3} and documents.current.version == 1

    # The other side, by HTTP: the device is told the difference, obeys, and the difference is gone.
    wish = json.dumps({"state": {"desired": {"on": True, "level": 3}}}).encode()
    hub.client("iot-data").update_thing_shadow(thingName="lamp", payload=wish)
    delta = next_of("shadow_delta_updated_events")
    assert delta.state == {"on": True} and delta.version == 2 and delta.metadata["on"]["timestamp"]
    documents = next_of("shadow_updated_events")
    assert documents.previous.state.desired is None and documents.current.state.desired == {"on": True, "level": 3}
    next_of("update_shadow_accepted")
    update(state=iotshadow.ShadowState(reported={"on": True}), version=2)
    assert next_of("update_shadow_accepted").version == 3
    update(state=iotshadow.ShadowState(reported={"on": False}), version=2, client_token="late")
    late = next_of("update_shadow_rejected")
    assert (late.code, late.client_token) == (409, "late")

    done(shadow.publish_get_shadow(iotshadow.GetShadowRequest(thing_name="lamp"), QOS))
    whole = next_of("get_shadow_accepted")
    assert whole.version == 3 and whole.state.delta is None and whole.state.reported == {"on": True, "level": 3}
    assert seen["shadow_delta_updated_events"].empty()
    done(shadow.publish_delete_shadow(iotshadow.DeleteShadowRequest(thing_name="lamp", client_token="t9"), QOS))
    deleted = next_of("delete_shadow_accepted")
    assert (deleted.client_token, deleted.version) == ("t9", 3)
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        hub.client("iot-data").get_thing_shadow(thingName="lamp")


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_the_second_client_and_a_named_shadow(hub: Any, device: Device, version: str) -> None:
    """Requests with answers, which subscribe to `.../get/+`."""
    options = mqtt_request_response.ClientOptions(
        max_request_response_subscriptions=4, max_streaming_subscriptions=2, operation_timeout_in_seconds=10
    )
    shadow = iotshadow.IotShadowClientV2(device.connect(version), options)
    with pytest.raises(V2ServiceException) as caught:
        done(shadow.get_named_shadow(iotshadow.GetNamedShadowRequest(thing_name="lamp", shadow_name="light")))
    assert caught.value.modeled_error.code == 404
    told: Queue[Any] = Queue()
    listening = threading.Event()
    stream = shadow.create_named_shadow_delta_updated_stream(
        iotshadow.NamedShadowDeltaUpdatedSubscriptionRequest(thing_name="lamp", shadow_name="light"),
        ServiceStreamOptions(incoming_event_listener=told.put, subscription_status_listener=lambda _: listening.set()),
    )
    stream.open()
    assert listening.wait(LIMIT_S)
    request = iotshadow.UpdateNamedShadowRequest(
        thing_name="lamp",
        shadow_name="light",
        state=iotshadow.ShadowState(desired={"on": True}, reported={"on": False}),
    )
    assert done(shadow.update_named_shadow(request)).version == 1
    assert told.get(timeout=LIMIT_S).state == {"on": True}
    found = done(shadow.get_named_shadow(iotshadow.GetNamedShadowRequest(thing_name="lamp", shadow_name="light")))
    assert found.state.desired == {"on": True} and found.state.delta == {"on": True}
    gone = iotshadow.DeleteNamedShadowRequest(thing_name="lamp", shadow_name="light")
    assert done(shadow.delete_named_shadow(gone)).version == 1
    del stream, shadow


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_the_shadow_of_another_thing_is_refused(hub: Any, device: Device, version: str) -> None:
    hub.client("iot").create_thing(thingName="door")
    mine = json.dumps({"state": {"reported": {"open": False}}}).encode()
    hub.client("iot-data").update_thing_shadow(thingName="door", payload=mine)
    shadow = iotshadow.IotShadowClient(device.connect(version))
    got: list[Any] = []
    future, _ = shadow.subscribe_to_get_shadow_accepted(
        iotshadow.GetShadowSubscriptionRequest(thing_name="door"), QOS, got.append
    )
    with pytest.raises(mqtt.SubscribeError):
        done(future)
    wish = iotshadow.UpdateShadowRequest(thing_name="door", state=iotshadow.ShadowState(desired={"open": True}))
    future = shadow.publish_update_shadow(wish, QOS)
    if version == "5":
        with pytest.raises(Exception, match="ACK_REASON_CODE_FAILURE"):
            done(future)
    else:
        assert device.interrupted.wait(LIMIT_S), "3.1.1 has no words for it: the connection ends"
    document = json.loads(hub.client("iot-data").get_thing_shadow(thingName="door")["payload"].read())
    assert document["state"] == {"reported": {"open": False}} and not got


LAMP_SHADOW = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}client/{MINE}"},
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": f"{ARN}topic/$aws/things/lamp/shadow/*"},
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/$aws/things/lamp/shadow/*"},
    ],
}  # fmt: skip
WRITES = 12


class Counter(threading.Thread):
    """One device that counts up in the shadow of lamp: reads, adds one, writes with the version it read, until accepted."""

    def __init__(self, device: Device, version: str, *, second: bool) -> None:
        super().__init__(daemon=True)
        self.failed: BaseException | None = None
        self.conflicts = 0
        connection = device.connect(version)
        self._count = self._by_second(connection) if second else self._by_first(connection)

    def run(self) -> None:
        try:
            for _ in range(WRITES):
                while not self._count():
                    self.conflicts += 1
        except BaseException as error:
            self.failed = error

    def _by_second(self, connection: Any) -> Callable[[], bool]:
        options = mqtt_request_response.ClientOptions(
            max_request_response_subscriptions=6, max_streaming_subscriptions=1, operation_timeout_in_seconds=15
        )
        shadow = iotshadow.IotShadowClientV2(connection, options)

        def count() -> bool:
            found = done(shadow.get_shadow(iotshadow.GetShadowRequest(thing_name="lamp")))
            state = iotshadow.ShadowState(reported={"n": found.state.reported["n"] + 1})
            try:
                done(
                    shadow.update_shadow(
                        iotshadow.UpdateShadowRequest(thing_name="lamp", state=state, version=found.version)
                    )
                )
            except V2ServiceException as error:
                if error.modeled_error.code != 409:
                    raise
                return False
            return True

        return count

    def _by_first(self, connection: Any) -> Callable[[], bool]:
        shadow = iotshadow.IotShadowClient(connection)
        answers: Queue[Any] = Queue()
        for name, kind in (
            ("get_shadow_accepted", iotshadow.GetShadowSubscriptionRequest),
            ("update_shadow_accepted", iotshadow.UpdateShadowSubscriptionRequest),
            ("update_shadow_rejected", iotshadow.UpdateShadowSubscriptionRequest),
        ):
            done(getattr(shadow, f"subscribe_to_{name}")(kind(thing_name="lamp"), QOS, answers.put)[0])
        number = 0

        def answer_to(token: str) -> Any:
            while True:  # the others' answers come here too
                found = answers.get(timeout=LIMIT_S)
                if found.client_token == token:
                    return found

        def count() -> bool:
            nonlocal number
            number += 1
            token = f"{id(self)}-{number}"
            done(shadow.publish_get_shadow(iotshadow.GetShadowRequest(thing_name="lamp", client_token=token), QOS))
            found = answer_to(token)
            state = iotshadow.ShadowState(reported={"n": found.state.reported["n"] + 1})
            request = iotshadow.UpdateShadowRequest(
                thing_name="lamp", state=state, version=found.version, client_token=f"{token}u"
            )
            done(shadow.publish_update_shadow(request, QOS))
            answer = answer_to(f"{token}u")
            if isinstance(answer, iotshadow.ErrorResponse):
                assert answer.code == 409
                return False
            return True

        return count


def test_writers_of_every_kind_lose_nothing(hub: Any, tmp_path: Path) -> None:
    """Two versions of MQTT, two clients: what is accepted is counted, every version leaves once and in order."""
    devices = [Device(hub, tmp_path, name, LAMP_SHADOW) for name in ("w1", "w2", "w3", "w4", "watcher")]
    hub.client("iot-data").update_thing_shadow(thingName="lamp", payload=b'{"state": {"reported": {"n": 0}}}')
    documents: Queue[Any] = Queue()
    try:
        watcher = iotshadow.IotShadowClient(devices[4].connect("5"))
        request = iotshadow.ShadowUpdatedSubscriptionRequest(thing_name="lamp")
        done(watcher.subscribe_to_shadow_updated_events(request, QOS, documents.put)[0])
        writers = [
            Counter(device, version, second=second)
            for device, (version, second) in zip(
                devices, [("3.1.1", False), ("5", False), ("3.1.1", True), ("5", True)], strict=False
            )
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(40)
            assert not writer.is_alive() and writer.failed is None, writer.failed
        wanted = len(writers) * WRITES
        found = json.loads(hub.client("iot-data").get_thing_shadow(thingName="lamp")["payload"].read())
        assert (found["version"], found["state"]["reported"]) == (wanted + 1, {"n": wanted})
        assert sum(writer.conflicts for writer in writers), "they never met: this proves nothing"
        for version in range(2, wanted + 2):
            event = documents.get(timeout=LIMIT_S)
            assert (event.previous.version, event.current.version) == (version - 1, version)
            assert event.current.state.reported == {"n": version - 1}
        assert documents.empty()
    finally:
        for device in devices:
            device.close()
