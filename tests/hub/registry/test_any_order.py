"""Registry calls in any order against a slow model: what is refused changes nothing, and every list says what the model says."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from marram.core.errors import MarramError
from marram.hub.bus import Bus
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.registry.service import Registry, Search
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations
from tests.full import FULL, many

FIVE_MINUTES = 5 * 60 * 1000
things = st.sampled_from(["t1", "t2", "t3"])
types = st.sampled_from(["", "pump", "valve"])
groups = st.sampled_from(["a", "b", "c", "d"])
attributes = st.dictionaries(st.sampled_from("wxyz"), st.sampled_from(["", "1", "2"]), max_size=4)


@dataclass
class Model:
    """What the registry should hold, in the simplest form; every function says whether it is refused."""

    now: int = 0
    things: dict[str, tuple[str, dict[str, str], int]] = field(default_factory=dict)  # type, attributes, version
    types: dict[str, int | None] = field(default_factory=dict)  # deprecated when
    groups: dict[str, str] = field(default_factory=dict)  # parent
    members: set[tuple[str, str]] = field(default_factory=set)

    def line(self, group: str) -> list[str]:
        return [group, *self.line(self.groups[group])] if group else []

    def usable(self, name: str) -> bool:
        return not name or (name in self.types and self.types[name] is None)

    def create_thing(self, name: str, kind: str, given: dict[str, str]) -> bool:
        wanted = {key: value for key, value in given.items() if value}
        if name in self.things:
            return self.things[name][:2] != (kind, wanted)
        if not self.usable(kind) or (not kind and len(wanted) > 3):
            return True
        self.things[name] = (kind, wanted, 1)
        return False

    def update_thing(
        self, name: str, kind: str, remove: bool, given: dict[str, str] | None, merge: bool, expected: int | None
    ) -> bool:
        if (kind and remove) or name not in self.things:
            return True
        present, had, version = self.things[name]
        if expected is not None and expected != version:
            return True
        if kind and kind != present and not self.usable(kind):
            return True
        after = "" if remove else kind or present
        ground = had if given is None else {**had, **given} if merge else given
        left = {key: value for key, value in ground.items() if value}
        if (after, left) != (present, had) and not after and len(left) > 3:
            return True
        self.things[name] = (after, left, version + 1)
        return False

    def delete_thing(self, name: str) -> bool:
        self.things.pop(name, None)
        self.members = {pair for pair in self.members if pair[1] != name}
        return False

    def create_type(self, name: str) -> bool:
        self.types.setdefault(name, None)
        return not name

    def deprecate(self, name: str, undo: bool) -> bool:
        if name not in self.types:
            return True
        if undo:
            self.types[name] = None
        elif self.types[name] is None:
            self.types[name] = self.now
        return False

    def delete_type(self, name: str) -> bool:
        since = self.types.get(name)
        if since is None or self.now - since < FIVE_MINUTES or any(each[0] == name for each in self.things.values()):
            return True
        del self.types[name]
        return False

    def create_group(self, name: str, parent: str) -> bool:
        if name == parent:
            return True
        if name in self.groups:
            return self.groups[name] != parent
        if parent and parent not in self.groups:
            return True
        self.groups[name] = parent
        return False

    def delete_group(self, name: str) -> bool:
        if name in self.groups.values():
            return True
        self.groups.pop(name, None)
        self.members = {pair for pair in self.members if pair[0] != name}
        return False

    def add(self, group: str, thing: str) -> bool:
        if group not in self.groups or thing not in self.things:
            return True
        for mine, other in self.members:
            if other == thing and mine != group and self.line(mine)[-1] == self.line(group)[-1]:
                return True
        self.members.add((group, thing))
        return False

    def remove(self, group: str, thing: str) -> bool:
        self.members.discard((group, thing))
        return group not in self.groups or thing not in self.things

    def move(self, thing: str, into: list[str], out: list[str]) -> bool:
        before = set(self.members)
        refused = bool(set(into) & set(out)) or thing not in self.things
        refused = refused or any(self.remove(group, thing) for group in out)
        refused = refused or any(self.add(group, thing) for group in into)
        if refused:
            self.members = before
        return refused


class AnyOrder(RuleBasedStateMachine):
    pki: Pki

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.runner = asyncio.Runner()
        self.model = Model(now=self.clock.wall_ms())
        self.runner.run(self._open())

    async def _open(self) -> None:
        path = Path(self.folder.name)
        sources = [Migrations(slice=name, package=f"marram.hub.{name}") for name in ("identity", "registry")]
        entropy = SeededEntropy(1)
        self.db = Db.open(path / "hub.db", clock=self.clock, entropy=entropy, migrations=sources)
        bus = Bus()
        identity = Identity(
            self.db, self.pki, bus, clock=self.clock, entropy=entropy, account="000000000001", region="local-1"
        )
        self.registry = Registry(self.db, identity, bus, entropy=entropy)

    def teardown(self) -> None:
        try:
            self.every_list_agrees()
        finally:
            self.db.close()
            self.runner.close()
            self.folder.cleanup()

    def same(self, refused: bool, call: Callable[[], Awaitable[Any]]) -> None:
        async def run() -> bool:
            try:
                await call()
            except MarramError:
                return True
            return False

        assert self.runner.run(run()) == refused

    @initialize(nested=st.booleans(), kind=types)
    def begin(self, nested: bool, kind: str) -> None:
        """Most calls on an empty registry are refused, and say little."""
        self.create_type("pump")
        self.create_type("valve")
        for name in ("t1", "t2"):
            self.create_thing(name, kind, {"x": "1"})
        for name, parent in (("a", ""), ("b", "a" if nested else ""), ("c", "b")):
            self.create_group(name, parent)

    @rule(name=things, kind=types, given=attributes)
    def create_thing(self, name: str, kind: str, given: dict[str, str]) -> None:
        refused = self.model.create_thing(name, kind, given)
        self.same(refused, lambda: self.registry.things.create(name, type_name=kind, attributes=given))

    @rule(
        name=things, kind=types, remove=st.booleans(), given=st.none() | attributes, merge=st.booleans(),
        expected=st.none() | st.integers(1, 3),
    )  # fmt: skip
    def update_thing(
        self, name: str, kind: str, remove: bool, given: dict[str, str] | None, merge: bool, expected: int | None
    ) -> None:
        refused = self.model.update_thing(name, kind, remove, given, merge, expected)
        self.same(
            refused,
            lambda: self.registry.things.update(
                name, type_name=kind, remove_type=remove, attributes=given, merge=merge, expected_version=expected
            ),
        )

    @rule(name=things)
    def delete_thing(self, name: str) -> None:
        self.same(self.model.delete_thing(name), lambda: self.registry.things.delete(name))

    @rule(name=st.sampled_from(["pump", "valve"]))
    def create_type(self, name: str) -> None:
        self.same(self.model.create_type(name), lambda: self.registry.types.create(name))

    @rule(name=st.sampled_from(["pump", "valve"]), undo=st.booleans())
    def deprecate(self, name: str, undo: bool) -> None:
        self.same(self.model.deprecate(name, undo), lambda: self.registry.types.deprecate(name, undo=undo))

    @rule(name=st.sampled_from(["pump", "valve"]))
    def delete_type(self, name: str) -> None:
        self.same(self.model.delete_type(name), lambda: self.registry.types.delete(name))

    @rule()
    def wait(self) -> None:
        self.clock.advance(FIVE_MINUTES)
        self.model.now += FIVE_MINUTES

    @rule(name=groups, parent=groups | st.just(""))
    def create_group(self, name: str, parent: str) -> None:
        refused = self.model.create_group(name, parent)
        self.same(refused, lambda: self.registry.groups.create(name, parent=parent))

    @rule(name=groups)
    def delete_group(self, name: str) -> None:
        self.same(self.model.delete_group(name), lambda: self.registry.groups.delete(name))

    @rule(group=groups, thing=things)
    def add(self, group: str, thing: str) -> None:
        self.same(self.model.add(group, thing), lambda: self.registry.members.add(group, thing))

    @rule(group=groups, thing=things)
    def remove(self, group: str, thing: str) -> None:
        self.same(self.model.remove(group, thing), lambda: self.registry.members.remove(group, thing))

    @rule(thing=things, into=st.lists(groups, unique=True, max_size=2), out=st.lists(groups, unique=True, max_size=2))
    def move(self, thing: str, into: list[str], out: list[str]) -> None:
        refused = self.model.move(thing, into, out)
        self.same(refused, lambda: self.registry.members.move(thing, add=into, remove=out))

    @rule()
    def every_list_agrees(self) -> None:
        self.runner.run(self._compare())

    async def _compare(self) -> None:
        registry, model = self.registry, self.model
        found, _ = await registry.things.page(Search(), None, 100)
        assert {each.name: (each.type, each.attributes, each.version) for each in found} == model.things
        for name, (kind, own, _) in model.things.items():
            assert registry.things.get(name).attributes == own  # the copy in memory
            expected = sorted(group for group, thing in model.members if thing == name)
            assert await registry.members.of_thing(name, "", 100) == expected
            assert await registry.groups_of(name) == expected
            facts = registry.facts(name)
            assert facts is not None and facts.type_name == (kind or None)
            assert set(facts.groups) == {above for group in expected for above in model.line(group)}
        for key in "wxyz":
            for value in "12":
                rows, _ = await registry.things.page(Search(attribute=key, value=value), None, 100)
                assert {each.name for each in rows} == {
                    n for n, each in model.things.items() if each[1].get(key) == value
                }
        kinds = {each.name: each.deprecated_ms for each in await registry.types.page("", "", 100)}
        assert kinds == model.types
        names = await registry.groups.page(prefix="", parent="", recursive=None, after="", limit=100)
        assert names == sorted(model.groups)
        for group in names:
            below = {each for each in model.groups if group in model.line(each)}
            inside = {thing for each, thing in model.members if each in below}
            assert await registry.members.of_group(group, "", 100, recursive=True) == sorted(inside)
            assert set(await registry.groups.page(prefix="", parent=group, recursive=True, after="", limit=100)) == (
                below - {group}
            )


SETTINGS = settings(
    max_examples=many(30, 1000), stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.timeout(900 if FULL else 60)
def test_any_order_of_calls(tmp_path: Path) -> None:
    AnyOrder.pki = Pki.open(tmp_path / "pki", clock=FakeClock(), entropy=SeededEntropy(1))
    run_state_machine_as_test(AnyOrder, settings=SETTINGS)


class Forgetful(AnyOrder):
    """A registry that deletes nothing."""

    async def _open(self) -> None:
        await super()._open()
        self.registry.things.delete = self._nothing  # type: ignore[method-assign]
        self.registry.groups.delete = self._nothing  # type: ignore[method-assign]

    async def _nothing(self, name: str, *, expected_version: int | None = None) -> None:
        return None


def test_a_registry_that_is_wrong_is_found_out(tmp_path: Path) -> None:
    AnyOrder.pki = Pki.open(tmp_path / "pki", clock=FakeClock(), entropy=SeededEntropy(1))
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        run_state_machine_as_test(
            Forgetful, settings=settings(SETTINGS, phases=[Phase.generate], database=None, derandomize=True)
        )
