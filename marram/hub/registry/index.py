"""The search index of things: what is said of a thing, by the registry and by the slices above it, as rows to search.

Every slice pushes what changed in its own transaction; with indexing off (the default, as AWS) all of it costs nothing.
What is on is read from memory: a transaction that still sees the settings of before is no harm, since each change of
settings is followed by a builder that looks at every thing again, in transactions that come after it.

Not here: searching (search.py), what is indexed of a document (fields.py), dynamic groups (dynamic.py).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, cast

from marram.core import query
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Conflict, NotFound
from marram.core.query import Document, Entry
from marram.hub.registry import fields, index_store, store
from marram.hub.registry.fields import Fields, Kind, Settings
from marram.hub.registry.index_store import Rows, State
from marram.hub.registry.store import Thing
from marram.kit import metrics
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

BUILD_THINGS: Final = 32  # in one transaction function, which has 10 ms
CLEAR_DOCS: Final = 64

Status: TypeAlias = Literal["OFF", "BUILDING", "REBUILDING", "ACTIVE"]
# What slices above know of a thing: its shadows by name, what `connectivity` takes, what `jobs` takes.
ShadowSource: TypeAlias = Callable[[Tx, str], Mapping[str, JsonObject]]
ConnectivitySource: TypeAlias = Callable[[Tx, str], JsonObject | None]
JobSource: TypeAlias = Callable[[Tx, str], Mapping[str, str]]

_left_out: Final = metrics.counter(
    "marram_index_left_out_total", "Fields of things not indexed, because there are too many names of fields"
)


@dataclass(frozen=True, slots=True)
class Indexed:
    """A thing with all that is indexed of it, within the transaction that changed it."""

    thing: str
    document: Document
    bare: Sequence[Entry]


class Index:
    def __init__(self, db: Db) -> None:
        self._db = db
        self._shadows_of: ShadowSource | None = None
        self._connectivity_of: ConnectivitySource | None = None
        self._jobs_of: JobSource | None = None
        self._watcher: Callable[[Tx, Indexed], None] | None = None
        self._wake = asyncio.Event()
        self._numbers: dict[str, int] = db.read_now(index_store.names)
        self._names = {number: name for name, number in self._numbers.items()}
        self.settings = Settings()
        self.status: Status = "OFF"
        self._take(db.read_now(index_store.load))
        self._wake.set()  # what was being built when the process ended

    def use_sources(
        self,
        *,
        shadows: ShadowSource | None = None,
        connectivity: ConnectivitySource | None = None,
        jobs: JobSource | None = None,
    ) -> None:
        """Where the builder finds what slices above the registry said before indexing was on."""
        self._shadows_of = shadows or self._shadows_of
        self._connectivity_of = connectivity or self._connectivity_of
        self._jobs_of = jobs or self._jobs_of

    def watch(self, call: Callable[[Tx, Indexed], None] | None) -> None:
        """Call it with each thing that changed, in the transaction that changed it. None: nobody looks."""
        self._watcher = call

    # what changed; nothing of it when indexing is off

    def thing(self, tx: Tx, thing: Thing) -> None:
        """The thing is new, or its type or attributes are others now."""
        if not self.settings.things:
            return
        said = fields.of_thing(thing, index_store.static_groups(tx, thing.name))
        doc = index_store.doc(tx, thing.name)
        if doc is None:
            doc = index_store.add_doc(tx, thing.name)
            parts = {fields.REGISTRY: said, **self._from_sources(tx, doc, thing.name)}
            self._change(tx, doc, thing.name, parts, is_new=True)
        else:
            self._change(tx, doc, thing.name, {fields.REGISTRY: said})

    def groups(self, tx: Tx, thing: Thing) -> None:
        """The thing is in other static groups now."""
        if not self.settings.things:
            return
        doc = index_store.doc(tx, thing.name)
        number = self._number(tx, "thingGroupNames")
        if doc is None or number is None or self._watcher is not None:
            return self.thing(tx, thing)
        names = index_store.static_groups(tx, thing.name)
        after = {(number, entry.text): entry for name in names for entry in query.entries(name)}
        return index_store.change_rows(tx, doc, index_store.rows(tx, doc, number), after)

    def forget(self, tx: Tx, thing: str) -> None:
        """The thing is gone."""
        if self.settings.things and (doc := index_store.doc(tx, thing)) is not None:
            index_store.delete_doc(tx, doc)

    def wants_shadow(self, shadow_name: str) -> bool:
        """Whether `shadow` does anything for a shadow of that name: who asks need not put it together."""
        return self.settings.has_shadow(shadow_name)

    def shadow(self, tx: Tx, thing: str, shadow_name: str, document: JsonObject | None) -> None:
        """The shadow is {"desired", "reported", "metadata", "version"} now (all optional), or is deleted. Classic: ""."""
        if not self.settings.has_shadow(shadow_name):
            return
        doc = index_store.doc(tx, thing)
        if doc is not None:  # shadows of what is not registered are not indexed, as AWS
            self._change(tx, doc, thing, dict([self._shadow(tx, doc, shadow_name, document)]))

    def connectivity(self, tx: Tx, thing: str, state: Mapping[str, JsonValue]) -> None:
        """Members of AWS's ThingConnectivity, and "version": connected, timestamp (ms), disconnectReason, clientId, ..."""
        if not self.settings.connectivity:
            return
        doc = index_store.doc(tx, thing)
        if doc is not None:
            self._change(tx, doc, thing, {fields.CONNECTIVITY: self._connectivity(tx, doc, dict(state))})

    def jobs(self, tx: Tx, thing: str, statuses: Mapping[str, str | None]) -> None:
        """Status by job id, of the executions that changed; None for one that is deleted."""
        if not self.settings.things:
            return
        doc = index_store.doc(tx, thing)
        if doc is not None:
            self._change(tx, doc, thing, {fields.JOBS: self._jobs(tx, doc, statuses)})

    # settings

    async def configure(
        self,
        change: Callable[[Settings], Settings],
        *,
        check: Callable[[Tx, Settings], None] = lambda _tx, _wanted: None,
    ) -> None:
        """Index what `change` makes of the settings from now on. Both may raise, within the transaction."""

        def work(tx: Tx) -> None:
            before = index_store.load(tx)
            was = _settings(before.settings)
            wanted = change(was)
            check(tx, wanted)
            state, position = before.state, before.position
            if not wanted.things:
                state, position = "OFF", ""
            elif before.state == "OFF":
                # What an earlier time of indexing has left goes first.
                state, position = "BUILDING", CLEARING
            elif replace(was, custom=(), groups=False, group_custom=()) != replace(
                wanted, custom=(), groups=False, group_custom=()
            ):
                state, position = ("BUILDING" if before.state == "BUILDING" else "REBUILDING"), ""
            self._save(tx, State(_document(wanted), state, position))

        await self._db.write(work)

    def status_of(self, name: str) -> Status:
        """Raises NotFound for an index that is not there."""
        if name not in (fields.THINGS, fields.GROUPS):
            raise NotFound(f"index {name} does not exist: {fields.THINGS} and {fields.GROUPS} do")
        if name == fields.GROUPS:
            if not self.settings.groups:
                raise NotFound(f"index {name} does not exist: thingGroupIndexingMode is OFF")
            return "ACTIVE"  # nothing is built for it
        if not self.settings.things:
            raise NotFound(f"index {name} does not exist: thingIndexingMode is OFF")
        return self.status

    def require(self, name: str) -> None:
        """Raises NotFound for an index that is not there, Conflict for one that is still being built."""
        if self.status_of(name) == "BUILDING":
            raise Conflict(f"index {name} is being built", kind="index")

    # the builder

    async def run(self) -> None:
        """Build what is to be built, in small steps; goes on where the last life of the process stopped."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while await self._db.write(self.build):
                pass

    def build(self, tx: Tx) -> bool:
        """One step, a transaction function. Whether there is more to do."""
        now = index_store.load(tx)
        if _settings(now.settings) != self.settings:
            return True  # pushes still go by the settings of before: what was built now could miss one
        if now.state == "OFF" or now.position == CLEARING:
            return self._clear(tx, now)
        if now.state == "ACTIVE":
            return False
        things = index_store.things_after(tx, now.position, BUILD_THINGS)
        for thing in things:
            self._rebuild(tx, thing)
        if things:
            self._save(tx, replace(now, position=things[-1]))
        else:
            self._save(tx, replace(now, state="ACTIVE", position=""))
        return bool(things)

    def _clear(self, tx: Tx, now: State) -> bool:
        docs = index_store.docs(tx, CLEAR_DOCS)
        for doc in docs:
            index_store.delete_doc(tx, doc)
        if docs:
            return True
        if now.state == "OFF":  # else pushes may be using the numbers
            index_store.delete_fields(tx)
            tx.after_commit(self._forget_names)
            return False
        self._save(tx, replace(now, position=""))
        return True

    def _rebuild(self, tx: Tx, thing: str) -> None:
        found = store.thing(tx, thing)
        if found is None:
            return
        doc = index_store.doc(tx, thing)
        is_new = doc is None
        if doc is None:
            doc = index_store.add_doc(tx, thing)
        said = {fields.REGISTRY: fields.of_thing(found, index_store.static_groups(tx, thing))}
        kept = {fields.JOBS, *map(fields.part_of_shadow, self.settings.shadows)}
        if self.settings.connectivity:
            kept.add(fields.CONNECTIVITY)
        for part in index_store.parts(tx, doc):
            if part not in kept:
                index_store.save_part(tx, doc, part, None)
                said[part] = {}
        self._change(tx, doc, thing, said | self._from_sources(tx, doc, thing), is_new=is_new)

    def _from_sources(self, tx: Tx, doc: int, thing: str) -> dict[str, Fields]:
        """What slices above know of a thing that was not indexed until now, or not all of it."""
        said: dict[str, Fields] = {}
        if self._shadows_of is not None and self.settings.shadows:
            known = self._shadows_of(tx, thing)
            said |= dict(self._shadow(tx, doc, name, known.get(name)) for name in self.settings.shadows)
        if self.settings.connectivity:
            if self._connectivity_of is not None:
                state = self._connectivity_of(tx, thing)
            else:
                state = index_store.part(tx, doc, fields.CONNECTIVITY)
            said[fields.CONNECTIVITY] = self._connectivity(tx, doc, state or {})
        if self._jobs_of is not None:
            said[fields.JOBS] = self._jobs(tx, doc, dict(self._jobs_of(tx, thing)), known={})
        return said

    # parts of a document, which are kept as they are for answers

    def _shadow(self, tx: Tx, doc: int, name: str, document: JsonObject | None) -> tuple[str, Fields]:
        part = fields.part_of_shadow(name)
        index_store.save_part(tx, doc, part, document)
        return part, {} if document is None else fields.of_shadow(name, document)

    def _connectivity(self, tx: Tx, doc: int, state: JsonObject) -> Fields:
        index_store.save_part(tx, doc, fields.CONNECTIVITY, state or None)
        return fields.of_connectivity(state)

    def _jobs(
        self, tx: Tx, doc: int, statuses: Mapping[str, str | None], known: Mapping[str, JsonValue] | None = None
    ) -> Fields:
        if known is None:
            known = index_store.part(tx, doc, fields.JOBS) or {}
        merged = {job: status for job, status in {**known, **statuses}.items() if isinstance(status, str)}
        if merged or statuses:
            index_store.save_part(tx, doc, fields.JOBS, dict[str, JsonValue](merged) or None)
        return fields.of_jobs(merged)

    # rows

    def _change(self, tx: Tx, doc: int, thing: str, said: Mapping[str, Fields], *, is_new: bool = False) -> None:
        """said: all fields of each part that is named. Parts that are not named stay."""
        before: Rows = {} if is_new else index_store.rows(tx, doc)
        after = {key: entry for key, entry in before.items() if fields.part_of(self._name(tx, key[0])) not in said}
        for part in said.values():
            for name, found in part.items():
                number = self._number(tx, name)
                if number is not None:
                    for entry in found:
                        after.setdefault((number, entry.text), entry)
        if after != before:
            index_store.change_rows(tx, doc, before, after)
            if (watcher := self._watcher) is not None:
                watcher(tx, self._indexed(tx, thing, after))

    def _indexed(self, tx: Tx, thing: str, rows: Rows) -> Indexed:
        document: dict[str, list[Entry]] = {}
        for (number, _), entry in rows.items():
            document.setdefault(self._name(tx, number), []).append(entry)
        return Indexed(thing, document, [entry for (number, _), entry in rows.items() if number > 0])

    def _number(self, tx: Tx, name: str) -> int | None:
        number = self._numbers.get(name)
        if number is None:
            number = index_store.field(tx, name)
        if number is None:
            number = index_store.add_field(tx, name, bare=fields.is_bare(name))
            if number is None:
                _left_out.inc()
                return None
            made = number
            tx.after_commit(lambda: self._learn(name, made))
        return number

    def _name(self, tx: Tx, number: int) -> str:
        return self._names.get(number) or index_store.field_name(tx, number)

    # memory

    def _save(self, tx: Tx, state: State) -> None:
        index_store.save(tx, state)
        tx.after_commit(lambda: self._take(state))

    def _take(self, state: State) -> None:
        if state.state != self.status:
            log.info("index.state", index=fields.THINGS, state=state.state)
        self.settings = _settings(state.settings)
        self.status = cast(Status, state.state)
        if state.state != "ACTIVE":
            self._wake.set()

    def _learn(self, name: str, number: int) -> None:
        self._numbers[name], self._names[number] = number, name

    def _forget_names(self) -> None:
        self._numbers.clear()
        self._names.clear()


CLEARING: Final = "\n"  # a position that is no name of a thing


def _document(settings: Settings) -> JsonObject:
    return {
        "things": settings.things,
        "shadow": settings.shadow,
        "connectivity": settings.connectivity,
        "named": list(settings.named),
        "custom": [list(each) for each in settings.custom],
        "groups": settings.groups,
        "group_custom": [list(each) for each in settings.group_custom],
    }


def _settings(stored: JsonObject) -> Settings:
    if not stored:
        return Settings()
    return Settings(
        things=bool(stored["things"]),
        shadow=bool(stored["shadow"]),
        connectivity=bool(stored["connectivity"]),
        named=tuple(cast("list[str]", stored["named"])),
        custom=_pairs(stored["custom"]),
        groups=bool(stored["groups"]),
        group_custom=_pairs(stored["group_custom"]),
    )


def _pairs(stored: JsonValue) -> tuple[tuple[str, Kind], ...]:
    return tuple((name, kind) for name, kind in cast("Iterable[tuple[str, Kind]]", stored))
