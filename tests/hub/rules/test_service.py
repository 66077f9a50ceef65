import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import (
    AlreadyExists,
    Denied,
    Invalid,
    LimitExceeded,
    MarramError,
    NotFound,
    Unavailable,
    Unsupported,
)
from marram.core.segment import KIND_DEAD, KIND_MESSAGE, Origin, Record
from marram.core.sql.lexer import SqlError
from marram.hub.rules.service import MAX_HOPS, Rules, Tags
from marram.hub.timeseries.service import TimeSeries
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations, Tx
from marram.kit.seglog import Journal

ROLE = "arn:aws:iam::000000000001:role/marram-service"
REPUBLISH: JsonObject = {"republish": {"roleArn": ROLE, "topic": "out/${topic(2)}", "qos": 1}}
STORE: JsonObject = {
    "timestream": {
        "roleArn": ROLE,
        "databaseName": "plant",
        "tableName": "temp",
        "dimensions": [{"name": "core", "value": "${topic(2)}"}],
    }
}


class Peer:
    """Stands for the broker: keeps what is published, journals it as the broker does, fails when told."""

    def __init__(self, journal: Journal, clock: FakeClock) -> None:
        self.journal, self.clock = journal, clock
        self.published: list[tuple[str, bytes]] = []
        self.wants: Callable[[str], bool] = lambda _topic: False
        self.failures: list[MarramError] = []

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, origin: Origin | None = None, hops: int = 0
    ) -> None:
        if self.failures:
            raise self.failures.pop()
        self.published.append((topic, payload))
        meta: dict[str, JsonValue] = {"h": hops, "n": ["rules"] if self.wants(topic) else []}
        if origin is not None:
            meta["o"] = [origin.source, origin.position, origin.index]
        await self.journal.append_synced(
            [Record(KIND_MESSAGE, 0, self.clock.wall_ms(), topic.encode(), codec.dumps(meta), payload)]
        )

    def add_consumer(self, name: str, wants: Callable[[str], bool], *, required: bool = True) -> None:
        assert name == "rules" and required
        self.wants = wants

    def consumers_changed(self) -> None:
        pass


class Hub:
    def __init__(self, rules: Rules, series: TimeSeries, peer: Peer, journal: Journal, db: Db) -> None:
        self.rules, self.series, self.peer, self.journal, self.db = rules, series, peer, journal, db

    async def say(self, topic: str, body: object, **meta: JsonValue) -> int:
        payload = body if isinstance(body, bytes) else codec.dumps(body)
        stamp = self.peer.clock.wall_ms()
        record = Record(KIND_MESSAGE, 0, stamp, topic.encode(), codec.dumps({"n": ["rules"], **meta}), payload)
        return await self.journal.append_synced([record])

    async def rows(self, series: str = "plant.temp") -> list[dict[str, object]]:
        try:
            found, _ = await self.series.query(series, limit=1000)
        except NotFound:
            return []
        return [dict(row.fields) for row in found]

    def dead(self) -> list[JsonObject]:
        read = self.journal.read(self.journal.start, 10_000)
        return [codec.loads_object(record.meta) for _, record in read if record.kind == KIND_DEAD]


@contextlib.asynccontextmanager
async def hub(root: Path, *, seed: int = 1, clean: bool = True, tags: Tags | None = None) -> AsyncIterator[Hub]:
    clock = FakeClock()
    migrations = [Migrations(slice=name, package=f"marram.hub.{name}") for name in ("timeseries", "rules")]
    with (
        Db.open(root / "hub.db", clock=clock, migrations=migrations) as db,
        Journal.open(root / "log", clock=clock) as journal,
    ):
        series = TimeSeries(db=db, journal=journal, clock=clock, folder=root / "ts", entropy=SeededEntropy(seed))
        peer = Peer(journal, clock)
        rules = Rules(
            db=db, journal=journal, broker=peer, timeseries=series, check_role=check_role, act_as=act_as, clock=clock,
            tags=tags,
        )  # fmt: skip
        await series.start()
        await rules.start()
        yield Hub(rules, series, peer, journal, db)
        if clean:
            await rules.stop()
            await series.stop()


def act_as(role: str, action: str, resource: str) -> None:
    if resource in ("topic/forbidden", "database/closed/table/t"):
        raise Denied(f"the role {role} may not {action} on {resource}")


def check_role(role: str) -> None:
    if role != ROLE:
        raise Invalid(f"the role {role!r} does not exist here")


def body(sql: str, *actions: JsonObject, **more: JsonValue) -> JsonObject:
    return {"sql": sql, "actions": list(actions), "awsIotSqlVersion": "2016-03-23", **more}


async def test_a_matching_message_is_stored_and_republished(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        sql = "SELECT n, label, topic(2) AS core, timestamp() AS t FROM 'in/+' WHERE n > 1"
        await it.rules.create("both", body(sql, STORE, REPUBLISH))
        await it.say("in/a", {"n": 1, "label": "x"})
        await it.say("in/a", {"n": 2, "label": "y", "more": [1]})
        await it.say("elsewhere/a", {"n": 3})
        await it.rules.catch_up()
        t = it.peer.clock.wall_ms()
        assert await it.rows() == [{"label": "y", "n": 2, "t": t}]  # `core` is a dimension
        [row], _ = await it.series.query("plant.temp")
        assert dict(row.dimensions) == {"core": "a"}
        assert it.peer.published == [("out/a", codec.dumps({"n": 2, "label": "y", "core": "a", "t": t}))]
        assert it.dead() == []


async def test_select_star_passes_the_payload_byte_for_byte_also_when_it_is_not_json(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        await it.rules.create("copy", body("SELECT * FROM 'in/#'", REPUBLISH))
        for payload in (b'{ "n" : 1.0 }', b"\x00\xff", b""):
            await it.say("in/a", payload)
        await it.rules.catch_up()
        assert [payload for _, payload in it.peer.published] == [b'{ "n" : 1.0 }', b"\x00\xff", b""]


async def test_bad_payloads_cost_a_dead_letter_and_never_the_loop(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        await it.rules.create("store", body("SELECT n FROM 'in/+'", STORE))
        await it.rules.create("where", body("SELECT n FROM 'in/+' WHERE n > 1", STORE))
        for payload in (b"{", b"\xff", b"[" * 100, b'{"n":NaN}', b"[1]", b'{"n":1' + b"0" * 30 + b"}", b'{"n":5}'):
            await it.say("in/a", payload)
        await it.rules.catch_up()
        assert await it.rows() == [{"n": 5}, {"n": 5}]
        letters, more = await it.rules.dead_letters(None, after=-1, limit=100)
        assert more is None
        assert {letter["rule"] for letter in letters} == {"store", "where"}
        assert next(letter["error"] for letter in letters if letter["rule"] == "store") == "the payload is not JSON"
        assert base64.b64decode(str(letters[0]["payload"])) == b"{"
        assert (await it.rules.dead_letters("where", after=-1, limit=1))[0][0]["rule"] == "where"


async def test_a_rule_sees_messages_from_its_offset_to_the_next_change(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        await it.say("in/a", {"n": 0})
        await it.rules.create("r", body("SELECT n FROM 'in/+'", STORE))
        await it.say("in/a", {"n": 1})
        await it.rules.disable("r")
        await it.say("in/a", {"n": 2})
        await it.rules.enable("r")
        await it.say("in/a", {"n": 3})
        await it.rules.replace("r", body("SELECT n, 'new' AS v FROM 'in/+'", STORE))
        await it.say("in/a", {"n": 4})
        await it.rules.delete("r")
        await it.say("in/a", {"n": 5})
        # All changes lie before the first judgement, and count all the same where they were made.
        await it.rules.catch_up()
        assert await it.rows() == [{"n": 1}, {"n": 3}, {"n": 4, "v": "new"}]


async def test_changes_keep_their_offsets_over_a_crash(tmp_path: Path) -> None:
    async with hub(tmp_path, clean=False) as it:
        await it.rules.create("r", body("SELECT n FROM 'in/+'", STORE))
        await it.say("in/a", {"n": 1})
        await it.rules.delete("r")
        await it.say("in/a", {"n": 2})
    async with hub(tmp_path, seed=2) as it:
        await it.rules.catch_up()
        assert await it.rows() == [{"n": 1}]


async def test_after_a_crash_nothing_is_doubled_and_nothing_missing(tmp_path: Path) -> None:
    async with hub(tmp_path, clean=False) as it:
        await it.rules.create("r", body("SELECT n FROM 'in/+'", STORE, REPUBLISH))
        await it.rules.create("bad", body("SELECT n FROM 'in/+'", {"republish": {"roleArn": ROLE, "topic": "x/${no}"}}))
        for n in range(20):
            await it.say("in/a", {"n": n})
        await it.rules.catch_up()
        assert len(it.peer.published) == 20
        for n in range(20, 30):
            await it.say("in/a", {"n": n})
        # The cursor was never stored: the clock stood still.
        assert it.rules.position < 20
    async with hub(tmp_path, seed=2) as it:
        await it.rules.catch_up()
        assert [row["n"] for row in await it.rows()] == list(range(30))
        assert [codec.loads_object(payload)["n"] for _, payload in it.peer.published] == list(range(20, 30))
        assert len(it.dead()) == 30
    async with hub(tmp_path, seed=3) as it:
        await it.rules.catch_up()
        assert it.peer.published == []
        assert len(await it.rows()) == 30


async def test_a_rule_that_feeds_itself_ends_after_ten_republishes(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        await it.rules.create("loop", body("SELECT * FROM 'a'", {"republish": {"roleArn": ROLE, "topic": "a"}}))
        await it.say("a", {})
        await it.rules.catch_up()
        assert len(it.peer.published) == MAX_HOPS
        assert [letter["e"] for letter in it.dead()] == ["the message came through 10 republishes, the limit"]


@pytest.mark.parametrize(
    ("template", "sent"),
    [
        pytest.param("${to}", {"to": "$aws/things/core/jobs/notify-next"}, id="whole topic"),
        pytest.param("${to}", {"to": "$$aws/things/core/jobs/notify-next"}, id="doubled"),
        pytest.param("$${to}", {"to": "aws/things/core/jobs/notify-next"}, id="behind a dollar"),
        pytest.param("$$aws/things/${to}", {"to": "core/jobs/notify-next"}, id="more levels"),
        pytest.param("$$aws/things/${to}/shadow/update", {"to": "core/jobs"}, id="levels in the middle"),
        pytest.param("a/${to}", {"to": "+"}, id="wildcard"),
    ],
)
async def test_a_message_cannot_choose_a_reserved_topic(tmp_path: Path, template: str, sent: JsonObject) -> None:
    async with hub(tmp_path) as it:
        await it.rules.create("r", body("SELECT * FROM 'in'", {"republish": {"roleArn": ROLE, "topic": template}}))
        await it.say("in", sent)
        await it.rules.catch_up()
        assert it.peer.published == []
        assert len(it.dead()) == 1


async def test_a_rule_itself_may_name_a_reserved_topic(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        shadow: JsonObject = {"republish": {"roleArn": ROLE, "topic": "$$aws/things/${to}/shadow/update"}}
        await it.rules.create("r", body("SELECT n FROM 'in'", shadow))
        await it.say("in", {"to": "core", "n": 1})
        await it.rules.catch_up()
        assert it.peer.published == [("$aws/things/core/shadow/update", b'{"n":1}')]


async def test_a_refused_republish_is_a_dead_letter_and_one_that_may_pass_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marram.hub.rules.service.RETRY_S", (0.0, 0.0))
    monkeypatch.setattr("marram.hub.rules.service.STALL_S", (0.0,))
    async with hub(tmp_path) as it:
        await it.rules.create("r", body("SELECT * FROM 'in/+'", REPUBLISH))
        it.peer.failures = [LimitExceeded("too big")]
        await it.say("in/a", {"n": 1})
        await it.rules.catch_up()
        assert [letter["e"] for letter in it.dead()] == ["too big"]
        it.peer.failures = [Unavailable("disk full")] * 7  # more than one round of retries: the batch is judged again
        await it.say("in/a", {"n": 2})
        await it.say("in/a", {"n": 3})
        await it.rules.catch_up()
        assert sorted(payload for _, payload in it.peer.published) == [b'{"n":2}', b'{"n":3}']
        assert len(it.dead()) == 1


async def test_the_error_action_gets_the_message_that_failed(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        broken: JsonObject = {"republish": {"roleArn": ROLE, "topic": "x/${missing}"}}
        sink: JsonObject = {"republish": {"roleArn": ROLE, "topic": "errors"}}
        await it.rules.create("r", body("SELECT * FROM 'in/+'", broken, errorAction=sink))
        await it.rules.create("s", body("SELECT * FROM 'in/+'", broken, errorAction=broken))
        await it.say("in/a", {"n": 1}, c="client-1")
        await it.rules.catch_up()
        [(topic, payload)] = it.peer.published
        document = codec.loads_object(payload)
        assert topic == "errors"
        assert (document["ruleName"], document["topic"], document["clientId"]) == ("r", "in/a", "client-1")
        assert base64.b64decode(str(document["base64OriginalPayload"])) == b'{"n":1}'
        assert [(letter["r"], "error action" in str(letter["e"])) for letter in it.dead()] == [("s", True)]


async def test_messages_with_residency_labels_and_of_other_consumers_are_left_alone(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        await it.rules.create("r", body("SELECT * FROM 'in/+'", REPUBLISH))
        await it.say("in/a", {"n": 1}, l=["stay-local"])
        await it.say("in/a", {"n": 2}, n=["session"])
        await it.rules.catch_up()
        assert it.peer.published == []


async def test_the_broker_is_told_which_topics_are_wanted(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        assert not it.peer.wants("in/a")
        await it.rules.create("r", body("SELECT * FROM 'in/+'", REPUBLISH))
        assert it.peer.wants("in/a") and not it.peer.wants("in/a/b")
        await it.rules.disable("r")
        assert not it.peer.wants("in/a")
        with pytest.raises(AlreadyExists):
            await it.rules.create("r", body("SELECT * FROM 'other'", REPUBLISH))
        assert not it.peer.wants("other")


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        pytest.param(body("SELEC * FROM 'a'"), SqlError, "starts with SELECT", id="not SQL"),
        pytest.param(
            body("SELECT a FROM 'a' WHERE foo(a) = 1"), SqlError, "unknown function foo", id="unknown function"
        ),
        pytest.param(body("SELECT a FROM 'a/#/b'"), SqlError, "line 1 column 15", id="bad filter"),
        pytest.param(body("SELECT a FROM '$share/g/a'"), SqlError, "shared", id="shared filter"),
        pytest.param(
            body("SELECT * FROM 'a'", awsIotSqlVersion="beta"), Unsupported, "SQL version 'beta'", id="version"
        ),
        pytest.param(
            body("SELECT * FROM 'a'", {"lambda": {"functionArn": "f"}}), Unsupported, "action lambda", id="lambda"
        ),
        pytest.param(body("SELECT * FROM 'a'", {}), Invalid, "exactly one", id="empty action"),
        pytest.param(body("SELECT * FROM 'a'", *[REPUBLISH] * 11), Invalid, "at most 10", id="11 actions"),
        pytest.param(body("SELECT * FROM 'a'", errorAction={"sqs": {}}), Unsupported, "action sqs", id="error action"),
        pytest.param(
            body("SELECT * FROM 'a'", {"republish": {"roleArn": "arn:x", "topic": "a"}}),
            Invalid,
            "role 'arn:x'",
            id="role",
        ),
        pytest.param(
            body("SELECT * FROM 'a'", {"republish": {"roleArn": ROLE, "topic": "a/#"}}), Invalid, "wildcard", id="topic"
        ),
        pytest.param(
            body("SELECT * FROM 'a'", {"republish": {"roleArn": ROLE, "topic": "a/${newuuid()}"}}),
            Invalid,
            r"newuuid\(\) is not supported",
            id="function in a template",
        ),
        pytest.param(
            body("SELECT * FROM 'a'", {"republish": {"roleArn": ROLE, "topic": "a", "headers": {"contentType": "x"}}}),
            Unsupported,
            "headers",
            id="headers",
        ),
        pytest.param(
            body(
                "SELECT * FROM 'a'",
                {"timestream": {**STORE["timestream"], "timestamp": {"value": "1", "unit": "DAYS"}}},
            ),  # type: ignore[dict-item]
            Invalid,
            "unit 'DAYS'",
            id="unit",
        ),
        pytest.param(
            body("SELECT * FROM 'a'", {"timestream": {**STORE["timestream"], "tableName": "${topic()}"}}),  # type: ignore[dict-item]
            Invalid,
            "takes no template",
            id="table",
        ),
    ],
)
async def test_what_is_not_there_is_refused_at_creation_by_name(
    tmp_path: Path, given: JsonObject, error: type[MarramError], says: str
) -> None:
    async with hub(tmp_path) as it:
        with pytest.raises(error, match=says):
            await it.rules.create("r", given)
        with pytest.raises(NotFound):
            await it.rules.get("r")


@pytest.mark.parametrize(
    ("unit", "value", "wanted"),
    [
        pytest.param("SECONDS", "${t}", 1_750_000_000_500, id="seconds"),
        pytest.param("MILLISECONDS", "${t * 1000}", 1_750_000_000_500, id="milliseconds"),
        pytest.param("NANOSECONDS", "1750000000123456789", 1_750_000_000_123, id="nanoseconds"),
    ],
)
async def test_the_point_has_the_time_that_the_rule_says(tmp_path: Path, unit: str, value: str, wanted: int) -> None:
    async with hub(tmp_path) as it:
        action = {"timestream": {**STORE["timestream"], "timestamp": {"value": value, "unit": unit}}}  # type: ignore[dict-item]
        await it.rules.create("r", body("SELECT n, box FROM 'in/+'", action))
        await it.say("in/a", {"n": 1, "t": 1_750_000_000.5, "box": [1, {"a": None}]})
        await it.rules.catch_up()
        [row], _ = await it.series.query("plant.temp")
        assert row.time_ms == wanted
        assert row.fields == {"n": 1, "box": '[1,{"a":null}]'}


async def test_rules_are_listed_by_page_topic_and_state(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        for n in range(5):
            await it.rules.create(f"r{n}", body(f"SELECT * FROM 'in/{n}/+'", REPUBLISH, ruleDisabled=n == 3))

        async def names(**options: object) -> list[str]:
            chosen = {"after": "", "limit": 100, "topic": None, "disabled": None} | options
            return [rule.name for rule in await it.rules.page(**chosen)]  # type: ignore[arg-type]

        assert await names(limit=2) == ["r0", "r1"]
        assert await names(after="r1") == ["r2", "r3", "r4"]
        assert await names(disabled=True) == ["r3"]
        assert await names(topic="in/2/x") == ["r2"]
        assert (await it.rules.get("r3")).disabled


async def test_run_judges_what_becomes_durable_and_stores_its_cursor(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        await it.rules.create("r", body("SELECT * FROM 'in/+'", REPUBLISH))
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(it.rules.run())
            offset = await it.say("in/a", {"n": 1})
            while it.rules.position <= offset or not it.peer.published:
                await asyncio.sleep(0.01)
            running.cancel()
        assert [json.loads(payload) for _, payload in it.peer.published] == [{"n": 1}]
    async with hub(tmp_path) as it:
        assert it.rules.position > offset, "a new life goes on behind what was judged"
        assert it.peer.published == []


async def test_what_the_role_does_not_allow_is_a_dead_letter(tmp_path: Path) -> None:
    async with hub(tmp_path) as it:
        out = {"republish": {"roleArn": ROLE, "topic": "${t}"}}
        closed = {
            "timestream": {
                "roleArn": ROLE, "databaseName": "closed", "tableName": "t", "dimensions": [{"name": "a", "value": "b"}]
            }
        }  # fmt: skip
        await it.rules.create("r", body("SELECT * FROM 'in/+'", out, closed))
        await it.say("in/a", {"t": "allowed", "n": 1})
        await it.say("in/a", {"t": "forbidden", "n": 2})
        await it.rules.catch_up()
        assert [topic for topic, _ in it.peer.published] == ["allowed"]
        letters, _ = await it.rules.dead_letters(None, after=-1, limit=10)
        reasons = [str(letter["error"]) for letter in letters]
        assert len(reasons) == 3 and sum("iot:Publish on topic/forbidden" in reason for reason in reasons) == 1
        assert sum("timestream:WriteRecords on database/closed/table/t" in reason for reason in reasons) == 2


async def test_tags_are_given_with_the_rule_or_neither_is(tmp_path: Path) -> None:
    given: list[tuple[str, str, dict[str, str]]] = []

    class Bearers:
        def declare(self, kind: str, bearer_id: Callable[[Tx, str], str | None]) -> None:
            self.bearer_id = bearer_id

        def tag_tx(self, tx: Tx, kind: str, name: str, tags: Mapping[str, str]) -> None:
            if "aws:a" in tags:
                raise Invalid("reserved")
            assert self.bearer_id(tx, name) is not None, "there is a rule by then"
            given.append((kind, name, dict(tags)))

    async with hub(tmp_path, tags=Bearers()) as it:
        await it.rules.create("r", body("SELECT * FROM 'a'", REPUBLISH), {"line": "7"})
        assert given == [("rule", "r", {"line": "7"})]
        with pytest.raises(Invalid, match="reserved"):
            await it.rules.create("s", body("SELECT * FROM 'a'", REPUBLISH), {"aws:a": "7"})
        with pytest.raises(NotFound):
            await it.rules.get("s")
