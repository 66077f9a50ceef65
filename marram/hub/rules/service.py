"""The rule engine: reads the journal below `synced`, judges each message once, performs the results, moves its cursor.

Results in our own stores (points, messages in the journal, dead letters) come exactly once: they carry the origin ("rules",
offset of the message, index of the result), and after a crash what the journal holds already is left out. A message that
nobody waits for durably (QoS 0, no session) may be published again after a crash, since at most CURSOR_NS ago.
A payload or a rule that fails costs a dead letter, never the loop; a store that is not available stops the cursor.
"""

import asyncio
import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeAlias

from marram.core import codec
from marram.core import topic as topics
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import AlreadyExists, Invalid, LimitExceeded, MarramError, NotFound, Unavailable, Unsupported
from marram.core.segment import KIND_DEAD, KIND_MESSAGE, Origin, Record
from marram.core.sql.functions import UNDEFINED, Message
from marram.hub.rules import rule as compiled
from marram.hub.rules import store
from marram.hub.rules.action import Event
from marram.hub.rules.rule import BoundAction, Rule
from marram.hub.rules.store import StoredRule
from marram.hub.timeseries import points
from marram.hub.timeseries.points import Point
from marram.kit import disk, metrics, registry
from marram.kit.clock import Clock
from marram.kit.db import Db, Tx
from marram.kit.log import logger
from marram.kit.seglog import Journal

log = logger(__name__)

CONSUMER: Final = "rules"
KIND: Final = "rule"  # in its ARN
_NO_TAGS: Final[Mapping[str, str]] = {}
ERROR_SOURCE: Final = "rules-error"
DEAD_SOURCE: Final = "rules-dead"
MAX_RULES: Final = 1_000
MAX_HOPS: Final = 10
BATCH: Final = 500
CURSOR_NS: Final = 250_000_000
FAR_BEHIND: Final = 10_000
RETRY_S: Final = (0.05, 0.2, 1.0)
STALL_S: Final = (0.1, 0.5, 2.0, 10.0)
MAX_CACHED_TOPICS: Final = 10_000
DEAD_SCAN: Final = 50_000

_matched: Final = metrics.counter("marram_rules_matched_total", "Messages that a rule let through", ("rule",))
_results: Final = metrics.counter("marram_rules_actions_total", "Actions performed", ("rule", "action", "result"))
_not_json: Final = metrics.counter("marram_rules_not_json_total", "Messages a rule could not read as JSON", ("rule",))
_lag: Final = metrics.gauge("marram_rules_lag", "Records of the journal that rules have not seen yet").labels()


class Publisher(Protocol):
    """The broker, as far as rules go."""

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, origin: Origin | None = None, hops: int = 0
    ) -> None: ...

    def add_consumer(self, name: str, wants: Callable[[str], bool], *, required: bool = True) -> None: ...

    def consumers_changed(self) -> None: ...


class Series(Protocol):
    """The time series, as far as rules go."""

    async def append_many(self, given: Sequence[tuple[Origin | None, Point]]) -> None: ...


class Tags(Protocol):
    """The registry's, for rules."""

    def declare(self, kind: str, bearer_id: Callable[[Tx, str], str | None]) -> None: ...
    def tag_tx(self, tx: Tx, kind: str, name: str, tags: Mapping[str, str]) -> None: ...


class NoTags:
    """Where there is no registry."""

    def declare(self, kind: str, bearer_id: Callable[[Tx, str], str | None]) -> None:
        return

    def tag_tx(self, tx: Tx, kind: str, name: str, tags: Mapping[str, str]) -> None:
        if tags:
            raise Unsupported("tags need a registry")


@dataclass(slots=True)
class _Active:
    """A rule over a range of offsets; `until` None = still."""

    rule: Rule
    start: int
    until: int | None

    def holds(self, offset: int) -> bool:
        return self.start <= offset and (self.until is None or offset < self.until)


@dataclass(slots=True)
class _Task:
    """One action on one message: why it exists, and what it wants done."""

    rule: Rule
    bound: BoundAction
    offset: int
    record: Record
    hops: int
    error: str | None = None
    unavailable: bool = False
    publishes: list[tuple[Origin, str, bytes, int]] = field(default_factory=list[tuple[Origin, str, bytes, int]])
    points: list[tuple[Origin | None, Point]] = field(default_factory=list[tuple[Origin | None, Point]])


ActAs: TypeAlias = Callable[[str, str, str], None]


class _Out:
    """Collects for one task what its role allows; raises Denied for the rest.

    The index of a result is its place among all results of its message: always the same.
    """

    def __init__(self, task: _Task, source: str, indexes: Counter[int], act_as: ActAs) -> None:
        self._task, self._source, self._indexes, self._act_as = task, source, indexes, act_as

    def publish(self, topic: str, payload: bytes, *, qos: int) -> None:
        self._act_as(self._task.bound.role, "iot:Publish", f"topic/{topic}")
        self._task.publishes.append((self._origin(), topic, payload, qos))

    def append(self, given: Sequence[Point]) -> None:
        for point in given:
            points.check(point)
            database, _, table = point.series.partition(".")
            self._act_as(self._task.bound.role, "timestream:WriteRecords", f"database/{database}/table/{table}")
        self._task.points += [(self._origin(), point) for point in given]

    def _origin(self) -> Origin:
        offset = self._task.offset
        index = self._indexes[offset]
        self._indexes[offset] = index + 1
        return Origin(self._source, offset, index)


class Rules:
    """Build, `await start()`, run `run()` for the life of the process, `await stop()` before the time series stop."""

    def __init__(
        self,
        *,
        db: Db,
        journal: Journal,
        broker: Publisher,
        timeseries: Series,
        check_role: Callable[[str], None],
        act_as: ActAs,
        clock: Clock,
        tags: Tags | None = None,
    ) -> None:
        """check_role: raises Invalid for a role that is not there or not for rules. act_as: raises Denied unless the role
        (its ARN) may do the action on the resource (the part of its ARN after the account)."""
        self._db, self._journal, self._broker, self._timeseries = db, journal, broker, timeseries
        self._check_role, self._act_as, self._clock = check_role, act_as, clock
        self._tags = tags or NoTags()
        self._tags.declare(KIND, _bearer)
        self._active: list[_Active] = []
        self._trie: topics.Trie[int, _Active] = topics.Trie()
        self._by_topic: dict[bytes, tuple[_Active, ...]] = {}
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._position = 0
        self._saved = 0
        self._saved_ns = 0
        self._done: set[tuple[str, int, int]] = set()  # origins in the journal that a crash left behind the cursor
        self._done_until = 0

    @property
    def position(self) -> int:
        """The journal may be trimmed below this offset, as far as rules are concerned."""
        return self._saved

    async def start(self) -> None:
        """Load the rules and the cursor; find what of the uncounted results is in the journal already."""
        registry.discover("marram.hub.rules.actions")
        spans, position = self._db.read_now(lambda tx: (store.spans(tx), store.position(tx)))
        for span in spans:
            try:
                # A role that has gone since does not take the rule away: its actions fail, and say why.
                made = compiled.compile_rule(span.name, span.body, lambda role: None)
            except MarramError as exc:
                # Taken by another version of Marram. The hub starts all the same: a person can then replace the rule.
                log.error("rules.unusable", rule=span.name, reason=exc.message)
                continue
            self._active.append(_Active(made, span.from_offset, span.until_offset))
        self._position = self._saved = self._journal.end if position is None else max(position, self._journal.start)
        if position is not None and position < self._journal.start:
            log.error("rules.gap", first=position, end=self._journal.start)
        self._journal.check_cursors({CONSUMER: self._position})
        if position is None:
            await self._db.write(lambda tx: store.set_position(tx, self._saved))
        self._saved_ns = self._clock.mono_ns()
        await self._find_done()
        self._changed()
        self._broker.add_consumer(CONSUMER, self._wants)
        self._journal.on_synced(self._on_synced)
        self._wake.set()

    async def run(self) -> None:
        """Judge messages as they become durable. Returns when cancelled."""
        while True:
            try:
                async with asyncio.timeout(None if self._saved == self._position else CURSOR_NS / 1e9):
                    await self._wake.wait()
            except TimeoutError:
                async with self._turn:
                    await self._save()
                continue
            self._wake.clear()
            await self.catch_up()

    async def catch_up(self) -> None:
        """Judge everything below `synced`."""
        stalls = 0
        while self._position < self._journal.synced:
            try:
                async with self._turn:
                    await self._step()
                stalls = 0
            except (Unavailable, LimitExceeded) as exc:  # the disk is full, or the journal is at its byte budget
                pause = STALL_S[min(stalls, len(STALL_S) - 1)]
                stalls += 1
                log.warning("rules.stalled", reason=exc.message, offset=self._position, again_in_s=pause)
                await asyncio.sleep(pause)
            _lag.set(self._journal.synced - self._position)

    async def stop(self) -> None:
        """Store the cursor. Without it nothing is lost or doubled in our stores: the next start reads the journal."""
        async with self._turn:
            await self._save()

    # rules by name

    async def create(self, name: str, body: JsonObject, tags: Mapping[str, str] | None = None) -> None:
        """Raises AlreadyExists, LimitExceeded, and what compile_rule raises."""
        disabled, kept = _split(body)
        made = compiled.compile_rule(name, kept, self._check_role)

        def work(tx: Tx) -> StoredRule:
            if store.load(tx, name) is not None:
                raise AlreadyExists(f"the rule {name} exists", resourceId=name)
            if store.count(tx) >= MAX_RULES:
                raise LimitExceeded(f"there are {MAX_RULES} rules, the limit", limit=MAX_RULES)
            return StoredRule(name=name, body=kept, disabled=disabled, created_ms=tx.now_ms)

        await self._change(name, None if disabled else made, work, tags or {})

    async def replace(self, name: str, body: JsonObject) -> None:
        disabled, kept = _split(body)
        made = compiled.compile_rule(name, kept, self._check_role)
        await self._change(
            name, None if disabled else made, lambda tx: replace(_existing(tx, name), body=kept, disabled=disabled)
        )

    async def enable(self, name: str) -> None:
        stored = await self.get(name)
        made = compiled.compile_rule(name, stored.body, self._check_role)
        await self._change(name, made, lambda tx: replace(_existing(tx, name), disabled=False))

    async def disable(self, name: str) -> None:
        await self._change(name, None, lambda tx: replace(_existing(tx, name), disabled=True))

    async def delete(self, name: str) -> None:
        def work(tx: Tx) -> None:
            _existing(tx, name)

        await self._change(name, None, work)

    async def get(self, name: str) -> StoredRule:
        """Raises NotFound."""
        return self._db.read_now(lambda tx: _existing(tx, name))

    async def page(self, *, after: str, limit: int, topic: str | None, disabled: bool | None) -> list[StoredRule]:
        """By name. `topic`: only rules whose FROM takes that topic, or is that filter."""

        def wanted(rule: StoredRule) -> bool:
            if disabled is not None and rule.disabled != disabled:
                return False
            if topic is None:
                return True
            filter_text = compiled.topic_filter_of(rule.body)
            return filter_text == topic or topics.matches(filter_text, topic)

        found: list[StoredRule] = []
        while len(found) < limit:
            at = after
            part = await self._db.read(lambda tx, at=at: store.rules(tx, at, 200))  # type: ignore[misc]  # a default pins `at`
            found += [rule for rule in part if wanted(rule)]
            if len(part) < 200:
                break
            after = part[-1].name
        return found[:limit]

    async def dead_letters(self, rule: str | None, *, after: int, limit: int) -> tuple[list[JsonObject], int | None]:
        """Dead letters with offset > `after`, oldest first: at most `limit`, among the next 50,000 records of the journal.

        Returns them and the offset to go on after, None at the end.
        """
        at = max(after + 1, self._journal.start)
        until = min(self._journal.synced, at + DEAD_SCAN)
        found: list[JsonObject] = []
        while at < until:
            part = await asyncio.to_thread(self._journal.read, at, 2_000, 4 << 20)
            if not part:
                break
            for offset, record in part:
                if record.kind == KIND_DEAD and (letter := _letter(offset, record)) and rule in (None, letter["rule"]):
                    found.append(letter)
                    if len(found) == limit:
                        return found, offset
            at = part[-1][0] + 1
        return found, at - 1 if at < self._journal.synced else None

    async def _change(
        self, name: str, made: Rule | None, work: Callable[[Tx], StoredRule | None], tags: Mapping[str, str] = _NO_TAGS
    ) -> None:
        """Make `made` the rule's active version from the journal's present end on; None = none. `work` gives the document."""
        async with self._turn:
            # First the broker: what is published from now on is kept for us, and judged by the offset below.
            provisional = _Active(made, self._journal.end, None) if made is not None else None
            if provisional is not None:
                self._active.append(provisional)
                self._changed()
            offset = self._journal.end

            def transaction(tx: Tx) -> None:
                document = work(tx)
                if document is None:
                    store.delete(tx, name)
                else:
                    store.save(tx, document)
                    self._tags.tag_tx(tx, KIND, name, tags)
                store.close_span(tx, name, offset)
                if document is not None and made is not None:
                    store.open_span(tx, name, offset, document.body)

            try:
                await self._db.write(transaction)
            except BaseException:
                if provisional is not None:
                    self._active.remove(provisional)
                    self._changed()
                raise
            for active in self._active:
                if active.rule.name == name and active is not provisional and active.until is None:
                    active.until = offset
            if provisional is not None:
                provisional.start = offset
            self._changed()

    # judging

    def _wants(self, topic: str) -> bool:
        return any(active.until is None for _, active in self._trie.match(topic))

    def _changed(self) -> None:
        self._active = [a for a in self._active if a.until is None or a.until > max(a.start, self._position)]
        self._active.sort(key=lambda active: (active.rule.name, active.start))
        self._trie = topics.Trie()
        for active in self._active:
            self._trie.put(active.rule.select.topic_filter, id(active), active)
        self._by_topic.clear()
        self._broker.consumers_changed()

    def _of_topic(self, topic: bytes) -> tuple[_Active, ...]:
        found = self._by_topic.get(topic)
        if found is None:
            if len(self._by_topic) >= MAX_CACHED_TOPICS:
                self._by_topic.clear()
            matched = [active for _, active in self._trie.match(topic.decode())]
            matched.sort(key=lambda active: (active.rule.name, active.start))
            found = self._by_topic[topic] = tuple(matched)
        return found

    async def _step(self) -> None:
        at = self._position
        if self._journal.synced - at > FAR_BEHIND:
            found = await asyncio.to_thread(self._journal.read, at, BATCH)
        else:
            found = self._journal.read(at, BATCH)
        if found:
            tasks: list[_Task] = []
            indexes: Counter[int] = Counter()
            for offset, record in found:
                if record.kind == KIND_MESSAGE and (actives := self._of_topic(record.topic)):
                    tasks += await self._judge(offset, record, actives, indexes)
            if tasks:
                await self._perform(tasks)
        self._position = found[-1][0] + 1 if found else self._journal.past_gap(at)
        if self._done and self._position >= self._done_until:
            self._done.clear()  # the cursor is past all of them
        await self._save_if_due()

    async def _judge(
        self, offset: int, record: Record, actives: tuple[_Active, ...], indexes: Counter[int]
    ) -> list[_Task]:
        meta = codec.loads_object(record.meta, what="meta of a record")
        consumers = meta.get("n")
        if meta.get("l") or (isinstance(consumers, list) and CONSUMER not in consumers):
            return []  # messages with residency labels do not come here
        hops = meta.get("h")
        judged: list[_Task] = []
        message: Message | None = None
        for active in actives:
            if not active.holds(offset):
                continue
            if message is None:
                message = Message(record.topic.decode(), record.time_ms, _payload(record.payload))
            judged += await self._apply(
                active.rule, offset, record, message, hops if isinstance(hops, int) else 0, indexes
            )
        return judged

    async def _apply(
        self, rule: Rule, offset: int, record: Record, message: Message, hops: int, indexes: Counter[int]
    ) -> list[_Task]:
        select = rule.select
        if message.payload is UNDEFINED and select.reads_payload:
            _not_json.inc(rule=rule.name)
        if not select.where(message):
            return []
        _matched.inc(rule=rule.name)
        event = Event(message, None, record.payload) if select.whole else Event(message, select.row(message), None)
        if select.whole and message.payload is not UNDEFINED:
            event.row = message.payload
        made: list[_Task] = []
        for bound in rule.actions:
            task = _Task(rule, bound, offset, record, hops + 1)
            made.append(task)
            if message.payload is UNDEFINED and (select.reads_payload or bound.settings.reads_payload):
                task.error = "the payload is not JSON"
            elif hops >= MAX_HOPS:
                task.error = f"the message came through {hops} republishes, the limit"
            else:
                await _run(task, event, _Out(task, CONSUMER, indexes, self._act_as))
        return made

    # performing

    async def _perform(self, tasks: list[_Task]) -> None:
        """All results of a batch. Raises Unavailable when nothing can be written now: the batch is then judged again."""
        await self._deliver(tasks)
        failed = [task for task in tasks if task.error is not None]
        for task in tasks:
            _results.inc(rule=task.rule.name, action=task.bound.action.name, result="failed" if task.error else "done")
        if not failed:
            return
        letters = [task for task in failed if task.rule.error_action is None]
        second: list[_Task] = []
        indexes: Counter[int] = Counter()
        for task in failed:
            if task.rule.error_action is not None:
                second.append(await _error_task(task, task.rule.error_action, indexes, self._act_as))
        await self._deliver(second)
        for task, cause in zip(second, [t for t in failed if t.rule.error_action is not None], strict=True):
            if task.error is not None:
                cause.error = f"{cause.error}; error action: {task.error}"
                letters.append(cause)
        await self._bury(letters)

    async def _deliver(self, tasks: list[_Task]) -> None:
        await self._store_points([item for task in tasks if task.error is None for item in task.points])
        disk.failpoint("rules.between_points_and_publishes")
        publishing = [task for task in tasks if task.error is None and task.publishes]
        if publishing:
            async with asyncio.TaskGroup() as group:
                for task in publishing:
                    group.create_task(self._publish(task), name="rules-publish")
            if any(task.unavailable for task in publishing):
                raise Unavailable("a republish could not be written")

    async def _store_points(self, given: list[tuple[Origin | None, Point]]) -> None:
        if given:
            await self._timeseries.append_many(given)

    async def _publish(self, task: _Task) -> None:
        for origin, topic, payload, qos in task.publishes:
            key = (origin.source, origin.position, origin.index)
            if key in self._done:
                continue
            try:
                await self._publish_one(origin, topic, payload, qos, task.hops)
            except Unavailable:
                task.unavailable = True
                return
            except MarramError as exc:
                task.error = exc.message
            else:
                self._done.add(key)

    async def _publish_one(self, origin: Origin, topic: str, payload: bytes, qos: int, hops: int) -> None:
        """Raises Unavailable when retries did not help, and at once what no retry mends."""
        for pause in RETRY_S:
            try:
                return await self._broker.publish(topic, payload, qos=qos, origin=origin, hops=hops)
            except Unavailable:
                await asyncio.sleep(pause)
        await self._broker.publish(topic, payload, qos=qos, origin=origin, hops=hops)

    async def _bury(self, tasks: list[_Task]) -> None:
        """Dead letters: the message as it came, with rule, action and reason. Raises Unavailable when they cannot be written."""
        records: list[Record] = []
        keys: list[tuple[str, int, int]] = []
        counts: Counter[int] = Counter()
        for task in tasks:
            key = (DEAD_SOURCE, task.offset, counts[task.offset])
            counts[task.offset] += 1
            if key in self._done:
                continue
            log.warning("rules.action_failed", rule=task.rule.name, action=task.bound.action.name, reason=task.error)
            meta: dict[str, JsonValue] = {
                "o": list(key),
                "r": task.rule.name,
                "a": task.bound.action.name,
                "e": (task.error or "")[:1_000],
            }
            record = task.record
            records.append(Record(KIND_DEAD, 0, self._clock.wall_ms(), record.topic, codec.dumps(meta), record.payload))
            keys.append(key)
        for start in range(0, len(records), 64):  # 64 payloads of 128 KB stay below the journal's 16 MB
            await self._journal.append_synced(records[start : start + 64])
            self._done.update(keys[start : start + 64])

    # the cursor

    def _on_synced(self, _synced: int) -> None:
        self._wake.set()

    async def _save_if_due(self) -> None:
        if self._clock.mono_ns() - self._saved_ns >= CURSOR_NS:
            await self._save()

    async def _save(self) -> None:
        position = self._position
        if position == self._saved:
            return
        await self._db.write(lambda tx: store.set_position(tx, position))
        self._saved, self._saved_ns = position, self._clock.mono_ns()

    async def _find_done(self) -> None:
        at = self._position
        while at < self._journal.synced:
            found = await asyncio.to_thread(self._journal.read, at, 10_000, 8 << 20)
            if not found:
                at = await asyncio.to_thread(self._journal.past_gap, at)
                continue
            for _, record in found:
                if record.kind in (KIND_MESSAGE, KIND_DEAD) and b'"rules' in record.meta:
                    match codec.loads_object(record.meta).get("o"):
                        case [str() as source, int() as position, int() as index] if position >= self._position:
                            self._done.add((source, position, index))
                        case _:
                            pass
            at = found[-1][0] + 1
        self._done_until = at


async def _run(task: _Task, event: Event, out: _Out) -> None:
    try:
        await task.bound.action.run(task.bound.settings, event, out)
    except MarramError as exc:
        task.error = exc.message
    except Exception as exc:  # a border: one action's fault is one dead letter
        log.error("rules.action_crashed", exc_info=exc, rule=task.rule.name, action=task.bound.action.name)
        task.error = f"{type(exc).__name__}: {exc}"


async def _error_task(failed: _Task, bound: BoundAction, indexes: Counter[int], act_as: ActAs) -> _Task:
    """The error action over AWS's error document. Source: AWS IoT developer guide, "Error handling (error action)"."""
    task = _Task(failed.rule, bound, failed.offset, failed.record, failed.hops)
    if failed.hops > MAX_HOPS:
        task.error = "not run: the hop limit"
        return task
    meta = codec.loads_object(failed.record.meta)
    body: JsonObject = {
        "ruleName": failed.rule.name,
        "topic": failed.record.topic.decode(),
        "clientId": meta.get("c"),
        "base64OriginalPayload": base64.b64encode(failed.record.payload).decode(),
        "failures": [{"failedAction": failed.bound.action.name, "errorMessage": failed.error}],
    }
    message = Message(failed.record.topic.decode(), failed.record.time_ms, body)
    await _run(task, Event(message, body, None), _Out(task, ERROR_SOURCE, indexes, act_as))
    return task


def _payload(raw: bytes) -> Any:
    try:
        return codec.loads(raw)
    except Invalid:
        return UNDEFINED


def _letter(offset: int, record: Record) -> JsonObject | None:
    meta = codec.loads_object(record.meta)
    if not isinstance(meta.get("r"), str):
        return None  # another consumer's
    return {
        "offset": offset,
        "time_ms": record.time_ms,
        "rule": meta["r"],
        "action": meta.get("a"),
        "error": meta.get("e"),
        "topic": record.topic.decode(),
        "payload": base64.b64encode(record.payload).decode(),
    }


def _bearer(tx: Tx, name: str) -> str | None:
    found = store.load(tx, name)
    return str(found.created_ms) if found is not None else None


def _existing(tx: Tx, name: str) -> StoredRule:
    found = store.load(tx, name)
    if found is None:
        raise NotFound(f"there is no rule {name}", kind="rule", resourceId=name)
    return found


def _split(body: Mapping[str, JsonValue]) -> tuple[bool, JsonObject]:
    """(disabled, the rest)."""
    return bool(body.get("ruleDisabled")), {key: value for key, value in body.items() if key != "ruleDisabled"}
