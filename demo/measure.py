"""What the demo reads off the running line: openings of the relays, rows of the series, frame ids of both sides."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from demo import ids, machine
from demo.figures import percentile
from demo.step2_first_model import frames_log
from demo.world import SERIES, TELEMETRY, Core, World


def openings(world: World, core: Core, begin_ns: int = 0, end_ns: int = 1 << 62) -> list[dict[str, Any]]:
    """Of one core's relay, those that came within a span of the monotonic clock."""
    return [note for note in world.notes(core.relay) if note["event"] == "open" and begin_ns <= note["at"] < end_ns]


def relay_ages(world: World, begin_ns: int = 0, end_ns: int = 1 << 62) -> list[float]:
    """Milliseconds from the moment a frame was due to the relay's opening, all cores."""
    return [note["age_ms"] for core in world.cores for note in openings(world, core, begin_ns, end_ns)]


LAST_REPEAT_S = 130.0  # of the run: the other steps need their time


@dataclass(frozen=True)
class Latency:
    count: int
    p50: float
    p99: float
    others: float = 0.0  # cores' worth of work by processes that are not the demo's, meanwhile

    def __str__(self) -> str:
        busy = f", while other processes took {self.others:.1f} cores" if self.others >= machine.BUSY_CORES else ""
        return f"p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms of {self.count} openings{busy}"


def latency(ages: list[float], others: float = 0.0) -> Latency:
    return Latency(len(ages), percentile(ages, 0.5), percentile(ages, 0.99), others)


def measured_latency(world: World, text: str, seconds: float, good: Callable[[Latency], bool]) -> Latency:
    """Frame to relay over a span. Not good, others compute and there is time: again."""
    for repeats_left in range(machine.REPEATS, -1, -1):
        before, begin_ns = machine.sample(), time.monotonic_ns()
        world.show.sleep(text, seconds)
        end_ns = time.monotonic_ns()
        busy = machine.others(before, machine.sample())
        time.sleep(0.1)  # what was opened at the very end is being written down
        found = latency(relay_ages(world, begin_ns, end_ns), busy)
        late = world.show.elapsed_s + seconds > LAST_REPEAT_S
        if good(found) or busy < machine.BUSY_CORES or late or not repeats_left:
            break
        world.show.say(f"{text}: {found}: measured again")
    return found


def compare(world: World, core: Core) -> ids.Compared:
    """The core's own ledger of frame ids against the hub's rows. What is sent between the two looks is in neither's debt."""
    before = ids.ledger(frames_log(core))
    rows = world.rows(SERIES, thing=core.thing)
    after = ids.ledger(frames_log(core))
    edge = ids.Ledger(sending=after.sending, sent=before.sent, local=after.local)
    return ids.compare(edge, [row["fields"]["ids"] for row in rows])


def compare_all(world: World, text: str, timeout_s: float = 30.0) -> ids.Compared:
    """Until nothing is missing or the time is up: the link may still be bringing what was spooled."""
    end = time.monotonic() + timeout_s
    with world.show.progress(text) as advance:
        while True:
            found = sum((compare(world, core) for core in world.cores), ids.NOTHING)
            left = end - time.monotonic()
            if not found.missing or found.twice or found.unknown or found.leaked or left <= 0:
                return found
            advance(timeout_s - left)
            time.sleep(0.5)


@dataclass(frozen=True)
class Telemetry:
    acknowledged: int
    missing: int
    unknown: int


def telemetry(world: World) -> Telemetry:
    """Sensor readings: what a core acknowledged must be in the series; what is there must have been sent."""
    acknowledged = missing = unknown = 0
    for core in world.cores:
        acked = {note["n"] for note in world.notes(core.sensor) if note["event"] == "acked"}
        found = {row["fields"]["n"] for row in world.rows(TELEMETRY, thing=core.sensor)}
        sent = {note["n"] for note in world.notes(core.sensor) if note["event"] == "sent"}
        acknowledged += len(acked)
        missing += len(acked - found)
        unknown += len(found - sent)
    return Telemetry(acknowledged, missing, unknown)


def rows_since(world: World, core: Core, from_ms: int) -> list[dict[str, Any]]:
    """Fields of the rows of one core, in the order of time."""
    found = [row["fields"] for row in world.pages(SERIES, {"thing": core.thing}, from_ms)]
    return sorted(found, key=lambda row: (row["time_ms"], row["last"]))


def spooled(world: World, core: Core) -> int:
    return int((world.edge_status(core).get("hub") or {}).get("waiting", 0))
