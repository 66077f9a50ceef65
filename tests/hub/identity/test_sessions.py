"""Login links work once and for 15 minutes; sessions end with their time and with their key."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marram.core.errors import Denied, Unauthenticated
from marram.hub.bus import Bus
from marram.hub.identity.model import Session
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity, Key
from marram.hub.identity.sessions import LINK_LIFE_MS, SESSION_LIFE_S, Minted, Sessions
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

    def session(self, key: Key) -> Minted:
        return self.sessions.mint(Session(kind="key", owner=key.id), SESSION_LIFE_S)


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
    token, _ = await world.sessions.create_link(key.subject)
    made = await world.sessions.open_link(token)
    held = world.identity.session(made.access_key_id, made.token)
    assert (held.secret, held.subject.principal) == (made.secret, key.id)
    with pytest.raises(Unauthenticated):
        await world.sessions.open_link(token)


async def test_a_link_ends_after_15_minutes(world: World) -> None:
    token, _ = await world.sessions.create_link((await world.key()).subject)
    world.clock.advance(LINK_LIFE_MS + 1)
    with pytest.raises(Unauthenticated):
        await world.sessions.open_link(token)


async def test_a_session_ends_with_its_time(world: World) -> None:
    made = world.session(await world.key())
    world.clock.advance(SESSION_LIFE_S * 1000)
    with pytest.raises(Unauthenticated, match="expired"):
        world.identity.session(made.access_key_id, made.token)


async def test_a_session_ends_with_its_key(world: World) -> None:
    key = await world.key()
    made = world.session(key)
    await world.identity.delete_key(key.id)
    with pytest.raises(Unauthenticated):
        world.identity.session(made.access_key_id, made.token)


async def test_altered_or_exchanged_tokens_are_refused(world: World) -> None:
    key = await world.key()
    one, two = world.session(key), world.session(key)
    for access_key_id, token in (
        (one.access_key_id, two.token),
        (one.access_key_id, one.token[:-8] + "AAAAAAA="),
        (one.access_key_id, "no base64!"),
        (one.access_key_id, ""),
    ):
        with pytest.raises(Unauthenticated):
            world.identity.session(access_key_id, token)


async def test_a_session_cannot_make_the_link_to_the_next_one(world: World) -> None:
    made = world.session(await world.key())
    held = world.identity.session(made.access_key_id, made.token)
    with pytest.raises(Denied, match="temporary"):
        await world.sessions.create_link(held.subject)


async def test_a_session_of_an_inactive_key_is_refused_and_lives_on_with_it(world: World) -> None:
    key = await world.key()
    made = world.session(key)
    await world.identity.keys.set_status("anna", key.id, "Inactive")
    with pytest.raises(Unauthenticated):
        world.identity.session(made.access_key_id, made.token)
    await world.identity.keys.set_status("anna", key.id, "Active")
    assert world.identity.session(made.access_key_id, made.token).subject.principal == key.id


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_stands_in_the_place_of_a_token_opens_nothing(world: World, data: st.DataObject) -> None:
    key = world.identity.admin_key()
    made = world.session(key)
    raw = bytearray(urlsafe_b64decode(made.token))
    match data.draw(st.sampled_from(["flip", "cut", "longer", "text"])):
        case "flip":
            at = data.draw(st.integers(0, len(raw) - 1))
            raw[at] ^= data.draw(st.integers(1, 255))
            token = urlsafe_b64encode(raw).decode()
        case "cut":
            token = urlsafe_b64encode(raw[: data.draw(st.integers(0, len(raw) - 1))]).decode()
        case "longer":
            token = urlsafe_b64encode(raw + data.draw(st.binary(min_size=1, max_size=40))).decode()
        case _:
            token = data.draw(st.text(max_size=200))
    with pytest.raises(Unauthenticated):
        world.identity.session(made.access_key_id, token)
    assert world.identity.session(made.access_key_id, made.token).secret == made.secret
