"""Sessions, shared subscriptions and retained messages after a power cut: what was acknowledged waits for its client, in order."""

import asyncio
from pathlib import Path

import pytest

from marram.hub.broker.session import Session
from tests.crash.sweep import python, sweep
from tests.crash.work import sessions as workload


def check(root: Path, acks: list[str]) -> None:
    asyncio.run(_look(root, acks))


async def _look(root: Path, acks: list[str]) -> None:
    told: dict[str, set[int]] = {"a": set(), "b": set(), "r": set(), "got a": set(), "got b": set()}
    for line in acks:
        if line != "on":
            what, _, number = line.rpartition(" ")
            told[what].add(int(number))
    world = workload.World(root)
    await world.open()
    try:
        broker = world.broker
        assert not world.journal.damage, f"damage after a power cut: {world.journal.damage}"
        keeper, group = broker.sessions.get("keeper"), broker._connecting._sharing.stores.get("$share/g/b")
        if "on" in acks:
            assert keeper is not None and group is not None, "the session is gone"
            assert broker.subscriptions("keeper") == [("$share/g/b", 1), ("a", 1)]
            for name, session in (("a", keeper), ("b", group)):
                waiting = _numbers(world, session, name)
                assert waiting == sorted(set(waiting)), f"{name}: out of order, or twice: {waiting}"
                lost = told[name] - told[f"got {name}"] - set(waiting)
                assert not lost, f"{name}: acknowledged and lost: {sorted(lost)[:5]}"
        if told["r"]:
            kept = broker.retained("r")
            assert kept is not None and int(kept.payload) >= max(told["r"]), "the retained message is an old one"
        if keeper is not None and ("a", 1) in broker.subscriptions("keeper"):  # else the SUBSCRIBE was not answered yet
            await broker.publish("a", b"9999 more", qos=1)
            assert _numbers(world, keeper, "a")[-1:] == [9999], "cannot go on"
    finally:
        await world.close(checkpoint=False)


def _numbers(world: workload.World, session: Session, topic: str) -> list[int]:
    """The messages in its queue, which are whole."""
    found = []
    for offset in session.queue:
        [(at, record)] = world.journal.read(offset, 1)
        assert (at, record.topic) == (offset, topic.encode()), f"offset {offset} is something else"
        number, _, rest = record.payload.decode().partition(" ")
        assert rest in ("more", "x" * 150), "half a message"
        found.append(int(number))
    return found


def test_sessions_survive_a_power_cut_at_any_operation() -> None:
    sweep(python("sessions", "good"), check, every=5, marked=True).assert_clean()


@pytest.mark.parametrize("broken", ["no-sync", "no-begin", "no-group"])
def test_the_sweep_notices(broken: str) -> None:
    sweep(python("sessions", broken), check, every=1, stop_after=1, budget_s=30, marked=True).assert_caught()
