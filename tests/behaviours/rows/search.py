"""Fleet indexing and dynamic groups, as boto3 sees them. The index is one for all rows: each has things of its own name."""

import json
from typing import Any

from tests.behaviours.row import row
from tests.behaviours.world import World

SYNTAX = "guide: Query syntax"
EXAMPLES = "guide: Example thing queries"
MANAGE = "guide: Manage thing indexing"
AGGREGATE = "guide: Querying for aggregate data"
DYNAMIC = "guide: Dynamic thing groups"
SETTINGS = {
    "thingIndexingMode": "REGISTRY_AND_SHADOW",
    "thingConnectivityIndexingMode": "STATUS",
    "customFields": [
        {"name": "attributes.n", "type": "Number"},
        {"name": "attributes.kind", "type": "String"},
        {"name": "shadow.reported.on", "type": "Boolean"},
    ],
}


def indexed(world: World) -> None:
    if world.iot.get_indexing_configuration()["thingIndexingConfiguration"]["thingIndexingMode"] == "OFF":
        world.iot.update_indexing_configuration(thingIndexingConfiguration=SETTINGS)
    world.until(
        lambda: world.iot.describe_index(indexName="AWS_Things")["indexStatus"] == "ACTIVE", "the index is built"
    )


def thing(world: World, **attributes: str) -> str:
    indexed(world)
    return world.thing(attributePayload={"attributes": attributes})


def shadow(world: World, name: str, **state: Any) -> None:
    world.data.update_thing_shadow(thingName=name, payload=json.dumps({"state": state}))


def finds(world: World, name: str, text: str) -> bool:
    """Whether the query, among things of this very name, finds it."""
    answer = world.iot.search_index(queryString=f'thingName:"{name}" AND ({text})')
    return [found["thingName"] for found in answer["things"]] == [name]


def found(world: World, name: str, text: str) -> None:
    world.until(lambda: finds(world, name, text), f"{text} finds the thing")


def not_found(world: World, name: str, text: str) -> None:
    world.until(lambda: not finds(world, name, text), f"{text} does not find the thing")


@row(aws="A field of the registry is searched by field:value, and case does not matter.", source=SYNTAX)
def field_and_value(world: World) -> None:
    found(world, thing(world, kind="Pump"), "attributes.kind:pUMP")


@row(aws="Names of fields are case-sensitive.", source=SYNTAX)
def field_names_have_case(world: World) -> None:
    not_found(world, thing(world, kind="pump"), "attributes.Kind:pump")


@row(aws="Terms without an operator between them must all fit.", source=SYNTAX)
def terms_are_anded(world: World) -> None:
    name = thing(world, kind="pump", n="5")
    found(world, name, "attributes.kind:pump attributes.n:5")
    not_found(world, name, "attributes.kind:pump attributes.n:6")


@row(aws="A term without a field is searched in all fields of registry and shadow.", source=EXAMPLES)
def bare_terms(world: World) -> None:
    name = thing(world, kind="bare-term")
    shadow(world, name, reported={"a": {"b": "inside-shadow"}})
    found(world, name, "bare-term")
    found(world, name, "inside-shadow")


@row(aws="* stands for any characters at the end of a term and inside it, ? for one.", source=EXAMPLES)
def wildcards(world: World) -> None:
    name = thing(world, kind="important")
    for text in ("imp*", "i*t", "import?nt"):
        found(world, name, f"attributes.kind:{text}")
    not_found(world, name, "attributes.kind:import?")


@row(aws="One term of a query may begin with a wildcard.", source=SYNTAX)
def one_leading_wildcard(world: World) -> None:
    found(world, thing(world, kind="important"), "attributes.kind:*ant")
    with world.refused("InvalidQueryException", 400):
        world.iot.search_index(queryString="thingName:*my AND thingGroupNames:*echo")


@row(aws="[ and ] are bounds that belong to a range of numbers, { and } such that do not.", source=EXAMPLES)
def ranges(world: World) -> None:
    name = thing(world, n="75")
    found(world, name, "attributes.n:[75 TO 80]")
    not_found(world, name, "attributes.n:{75 TO 80]")
    found(world, name, "attributes.n<76")
    not_found(world, name, "attributes.n>75")


@row(aws="A range of quoted values is one of texts.", source=EXAMPLES)
def ranges_of_text(world: World) -> None:
    found(world, thing(world, kind="abce"), 'attributes.kind:["abcd" TO "abcf"]')


@row(aws="NOT and a hyphen before a term exclude.", source=SYNTAX)
def exclusion(world: World) -> None:
    name = thing(world, kind="legacy")
    not_found(world, name, "NOT attributes.kind:legacy")
    not_found(world, name, "attributes.kind:(leg* AND -legacy)")
    found(world, name, "NOT attributes.kind:other")


@row(aws="Special characters are escaped by a backslash.", source=SYNTAX)
def escapes(world: World) -> None:
    found(world, thing(world, kind="a:b"), "attributes.kind:a\\:b")


@row(aws="A query has at most twelve terms.", source=SYNTAX)
def twelve_terms(world: World) -> None:
    indexed(world)
    world.iot.search_index(queryString=" ".join(f"t{number}" for number in range(12)))
    with world.refused("InvalidQueryException", 400):
        world.iot.search_index(queryString=" ".join(f"t{number}" for number in range(13)))


@row(
    aws="A query has at most 1,000 characters.", source="guide: quotas of fleet indexing, from memory", unconfirmed=True
)
def a_thousand_characters(world: World) -> None:
    indexed(world)
    with world.refused("InvalidQueryException", 400):
        world.iot.search_index(queryString="a" * 1001)


@row(aws="A query with an open parenthesis is InvalidQueryException, 400.", source="model: SearchIndex")
def unbalanced(world: World) -> None:
    indexed(world)
    with world.refused("InvalidQueryException", 400):
        world.iot.search_index(queryString="(a")


@row(aws="An index that does not exist is ResourceNotFoundException, 404.", source="model: SearchIndex")
def unknown_index(world: World) -> None:
    with world.refused("ResourceNotFoundException", 404):
        world.iot.search_index(indexName="AWS_Nothing", queryString="*")


@row(aws="An array of a shadow is found by each of its values.", source=EXAMPLES)
def arrays_of_shadows(world: World) -> None:
    name = thing(world)
    shadow(world, name, reported={"myvalues": [1, 2, 3]})
    found(world, name, "shadow.reported.myvalues:2")


@row(aws="An array with objects in a shadow is not indexed.", source=MANAGE)
def complex_arrays(world: World) -> None:
    name = thing(world)
    shadow(world, name, reported={"palette": [{"name": "RED"}], "colors": ["RED"]})
    found(world, name, "shadow.reported.colors:red")
    not_found(world, name, "shadow.reported.palette:*")


@row(aws="Nested names of a shadow and names with dots are one.", source=MANAGE)
def nested_names(world: World) -> None:
    for state in ({"one": {"two": "v2"}}, {"one.two": "v2"}):
        name = thing(world)
        shadow(world, name, desired=state)
        found(world, name, "shadow.desired.one.two:v2")


@row(aws="shadow.hasDelta says whether a shadow has a delta.", source=EXAMPLES)
def has_delta(world: World) -> None:
    name = thing(world)
    shadow(world, name, desired={"a": 1})
    found(world, name, "shadow.hasDelta:true")
    shadow(world, name, reported={"a": 1})
    found(world, name, "shadow.hasDelta:false")


@row(aws="The shadow of a thing that is not registered is not indexed.", source=MANAGE)
def unregistered_shadow(world: World) -> None:
    indexed(world)
    name = world.name()
    shadow(world, name, reported={"ghost": name})
    assert world.iot.search_index(queryString=f'shadow.reported.ghost:"{name}"')["things"] == []


@row(aws="A thing that never was connected has connected false, and nothing more.", source="model: SearchIndex")
def never_connected(world: World) -> None:
    name = thing(world)
    found(world, name, "connectivity.connected:false")
    answer = world.iot.search_index(queryString=f'thingName:"{name}"')
    assert answer["things"][0]["connectivity"] == {"connected": False}


@row(aws="A connection is found, and its end with the reason.", source=EXAMPLES)
def connections(world: World) -> None:
    indexed(world)
    device = world.device(thing="")
    client = world.connected(device, device.thing)
    found(world, device.thing, "connectivity.connected:true AND connectivity.timestamp>1557651600000")
    client.disconnect()
    found(
        world,
        device.thing,
        "connectivity.connected:false AND connectivity.disconnectReason:CLIENT_INITIATED_DISCONNECT",
    )


@row(aws="Statistics of a number leave out values that are none; variance is that of the population.", source=AGGREGATE)
def statistics(world: World) -> None:
    kind = world.name("kind")
    for n in ("-125", "75", "150", "none"):
        thing(world, kind=kind, n=n)
    answer = world.iot.get_statistics(queryString=f'attributes.kind:"{kind}"', aggregationField="attributes.n")[
        "statistics"
    ]
    assert (answer["count"], answer["sum"], answer["sumOfSquares"]) == (3, 100.0, 43750.0)
    assert abs(answer["variance"] - 13472.22222222222) < 1e-6


@row(aws="Statistics of a text are its count alone.", source=AGGREGATE)
def statistics_of_text(world: World) -> None:
    name = thing(world, kind="x")
    answer = world.iot.get_statistics(queryString=f'thingName:"{name}"', aggregationField="attributes.kind")
    assert answer["statistics"] == {"count": 1}


@row(aws="Percentiles of nothing are an empty list, a cardinality of nothing is 0.", source=AGGREGATE)
def aggregations_of_nothing(world: World) -> None:
    indexed(world)
    nobody = {"queryString": "thingName:nobody-at-all", "aggregationField": "attributes.n"}
    assert world.iot.get_percentiles(**nobody)["percentiles"] == []
    assert world.iot.get_cardinality(**nobody)["cardinality"] == 0


@row(aws="Percentiles lie between two values in proportion.", source=AGGREGATE)
def percentiles(world: World) -> None:
    kind = world.name("kind")
    for n in (1, 1, 1, 2, 2, 2, 3, 3, 3):
        thing(world, kind=kind, n=str(n))
    answer = world.iot.get_percentiles(
        queryString=f'attributes.kind:"{kind}"', aggregationField="attributes.n", percents=[30, 50, 70]
    )
    values = {each["percent"]: round(each["value"], 6) for each in answer["percentiles"]}
    assert values == {30.0: 1.4, 50.0: 2.0, 70.0: 2.6}


@row(
    aws="Percentiles of a text are InvalidAggregationException.",
    source="guide: GetPercentiles, field must be of Number type",
)
def percentiles_of_text(world: World) -> None:
    indexed(world)
    with world.refused("InvalidAggregationException", 400):
        world.iot.get_percentiles(queryString="*", aggregationField="attributes.kind")


@row(aws="A field that is neither managed nor custom is not aggregated.", source=AGGREGATE)
def aggregation_of_an_unlisted_field(world: World) -> None:
    indexed(world)
    with world.refused("InvalidAggregationException", 400):
        world.iot.get_statistics(queryString="*", aggregationField="attributes.unlisted")


def group(world: World, text: str) -> str:
    name = world.name("dynamic")
    world.iot.create_dynamic_thing_group(thingGroupName=name, queryString=text)
    world.until(
        lambda: world.iot.describe_thing_group(thingGroupName=name)["status"] == "ACTIVE", "the group is active"
    )
    return name


def members(world: World, name: str) -> list[str]:
    listed: list[str] = world.iot.list_things_in_thing_group(thingGroupName=name)["things"]
    return listed


@row(aws="A dynamic group has what its query finds, and follows what changes.", source=DYNAMIC)
def dynamic_members(world: World) -> None:
    kind = world.name("kind")
    first, second = thing(world, kind=kind, n="61"), thing(world, kind=kind, n="59")
    name = group(world, f'attributes.kind:"{kind}" AND attributes.n>60')
    assert members(world, name) == [first]
    world.iot.update_thing(thingName=first, attributePayload={"attributes": {"kind": kind, "n": "1"}})
    world.iot.update_thing(thingName=second, attributePayload={"attributes": {"kind": kind, "n": "99"}})
    world.until(lambda: members(world, name) == [second], "the group follows")


@row(aws="A dynamic group is described with its query, index and status.", source=DYNAMIC)
def dynamic_described(world: World) -> None:
    indexed(world)
    name = group(world, "thingName:nobody-at-all")
    shown = world.iot.describe_thing_group(thingGroupName=name)
    assert (shown["indexName"], shown["queryVersion"], shown["status"]) == ("AWS_Things", "2017-09-30", "ACTIVE")
    assert shown["queryString"] == "thingName:nobody-at-all"


@row(aws="No thing is put into a dynamic group by hand.", source=DYNAMIC)
def dynamic_by_hand(world: World) -> None:
    name = thing(world)
    with world.refused("InvalidRequestException", 400):
        world.iot.add_thing_to_thing_group(thingGroupName=group(world, "thingName:nobody-at-all"), thingName=name)


@row(aws="A policy cannot be attached to a dynamic group.", source=DYNAMIC)
def dynamic_policy(world: World) -> None:
    indexed(world)
    name = group(world, "thingName:nobody-at-all")
    with world.refused("InvalidRequestException", 400):
        world.iot.attach_policy(policyName=world.policy(), target=world.arn(f"thinggroup/{name}"))


@row(aws="A dynamic group is no parent.", source=DYNAMIC)
def dynamic_parent(world: World) -> None:
    indexed(world)
    name = group(world, "thingName:nobody-at-all")
    with world.refused("InvalidRequestException", 400):
        world.iot.create_thing_group(thingGroupName=world.name("child"), parentGroupName=name)


@row(aws="Indexing cannot be turned off while there is a dynamic group.", source=DYNAMIC)
def dynamic_needs_the_index(world: World) -> None:
    indexed(world)
    group(world, "thingName:nobody-at-all")
    with world.refused("InvalidRequestException", 400):
        world.iot.update_indexing_configuration(thingIndexingConfiguration={"thingIndexingMode": "OFF"})


@row(aws="Updating a dynamic group needs the version it is asked for.", source="model: UpdateDynamicThingGroup")
def dynamic_version(world: World) -> None:
    indexed(world)
    name = group(world, "thingName:nobody-at-all")
    answer = world.iot.update_dynamic_thing_group(thingGroupName=name, thingGroupProperties={}, expectedVersion=1)
    assert answer["version"] == 2
    with world.refused("VersionConflictException", 409):
        world.iot.update_dynamic_thing_group(thingGroupName=name, thingGroupProperties={}, expectedVersion=1)


@row(
    aws="A dynamic group with a query that is wrong is InvalidQueryException.", source="model: CreateDynamicThingGroup"
)
def dynamic_query(world: World) -> None:
    indexed(world)
    with world.refused("InvalidQueryException", 400):
        world.iot.create_dynamic_thing_group(thingGroupName=world.name("dynamic"), queryString="a AND")


@row(
    aws="Deleting a dynamic group that does not exist succeeds.",
    source="model: DeleteDynamicThingGroup",
    unconfirmed=True,
)
def dynamic_delete_unknown(world: World) -> None:
    world.iot.delete_dynamic_thing_group(thingGroupName=world.name("dynamic"))


@row(
    aws="A field that is in no index finds nothing.",
    source=SYNTAX,
    differs="InvalidQueryException, which names the field and those that there are",
    unconfirmed=True,
)
def unknown_field(world: World) -> None:
    indexed(world)
    assert world.iot.search_index(queryString="color:red")["things"] == []


@row(
    aws="Violations of Device Defender can be indexed.",
    source=MANAGE,
    differs="501 NotImplementedException, naming deviceDefenderIndexingMode",
)
def device_defender(world: World) -> None:
    world.iot.update_indexing_configuration(
        thingIndexingConfiguration={**SETTINGS, "deviceDefenderIndexingMode": "VIOLATIONS"}
    )
