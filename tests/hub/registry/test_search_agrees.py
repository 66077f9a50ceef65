"""The SQL of a search and the evaluator of dynamic groups give the same things, whatever is asked of whatever is indexed."""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marram.core import query
from marram.hub.registry import fields, index_query, store
from marram.hub.registry.fields import Settings
from marram.hub.registry.index import Index
from marram.hub.registry.store import Thing
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations
from tests.full import many

WORDS = [
    "a",
    "ab",
    "abc",
    "B",
    "1",
    "1.0",
    "2",
    "-3.5",
    "1e1",
    "true",
    "New York",
    "new  york city",
    "x%",
    "x_y",
    "\u00e4",
]
ODD = ["", "  ", "a\0b", "1 a", "%", "_", "\\", '"']
NAMES = ["t1", "t2", "pump-1", "Pump_2", "T3"]
EXAMPLES = many(60, 5000)
SMALL = index_query.Sizes(few=1, window=2, counted=3, merged=1)  # so that every way is gone, in several windows
SETTINGS = Settings(things=True, shadow=True, connectivity=True, named=("cfg",))
SECTIONS = [f"shadow{named}.{section}" for named in ("", ".name.cfg") for section in ("desired", "reported", "delta")]
FIELDS = [
    "thingName", "thingTypeName", "thingGroupNames", "shadow.hasDelta", "connectivity.connected", "connectivity.timestamp",
    "jobs.j1.status", "attributes.site", "attributes.temp", "attributes.site", "attributes.temp",
    *(f"{section}.{path}" for section in SECTIONS for path in ("x", "y", "y.z")),
]  # fmt: skip


@dataclass
class Made:
    """Things and queries by chance: hypothesis draws the seed, since its own text and lists are too seldom about the same."""

    random: Random

    def fleet(self) -> dict[str, dict[str, Any]]:
        return {name: self._thing() for name in NAMES if self.random.random() < 0.9}

    def _thing(self) -> dict[str, Any]:
        pick = self.random.choice
        return {
            "type": pick(["", "pump", "Valve"]),
            "attributes": {
                name: pick(["a", "AB", "1", "2.50", "7", "x_y"]) for name in ("site", "temp") if pick([1, 1, 0])
            },
            "": self._shadow(),
            "cfg": pick([None, self._shadow()]),
            "connectivity": pick([None, {"connected": pick([True, False]), "timestamp": pick([1, 2, 7])}]),
            "jobs": {job: pick(["QUEUED", "FAILED"]) for job in ("j1", "j2") if pick([0, 1])},
        }

    def _shadow(self) -> dict[str, Any]:
        pick = self.random.choice
        return {
            section: {"x": self._leaf(), "y": pick([self._leaf(), {"z": self._leaf()}])}
            for section in ("desired", "reported")
        }

    def _leaf(self) -> Any:
        pick = self.random.choice
        value = pick([*WORDS, *WORDS, *ODD, 0, 1, 2, 7, 2.5, -3.5, 10.0, True, False])
        return pick([value, value, value, [value, pick(WORDS)], [], None, [{"complex": 1}]])

    def query(self, depth: int = 2) -> str:
        pick = self.random.choice
        if depth == 0 or self.random.random() < 0.4:
            return self._term()
        left = self.query(depth - 1)
        form = pick(["({} AND {})", "({} OR {})", "({} {})", "(NOT {})", "({} -{})"])
        return form.format(left, self.query(depth - 1)) if form.count("{}") == 2 else form.format(left)

    def _term(self) -> str:
        pick = self.random.choice
        value = pick([self._word, self._word, self._number, self._wild])()
        kind = self.random.random()
        if kind < 0.25:
            return value
        if kind < 0.55:
            return f"{pick(FIELDS)}:{value}"
        if kind < 0.7:
            return f"{pick(FIELDS)}{pick(['<', '<=', '>', '>='])}{pick([self._number(), self._word_bound()])}"
        if kind < 0.75:
            return f"{pick(FIELDS)}:({value} OR {self._word()})"
        low, high = pick([self._number, self._number, self._word_bound])(), pick([self._number, self._word_bound])()
        return f"{pick(FIELDS)}:{pick('[{')}{pick([low, '*'])} TO {pick([high, '*'])}{pick(']}')}"

    def _word(self) -> str:
        text = self.random.choice([*WORDS, "york", "york city", "a b", "x", "queued", "pump", "city", "\\", "%", "_"])
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    def _word_bound(self) -> str:
        return self.random.choice(['"a"', '"ab"', '"b"', '"1"', '"new"', '"z"'])

    def _number(self) -> str:
        return self.random.choice(["-3.5", "0", "1", "2", "2.5", "7", "1e1", "10.0"])

    def _wild(self) -> str:
        return self.random.choice(
            [
                "a*",
                "*b",
                "?",
                "a?*",
                "p*p*",
                "T?",
                "n*k",
                "n*y",
                "*k*",
                "x\\%*",
                "x?y",
                "x\\_?",
                "*",
                "1*",
                "?b?",
                "o*c*",
                "\\\\*",
                "?\\\\*",
            ]
        )


class Fleet:
    """Things as they are told to the index, and what is known of each without it."""

    def __init__(self, db: Db) -> None:
        self.db = db
        self.index = Index(db)
        self.index.settings = SETTINGS
        self.known: dict[str, dict[str, Any]] = {}

    def change(self, fleet: dict[str, dict[str, Any]]) -> None:
        """Some in place of what they were, others go."""

        def work(tx: Any) -> None:
            for name in self.known.keys() - fleet.keys():
                store.delete_thing(tx, name)
                self.index.forget(tx, name)
            for name, said in fleet.items():
                thing = Thing(name=name, id=f"id-{name}", type=said["type"], attributes=said["attributes"])
                (store.save_thing if name in self.known else store.add_thing)(tx, thing)
                self.index.thing(tx, thing)
                for shadow in ("", "cfg"):
                    self.index.shadow(tx, name, shadow, said[shadow])
                self.index.connectivity(tx, name, said["connectivity"] or {})
                gone = dict.fromkeys(self.known.get(name, {"jobs": {}})["jobs"])
                self.index.jobs(tx, name, {**gone, **said["jobs"]})

        self.db.write_sync(work)
        self.known = fleet

    def by_index(self, node: query.Node, sizes: index_query.Sizes) -> list[str]:
        """Window by window."""

        def work(tx: Any) -> list[str]:
            way = index_query.way(tx, node, sizes)
            docs: list[int] = []
            at: int | None = 0
            while at is not None:
                span = index_query.window(tx, way, at)
                found = index_query.documents(tx, way, span, 1000)
                assert index_query.how_many(tx, way, span) == len(found)
                docs += found
                at = span.last
            return [thing for _, thing in index_query.fitting(tx, index_query.All(), docs)]

        return self.db.read_now(work)

    def by_scan(self, node: query.Node) -> set[str]:
        """All documents in order, each held against the conditions: what a query without a selective part does."""

        def work(tx: Any) -> set[str]:
            docs = [int(row[0]) for row in tx.all("SELECT id FROM registry_index_doc")]
            return {thing for _, thing in index_query.fitting(tx, node, docs)}

        return self.db.read_now(work)

    def by_evaluator(self, node: query.Node) -> set[str]:
        return {name for name, said in self.known.items() if self._fits(node, name, said)}

    def _fits(self, node: query.Node, name: str, said: dict[str, Any]) -> bool:
        document = fields.of_thing(
            Thing(name=name, id=f"id-{name}", type=said["type"], attributes=said["attributes"]), []
        )
        for shadow in ("", "cfg"):
            if said[shadow] is not None:
                document |= fields.of_shadow(shadow, said[shadow])
        document |= fields.of_connectivity(said["connectivity"] or {}) | fields.of_jobs(said["jobs"])
        bare = [entry for field, found in document.items() if fields.is_bare(field) for entry in found]
        return query.matches(node, document, bare)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("search")
    db = Db.open(
        folder / "hub.db",
        clock=FakeClock(),
        entropy=SeededEntropy(1),
        migrations=[Migrations(slice="registry", package="marram.hub.registry")],
    )
    yield Fleet(db)
    db.close()


def _read(text: str) -> query.Node | None:
    """None: two leading wildcards. All else that is made here can be asked."""
    try:
        return query.parse(text, SETTINGS.resolve)
    except query.QueryError as exc:
        if "leading wildcard" not in exc.message:
            raise
        return None


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_index_and_evaluator_agree(fleet: Fleet, seed: int) -> None:
    made = Made(Random(seed))
    fleet.change(made.fleet())
    for _ in range(25):
        text = made.query()
        node = _read(text)
        if node is None:
            continue
        expected = fleet.by_evaluator(node)
        for sizes in (index_query.DEFAULT, SMALL):
            found = fleet.by_index(node, sizes)
            assert sorted(found) == sorted(expected), text
        assert fleet.by_scan(node) == expected, text


def test_a_probe_of_numbers_stays_off_the_index_of_numbers(fleet: Fleet) -> None:
    """It would walk all numbers of the field for each document."""
    node = query.parse("attributes.temp:[1 TO 2] thingName:a*", SETTINGS.resolve)
    found = index_query.condition(node, "d.id")

    def work(tx: Any) -> list[str]:
        rows = tx.all(f"EXPLAIN QUERY PLAN SELECT d.id FROM registry_index_doc d WHERE {found.text}", *found.params)
        return [str(row[3]) for row in rows if " t " in str(row[3])]

    plans = fleet.db.read_now(work)
    assert len(plans) == 2
    assert all("doc=? AND field=?" in plan for plan in plans), plans
