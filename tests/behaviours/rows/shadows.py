"""Device shadows by iot-data and by MQTT: bodies, versions, refusals."""

import json
from typing import Any

from tests.behaviours.row import row
from tests.behaviours.world import Mqtt, World

DOCUMENT = "guide: Device Shadow service documents"
TOPICS = "guide: Device Shadow MQTT topics"
ERRORS = "guide: Device Shadow error messages"
FLOW = "guide: Interacting with shadows"
OBSERVED = "observed: LocalStack's tests, validated against AWS"
BAD = ("InvalidRequestException", 400)


def update(world: World, thing: str, name: str = "", **body: Any) -> Any:
    options = {"shadowName": name} if name else {}
    answer = world.data.update_thing_shadow(thingName=thing, payload=json.dumps(body).encode(), **options)
    return json.loads(answer["payload"].read())


def get(world: World, thing: str, name: str = "") -> Any:
    options = {"shadowName": name} if name else {}
    return json.loads(world.data.get_thing_shadow(thingName=thing, **options)["payload"].read())


def listening(world: World, thing: str, *, version: int = 5) -> Mqtt:
    """A device that hears every answer of the classic shadow."""
    client = world.connected(world.device(), version=version)
    at = f"$aws/things/{thing}/shadow"
    for verbs in (("get/accepted", "get/rejected", "delete/accepted", "delete/rejected"),
                  ("update/accepted", "update/rejected", "update/delta", "update/documents")):  # fmt: skip
        assert client.subscribe(*(f"{at}/{verb}" for verb in verbs)) == [1] * 4
    return client


def answers(client: Mqtt, count: int) -> dict[str, Any]:
    """The next messages by the last two levels of their topics."""
    found = [client.receive() for _ in range(count)]
    return {"/".join(each.topic.split("/")[-2:]): json.loads(each.payload) for each in found}


@row(aws="The first update makes version 1, each accepted one the next.", source=DOCUMENT)
def versions_count_updates(world: World) -> None:
    thing = world.thing()
    assert [update(world, thing, state={"reported": {"a": at}})["version"] for at in range(3)] == [1, 2, 3]


@row(aws="An update answers with what was asked, its metadata, version and timestamp.", source=DOCUMENT)
def accepted_says_what_was_asked(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"a": 1}})
    answer = update(world, thing, state={"reported": {"b": 2}}, clientToken="t")
    assert answer["state"] == {"reported": {"b": 2}} and answer["clientToken"] == "t"
    assert answer["metadata"] == {"reported": {"b": {"timestamp": answer["timestamp"]}}}


@row(aws="A get has state with delta, metadata, version and timestamp, and no metadata of the delta.", source=DOCUMENT)
def get_has_the_delta(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"a": 1, "b": 2}, "reported": {"b": 2}})
    document = get(world, thing)
    assert document["state"] == {"desired": {"a": 1, "b": 2}, "reported": {"b": 2}, "delta": {"a": 1}}
    assert set(document["metadata"]) == {"desired", "reported"}
    assert set(document) == {"state", "metadata", "version", "timestamp"}


@row(aws="A section without content is left out, of the metadata too.", source=OBSERVED)
def empty_sections_are_left_out(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"a": 1}, "reported": {"b": 1}})
    update(world, thing, state={"desired": {"a": None}})
    document = get(world, thing)
    assert document["state"] == {"reported": {"b": 1}} and set(document["metadata"]) == {"reported"}


@row(aws="A null removes the key; other keys stay.", source=DOCUMENT)
def null_removes(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"reported": {"a": 1, "b": {"c": 1, "d": 2}}})
    update(world, thing, state={"reported": {"a": None, "b": {"c": None}}})
    assert get(world, thing)["state"]["reported"] == {"b": {"d": 2}}


@row(aws="Empty text, zero and false are values.", source=OBSERVED)
def empty_values_stay(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"reported": {"a": "", "b": 0, "c": False}})
    assert get(world, thing)["state"]["reported"] == {"a": "", "b": 0, "c": False}


@row(aws="A null section is removed whole.", source=DOCUMENT)
def null_section_is_removed(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"a": 1}})
    update(world, thing, state={"reported": {"a": 1}, "desired": None})
    assert get(world, thing)["state"] == {"reported": {"a": 1}}


@row(aws="A null state removes both sections, and the shadow stays.", source="guide: Using shadows", unconfirmed=True)
def null_state_removes_both(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"a": 1}, "reported": {"a": 1}})
    assert update(world, thing, state=None)["version"] == 2
    assert get(world, thing)["state"] == {}


@row(aws="An array is replaced whole.", source=DOCUMENT)
def arrays_replace(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"colors": ["RED", "GREEN", "BLUE"]}})
    update(world, thing, state={"desired": {"colors": ["RED"]}})
    assert get(world, thing)["state"]["desired"] == {"colors": ["RED"]}


@row(aws="An array with a null is refused.", source=DOCUMENT)
def arrays_have_no_null(world: World) -> None:
    thing = world.thing()
    with world.refused(*BAD):
        update(world, thing, state={"desired": {"colors": [None, "RED"]}})


@row(aws="An array is another value when an element or the order is.", source=DOCUMENT)
def arrays_differ_as_a_whole(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"a": [1, 2], "b": [1, 2]}, "reported": {"a": [2, 1], "b": [1, 2]}})
    assert get(world, thing)["state"]["delta"] == {"a": [1, 2]}


@row(aws="The delta holds only desired keys that differ, also those that are not reported.", source=TOPICS)
def delta_holds_what_differs(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"a": {"x": 1, "y": 2}, "b": 1}, "reported": {"a": {"x": 1}, "c": 3}})
    assert get(world, thing)["state"]["delta"] == {"a": {"y": 2}, "b": 1}


@row(aws="A key that is removed from reported is in the delta again.", source=TOPICS)
def delta_after_reported_is_removed(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"a": 1}, "reported": {"a": 1}})
    assert "delta" not in get(world, thing)["state"]
    update(world, thing, state={"reported": {"a": None}})
    assert get(world, thing)["state"]["delta"] == {"a": 1}


@row(aws="Timestamps are kept a leaf, and change for what was said only.", source=OBSERVED)
def timestamps_are_of_leaves(world: World) -> None:
    thing = world.thing()
    first = update(world, thing, state={"desired": {"a": {"b": 1}}})["timestamp"]
    update(world, thing, state={"desired": {"c": 1}})
    meta = get(world, thing)["metadata"]["desired"]
    assert meta["a"]["b"] == {"timestamp": first} and set(meta["c"]) == {"timestamp"}


@row(aws="A version that is not the present one is a conflict, and nothing changes.", source=ERRORS)
def wrong_version_is_a_conflict(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"reported": {"a": 1}})
    for version in (0, 2):
        with world.refused("ConflictException", 409, "Version conflict"):
            update(world, thing, state={"reported": {"a": 2}}, version=version)
    assert update(world, thing, state={"reported": {"a": 3}}, version=1)["version"] == 2


@row(aws="Members beside state, version and clientToken are ignored.", source="guide: Diagnosing problems with shadows")
def other_members_are_ignored(world: World) -> None:
    thing = world.thing()
    assert update(world, thing, state={"reported": {"a": 1}}, hello="world")["version"] == 1


@row(aws="An update with an empty state is accepted.", source="observed: LocalStack's tests")
def an_empty_state_is_accepted(world: World) -> None:
    answer = update(world, world.thing(), state={})
    assert (answer["state"], answer["metadata"], answer["version"]) == ({}, {}, 1)


def refuse(world: World, body: bytes, code: str, status: int, text: str) -> None:
    with world.refused(code, status, text):
        world.data.update_thing_shadow(thingName=world.thing(), payload=body)


@row(aws="What is no JSON is refused: Invalid JSON.", source=ERRORS)
def no_json(world: World) -> None:
    refuse(world, b"{", *BAD, "Invalid JSON")


@row(aws="Without state: Missing required node: state.", source=ERRORS)
def no_state(world: World) -> None:
    refuse(world, b'{"random": 1}', *BAD, "Missing required node: state")


@row(aws="A state that is no object: State node must be an object.", source=ERRORS)
def state_is_no_object(world: World) -> None:
    refuse(world, b'{"state": 3}', *BAD, "State node must be an object")


@row(aws="A desired that is no object: Desired node must be an object.", source=ERRORS)
def desired_is_no_object(world: World) -> None:
    refuse(world, b'{"state": {"desired": 3}}', *BAD, "Desired node must be an object")


@row(aws="A reported that is no object: Reported node must be an object.", source=ERRORS)
def reported_is_no_object(world: World) -> None:
    refuse(world, b'{"state": {"reported": []}}', *BAD, "Reported node must be an object")


@row(aws="A third section: State contains an invalid node.", source=ERRORS)
def a_third_section(world: World) -> None:
    refuse(world, b'{"state": {"delta": {"a": 1}}}', *BAD, "State contains an invalid node")


@row(aws="A version that is no number: Invalid version.", source=ERRORS)
def version_is_no_number(world: World) -> None:
    refuse(world, b'{"state": {}, "version": "1"}', *BAD, "Invalid version")


@row(aws="A clientToken over 64 bytes: Invalid clientToken.", source=ERRORS)
def token_is_too_long(world: World) -> None:
    thing = world.thing()
    assert update(world, thing, state={}, clientToken="x" * 64)["clientToken"] == "x" * 64
    with world.refused(*BAD, "Invalid clientToken"):
        update(world, thing, state={}, clientToken="x" * 65)


@row(aws="Over 8 KB: The payload exceeds the maximum size allowed.", source=ERRORS)
def over_8_kb(world: World) -> None:
    body = json.dumps({"state": {"reported": {"a": "x" * 8192}}}).encode()
    refuse(world, body, "RequestEntityTooLargeException", 413, "The payload exceeds the maximum size allowed")


@row(aws="Another encoding than UTF-8 is refused with 415.", source=ERRORS)
def not_utf8(world: World) -> None:
    text = "Unsupported documented encoding; supported encoding is UTF-8"
    refuse(world, b'{"state": {"reported": {"a": "\xff"}}}', "UnsupportedDocumentEncodingException", 415, text)


@row(aws="A shadow that is not there is named by its thing.", source=OBSERVED)
def missing_classic_shadow(world: World) -> None:
    thing = world.thing()
    for call in (world.data.get_thing_shadow, world.data.delete_thing_shadow):
        with world.refused("ResourceNotFoundException", 404, f"No shadow exists with name: '{thing}'"):
            call(thingName=thing)


@row(aws="A named shadow that is not there is named by thing~shadow.", source=OBSERVED)
def missing_named_shadow(world: World) -> None:
    thing = world.thing()
    for call in (world.data.get_thing_shadow, world.data.delete_thing_shadow):
        with world.refused("ResourceNotFoundException", 404, f"No shadow exists with name: '{thing}~light'"):
            call(thingName=thing, shadowName="light")


@row(aws="A shadow needs no registered thing.", source=OBSERVED)
def no_thing_is_needed(world: World) -> None:
    thing = world.name("thing")
    assert update(world, thing, state={"reported": {"a": 1}})["version"] == 1


@row(aws="A shadow outlives its thing.", source=OBSERVED)
def a_shadow_outlives_its_thing(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"a": 1}})
    world.iot.delete_thing(thingName=thing)
    assert get(world, thing)["state"]["desired"] == {"a": 1}


@row(aws="A delete answers with version and timestamp.", source="model: DeleteThingShadow")
def delete_answers_with_the_version(world: World) -> None:
    thing = world.thing()
    update(world, thing, state={"desired": {"a": 1}})
    answer = json.loads(world.data.delete_thing_shadow(thingName=thing)["payload"].read())
    assert answer["version"] == 1 and set(answer) == {"version", "timestamp"}


@row(aws="Within 48 hours a new shadow of the name goes on with the version.", source=FLOW)
def the_version_goes_on_after_delete(world: World) -> None:
    thing = world.thing()
    for at in range(2):
        update(world, thing, state={"desired": {"a": at}})
    world.data.delete_thing_shadow(thingName=thing)
    assert update(world, thing, state={"desired": {"b": 1}})["version"] == 3
    assert get(world, thing)["state"]["desired"] == {"b": 1}


@row(aws="Named shadows are apart from each other and from the classic one.", source=FLOW)
def named_shadows_are_apart(world: World) -> None:
    thing = world.thing()
    for name in ("", "a", "b"):
        update(world, thing, name, state={"reported": {"of": name}})
    assert [get(world, thing, name)["state"]["reported"]["of"] for name in ("", "a", "b")] == ["", "a", "b"]


@row(
    aws="The list of named shadows has no classic one, and is empty for an unknown thing.",
    source="guide: Device Shadow REST API",
)
def list_of_named_shadows(world: World) -> None:
    thing = world.thing()
    for name in ("", "b", "a", "c"):
        update(world, thing, name, state={})
    found = world.pages(world.data.list_named_shadows_for_thing, "results", thingName=thing, pageSize=2)
    assert sorted(found) == ["a", "b", "c"]
    assert world.data.list_named_shadows_for_thing(thingName=world.name("thing"))["results"] == []


@row(aws="A name of another form than [$a-zA-Z0-9:_-]{1,64} is refused.", source="model: ShadowName")
def bad_shadow_names(world: World) -> None:
    loose = world.client(
        "iot-data", config=__import__("botocore.config", fromlist=["Config"]).Config(parameter_validation=False)
    )
    for name in ("a b", "x" * 65, "ä"):
        with world.refused(*BAD):
            loose.get_thing_shadow(thingName=world.thing(), shadowName=name)


@row(aws="By MQTT an update is answered on accepted, delta and documents.", source=TOPICS)
def mqtt_update(world: World) -> None:
    thing = world.name("thing")
    client = listening(world, thing)
    body = {"state": {"desired": {"a": 1, "b": 2}, "reported": {"a": 1}}, "clientToken": "t"}
    assert client.publish(f"$aws/things/{thing}/shadow/update", body) == 0
    found = answers(client, 3)
    accepted, delta, documents = (found[f"update/{name}"] for name in ("accepted", "delta", "documents"))
    assert (accepted["state"], accepted["version"], accepted["clientToken"]) == (body["state"], 1, "t")
    assert (delta["state"], delta["version"]) == ({"b": 2}, 1) and set(delta["metadata"]) == {"b"}
    assert documents["current"]["state"] == body["state"] and documents["current"]["version"] == 1


@row(aws="No delta is sent when desired is reached.", source=TOPICS)
def mqtt_no_delta(world: World) -> None:
    thing = world.name("thing")
    client = listening(world, thing)
    client.publish(f"$aws/things/{thing}/shadow/update", {"state": {"desired": {"a": 1}, "reported": {"a": 1}}})
    assert set(answers(client, 2)) == {"update/accepted", "update/documents"}
    assert client.silent()


@row(aws="The documents message has the state before and after with their versions.", source=DOCUMENT)
def mqtt_documents(world: World) -> None:
    thing = world.name("thing")
    update(world, thing, state={"reported": {"a": 1}})
    client = listening(world, thing)
    update(world, thing, state={"reported": {"a": 2}})
    documents = answers(client, 2)["update/documents"]
    assert [documents[side]["state"]["reported"]["a"] for side in ("previous", "current")] == [1, 2]
    assert [documents[side]["version"] for side in ("previous", "current")] == [1, 2]


@row(aws="A delta is sent for a change by HTTP too.", source=FLOW)
def mqtt_delta_of_http(world: World) -> None:
    thing = world.name("thing")
    client = listening(world, thing, version=3)
    update(world, thing, state={"desired": {"a": 1}})
    assert answers(client, 3)["update/delta"]["state"] == {"a": 1}


@row(
    aws="A refusal by MQTT has code, message, timestamp and the clientToken; the publish itself is acknowledged.",
    source=ERRORS,
)
def mqtt_rejected(world: World) -> None:
    thing = world.name("thing")
    client = listening(world, thing)
    body = {"state": {"desired": 1}, "clientToken": "t"}
    assert client.publish(f"$aws/things/{thing}/shadow/update", body) == 0
    rejected = answers(client, 1)["update/rejected"]
    assert (rejected["code"], rejected["message"], rejected["clientToken"]) == (
        400,
        "Desired node must be an object",
        "t",
    )
    assert set(rejected) == {"code", "message", "timestamp", "clientToken"}


@row(aws="A refusal by HTTP is told to no subscriber.", source=ERRORS)
def http_refusals_are_not_published(world: World) -> None:
    thing = world.name("thing")
    client = listening(world, thing)
    with world.refused(*BAD):
        update(world, thing, state=3)
    assert client.silent()


@row(aws="A version conflict by MQTT is rejected with 409.", source=ERRORS)
def mqtt_conflict(world: World) -> None:
    thing = world.name("thing")
    update(world, thing, state={})
    client = listening(world, thing)
    client.publish(f"$aws/things/{thing}/shadow/update", {"state": {"reported": {"a": 1}}, "version": 9})
    rejected = answers(client, 1)["update/rejected"]
    assert (rejected["code"], rejected["message"]) == (409, "Version conflict")


@row(aws="What a get says is ignored.", source="observed: LocalStack's tests")
def mqtt_get(world: World) -> None:
    thing = world.name("thing")
    update(world, thing, state={"desired": {"a": 1}})
    client = listening(world, thing)
    for body in (b"", b"payload is ignored"):
        client.publish(f"$aws/things/{thing}/shadow/get", body)
        assert answers(client, 1)["get/accepted"]["state"] == {"desired": {"a": 1}, "delta": {"a": 1}}


@row(aws="A get of a shadow that is not there is rejected with 404.", source=ERRORS)
def mqtt_get_of_nothing(world: World) -> None:
    thing = world.name("thing")
    client = listening(world, thing)
    client.publish(f"$aws/things/{thing}/shadow/get", b"")
    rejected = answers(client, 1)["get/rejected"]
    assert (rejected["code"], rejected["message"]) == (404, f"No shadow exists with name: '{thing}'")


@row(aws="What a delete says is ignored.", source=TOPICS)
def mqtt_delete(world: World) -> None:
    thing = world.name("thing")
    update(world, thing, state={})
    client = listening(world, thing)
    client.publish(f"$aws/things/{thing}/shadow/delete", b"whatever")
    assert answers(client, 1)["delete/accepted"]["version"] == 1
    client.publish(f"$aws/things/{thing}/shadow/delete", b"")
    assert answers(client, 1)["delete/rejected"]["code"] == 404


@row(
    aws="A will on a shadow topic is delivered and changes no shadow.",
    source="guide: Using shadows in apps and services",
)
def a_will_changes_no_shadow(world: World) -> None:
    thing = world.name("thing")
    at = f"$aws/things/{thing}/shadow/update"
    watcher = world.connected(world.device())
    assert watcher.subscribe(at) == [1]
    dying = world.connected(world.device(), will=(at, b'{"state": {"reported": {"a": 1}}}', 1, False))
    dying.drop()
    assert watcher.receive().topic == at
    with world.refused("ResourceNotFoundException", 404):
        get(world, thing)


@row(aws="A shadow topic cannot be retained on.", source="guide: MQTT retained messages", unconfirmed=True)
def nothing_is_retained_on_a_shadow_topic(world: World) -> None:
    thing = world.name("thing")
    client = world.connected(world.device())
    assert client.publish(f"$aws/things/{thing}/shadow/update", {"state": {}}, retain=True) != 0
