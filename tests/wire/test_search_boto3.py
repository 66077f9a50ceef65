"""Fleet indexing and dynamic groups with unmodified boto3 and a real MQTT client, against the process of a hub."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from botocore.exceptions import ClientError

INDEXED = {
    "thingIndexingMode": "REGISTRY_AND_SHADOW",
    "thingConnectivityIndexingMode": "STATUS",
    "namedShadowIndexingMode": "ON",
    "filter": {"namedShadowNames": ["cfg"]},
    "customFields": [{"name": "shadow.reported.temp", "type": "Number"}, {"name": "attributes.site", "type": "String"}],
}
ANYTHING = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]})


def index(iot: Any, wait_for: Callable[..., Any], **settings: Any) -> None:
    iot.update_indexing_configuration(thingIndexingConfiguration={**INDEXED, **settings})
    wait_for(lambda: iot.describe_index(indexName="AWS_Things")["indexStatus"] == "ACTIVE", "the index is built")


def found(iot: Any, text: str, **params: Any) -> list[str]:
    return [each["thingName"] for each in iot.search_index(queryString=text, **params)["things"]]


def refused(call: Callable[..., Any], **params: Any) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call(**params)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


@pytest.fixture
def hub(start_hub: Any) -> Any:
    return start_hub()


@pytest.fixture
def iot(hub: Any) -> Any:
    return hub.client("iot")


@pytest.fixture
def device(hub: Any, iot: Any, tmp_path: Path) -> Iterator[Callable[[str], "paho.Client"]]:
    """device(thing) -> a client that is connected under the thing's name, with a certificate of its own."""
    iot.create_policy(policyName="anything", policyDocument=ANYTHING)
    clients: list[paho.Client] = []

    def connect(thing: str) -> paho.Client:
        made = iot.create_keys_and_certificate(setAsActive=True)
        iot.attach_policy(policyName="anything", target=made["certificateArn"])
        iot.attach_thing_principal(thingName=thing, principal=made["certificateArn"])
        (tmp_path / "cert.pem").write_text(made["certificatePem"])
        (tmp_path / "key.pem").write_text(made["keyPair"]["PrivateKey"])
        context = ssl.create_default_context(cafile=hub.info["ca_file"])
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, thing)
        client.tls_set_context(context)
        up = threading.Event()
        client.on_connect = lambda *_: up.set()
        client.connect("localhost", hub.port("mqtt"))
        client.loop_start()
        clients.append(client)
        assert up.wait(10)
        return client

    yield connect
    for client in clients:
        client.disconnect()
        client.loop_stop()


def test_a_device_is_found_by_all_that_is_known_of_it(hub, iot, device, wait_for) -> None:
    data = hub.client("iot-data")
    iot.create_thing(thingName="pump-1", attributePayload={"attributes": {"site": "north"}})
    iot.create_thing(thingName="pump-2", attributePayload={"attributes": {"site": "south"}})
    data.update_thing_shadow(thingName="pump-1", payload=json.dumps({"state": {"reported": {"temp": 71}}}))
    first = device("pump-1")
    index(iot, wait_for)  # the shadow is older than the index
    assert found(iot, "shadow.reported.temp>70") == ["pump-1"]
    wait_for(lambda: found(iot, "connectivity.connected:true") == ["pump-1"], "the connection is indexed")
    data.update_thing_shadow(thingName="pump-2", payload=json.dumps({"state": {"desired": {"on": True}}}))
    data.update_thing_shadow(
        thingName="pump-2", shadowName="cfg", payload=json.dumps({"state": {"reported": {"city": "New York"}}})
    )
    assert found(iot, 'shadow.hasDelta:true AND shadow.name.cfg.reported.city:"new york"') == ["pump-2"]
    assert found(iot, "shadow.metadata.desired.on.timestamp>1000000000") == ["pump-2"]

    iot.create_job(jobId="update", targets=[iot.describe_thing(thingName="pump-1")["thingArn"]], document="{}")
    wait_for(lambda: found(iot, "jobs.update.status:QUEUED") == ["pump-1"], "the job is indexed")
    iot.cancel_job(jobId="update")
    wait_for(lambda: found(iot, "jobs.update.status:CANCELED") == ["pump-1"], "the cancellation is indexed")

    first.disconnect()
    wait_for(lambda: found(iot, "connectivity.connected:true") == [], "the end of the connection is indexed")
    shown = iot.search_index(queryString="thingName:pump-1")["things"][0]
    assert shown["connectivity"]["disconnectReason"] == "CLIENT_INITIATED_DISCONNECT"
    assert shown["connectivity"]["clientId"] == "pump-1"
    assert json.loads(shown["shadow"])["reported"] == {"temp": 71}
    assert shown["attributes"] == {"site": "north"}


def test_aggregations(hub, iot, wait_for) -> None:
    data = hub.client("iot-data")
    index(iot, wait_for)
    for number in range(10):
        iot.create_thing(
            thingName=f"t{number}", attributePayload={"attributes": {"site": "north" if number < 7 else "South"}}
        )
        data.update_thing_shadow(thingName=f"t{number}", payload=json.dumps({"state": {"reported": {"temp": number}}}))
    statistics = iot.get_statistics(queryString="*", aggregationField="shadow.reported.temp")["statistics"]
    assert (statistics["count"], statistics["sum"], statistics["variance"]) == (10, 45.0, 8.25)
    assert iot.get_statistics(queryString="*", aggregationField="attributes.site")["statistics"] == {"count": 10}
    assert iot.get_cardinality(queryString="thingName:t*", aggregationField="attributes.site")["cardinality"] == 2
    percentiles = iot.get_percentiles(queryString="*", aggregationField="shadow.reported.temp", percents=[50, 100])
    assert percentiles["percentiles"] == [{"percent": 50.0, "value": 4.5}, {"percent": 100.0, "value": 9.0}]
    buckets = iot.get_buckets_aggregation(
        queryString="shadow.reported.temp>0", aggregationField="attributes.site",
        bucketsAggregationType={"termsAggregation": {"maxBuckets": 1}},
    )  # fmt: skip
    assert (buckets["totalCount"], buckets["buckets"]) == (9, [{"keyValue": "north", "count": 6}])


def test_dynamic_groups(hub, iot, wait_for) -> None:
    data = hub.client("iot-data")
    for number in range(5):
        iot.create_thing(
            thingName=f"room{number}", attributePayload={"attributes": {"temperature": str(57 + number * 2)}}
        )
    index(iot, wait_for)
    made = iot.create_dynamic_thing_group(thingGroupName="RoomTooWarm", queryString="attributes.temperature>60")
    assert (made["indexName"], made["queryVersion"]) == ("AWS_Things", "2017-09-30")

    def members() -> list[str]:
        return iot.list_things_in_thing_group(thingGroupName="RoomTooWarm")["things"]

    wait_for(
        lambda: iot.describe_thing_group(thingGroupName="RoomTooWarm")["status"] == "ACTIVE", "the group is active"
    )
    assert members() == ["room2", "room3", "room4"]
    iot.update_thing(thingName="room4", attributePayload={"attributes": {"temperature": "20"}})
    assert members() == ["room2", "room3"]
    job = iot.create_job(jobId="cool", targets=[made["thingGroupArn"]], document="{}", targetSelection="CONTINUOUS")
    assert job["jobId"] == "cool"
    iot.update_thing(thingName="room0", attributePayload={"attributes": {"temperature": "99"}})
    wait_for(
        lambda: {each["thingArn"].rpartition("/")[2] for each in iot.list_job_executions_for_job(jobId="cool")["executionSummaries"]}
        >= {"room0", "room2", "room3"},
        "a continuous job follows the group",
    )  # fmt: skip
    answer = iot.update_dynamic_thing_group(
        thingGroupName="RoomTooWarm", thingGroupProperties={"thingGroupDescription": "by shadow"},
        queryString="shadow.reported.temp>60", expectedVersion=1,
    )  # fmt: skip
    assert answer["version"] == 2
    data.update_thing_shadow(thingName="room1", payload=json.dumps({"state": {"reported": {"temp": 70.5}}}))
    wait_for(
        lambda: iot.describe_thing_group(thingGroupName="RoomTooWarm")["status"] == "ACTIVE", "the group is rebuilt"
    )
    assert members() == ["room1"]
    assert refused(iot.delete_thing_group, thingGroupName="RoomTooWarm")[0] == "InvalidRequestException"
    iot.delete_dynamic_thing_group(thingGroupName="RoomTooWarm")
    assert refused(iot.describe_thing_group, thingGroupName="RoomTooWarm")[0] == "ResourceNotFoundException"


def test_codes_of_what_is_refused(iot, wait_for) -> None:
    assert refused(iot.search_index, queryString="*")[:2] == ("ResourceNotFoundException", 404)
    assert refused(iot.create_dynamic_thing_group, thingGroupName="g", queryString="*")[:2] == (
        "InvalidRequestException",
        400,
    )
    index(iot, wait_for)
    code, status, message = refused(iot.search_index, queryString="thingName:a AND (b")
    assert (code, status) == ("InvalidQueryException", 400)
    assert "character 17" in message
    assert refused(iot.search_index, queryString="a" * 1001)[:2] == ("InvalidQueryException", 400)
    assert refused(iot.search_index, queryString="color:red")[0] == "InvalidQueryException"
    assert refused(iot.search_index, queryString="*", indexName="AWS_Nothing")[0] == "ResourceNotFoundException"
    assert refused(iot.search_index, queryString="*", nextToken="forged")[0] == "InvalidRequestException"
    assert refused(iot.create_dynamic_thing_group, thingGroupName="g", queryString="(")[0] == "InvalidQueryException"
    for call, params in (
        (iot.get_statistics, {}),
        (iot.get_cardinality, {}),
        (iot.get_percentiles, {}),
        (iot.get_buckets_aggregation, {"bucketsAggregationType": {"termsAggregation": {}}}),
    ):
        assert refused(call, queryString="*", aggregationField="attributes.x", **params)[:2] == (
            "InvalidAggregationException",
            400,
        )
    assert (
        refused(iot.get_percentiles, queryString="*", aggregationField="attributes.site")[0]
        == "InvalidAggregationException"
    )
    code, status, message = refused(
        iot.update_indexing_configuration,
        thingIndexingConfiguration={"thingIndexingMode": "REGISTRY", "deviceDefenderIndexingMode": "VIOLATIONS"},
    )
    assert (code, status) == ("NotImplementedException", 501)
    assert "deviceDefenderIndexingMode" in message
    code, status, message = refused(
        iot.create_fleet_metric, metricName="m", queryString="*", aggregationType={"name": "Statistics"}, period=60,
        aggregationField="registry.version",
    )  # fmt: skip
    assert (code, status) == ("NotImplementedException", 501)
    assert "CreateFleetMetric" in message


def test_the_index_is_what_it_was_after_a_kill(start_hub, wait_for) -> None:
    hub = start_hub()
    iot = hub.client("iot")
    for number in range(120):
        iot.create_thing(thingName=f"t{number:03}", attributePayload={"attributes": {"n": str(number)}})
    iot.update_indexing_configuration(thingIndexingConfiguration={"thingIndexingMode": "REGISTRY"})
    hub.kill()
    iot = start_hub(hub.data).client("iot")
    wait_for(lambda: iot.describe_index(indexName="AWS_Things")["indexStatus"] == "ACTIVE", "the index is built")
    assert iot.get_statistics(queryString="attributes.n>=20")["statistics"]["count"] == 100
    pages = [iot.search_index(queryString="*")]
    while token := pages[-1].get("nextToken"):
        pages.append(iot.search_index(queryString="*", nextToken=token))
    assert [len(page["things"]) for page in pages] == [100, 20]
