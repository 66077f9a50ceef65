"""What clients rely on that no page of the guide says aloud: found by running AWS's samples and examples."""

import json

from tests.behaviours.row import row
from tests.behaviours.world import World


def job(world: World, thing: str) -> str:
    name = world.name("job")
    arn = world.iot.describe_thing(thingName=thing)["thingArn"]
    world.iot.create_job(jobId=name, targets=[arn], document='{"operation": "reboot"}')
    return name


@row(
    aws="An attribute's name without a value lists the things that have it.",
    source="observed: aws-cli's example of list-things",
)
def list_by_the_name_of_an_attribute(world: World) -> None:
    key = world.name("k")
    mine = {world.thing(attributePayload={"attributes": {key: value}}) for value in ("75", "150")}
    world.thing()
    found = world.iot.list_things(attributeName=key)["things"]
    assert {each["thingName"] for each in found} == mine


@row(aws="Who asks about jobs over MQTT is answered without a subscription.", source="guide: Jobs device MQTT API")
def an_answer_without_a_subscription(world: World) -> None:
    device = world.device(thing="")
    name = job(world, device.thing)
    client = world.connected(device, device.thing)
    client.publish(f"$aws/things/{device.thing}/jobs/start-next", b"{}")
    assert client.receive_json()["execution"]["jobId"] == name


@row(
    aws="The answer to a request about jobs is for who asked: other subscribers do not get it.",
    source="guide: Jobs device MQTT API",
    differs="Other subscribers get it too, as their policy allows.",
)
def an_answer_is_for_who_asked(world: World) -> None:
    device = world.device(thing="")
    asking, other = world.connected(device, device.thing), world.connected(device, world.name("other"))
    other.subscribe(f"$aws/things/{device.thing}/jobs/get/accepted")
    asking.publish(f"$aws/things/{device.thing}/jobs/get", b"{}")
    asking.receive()
    assert other.silent()


@row(
    aws="Numbers in statusDetails are taken, as text.",
    source="sdk: jobs-agent.js of aws-iot-device-sdk reports its uptime so",
    unconfirmed=True,
)
def numbers_in_status_details(world: World) -> None:
    device = world.device(thing="")
    name = job(world, device.thing)
    client = world.connected(device, device.thing)
    topic = f"$aws/things/{device.thing}/jobs/{name}/update"
    client.publish(topic, json.dumps({"status": "SUCCEEDED", "statusDetails": {"uptime": 2.5}}).encode())
    client.receive()
    found = world.iot.describe_job_execution(jobId=name, thingName=device.thing)["execution"]
    assert (found["status"], found["statusDetails"]["detailsMap"]) == ("SUCCEEDED", {"uptime": "2.5"})


@row(aws="A version as text is a version.", source="sdk: Jobs-for-AWS-IoT-embedded-sdk writes expectedVersion so")
def a_version_as_text(world: World) -> None:
    device = world.device(thing="")
    name = job(world, device.thing)
    client = world.connected(device, device.thing)
    topic = f"$aws/things/{device.thing}/jobs/{name}/update"
    client.publish(topic, b'{"status": "SUCCEEDED", "expectedVersion": "1"}')
    assert client.receive().topic == f"{topic}/accepted"


@row(
    aws="A device is not told what an execution was that has ended: TerminalStateReached.",
    source="guide: ErrorResponse",
)
def a_final_execution_is_not_described(world: World) -> None:
    device = world.device(thing="")
    name = job(world, device.thing)
    client = world.connected(device, device.thing)
    prefix = f"$aws/things/{device.thing}/jobs/{name}"
    client.publish(f"{prefix}/update", b'{"status": "SUCCEEDED"}')
    assert client.receive().topic == f"{prefix}/update/accepted"
    client.publish(f"{prefix}/get", b"{}")
    assert client.receive_json()["code"] == "TerminalStateReached"
