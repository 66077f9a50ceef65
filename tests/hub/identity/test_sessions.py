"""Login links work once and for 15 minutes; sessions end with their time and with their key."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from marram.core.errors import Unauthenticated
from marram.hub.bus import Bus
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity, Key
from marram.hub.identity.sessions import LINK_LIFE_MS, SESSION_LIFE_MS, Sessions
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations

ALL = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'


@dataclass
class World:
    clock: FakeClock
    identity: Identity
    sessions: Sessions

    async def key(self) -> Key:
        return await self.identity.create_key("anna", ALL)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock, entropy = FakeClock(), SeededEntropy(3)
    migrations = [Migrations(slice="identity", package="marram.hub.identity")]
    with Db.open(tmp_path / "hub.db", clock=clock, entropy=entropy, migrations=migrations) as db:
        pki = Pki.open(tmp_path / "pki", clock=clock, entropy=entropy)
        identity = Identity(db, pki, Bus(), clock=clock, entropy=entropy, account="000000000001", region="local-1")
        yield World(clock, identity, identity.sessions)


async def test_a_link_works_once(world: World) -> None:
    key = await world.key()
    token, _ = await world.sessions.create_link(key.id)
    made = await world.sessions.open_link(token)
    held = world.identity.session(made.access_key_id, made.token)
    assert (held.secret, held.subject.principal) == (made.secret, key.id)
    with pytest.raises(Unauthenticated):
        await world.sessions.open_link(token)


async def test_a_link_ends_after_15_minutes(world: World) -> None:
    token, _ = await world.sessions.create_link((await world.key()).id)
    world.clock.advance(LINK_LIFE_MS + 1)
    with pytest.raises(Unauthenticated):
        await world.sessions.open_link(token)


async def test_a_session_ends_with_its_time(world: World) -> None:
    made = world.sessions.mint((await world.key()).id)
    world.clock.advance(SESSION_LIFE_MS)
    with pytest.raises(Unauthenticated, match="expired"):
        world.identity.session(made.access_key_id, made.token)


async def test_a_session_ends_with_its_key(world: World) -> None:
    key = await world.key()
    made = world.sessions.mint(key.id)
    await world.identity.delete_key(key.id)
    with pytest.raises(Unauthenticated):
        world.identity.session(made.access_key_id, made.token)


async def test_altered_or_exchanged_tokens_are_refused(world: World) -> None:
    key = await world.key()
    one, two = world.sessions.mint(key.id), world.sessions.mint(key.id)
    for access_key_id, token in (
        (one.access_key_id, two.token),
        (one.access_key_id, one.token[:-8] + "AAAAAAA="),
        (one.access_key_id, "no base64!"),
        (one.access_key_id, ""),
    ):
        with pytest.raises(Unauthenticated):
            world.identity.session(access_key_id, token)
