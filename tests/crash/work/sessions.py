"""Workload: a broker with a persistent session, a shared subscription and a retained message; print what was acknowledged.

argv: variant, folder. Lines: `on` once the session's subscriptions are acknowledged; `a N`, `b N` for a message to its own
filter and to the group's, after the PUBACK; `got a N` once its client has acknowledged it; `r N` for a retained message.
Variants but "good" are broken on purpose, so that the sweep can show that it notices.
"""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from marram.core.mqtt.packets import Publish
from marram.hub.broker import recovery
from marram.kit.seglog import Journal
from tests.hub.broker import conftest

MARK = "MARRAM_SWEEP_MARK"
SETTINGS = {"segment_bytes": 8192, "budget_bytes": 1 << 30, "ahead_bytes": 2048}
KEEPER = {"version": 5, "clean": False, "properties": {"session_expiry_s": 86_400}}
ROUNDS = 6


class NoSync(Journal):
    """PUBACK for what only the page cache has."""

    def _sync(self, handle: int) -> None:
        pass


class World(conftest.World):
    journal_kind: type[Journal] = Journal

    def open_journal(self) -> Journal:
        return self.journal_kind.open(self.folder / "log", clock=self.clock, entropy=self.entropy, **SETTINGS)


def say(line: str) -> None:
    print(line, flush=True)


async def work(world: World) -> None:
    await world.open()
    keeper = await world.client("keeper", **KEEPER)
    await keeper.subscribe("a", "$share/g/b")
    say("on")
    await keeper.disconnect()
    pub = await world.client("pub")
    Path(os.environ[MARK]).touch()
    number = 0
    for turn in range(ROUNDS):
        for _ in range(4):
            number += 1
            for topic in ("a", "b"):
                assert await pub.acked(topic, f"{number} {'x' * 150}") == 0
                say(f"{topic} {number}")
        assert await pub.acked("r", str(number), retain=True) == 0
        say(f"r {number}")
        if turn % 2:
            keeper = await world.client("keeper", **KEEPER)
            assert keeper.connack.session_present
            await keeper.until(lambda got=keeper.got: sum(isinstance(p, Publish) for p in got) >= 16)
            await pub.acked("tick")  # the acknowledgements are in the journal before what comes after them
            for packet in [p for p in keeper.got if isinstance(p, Publish)]:
                say(f"got {packet.topic} {packet.payload.split()[0].decode()}")
            await keeper.disconnect()
        if turn % 3 == 2:
            await world.broker.checkpoint()


def main(variant: str, folder: str) -> None:
    world = World(Path(folder))
    if variant == "no-sync":
        world.journal_kind = NoSync
    elif variant == "no-begin":
        recovery.begin = lambda session: [recovery.END, session.client_id]  # type: ignore[assignment]
    elif variant == "no-group":
        conftest.Broker.__init__ = _without_group(conftest.Broker.__init__)
    asyncio.run(work(world))


def _without_group(init):
    """The record of a message for a group does not name its queue."""

    def made(self, **arguments):
        init(self, **arguments)
        share = self._connecting._sharing.spread
        self._delivery.share_by(lambda group, able, message, entry, names: share(group, able, message, entry, []))

    return made


if __name__ == "__main__":
    main(*sys.argv[1:])
