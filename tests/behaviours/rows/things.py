"""Things, as boto3 sees them."""

from tests.behaviours.row import row
from tests.behaviours.world import World


@row(aws="Creating a thing again with the same configuration answers with the thing.", source="model: CreateThing")
def create_again_same(world: World) -> None:
    name = world.thing(attributePayload={"attributes": {"a": "1"}})
    first = world.iot.describe_thing(thingName=name)
    again = world.iot.create_thing(thingName=name, attributePayload={"attributes": {"a": "1"}})
    assert again["thingId"] == first["thingId"]


@row(
    aws="Creating a thing again with another configuration is 409 and names the resource.", source="model: CreateThing"
)
def create_again_other(world: World) -> None:
    name = world.thing()
    with world.refused("ResourceAlreadyExistsException", 409):
        world.iot.create_thing(thingName=name, attributePayload={"attributes": {"a": "1"}})


@row(aws="A thing's first version is 1, and each update raises it by one.", source="model: DescribeThing")
def versions_count(world: World) -> None:
    name = world.thing()
    assert world.iot.describe_thing(thingName=name)["version"] == 1
    world.iot.update_thing(thingName=name, attributePayload={"attributes": {"a": "1"}})
    assert world.iot.describe_thing(thingName=name)["version"] == 2


@row(aws="An update with another expectedVersion is VersionConflictException, 409.", source="model: UpdateThing")
def update_expected_version(world: World) -> None:
    name = world.thing()
    with world.refused("VersionConflictException", 409):
        world.iot.update_thing(thingName=name, attributePayload={"attributes": {}}, expectedVersion=7)


@row(aws="Deleting a thing that does not exist succeeds.", source="model: DeleteThing")
def delete_unknown(world: World) -> None:
    world.iot.delete_thing(thingName=world.name())


@row(aws="A thing with a principal attached is not deleted: InvalidRequestException.", source="model: DeleteThing")
def delete_attached(world: World) -> None:
    device = world.device(thing="")
    with world.refused("InvalidRequestException", 400):
        world.iot.delete_thing(thingName=device.thing)
