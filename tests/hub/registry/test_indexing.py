"""The search index on a real registry: what is indexed when, what a search answers, and aggregations."""

import json

import pytest

from marram.core.errors import Conflict, Invalid, NotFound, Unsupported
from marram.core.query import QueryError
from marram.hub.registry import index_store
from marram.hub.registry.aggregations import Distinct, Spread

EVERYTHING = {
    "thingIndexingMode": "REGISTRY_AND_SHADOW",
    "thingConnectivityIndexingMode": "STATUS",
    "namedShadowIndexingMode": "ON",
    "filter": {"namedShadowNames": ["cfg"]},
    "customFields": [
        {"name": "attributes.temp", "type": "Number"},
        {"name": "attributes.site", "type": "String"},
        {"name": "shadow.reported.on", "type": "Boolean"},
        {"name": "shadow.name.cfg.reported.city", "type": "String"},
    ],
}


async def indexed(hub, **changes):
    """All is indexed, and the builder is done."""
    await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration={**EVERYTHING, **changes})
    await built(hub)


async def built(hub):
    while await hub.db.write(hub.registry.index.build):
        pass


async def thing(hub, name, **attributes):
    await hub.call("CreateThing", thingName=name, attributePayload={"attributes": attributes})


async def search(hub, text, **params):
    answer = await hub.call("SearchIndex", queryString=text, **params)
    return [found["thingName"] for found in answer["things"]]


def shadow(hub, name, shadow_name="", **document):
    return hub.db.write(lambda tx: hub.registry.index.shadow(tx, name, shadow_name, document or None))


def rows(hub):
    return hub.db.read_now(lambda tx: tx.one("SELECT count(*) FROM registry_index_term")[0])


# settings


async def test_off_is_the_default_and_leaves_nothing(hub):
    await thing(hub, "t", site="a")
    assert await hub.call("GetIndexingConfiguration") == {
        "thingIndexingConfiguration": {"thingIndexingMode": "OFF"},
        "thingGroupIndexingConfiguration": {"thingGroupIndexingMode": "OFF"},
    }
    assert rows(hub) == 0
    for operation in ("SearchIndex", "GetStatistics", "GetCardinality", "GetPercentiles"):
        with pytest.raises(NotFound, match="OFF"):
            await hub.call(operation, queryString="*")
    with pytest.raises(NotFound):
        await hub.call("DescribeIndex", indexName="AWS_Things")
    assert (await hub.call("ListIndices"))["indexNames"] == []


async def test_what_was_there_is_found_once_the_index_is_built(hub):
    for number in range(100):
        await thing(hub, f"t{number:03}", site=f"s{number % 3}")
    await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration={"thingIndexingMode": "REGISTRY"})
    assert (await hub.call("DescribeIndex", indexName="AWS_Things"))["indexStatus"] == "BUILDING"
    with pytest.raises(Conflict, match="being built"):
        await search(hub, "*")
    await built(hub)
    assert await hub.call("DescribeIndex", indexName="AWS_Things") == {
        "indexName": "AWS_Things", "indexStatus": "ACTIVE", "schema": "REGISTRY",
    }  # fmt: skip
    assert await search(hub, "attributes.site:s0", maxResults=100) == [f"t{n:03}" for n in range(0, 100, 3)]


async def test_a_build_goes_on_after_a_restart_and_things_may_change_under_it(hub):
    for number in range(100):
        await thing(hub, f"t{number:03}", site="a")
    await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration={"thingIndexingMode": "REGISTRY"})
    while not hub.db.read_now(lambda tx: index_store.load(tx).position).startswith("t"):
        await hub.db.write(hub.registry.index.build)
    await hub.call("DeleteThing", thingName="t001")  # behind the builder
    await hub.call("UpdateThing", thingName="t002", attributePayload={"attributes": {"site": "b"}})
    await hub.call("UpdateThing", thingName="t098", attributePayload={"attributes": {"site": "b"}})  # before it
    await hub.call("DeleteThing", thingName="t099")
    await thing(hub, "t0005", site="b")  # behind it
    await thing(hub, "u", site="b")
    at = hub.db.read_now(lambda tx: index_store.load(tx).position)
    await hub.reopen()
    assert hub.registry.index.status == "BUILDING"
    assert hub.db.read_now(lambda tx: index_store.load(tx).position) == at
    await built(hub)
    assert sorted(await search(hub, "attributes.site:b")) == ["t0005", "t002", "t098", "u"]
    assert (await hub.call("GetStatistics", queryString="attributes.site:a"))["statistics"]["count"] == 96


async def test_other_settings_rebuild_and_searches_go_on(hub):
    await indexed(hub)
    await thing(hub, "t", site="a")
    await shadow(hub, "t", reported={"on": True})
    await shadow(hub, "t", "cfg", reported={"city": "Oslo"})
    await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration={"thingIndexingMode": "REGISTRY"})
    assert (await hub.call("DescribeIndex", indexName="AWS_Things"))["indexStatus"] == "REBUILDING"
    assert await search(hub, "attributes.site:a") == ["t"]
    with pytest.raises(QueryError, match="thingIndexingMode is not REGISTRY_AND_SHADOW at character 1"):
        await search(hub, "shadow.reported.on:true")
    await built(hub)
    assert await search(hub, "oslo") == []
    found = (await hub.call("SearchIndex", queryString="*"))["things"][0]
    assert (found["shadow"], found["connectivity"]) == (None, None)


async def test_turning_off_leaves_no_rows(hub):
    await indexed(hub)
    for number in range(150):
        await thing(hub, f"t{number}", site="a")
    await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration={"thingIndexingMode": "OFF"})
    await built(hub)
    for table in ("term", "doc", "part", "field"):
        assert hub.db.read_now(lambda tx, t=table: tx.one(f"SELECT count(*) FROM registry_index_{t}")[0]) == 0
    await hub.call("DeleteThing", thingName="t1")
    await indexed(hub)
    assert len(await search(hub, "attributes.site:a", maxResults=100)) == 100
    assert (await hub.call("GetStatistics", queryString="*"))["statistics"]["count"] == 149


async def test_sources_tell_what_was_said_before(hub):
    await thing(hub, "t")
    hub.registry.index.use_sources(
        shadows=lambda tx, name: {"": {"reported": {"on": True}}, "other": {"reported": {"x": 1}}},
        connectivity=lambda tx, name: {"connected": True, "timestamp": 5},
        jobs=lambda tx, name: {"j": "QUEUED"},
    )
    await indexed(hub)
    assert await search(hub, "shadow.reported.on:true connectivity.timestamp:5 jobs.j.status:QUEUED") == ["t"]
    await thing(hub, "u")  # made while indexing is on: its shadow may be older than it
    assert await search(hub, "shadow.reported.on:true") == ["t", "u"]


@pytest.mark.parametrize(
    ("config", "error", "why"),
    [
        pytest.param({"deviceDefenderIndexingMode": "VIOLATIONS"}, Unsupported, "deviceDefender", id="device defender"),
        pytest.param({"filter": {"geoLocations": [{"name": "shadow.reported.x"}]}}, Unsupported, "geoLocations", id="places"),
        pytest.param(
            {"filter": {"connectivity": {"includeSocketInformation": ["GET_THING_CONNECTIVITY_DATA"]}}},
            Unsupported, "includeSocketInformation", id="sockets",
        ),
        pytest.param(
            {"thingIndexingMode": "OFF", "thingConnectivityIndexingMode": "STATUS"}, Invalid, "OFF", id="connectivity alone"
        ),
        pytest.param({"namedShadowIndexingMode": "ON"}, Invalid, "go together", id="named shadows without names"),
        pytest.param({"filter": {"namedShadowNames": ["a"]}}, Invalid, "go together", id="names without named shadows"),
        pytest.param(
            {"namedShadowIndexingMode": "ON", "filter": {"namedShadowNames": [f"s{n}" for n in range(11)]}},
            Invalid, "at most 10", id="eleven shadows",
        ),
        pytest.param({"customFields": [{"name": "thingName", "type": "String"}]}, Invalid, "managed", id="managed as custom"),
        pytest.param({"customFields": [{"name": "color", "type": "String"}]}, Invalid, "neither", id="no field"),
        pytest.param({"customFields": [{"name": "attributes.a"}]}, Invalid, "type", id="no type"),
        pytest.param(
            {"customFields": [{"name": "shadow.reported.x", "type": "Number"}]}, Invalid, "not indexed", id="no shadow"
        ),
        pytest.param({"customFields": [{"name": f"attributes.a{n}", "type": "Number"} for n in range(6)]}, Invalid, "at most 5", id="six"),
        pytest.param({"customFields": [{"name": "attributes.a", "type": "Number"}] * 2}, Invalid, "twice", id="twice"),
        pytest.param(
            {"managedFields": [{"name": "thingName", "type": "Number"}]}, Invalid, "cannot be changed", id="other type"
        ),
    ],
)  # fmt: skip
async def test_settings_that_are_refused(hub, config, error, why):
    with pytest.raises(error, match=why):
        await hub.call(
            "UpdateIndexingConfiguration", thingIndexingConfiguration={"thingIndexingMode": "REGISTRY", **config}
        )
    assert not hub.registry.index.settings.things


async def test_settings_come_back(hub):
    await indexed(hub)
    found = (await hub.call("GetIndexingConfiguration"))["thingIndexingConfiguration"]
    assert {name: found[name] for name in EVERYTHING} == EVERYTHING
    managed = {field["name"]: field["type"] for field in found["managedFields"]}
    assert managed["registry.version"] == "Number"
    assert managed["shadow.name.cfg.hasDelta"] == "Boolean"
    assert (await hub.call("DescribeIndex", indexName="AWS_Things"))["schema"] == "MULTI_INDEXING_MODE"
    # What a client read it may send back, managed fields and all.
    await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration=found)


# searching


async def test_what_a_search_answers(hub):
    await indexed(hub)
    await hub.call("CreateThingType", thingTypeName="pump")
    await hub.call("CreateThing", thingName="t", thingTypeName="pump", attributePayload={"attributes": {"site": "a"}})
    await hub.call("CreateThingGroup", thingGroupName="g")
    await hub.call("AddThingToThingGroup", thingGroupName="g", thingName="t")
    await shadow(hub, "t", desired={"on": True}, reported={"on": False}, version=7)
    await shadow(
        hub, "t", "cfg", reported={"city": "New York"}, metadata={"reported": {"city": {"timestamp": 9}}}, version=2
    )
    await hub.db.write(
        lambda tx: hub.registry.index.connectivity(
            tx,
            "t",
            {
                "connected": False,
                "timestamp": 1234,
                "disconnectReason": "CONNECTION_LOST",
                "clientId": "t",
                "version": 3,
            },
        )
    )
    found = (await hub.call("SearchIndex", queryString="thingName:t"))["things"][0]
    document = json.loads(found.pop("shadow"))
    assert found == {
        "thingName": "t",
        "thingId": hub.registry.thing("t").id,
        "thingTypeName": "pump",
        "thingGroupNames": ["g"],
        "attributes": {"site": "a"},
        "connectivity": {"connected": False, "timestamp": 1234, "disconnectReason": "CONNECTION_LOST", "clientId": "t"},
    }
    assert document == {
        "desired": {"on": True},
        "reported": {"on": False},
        "delta": {"on": True},
        "hasDelta": True,
        "version": 7,
        "name": {
            "cfg": {
                "reported": {"city": "New York"}, "metadata": {"reported": {"city": {"timestamp": 9}}}, "version": 2,
                "hasDelta": False,
            }
        },
    }  # fmt: skip


async def test_the_connection_of_one_thing(hub):
    with pytest.raises(NotFound, match="OFF"):
        await hub.call("GetThingConnectivityData", thingName="t")
    await indexed(hub)
    with pytest.raises(NotFound, match="t does not exist"):
        await hub.call("GetThingConnectivityData", thingName="t")
    await thing(hub, "t")
    assert await hub.call("GetThingConnectivityData", thingName="t") == {"thingName": "t", "connected": False}
    state = {"connected": True, "timestamp": 1234, "clientId": "t", "cleanSession": True, "version": 3}
    await hub.db.write(lambda tx: hub.registry.index.connectivity(tx, "t", state))
    del state["version"]
    assert await hub.call("GetThingConnectivityData", thingName="t") == {"thingName": "t", **state}
    with pytest.raises(Unsupported, match="includeSocketInformation"):
        await hub.call("GetThingConnectivityData", thingName="t", includeSocketInformation=True)


@pytest.mark.parametrize(
    "text",
    [
        "thingTypeName:pump", "registry.thingTypeName:pump", "thingGroupNames:g", "attributes.site:a", "shadow.hasDelta:true",
        "shadow.delta.on:true", "shadow.desired.on:true", "shadow.reported.n.deep:3", "shadow.reported.n:*",
        "shadow.reported.list:2", 'shadow.name.cfg.reported.city:"new york"', "york", "NOT shadow.desired.gone:*",
        "connectivity.connected:true", "connectivity.timestamp : [1000 TO 2000]", "jobs.j1.status:IN_PROGRESS",
        "shadow.metadata.reported.on.timestamp < 100", "thingId:*",
    ],
)  # fmt: skip
async def test_everything_that_is_said_of_a_thing_can_be_found(hub, text):
    await indexed(hub)
    await hub.call("CreateThingType", thingTypeName="pump")
    await hub.call("CreateThing", thingName="t", thingTypeName="pump", attributePayload={"attributes": {"site": "a"}})
    await thing(hub, "other")
    await hub.call("CreateThingGroup", thingGroupName="g")
    await hub.call("AddThingToThingGroup", thingGroupName="g", thingName="t")
    index = hub.registry.index

    def say(tx):
        reported = {"on": False, "n": {"deep": 3}, "list": [1, 2], "palette": [{"name": "x"}]}
        metadata = {"reported": {"on": {"timestamp": 50}}}
        index.shadow(tx, "t", "", {"desired": {"on": True}, "reported": reported, "metadata": metadata})
        index.shadow(tx, "t", "cfg", {"reported": {"city": "New York"}})
        index.shadow(tx, "t", "unlisted", {"reported": {"city": "Paris"}})
        index.shadow(tx, "ghost", "", {"reported": {"on": True}})
        index.connectivity(tx, "t", {"connected": True, "timestamp": 1500})
        index.jobs(tx, "t", {"j1": "IN_PROGRESS", "j2": "QUEUED"})
        index.jobs(tx, "t", {"j2": None})

    await hub.db.write(say)
    assert "t" in await search(hub, text)
    assert await search(hub, "paris OR jobs.j2.status:* OR shadow.reported.palette:*") == []


async def test_what_changes_is_found_by_what_it_is_now(hub):
    await indexed(hub)
    await thing(hub, "t", site="a", temp="1")
    await hub.call("UpdateThing", thingName="t", attributePayload={"attributes": {"site": "b"}, "merge": True})
    assert (await search(hub, "attributes.site:a"), await search(hub, "attributes.site:b")) == ([], ["t"])
    await shadow(hub, "t", reported={"a": 1, "b": 2})
    await shadow(hub, "t", reported={"b": 3})
    assert (await search(hub, "shadow.reported.a:*"), await search(hub, "shadow.reported.b:3")) == ([], ["t"])
    await shadow(hub, "t")
    assert await search(hub, "shadow.reported.b:*") == []
    await hub.call("DeleteThing", thingName="t")
    assert await search(hub, "*") == []
    assert rows(hub) == 0


async def test_a_refused_change_leaves_the_index_as_it_is(hub):
    await indexed(hub)
    await thing(hub, "t", site="a")

    def work(tx):
        hub.registry.index.shadow(tx, "t", "", {"reported": {"new_name_of_a_field": 1}})
        raise Invalid("no")

    with pytest.raises(Invalid):
        await hub.db.write(work)
    assert await search(hub, "shadow.reported.new_name_of_a_field:*") == []
    await shadow(hub, "t", reported={"new_name_of_a_field": 1})
    assert await search(hub, "shadow.reported.new_name_of_a_field:1") == ["t"]


async def test_pages(hub):
    await indexed(hub)
    for number in range(25):
        await thing(hub, f"t{number:02}", site="a")
    found, token = [], None
    while True:
        answer = await hub.call(
            "SearchIndex", queryString="attributes.site:a", maxResults=10, **({"nextToken": token} if token else {})
        )
        assert len(answer["things"]) <= 10
        found += [each["thingName"] for each in answer["things"]]
        token = answer.get("nextToken")
        if token is None:
            break
    assert found == [f"t{n:02}" for n in range(25)]


async def test_a_search_that_takes_long_answers_what_it_has_and_where_to_go_on(hub):
    await indexed(hub)
    for number in range(60):
        await thing(hub, f"t{number:02}", n=str(number))
    searches = hub.registry.searches
    searches.first_window = 7
    node = searches.read("NOT attributes.n<50")
    found, after, pages = [], 0, 0
    while after is not None:
        page, after = await searches.page(node, after, 100, patience_s=0)
        found, pages = found + page, pages + 1
    assert (len(found), pages) == (10, 9)
    assert (await searches.page(node, 0, 100))[0] == found
    assert (await searches.page(node, 0, 4), await searches.page(node, found[3], 100)) == (
        (found[:4], found[3]),
        (found[4:], None),
    )


@pytest.mark.parametrize(
    ("params", "error", "why"),
    [
        pytest.param({"queryString": "a" * 1001}, QueryError, "1000", id="long"),
        pytest.param({"queryString": "(a"}, QueryError, "not closed", id="unbalanced"),
        pytest.param({"queryString": "color:red"}, QueryError, "'color' is not a field", id="unknown field"),
        pytest.param({"queryString": "shadow.desired:x"}, QueryError, "with a path", id="no path in a shadow"),
        pytest.param({"queryString": "shadow.name.cfg:x"}, QueryError, "with a path", id="no section"),
        pytest.param(
            {"queryString": "shadow.name.other.reported.x:1"}, QueryError, "has no 'other'", id="unlisted shadow"
        ),
        pytest.param({"queryString": "deviceDefender.x:1"}, QueryError, "Device Defender", id="device defender"),
        pytest.param({"queryString": "registry.version:1"}, QueryError, "cannot be searched", id="version"),
        pytest.param({"queryString": "jobs.status:x"}, QueryError, "is not a field", id="job without id"),
        pytest.param({"queryString": "x'; DROP TABLE registry_thing"}, QueryError, "character 2", id="injection"),
        pytest.param({"queryString": "*", "indexName": "AWS_Nothing"}, NotFound, "AWS_Nothing", id="unknown index"),
        pytest.param({"queryString": "*", "queryVersion": "2020-01-01"}, Invalid, "2017-09-30", id="unknown version"),
    ],
)
async def test_searches_that_are_refused(hub, params, error, why):
    await indexed(hub)
    for operation in ("SearchIndex", "GetStatistics", "GetCardinality", "GetPercentiles"):
        with pytest.raises(error, match=why):
            await hub.call(operation, **params)


async def test_text_of_a_query_is_never_sql(hub):
    await indexed(hub)
    await thing(hub, "t", site="a")
    for text in ('"x\' OR 1=1 --"', 'thingName:"%"', 'thingName:"_"', "attributes.a\\'b:x", 'thingName:["%" TO "%"]'):
        assert await search(hub, text) == []


# aggregations


async def fleet(hub):
    await indexed(hub)
    for name, temp in (("a", "-125"), ("b", "75"), ("c", "150"), ("d", "warm"), ("e", "")):
        await thing(hub, name, temp=temp, site="North" if name in "abc" else "South")
        await shadow(hub, name, reported={"on": name in "ab"})


async def test_statistics_of_numbers_are_those_of_awss_example(hub):
    await fleet(hub)
    found = (await hub.call("GetStatistics", queryString="*", aggregationField="attributes.temp"))["statistics"]
    assert found.pop("variance") == pytest.approx(13472.222222222)
    assert found.pop("stdDeviation") == pytest.approx(116.069902309)
    assert found.pop("average") == pytest.approx(33.3333333333)
    assert found == {"count": 3, "sum": 100.0, "minimum": -125.0, "maximum": 150.0, "sumOfSquares": 43750.0}


async def test_statistics_of_texts_booleans_versions_and_nothing(hub):
    await fleet(hub)

    async def statistics(text, field=None):
        asked = {"aggregationField": field} if field else {}
        found = (await hub.call("GetStatistics", queryString=text, **asked))["statistics"]
        return {name: value for name, value in found.items() if value is not None}

    assert await statistics("*", "attributes.site") == {"count": 5}
    assert await statistics("*", "shadow.reported.on") == {
        "count": 5,
        "average": 0.4,
        "sum": 2.0,
        "minimum": 0.0,
        "maximum": 1.0,
    }
    assert (await statistics("attributes.site:north"))["maximum"] == 1.0  # the version
    assert await statistics("thingName:nobody", "attributes.temp") == {"count": 0}


async def test_buckets_cardinality_and_percentiles(hub):
    await fleet(hub)
    ask = {"bucketsAggregationType": {"termsAggregation": {"maxBuckets": 5}}}
    found = await hub.call("GetBucketsAggregation", queryString="*", aggregationField="attributes.site", **ask)
    assert found == {"totalCount": 5, "buckets": [{"keyValue": "North", "count": 3}, {"keyValue": "South", "count": 2}]}
    found = await hub.call(
        "GetBucketsAggregation", queryString="-thingName:e", aggregationField="attributes.temp", **ask
    )
    assert (found["totalCount"], len(found["buckets"])) == (4, 3)
    assert (await hub.call("GetCardinality", queryString="*", aggregationField="attributes.site"))["cardinality"] == 2
    assert (await hub.call("GetCardinality", queryString="thingName:x", aggregationField="attributes.site"))[
        "cardinality"
    ] == 0
    found = await hub.call(
        "GetPercentiles", queryString="*", aggregationField="attributes.temp", percents=[0, 25, 50, 100]
    )
    assert [each["value"] for each in found["percentiles"]] == [-125.0, -25.0, 75.0, 150.0]
    assert (await hub.call("GetPercentiles", queryString="thingName:x", aggregationField="attributes.temp"))[
        "percentiles"
    ] == []


@pytest.mark.parametrize(
    ("operation", "field", "why"),
    [
        pytest.param("GetStatistics", "attributes.other", "neither a managed nor a custom field", id="not custom"),
        pytest.param("GetCardinality", "color", "neither", id="no field"),
        pytest.param("GetPercentiles", "attributes.site", "percentiles need a Number", id="percentiles of text"),
        pytest.param("GetPercentiles", "shadow.reported.on", "percentiles need a Number", id="percentiles of booleans"),
    ],
)
async def test_aggregations_that_are_refused(hub, operation, field, why):
    await indexed(hub)
    with pytest.raises(Invalid, match=why) as caught:
        await hub.call(operation, queryString="*", aggregationField=field)
    assert caught.value.data["kind"] == "aggregation"


def test_percentiles_lie_between_neighbours_as_in_awss_example():
    spread = Spread()
    spread.add([(1.0, 3), (2.0, 3), (3.0, 3)])
    values = dict(spread.at([10, 20, 30, 40, 50, 60, 70, 80, 90, 99]))
    assert values == pytest.approx({10: 1, 20: 1, 30: 1.4, 40: 2, 50: 2, 60: 2, 70: 2.6, 80: 3, 90: 3, 99: 3})


def test_many_different_values_are_near_enough():
    spread, distinct = Spread(), Distinct()
    for low in range(0, 200_000, 10_000):
        spread.add([(float((low + n) * 7919 % 200_003), 1) for n in range(10_000)])
        for n in range(10_000):
            distinct.add(str(low + n))
    assert abs(distinct.count() - 200_000) < 0.03 * 200_000
    for percent, value in spread.at([0, 1, 50, 99, 100]):
        assert abs(value - percent / 100 * 200_003) < 0.005 * 200_003


# thing groups


async def test_thing_groups_are_searched_by_what_they_are(hub):
    await hub.call("UpdateIndexingConfiguration", thingGroupIndexingConfiguration={
        "thingGroupIndexingMode": "ON", "customFields": [{"name": "attributes.floor", "type": "Number"}],
    })  # fmt: skip
    await hub.call(
        "CreateThingGroup", thingGroupName="plant", thingGroupProperties={"thingGroupDescription": "The whole plant"}
    )
    for number in range(5):
        await hub.call(
            "CreateThingGroup", thingGroupName=f"hall{number}", parentGroupName="plant",
            thingGroupProperties={"attributePayload": {"attributes": {"floor": str(number)}}},
        )  # fmt: skip

    async def names(text, **params):
        answer = await hub.call("SearchIndex", indexName="AWS_ThingGroups", queryString=text, **params)
        return [found["thingGroupName"] for found in answer["thingGroups"]], answer.get("nextToken")

    assert (await names("thingGroupName:hall*"))[0] == [f"hall{n}" for n in range(5)]
    assert (await names('description:"whole plant"'))[0] == ["plant"]
    assert (await names("parentGroupNames:plant attributes.floor>2"))[0] == ["hall3", "hall4"]
    first, token = await names("hall*", maxResults=3)
    assert (first, (await names("hall*", maxResults=3, nextToken=token))[0]) == (
        ["hall0", "hall1", "hall2"],
        ["hall3", "hall4"],
    )
    found = await hub.call(
        "GetStatistics", indexName="AWS_ThingGroups", queryString="*", aggregationField="attributes.floor"
    )
    assert (found["statistics"]["count"], found["statistics"]["sum"]) == (5, 10.0)
    assert (await hub.call("DescribeIndex", indexName="AWS_ThingGroups"))["schema"] == "THING_GROUPS"
    await indexed(hub)
    with pytest.raises(Invalid, match="another index"):
        await hub.call("SearchIndex", queryString="*", nextToken=token)
    await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration={"thingIndexingMode": "OFF"})
    with pytest.raises(QueryError, match="not a field of a thing group"):
        await names("thingName:x")
    with pytest.raises(NotFound, match="AWS_Things"):
        await search(hub, "*")


async def test_indices_are_listed_in_pages(hub):
    await hub.call(
        "UpdateIndexingConfiguration",
        thingIndexingConfiguration={"thingIndexingMode": "REGISTRY"},
        thingGroupIndexingConfiguration={"thingGroupIndexingMode": "ON"},
    )
    first = await hub.call("ListIndices", maxResults=1)
    second = await hub.call("ListIndices", maxResults=1, nextToken=first["nextToken"])
    assert (first["indexNames"], second["indexNames"], second.get("nextToken")) == (
        ["AWS_Things"],
        ["AWS_ThingGroups"],
        None,
    )
