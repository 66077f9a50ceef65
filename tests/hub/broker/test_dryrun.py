"""A changed policy tried on requests and on who is here: what it finds is what happens when it is made the default."""

import json

import pytest

from marram.core.errors import Invalid, NotFound
from marram.core.policy.documents import MalformedPolicy
from marram.hub.broker.dryrun import MAX_CHANGES, Request
from marram.hub.identity import pki
from tests.hub.broker.conftest import ARN, World

ALL = {"Action": "iot:*", "Resource": "*"}


def document(*statements: dict[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **row} for row in statements]})


async def of(world: World, der: bytes) -> tuple[str, str]:
    """(policy name, certificate ARN)"""
    certificate_id = pki.certificate_id(der)
    return f"p-{certificate_id[:12]}", f"{ARN}cert/{certificate_id}"


async def test_what_is_found_live_is_what_happens(world: World) -> None:
    der = await world.device(ALL)
    name, _ = await of(world, der)
    stays, goes = await world.client("stays", der), await world.client("goes", der)
    bystander = await world.client("bystander")
    for client in (stays, goes, bystander):
        assert await client.subscribe("a/1", "b/#") == [1, 1]
        assert await client.acked("a/1") == 0 and await client.acked("b/2") == 0
    text = document(
        {"Action": "iot:Connect", "Resource": f"{ARN}client/stays"},
        {"Action": ["iot:Publish", "iot:Receive"], "Resource": f"{ARN}topic/a/*"},
        {"Action": "iot:Subscribe", "Resource": [f"{ARN}topicfilter/a/*", f"{ARN}topicfilter/b/*"]},
    )
    live = await world.broker.dry_run.live(await world.broker.dry_run.compiled(name, text))
    assert (live.clients, live.connections, live.subscriptions, live.topics) == (2, 2, 4, 4)
    found = {(each.client_id, each.action, each.resource.removeprefix(ARN)) for each in live.changes}
    assert found == {
        ("goes", "iot:Connect", "client/goes"), ("goes", "iot:Publish", "topic/b/2"), ("stays", "iot:Publish", "topic/b/2"),
    }  # fmt: skip
    assert (live.denied, live.allowed) == (3, 0)
    assert all((each.before, each.after) == ("allowed", "implicit deny") for each in live.changes)
    why = next(each.why for each in live.changes if each.action == "iot:Connect")
    assert why == f"no statement allows it: policy {name} statement 0: its Resource does not cover {ARN}client/goes"

    assert await stays.acked("b/2") == 0, "nothing has changed by trying"
    await world.identity.create_version(name, text, as_default=True)
    await goes.end()
    assert await stays.acked("a/1") == 0
    stays.publish("b/2", b"x", 1)
    await stays.end()
    assert await bystander.acked("b/2") == 0


async def test_requests(world: World) -> None:
    der = await world.device(ALL)
    name, principal = await of(world, der)
    policy = await world.broker.dry_run.compiled(
        name,
        json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {"Effect": "Allow", "Action": "iot:Publish", "Resource": f"{ARN}topic/${{iot:ClientId}}/*"},
                    {"Effect": "Deny", "Action": "iot:Connect", "Resource": "*", "Sid": "night",
                     "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
                ],
            }
        ),
    )  # fmt: skip

    def ask(action: str, resource: str, **context: str) -> tuple[str, str, str]:
        values = {key.replace("_", ":"): value for key, value in context.items()}
        request = Request(
            principal=principal, client_id="c", action=action, resource=f"{ARN}{resource}", context=values
        )
        (outcome,) = world.broker.dry_run.requests(policy, [request])
        return outcome.before, outcome.after, outcome.why

    assert ask("iot:Publish", "topic/c/x") == ("allowed", "allowed", f"policy {name} statement 0 allows it")
    assert ask("iot:Publish", "topic/d/x")[:2] == ("allowed", "implicit deny")
    denied = ("allowed", "explicit deny", f"policy {name} statement 1 (night) denies it")
    assert ask("iot:Connect", "client/c", aws_SourceIp="10.1.1.1") == denied
    assert ask("iot:Receive", "topic/c")[2] == "no statement allows the action"


async def test_newly_allowed(world: World) -> None:
    der = await world.device({"Action": ["iot:Connect", "iot:Subscribe"], "Resource": "*"})
    name, _ = await of(world, der)
    client = await world.client("c", der)
    assert await client.subscribe("a/1", "a/+") == [1, 1]
    live = await world.broker.dry_run.live(await world.broker.dry_run.compiled(name, document(ALL)))
    assert [(each.action, each.resource, each.is_allowed) for each in live.changes] == [
        ("iot:Receive", f"{ARN}topic/a/1", True)
    ]


async def test_a_waiting_session_and_its_subscriptions_count(world: World) -> None:
    der = await world.device(ALL)
    name, _ = await of(world, der)
    client = await world.client("c", der, clean=False)
    assert await client.subscribe("a/1") == [1]
    await client.disconnect()
    live = await world.broker.dry_run.live(
        await world.broker.dry_run.compiled(name, document({"Action": "iot:Connect", "Resource": "*"}))
    )
    assert (live.clients, live.connections, live.subscriptions) == (1, 0, 1)
    assert {each.action for each in live.changes} == {"iot:Subscribe", "iot:Receive"}


async def test_a_connection_is_judged_by_what_it_asked(world: World) -> None:
    """iot:ConnectAttributes of the CONNECT, in the dry run and when a policy changes."""
    only = {"Condition": {"ForAllValues:StringEquals": {"iot:ConnectAttributes": ["PersistentConnect"]}}}
    der = await world.device(ALL)
    name, _ = await of(world, der)
    plain, kept = await world.client("plain", der), await world.client("kept", der, clean=False)
    any_of = {"Condition": {"ForAnyValue:StringEquals": {"iot:ConnectAttributes": ["PersistentConnect"]}}}
    for condition, denied in ((only, set()), (any_of, {"plain"})):
        text = document({**ALL, **condition}, {"NotAction": "iot:Connect", "Resource": "*"})
        live = await world.broker.dry_run.live(await world.broker.dry_run.compiled(name, text))
        assert {each.client_id for each in live.changes} == denied
    await world.identity.create_version(name, text, as_default=True)
    await plain.end()
    assert await kept.acked("a") == 0 and not kept.closed


async def test_refused(world: World) -> None:
    name, _ = await of(world, await world.device(ALL))
    with pytest.raises(NotFound, match="nobody"):
        await world.broker.dry_run.compiled("nobody", document(ALL))
    with pytest.raises(MalformedPolicy, match=r"Statement\[0\]\.Effect"):
        await world.broker.dry_run.compiled(name, document({**ALL, "Effect": "deny"}))
    policy = await world.broker.dry_run.compiled(name, document(ALL))
    for wrong, error in ((f"{ARN}cert/{'0' * 64}", NotFound), (f"{ARN}thing/x", Invalid)):
        with pytest.raises(error):
            request = Request(principal=wrong, client_id=None, action="iot:Publish", resource="*", context={})
            world.broker.dry_run.requests(policy, [request])


async def test_changes_are_counted_beyond_those_that_are_listed(world: World) -> None:
    der = await world.device(ALL)
    name, _ = await of(world, der)
    clients = [await world.client(f"c{at}", der) for at in range(30)]
    for at, client in enumerate(clients):
        for first in range(0, 40, 8):
            await client.subscribe(*(f"{at}/{number}" for number in range(first, first + 8)))
    nothing = await world.broker.dry_run.compiled(name, document({"Action": "iot:GetThingShadow", "Resource": "*"}))
    live = await world.broker.dry_run.live(nothing)
    assert (live.denied, len(live.changes)) == (30 * 81, MAX_CHANGES)
