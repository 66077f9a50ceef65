"""IoT policies: what is stored, what is refused, what they decide (TestAuthorization and at the MQTT door)."""

import json
from typing import Any

from tests.behaviours.row import row
from tests.behaviours.world import World

MALFORMED = ("MalformedPolicyException", 400)
ACTIONS = "guide: AWS IoT Core policy actions"
VARIABLES = "guide: AWS IoT Core policy variables"
THING_VARIABLES = "guide: Thing policy variables"
CERTIFICATES = "guide: X.509 Certificate AWS IoT Core policy variables"
CONNECTS = "guide: Connect policy examples"
TOPICS = "guide: Publish/Subscribe policy examples"
IAM = "guide: IAM policy evaluation logic"


def allow(action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def decide(
    world: World, statements: list[dict[str, Any]], kind: str, resource: str, client_id: str | None = None
) -> dict[str, Any]:
    """The result of TestAuthorization for a certificate with these statements."""
    device = world.device(document(*statements))
    options = {"clientId": client_id} if client_id is not None else {}
    infos = [{"actionType": kind, "resources": [world.arn(resource)]}]
    (result,) = world.iot.test_authorization(principal=device.arn, authInfos=infos, **options)["authResults"]
    return dict(result)


def decision(world: World, statements: list[dict[str, Any]], resource: str, **options: Any) -> str:
    kind = {"topic": "PUBLISH", "topicfilter": "SUBSCRIBE", "client": "CONNECT"}[resource.partition("/")[0]]
    return str(decide(world, statements, kind, resource, **options)["authDecision"])


@row(aws="Without a statement that allows it, an implicit deny.", source=IAM)
def nothing_allows(world: World) -> None:
    assert decision(world, [allow("iot:Publish", world.arn("topic/a"))], "topic/b") == "IMPLICIT_DENY"


@row(aws="A deny wins over every allow, wherever it stands.", source=IAM)
def deny_wins(world: World) -> None:
    deny = {**allow("iot:Publish", world.arn("topic/a")), "Effect": "Deny"}
    for statements in ([allow("iot:*"), deny], [deny, allow("iot:*")]):
        assert decision(world, statements, "topic/a") == "EXPLICIT_DENY"
        assert decision(world, statements, "topic/b") == "ALLOWED"


@row(aws="A star matches any characters, slashes too.", source=VARIABLES)
def star_crosses_levels(world: World) -> None:
    statements = [allow("iot:Publish", world.arn("topic/a/*"))]
    assert decision(world, statements, "topic/a/b/c") == "ALLOWED"
    assert decision(world, statements, "topic/a") == "IMPLICIT_DENY"


@row(aws="A question mark matches exactly one character.", source=VARIABLES)
def question_mark_is_one(world: World) -> None:
    statements = [allow("iot:Publish", world.arn("topic/a?c"))]
    assert [decision(world, statements, f"topic/{name}") for name in ("abc", "ac", "abbc")] == [
        "ALLOWED", "IMPLICIT_DENY", "IMPLICIT_DENY",
    ]  # fmt: skip


@row(aws="Plus and hash are literal in a policy.", source=TOPICS)
def mqtt_wildcards_are_literal(world: World) -> None:
    statements = [allow("iot:Subscribe", world.arn("topicfilter/some/+/topic"))]
    assert decision(world, statements, "topicfilter/some/+/topic") == "ALLOWED"
    assert decision(world, statements, "topicfilter/some/x/topic") == "IMPLICIT_DENY"


@row(aws="${*}, ${?} and ${$} are the characters.", source=VARIABLES)
def escapes(world: World) -> None:
    statements = [allow("iot:Publish", world.arn("topic/a${*}b"))]
    assert decision(world, statements, "topic/axb") == "IMPLICIT_DENY"


@row(aws="Actions have no case.", source="guide: IAM JSON policy elements: Action")
def actions_have_no_case(world: World) -> None:
    assert decision(world, [allow("IOT:publish")], "topic/a") == "ALLOWED"


@row(aws="NotAction covers all but what it lists.", source="guide: IAM JSON policy elements: NotAction")
def not_action(world: World) -> None:
    statements = [{"Effect": "Allow", "NotAction": "iot:Subscribe", "Resource": "*"}]
    assert decision(world, statements, "topic/a") == "ALLOWED"
    assert decision(world, statements, "topicfilter/a") == "IMPLICIT_DENY"


@row(aws="NotResource covers all but what it lists.", source="guide: IAM JSON policy elements: NotResource")
def not_resource(world: World) -> None:
    statements = [{"Effect": "Allow", "Action": "iot:*", "NotResource": world.arn("topic/secret")}]
    assert decision(world, statements, "topic/a") == "ALLOWED"
    assert decision(world, statements, "topic/secret") == "IMPLICIT_DENY"


@row(aws="${iot:ClientId} is the client id.", source="guide: Basic AWS IoT Core policy variables")
def client_id_variable(world: World) -> None:
    statements = [allow("iot:Publish", world.arn("topic/${iot:ClientId}/x"))]
    assert decision(world, statements, "topic/c/x", client_id="c") == "ALLOWED"
    assert decision(world, statements, "topic/d/x", client_id="c") == "IMPLICIT_DENY"


@row(aws="A variable without a value allows nothing and is named.", source="model: TestAuthorization")
def missing_variable_is_named(world: World) -> None:
    statements = [allow("iot:Publish", world.arn("topic/${iot:Connection.Thing.ThingName}/x"))]
    result = decide(world, statements, "PUBLISH", "topic/a/x", "a")
    assert result["authDecision"] == "IMPLICIT_DENY"
    assert any("iot:Connection.Thing.ThingName" in each for each in result["missingContextValues"])


@row(aws="A variable has no value without Version 2012-10-17.", source="guide: IAM policy elements: Variables and tags",
     differs="Such a document is refused: its variables would never mean anything.")  # fmt: skip
def variables_need_the_version(world: World) -> None:
    text = {"Statement": [allow("iot:Publish", world.arn("topic/${iot:ClientId}"))]}
    world.iot.create_policy(policyName=world.name("policy"), policyDocument=json.dumps(text))


@row(
    aws="${iot:Connection.Thing.ThingName} needs the client id of a thing that the certificate is attached to.",
    source=THING_VARIABLES,
)
def thing_name_variable(world: World) -> None:
    device = world.device(
        document(allow("iot:Connect", world.arn("client/${iot:Connection.Thing.ThingName}"))), thing=""
    )
    assert world.mqtt(device, device.thing).connect() == 0
    assert world.mqtt(device, device.thing + "x").connect() != 0


@row(aws="A client id of a thing that the certificate is not attached to is no thing.", source=THING_VARIABLES)
def thing_of_another_certificate(world: World) -> None:
    device = world.device(document(allow("iot:Connect", world.arn("client/${iot:Connection.Thing.ThingName}"))))
    assert world.mqtt(device, world.thing()).connect() != 0


@row(aws="iot:Connection.Thing.IsAttached is true for the client id of an attached thing.", source=THING_VARIABLES)
def is_attached(world: World) -> None:
    condition = {"Bool": {"iot:Connection.Thing.IsAttached": ["true"]}}
    device = world.device(document(allow("iot:Connect", Condition=condition)), thing="")
    assert world.mqtt(device, device.thing).connect() == 0
    assert world.mqtt(device, world.name("client")).connect() != 0


@row(aws="iot:Connection.Thing.Attributes[name] is the thing's attribute.", source=THING_VARIABLES)
def thing_attributes(world: World) -> None:
    resource = world.arn("topic/${iot:Connection.Thing.Attributes[site]}/x")
    thing = world.thing(attributePayload={"attributes": {"site": "hall7"}})
    device = world.device(document(allow("iot:Connect"), allow("iot:Publish", resource)), thing=thing)
    client = world.connected(device, thing)
    assert client.publish("hall7/x") == 0
    assert client.publish("hall8/x") != 0


@row(aws="iot:Connection.Thing.ThingTypeName is the thing's type.", source=THING_VARIABLES)
def thing_type_name(world: World) -> None:
    kind = world.name("type")
    world.iot.create_thing_type(thingTypeName=kind)
    thing = world.thing(thingTypeName=kind)
    resource = world.arn("topic/${iot:Connection.Thing.ThingTypeName}/x")
    client = world.connected(
        world.device(document(allow("iot:Connect"), allow("iot:Publish", resource)), thing=thing), thing
    )
    assert client.publish(f"{kind}/x") == 0


@row(
    aws="A policy of a group holds for the certificates of its things, and of groups below.",
    source="guide: Thing groups",
)
def group_policies(world: World) -> None:
    parent, child = world.name("group"), world.name("group")
    world.iot.create_thing_group(thingGroupName=parent)
    world.iot.create_thing_group(thingGroupName=child, parentGroupName=parent)
    device = world.device(document(allow("iot:Connect")), thing="")
    client = world.connected(device, device.thing)
    world.iot.attach_policy(
        policyName=world.policy(document(allow("iot:Publish"))), target=world.arn(f"thinggroup/{parent}")
    )
    assert client.publish("a") != 0
    world.iot.add_thing_to_thing_group(thingGroupName=child, thingName=device.thing)
    again = world.mqtt(device, device.thing)
    assert again.connect() == 0
    world.until(lambda: again.publish("a") == 0, "the right of the group")
    found = world.iot.get_effective_policies(principal=device.arn, thingName=device.thing)["effectivePolicies"]
    assert len(found) == 2 and all(json.loads(each["policyDocument"])["Version"] == "2012-10-17" for each in found)


@row(aws="PersistentConnect in iot:ConnectAttributes allows persistent sessions, and clean ones.", source=CONNECTS)
def connect_attribute_persistent(world: World) -> None:
    condition = {"ForAllValues:StringEquals": {"iot:ConnectAttributes": ["PersistentConnect"]}}
    device = world.device(document(allow("iot:Connect", Condition=condition)))
    assert world.mqtt(device).connect(clean=False, expiry_s=60) == 0
    assert world.mqtt(device).connect() == 0
    assert world.mqtt(device).connect(will=("a", b"x", 0, False)) != 0


@row(aws="An empty list in iot:ConnectAttributes allows only the default features.", source=CONNECTS)
def connect_attribute_none(world: World) -> None:
    condition: dict[str, Any] = {"ForAllValues:StringEquals": {"iot:ConnectAttributes": []}}
    device = world.device(document(allow("iot:Connect", Condition=condition)))
    assert world.mqtt(device).connect() == 0
    assert world.mqtt(device).connect(clean=False, expiry_s=60) != 0


@row(aws="ForAnyValue on iot:ConnectAttributes demands the feature.", source=CONNECTS)
def connect_attribute_demanded(world: World) -> None:
    condition = {"ForAnyValue:StringEquals": {"iot:ConnectAttributes": ["PersistentConnect"]}}
    device = world.device(document(allow("iot:Connect", Condition=condition)))
    assert world.mqtt(device).connect(clean=False, expiry_s=60) == 0
    assert world.mqtt(device).connect() != 0


@row(aws="Without a condition on it, every connect attribute is allowed.", source=CONNECTS)
def connect_attributes_are_open(world: World) -> None:
    device = world.device(document(allow(["iot:Connect", "iot:Publish"])))
    assert world.mqtt(device).connect(clean=False, expiry_s=60, will=("a", b"x", 0, False)) == 0


@row(aws="iot:LastWillTopic restricts the topic of the will.", source=CONNECTS)
def last_will_topic(world: World) -> None:
    condition = {"ArnEquals": {"iot:LastWillTopic": world.arn("topic/my/lastwill")}}
    device = world.device(document(allow("iot:Connect", Condition=condition), allow("iot:Publish")))
    assert world.mqtt(device).connect(will=("my/lastwill", b"x", 0, False)) == 0
    assert world.mqtt(device).connect(will=("other", b"x", 0, False)) != 0
    assert world.mqtt(device).connect() != 0


@row(aws="A subscription without iot:Receive gets nothing.", source=ACTIONS)
def receive_is_a_right(world: World) -> None:
    device = world.device(
        document(
            allow(["iot:Connect", "iot:Subscribe", "iot:Publish"]), allow("iot:Receive", world.arn("topic/a/open"))
        )
    )
    client = world.connected(device)
    assert client.subscribe("a/#") == [1]
    assert client.publish("a/closed") == 0 and client.publish("a/open") == 0
    assert client.receive().topic == "a/open" and client.silent()


@row(aws="Retaining needs iot:RetainPublish beside iot:Publish.", source=ACTIONS)
def retain_is_a_right(world: World) -> None:
    topic = world.name("topic")
    client = world.connected(world.device(document(allow(["iot:Connect", "iot:Publish"]))))
    assert client.publish(topic) == 0
    assert client.publish(topic, retain=True) != 0
    both = world.connected(world.device(document(allow(["iot:Connect", "iot:Publish", "iot:RetainPublish"]))))
    assert both.publish(topic, retain=True) == 0


@row(aws="A publish without the right: 5 reads 0x87.", source="guide: MQTT 5 reason codes")
def denied_publish_of_5(world: World) -> None:
    client = world.connected(world.device(document(allow("iot:Connect"))))
    assert client.publish("a") == 0x87


@row(aws="A publish without the right: a 3.1.1 connection is closed.", source="guide: MQTT", unconfirmed=True)
def denied_publish_of_3(world: World) -> None:
    client = world.connected(world.device(document(allow("iot:Connect"))), version=3)
    assert client.publish("a") == -1


@row(
    aws="A subscription without the right is refused in the SUBACK, the others are not.",
    source="guide: MQTT 5 reason codes",
)
def denied_subscribe(world: World) -> None:
    device = world.device(document(allow("iot:Connect"), allow("iot:Subscribe", world.arn("topicfilter/a"))))
    assert world.connected(device).subscribe("b", "a") == [0x87, 1]
    assert world.connected(device, version=3).subscribe("b", "a") == [0x80, 1]


@row(aws="A policy that is changed reaches live connections.", source="guide: AWS IoT Core policies")
def a_change_reaches_live_connections(world: World) -> None:
    device = world.device()
    client = world.connected(device)
    assert client.publish("a") == 0
    world.iot.create_policy_version(
        policyName=device.policy, policyDocument=json.dumps(document(allow("iot:Connect"))), setAsDefault=True
    )
    world.until(lambda: client.publish("a") != 0, "the new policy")


@row(aws="Over 2,048 characters without white space: MalformedPolicyException.", source="guide: AWS IoT Core quotas")
def policy_size(world: World) -> None:
    def text(size: int) -> str:
        frame = json.dumps(document(allow("iot:Publish", "arn:aws:iot:@")), separators=(",", ":"))
        return frame.replace("@", "x" * (size - len(frame) + 1))

    world.iot.create_policy(policyName=world.name("policy"), policyDocument=text(2048).replace(",", ",   \n"))
    with world.refused(*MALFORMED):
        world.iot.create_policy(policyName=world.name("policy"), policyDocument=text(2049))


@row(aws="Ten policies a target; one more is LimitExceededException.", source="guide: AWS IoT Core quotas")
def ten_policies(world: World) -> None:
    device = world.device()
    for _ in range(9):
        world.iot.attach_policy(policyName=world.policy(), target=device.arn)
    with world.refused("LimitExceededException", 410):
        world.iot.attach_policy(policyName=world.policy(), target=device.arn)


@row(aws="Five versions; one more is VersionsLimitExceededException.", source="model: CreatePolicyVersion")
def five_versions(world: World) -> None:
    name = world.policy()
    for _ in range(4):
        world.iot.create_policy_version(policyName=name, policyDocument=json.dumps(document(allow("iot:*"))))
    with world.refused("VersionsLimitExceededException", 409):
        world.iot.create_policy_version(policyName=name, policyDocument=json.dumps(document(allow("iot:*"))))


@row(aws="What is no policy is refused.", source="model: MalformedPolicyException")
def malformed(world: World) -> None:
    for text in ("{", "[]", '{"Version": "2012-10-17"}', '{"Version": "2013-10-17", "Statement": []}',
                 json.dumps(document({"Effect": "Allow", "Action": "iot:*"})),
                 json.dumps(document({**allow("iot:*"), "Effect": "Perhaps"})),
                 json.dumps(document({**allow("iot:*"), "Principal": "*"}))):  # fmt: skip
        with world.refused(*MALFORMED):
            world.iot.create_policy(policyName=world.name("policy"), policyDocument=text)


@row(aws="An unknown condition key is stored, and never has a value.", source="guide: AWS IoT Core policies", unconfirmed=True,
     differs="It is refused when the policy is made, with its place.")  # fmt: skip
def unknown_keys_are_stored(world: World) -> None:
    text = document(allow("iot:*", Condition={"StringEquals": {"iot:Nothing": "x"}}))
    world.iot.create_policy(policyName=world.name("policy"), policyDocument=json.dumps(text))


@row(aws="TestAuthorization puts each policy in one of three lists.", source="model: TestAuthorization")
def test_authorization_lists(world: World) -> None:
    device = world.device(document(allow("iot:Publish")))
    denies = world.policy(document({**allow("iot:Publish"), "Effect": "Deny"}))
    silent = world.policy(document(allow("iot:Subscribe")))
    (result,) = world.iot.test_authorization(
        principal=device.arn, authInfos=[{"actionType": "PUBLISH", "resources": [world.arn("topic/a")]}],
        policyNamesToAdd=[denies, silent],
    )["authResults"]  # fmt: skip
    lists = (result["allowed"], result["denied"]["explicitDeny"], result["denied"]["implicitDeny"])
    names = [[each["policyName"] for each in found["policies"]] for found in lists]
    assert names == [[device.policy], [denies], [silent]]
    assert result["authDecision"] == "EXPLICIT_DENY"


@row(aws="TestAuthorization leaves out policyNamesToSkip.", source="model: TestAuthorization")
def test_authorization_skips(world: World) -> None:
    device = world.device()
    infos = [{"actionType": "PUBLISH", "resources": [world.arn("topic/a")]}]
    (result,) = world.iot.test_authorization(principal=device.arn, authInfos=infos, policyNamesToSkip=[device.policy])[
        "authResults"
    ]
    assert result["authDecision"] == "IMPLICIT_DENY"
