"""The inference component: reads its configuration over IPC, runs the pipeline, publishes what it sees.

Decisions go out at once on local topics; results in batches to the hub with QoS 1 (on this device's disk when the call
returns), each frame id in exactly one of them; feedback crops one at a time within their budget. Frames that stay local
appear on the local results topic only. Started by the nucleus as `python3 -m marram.components.infer.main BUNDLE_FOLDER`;
without a nucleus it says so and exits 2.

Exit codes: 0 stopped, 1 the source or the nucleus was lost (the nucleus starts it again), 2 wrong configuration, 65 the
bundle is damaged or answers garbage.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from marram.components.infer import decide, engine, feedback, pipeline, prepare, source
from marram.components.infer.pipeline import Settings as PipelineSettings
from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Corrupt, Invalid, MarramError, Unavailable
from marram.kit import log as logs
from marram.kit.clock import SystemEntropy
from marram.sdk import ipc as sdk

log = logs.logger(__name__)

BACKLOG_FRAMES: Final = 20_000
RETRY_S: Final = 0.5
STOP_S: Final = 1.5
READY: Final = "ready"  # holds the bundle's folder, so that the file of another version never counts
BEAT_S: Final = 1.0
STALL_S: Final = 5.0
MAX_MESSAGE: Final = 120_000  # under the 128 KB of a publish
STOPPED, LOST, WRONG, GARBAGE = 0, 1, 2, 65


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The component's configuration. `{thing}` in a topic is this core's thing name."""

    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    threads: int = 0
    results_topic: str = "marram/{thing}/predictions"
    local_topic: str = "marram/local/predictions"
    feedback_topic: str = "$marram/things/{thing}/feedback"
    batch: int = 15
    batch_wait_ms: int = 500
    local_results: bool = False  # every batch on the local topic too; frames that stay local go there always
    canary: str = ""  # put into what stays local, so that a scan of the hub can show it never came
    ledger: bool = False  # frames.log in the work folder: which ids were handed over, for audits


def parse(value: JsonValue) -> Settings:
    """The configuration as the nucleus gives it. Unknown keys are refused (accessControl is the nucleus's); numbers may be 2.0."""
    tree = _mapping(value, "configuration", {"source", "regions", "queue", "engine", "results", "decisions"}
                    | {"stay_local", "feedback", "accessControl"})  # fmt: skip
    source_tree = _mapping(tree.get("source"), "source", {entry.name for entry in fields(source.Settings)})
    queue_tree = _mapping(tree.get("queue"), "queue", {"depth", "policy"})
    engine_tree = _mapping(tree.get("engine"), "engine", {"threads"})
    stay = _mapping(tree.get("stay_local"), "stay_local", {"every", "canary"})
    results = _mapping(
        tree.get("results"),
        "results",
        {"topic", "local_topic", "feedback_topic", "batch", "wait_ms", "local", "ledger"},
    )
    feedback_tree = _mapping(tree.get("feedback"), "feedback", {entry.name for entry in fields(feedback.Settings)})
    policy = queue_tree.get("policy", "latest")
    if policy not in ("latest", "block"):
        raise Invalid(f"queue.policy is latest or block, not {policy!r}")
    default = Settings()
    return Settings(
        pipeline=pipeline.Settings(
            source=_fill(source.Settings(), source_tree, "source"),
            regions=_regions(tree.get("regions")),
            depth=_number(queue_tree, "depth", 3, 1, 64),
            policy="block" if policy == "block" else "latest",
            decisions=tuple(decide.parse(tree.get("decisions"))),
            stay_local_every=_number(stay, "every", 0, 0, 1_000_000),
            feedback=feedback.check(_fill(feedback.Settings(), feedback_tree, "feedback")),
        ),
        threads=_number(engine_tree, "threads", 0, 0, 64),
        results_topic=str(results.get("topic", default.results_topic)),
        local_topic=str(results.get("local_topic", default.local_topic)),
        feedback_topic=str(results.get("feedback_topic", default.feedback_topic)),
        batch=_number(results, "batch", default.batch, 1, 1000),
        batch_wait_ms=_number(results, "wait_ms", default.batch_wait_ms, 0, 600_000),
        local_results=bool(results.get("local", False)),
        canary=str(stay.get("canary", "")),
        ledger=bool(results.get("ledger", False)),
    )


class Infer:
    """One run of the component: from a loaded engine to the signal that ends it."""

    def __init__(self, client: sdk.Client, settings: Settings, folder: Path, work: Path, thing: str) -> None:
        self._ipc, self._settings, self._work = client, settings, work
        self._thing, self._folder = thing, folder
        self._run_id = SystemEntropy().bytes(4).hex()
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[pipeline.Reading] = deque()
        self._wake = asyncio.Event()
        self._done: asyncio.Future[int] = self._loop.create_future()
        self._spawned: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._incoming: deque[pipeline.Reading] = deque()
        self._published = self._local = self._lost = self._decisions = 0
        self._publish_us = 0
        self._pipeline: pipeline.Pipeline | None = None
        self._engine: engine.Engine | None = None
        self._canaries: list[prepare.Image] = []
        self._queue = feedback.Queue(work / "feedback", settings.pipeline.feedback)
        self._ledger = (work / "frames.log").open("a", buffering=1) if settings.ledger else None

    async def run(self) -> int:
        """Returns the exit code."""
        (self._work / READY).unlink(missing_ok=True)
        manifest, graph, canaries = await asyncio.to_thread(engine.open_bundle, self._folder)
        regions = len(self._settings.pipeline.regions) or 1
        made = await asyncio.to_thread(
            lambda: engine.Engine(manifest, graph, threads=self._settings.threads, batch=regions)
        )
        checked = await asyncio.to_thread(made.check, canaries)
        self._engine = made
        self._canaries = [prepare.decode(data) for data, _ in canaries]
        log.info("infer.ready", model=manifest.model, version=manifest.version, threads=made.threads,
                 canaries=f"{checked.right}/{checked.of}", run=self._run_id)  # fmt: skip
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._finish, STOPPED)
        self._start_pipeline()
        async with asyncio.TaskGroup() as tasks:
            publisher = tasks.create_task(self._publish(), name="infer-publish")
            running = [
                tasks.create_task(self._send_feedback(), name="infer-feedback"),
                tasks.create_task(self._follow_configuration(), name="infer-configuration"),
                tasks.create_task(self._watch(), name="infer-ipc"),
                tasks.create_task(self._beat(), name="infer-beat"),
            ]
            code = await self._done
            if self._pipeline is not None:
                await asyncio.to_thread(self._pipeline.stop)
            for task in running:
                task.cancel()
            # Not cancelled at once: a batch that is on its way must be heard of, or its ids would be sent twice or never.
            self._wake.set()
            await asyncio.wait({publisher, *self._spawned}, timeout=STOP_S)
            publisher.cancel()
        if code == STOPPED:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await self._flush()
        if self._ledger is not None:
            self._ledger.close()
        return code

    def _start_pipeline(self) -> None:
        assert self._engine is not None
        self._pipeline = pipeline.Pipeline(
            self._engine,
            self._canaries,
            self._settings.pipeline,
            self._emit,
            run_id=self._run_id,
            context=lambda: {"thing": self._thing, "read_ns": time.monotonic_ns()},
            ended=lambda error: self._loop.call_soon_threadsafe(self._source_ended, error),
            seed=int(self._run_id, 16),
        )
        self._pipeline.start()

    def _source_ended(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("infer.source_failed", error=str(error))
        self._finish(LOST if error is not None else STOPPED)

    def _finish(self, code: int) -> None:
        if not self._done.done():
            self._done.set_result(code)

    # engine's thread -> loop

    def _emit(self, reading: pipeline.Reading) -> None:
        with self._lock:
            first = not self._incoming
            self._incoming.append(reading)
        if first:
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        with self._lock:
            readings = list(self._incoming)
            self._incoming.clear()
        for reading in readings:
            for topic, message in reading.fired:
                self._decisions += 1
                self._spawn(self._ipc.publish(_fill_topic(topic, self._thing), message))
            self._waiting.append(reading)
        while len(self._waiting) > BACKLOG_FRAMES:  # the nucleus takes nothing for minutes: the oldest go, counted
            self._waiting.popleft()
            self._lost += 1
        if len(self._waiting) >= self._settings.batch:
            self._wake.set()

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work, name="infer-decision")
        self._spawned.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._spawned.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.warning("infer.decision_refused", error=str(exc))

    # loop

    async def _publish(self) -> None:
        while not self._done.done():
            whole_only = True
            try:
                async with asyncio.timeout(self._settings.batch_wait_ms / 1000 or None):
                    await self._wake.wait()
            except TimeoutError:
                whole_only = False
            self._wake.clear()
            await self._flush(whole_only=whole_only)

    async def _flush(self, *, whole_only: bool = False) -> None:
        size = self._settings.batch
        while self._waiting and (len(self._waiting) >= size or not whole_only):
            batch = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
            leaving = [reading for reading in batch if not reading.stay_local]
            staying = [reading for reading in batch if reading.stay_local]
            if staying:
                await self._publish_local(staying, canary=self._settings.canary)
            if leaving:
                await self._publish_batch(leaving)

    async def _publish_batch(self, batch: list[pipeline.Reading]) -> None:
        message = self._message(batch)
        body = codec.dumps(message)
        if len(body) > MAX_MESSAGE and len(batch) > 1:
            half = len(batch) // 2
            await self._publish_batch(batch[:half])
            await self._publish_batch(batch[half:])
            return
        topic = _fill_topic(self._settings.results_topic, self._thing)
        self._note("sending", batch)
        began = time.monotonic_ns()
        while True:
            try:
                await self._ipc.publish_to_hub(topic, body, qos=1)
                break
            except Unavailable:
                self._finish(LOST)  # the connection is gone; whether this batch was taken is in the nucleus's spool
                return
            except sdk.IpcError as exc:
                log.warning("infer.publish_refused", error=exc.message)
                if exc.shape == "UnauthorizedError":
                    self._lost += len(batch)
                    return
                await asyncio.sleep(RETRY_S)  # spool full: hold on to it
        self._publish_us = (time.monotonic_ns() - began) // 1000
        self._published += len(batch)
        self._note("sent", batch)
        if self._settings.local_results:
            await self._publish_local(batch)

    async def _publish_local(self, batch: list[pipeline.Reading], *, canary: str = "") -> None:
        message = self._message(batch)
        if canary:
            message["canary"] = canary
            self._local += len(batch)
            self._note("local", batch)
        try:
            await self._ipc.publish(_fill_topic(self._settings.local_topic, self._thing), message)
        except Unavailable:
            self._finish(LOST)
        except sdk.IpcError as exc:
            log.warning("infer.local_publish_refused", error=exc.message)

    def _message(self, batch: list[pipeline.Reading]) -> JsonObject:
        assert self._engine is not None and self._pipeline is not None
        now_ns = time.monotonic_ns()
        numbers = [reading.number for reading in batch]
        seen = [seen.confidence for reading in batch for seen in reading.objects]
        manifest = self._engine.manifest
        return {
            "thing": self._thing,
            "model": manifest.model,
            "version": manifest.version,
            "run": self._run_id,
            "ids": f"{self._run_id}:{_ranges(numbers)}",
            "first": numbers[0],
            "last": numbers[-1],
            "count": len(batch),
            "time_ms": int(time.time() * 1000),
            "confidence": round(sum(seen) / len(seen), 5),
            "confidence_min": round(min(seen), 5),
            "readings": ",".join("".join(seen.label for seen in reading.objects) for reading in batch),
            "age_ms": round((now_ns - batch[-1].due_ns) / 1e6, 2),
            "decode_ms": _mean([reading.decode_us for reading in batch]),
            "crop_ms": _mean([reading.crop_us for reading in batch]),
            "infer_ms": _mean([reading.infer_us for reading in batch]),
            "publish_ms": round(self._publish_us / 1000, 3),
            **self._totals(),
            "frames": [
                {
                    "frame": reading.number,
                    "pts": round(reading.pts_s, 3),
                    "objects": [
                        {"label": seen.label, "confidence": round(seen.confidence, 4), "box": list(seen.box)}
                        for seen in reading.objects
                    ],
                }
                for reading in batch
            ],
        }

    def _totals(self) -> JsonObject:
        """Since this run began. due = read + dropped + skipped + failed + at most the slots' depth."""
        assert self._pipeline is not None
        counts = self._pipeline.counts
        return {
            "due": self._pipeline.due,
            "read": counts.read,
            "dropped": self._pipeline.dropped,
            "skipped": self._pipeline.skipped,
            "failed": counts.failed,
            "published": self._published,
            "stayed_local": self._local,
            "lost": self._lost,
            "decisions": self._decisions,
            "raw_bytes": counts.raw_bytes,
            "feedback_waiting": len(self._queue),
        }

    async def _send_feedback(self) -> None:
        topic = _fill_topic(self._settings.feedback_topic, self._thing)
        while True:
            await asyncio.sleep(1 / self._settings.pipeline.feedback.items_per_s)
            assert self._pipeline is not None and self._engine is not None
            while not self._pipeline.chosen.empty():
                await asyncio.to_thread(self._queue.put, self._pipeline.chosen.get())
            now_ms = int(time.time() * 1000)
            found = await asyncio.to_thread(self._queue.next_item, now_ms)
            if found is None:
                continue
            name, document = found
            manifest = self._engine.manifest
            document |= {"thing": self._thing, "model": manifest.model, "version": manifest.version}
            try:
                await self._ipc.publish_to_hub(topic, document, qos=1)
            except Unavailable:
                self._finish(LOST)
                return
            except sdk.IpcError as exc:
                log.warning("infer.feedback_refused", error=exc.message)
                await asyncio.sleep(RETRY_S * 10)
                continue
            await asyncio.to_thread(self._queue.sent, name, now_ms)

    async def _follow_configuration(self) -> None:
        try:
            _, events = await self._ipc.subscribe("SubscribeToConfigurationUpdate", {"keyPath": []})
        except sdk.IpcError as exc:
            log.warning("infer.no_configuration_updates", error=exc.message)
            return
        async for _event in events:
            try:
                settings = parse(await self._ipc.configuration())
            except Invalid as exc:
                log.error("infer.configuration_refused", error=exc.message)  # the old one goes on
                continue
            if settings == self._settings:
                continue
            self._settings = settings
            self._queue.settings = settings.pipeline.feedback
            assert self._pipeline is not None
            if not self._pipeline.update(settings.pipeline):
                log.info("infer.restart_for_configuration")
                self._finish(LOST)  # a new source means new threads: the nucleus starts a fresh process
            log.info("infer.configuration_changed")

    async def _beat(self) -> None:
        """Keep the ready file fresh while frames are read: the recipe's health script looks at its name and age."""
        ready = self._work / READY
        read, since = -1, time.monotonic()
        while True:
            assert self._pipeline is not None
            now, fps = time.monotonic(), self._settings.pipeline.source.fps
            if self._pipeline.counts.read != read:
                read, since = self._pipeline.counts.read, now
            if read > 0 and now - since < max(STALL_S, 3 / fps if fps else 0):
                ready.write_text(f"{self._folder}\n")  # a sign of life, not a record: no fsync
            await asyncio.sleep(BEAT_S if read > 0 else BEAT_S / 20)

    async def _watch(self) -> None:
        await self._ipc.closed.wait()
        self._finish(LOST)

    def _note(self, what: str, batch: list[pipeline.Reading]) -> None:
        if self._ledger is not None:
            self._ledger.write(f"{what} {self._run_id}:{_ranges([reading.number for reading in batch])}\n")


async def start(folder: Path, work: Path, thing: str) -> int:
    async with await sdk.connect() as client:
        settings = parse(await client.configuration())
        return await Infer(client, settings, folder, work, thing).run()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The inference component; started by a nucleus.")
    parser.add_argument("bundle", type=Path, help="folder of the unpacked bundle")
    parser.add_argument("--work", type=Path, default=Path(), help="folder for the feedback queue (default: here)")
    parser.add_argument("--thing", default="", help="this core's thing name (default: AWS_IOT_THING_NAME)")
    arguments = parser.parse_args(argv)
    logs.setup()
    # The engine's thread must get the interpreter soon after a frame comes; the default of 5 ms is a third of a frame.
    sys.setswitchinterval(0.0005)
    try:
        return asyncio.run(start(arguments.bundle, arguments.work, arguments.thing or _thing_name()))
    except Corrupt as error:
        log.error("infer.bundle_refused", error=error.message, code=error.code)
        return GARBAGE
    except (Unavailable, TimeoutError) as error:
        log.error("infer.lost", error=str(error))
        return LOST
    except MarramError as error:
        log.error("infer.refused", error=error.message)
        return WRONG


def _thing_name() -> str:
    return os.environ.get("AWS_IOT_THING_NAME", "unnamed")


def _fill_topic(topic: str, thing: str) -> str:
    return topic.replace("{thing}", thing)


def _ranges(numbers: list[int]) -> str:
    """3,4,5,9 -> "3-5,9"."""
    parts: list[str] = []
    begin = last = numbers[0]
    for number in [*numbers[1:], None]:
        if number is not None and number == last + 1:
            last = number
            continue
        parts.append(str(begin) if begin == last else f"{begin}-{last}")
        if number is not None:
            begin = last = number
    return ",".join(parts)


def _mean(micros: list[int]) -> float:
    return round(sum(micros) / len(micros) / 1000, 3)


def _mapping(value: JsonValue, what: str, known: set[str]) -> Mapping[str, JsonValue]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(f"{what} must be an object, not {codec.kind(value)}")
    unknown = sorted(set(value) - known)
    if unknown:
        raise Invalid(f"{what} has an unknown key {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return value


def _number(tree: Mapping[str, JsonValue], key: str, default: int, least: int, most: int) -> int:
    value = tree.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != int(value):
        raise Invalid(f"{key} must be a whole number, not {value!r}")
    if not least <= value <= most:
        raise Invalid(f"{key} must be {least} to {most}, not {value}")
    return int(value)


def _regions(value: JsonValue) -> tuple[decide.Box, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > 256:
        raise Invalid("regions must be a list of at most 256 [x, y, width, height]")
    boxes: list[decide.Box] = []
    for at, entry in enumerate(value):
        if not isinstance(entry, list) or len(entry) != 4:
            raise Invalid(f"regions[{at}] must be [x, y, width, height]")
        numbers: list[int] = []
        for number in entry:
            if not isinstance(number, (int, float)) or isinstance(number, bool):
                raise Invalid(f"regions[{at}] must hold numbers")
            numbers.append(int(number))
        x, y, width, height = numbers
        if width < 1 or height < 1:
            raise Invalid(f"regions[{at}] is empty")
        boxes.append((x, y, width, height))
    return tuple(boxes)


def _fill(default: Any, tree: Mapping[str, JsonValue], what: str) -> Any:
    """A settings dataclass with `tree` laid over it, each value of the default's type."""
    values: dict[str, object] = {}
    for name, value in tree.items():
        before: object = getattr(default, name)
        wanted = type(before)
        if wanted is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted:
            raise Invalid(f"{what}.{name} must be {wanted.__name__}, not {codec.kind(value)}")
        values[name] = value
    return type(default)(
        **{entry.name: values.get(entry.name, getattr(default, entry.name)) for entry in fields(default)}
    )


if __name__ == "__main__":
    sys.exit(main())
