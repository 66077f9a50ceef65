"""What simulated devices do: a profile is a TOML file with five sections, all of whose keys have defaults.

Who misbehaves is drawn from the seed for the whole fleet at once, so a failure rate of 3 % of 1,000 devices is 30 devices,
the same ones in every process. Not here: the devices (device.py).
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from marram.core.errors import Invalid
from marram.kit import config

MAX_DEVICES: Final = 100_000


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise Invalid(f"{name} is a share between 0 and 1, not {value:g}")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise Invalid(f"{name} is at least {least:g}, not {value:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """`pattern`: "steady" stays; "duty" comes for on_s and is away for off_s; "flapping" cuts the line after on_s, without a
    DISCONNECT, and comes back. `per_s`: connections opened each second by the whole fleet."""

    pattern: Literal["steady", "duty", "flapping"] = "steady"
    version: int = 5
    clean: bool = True
    keep_alive_s: int = 60
    expiry_s: int = 3600
    per_s: float = 200.0
    on_s: float = 10.0
    off_s: float = 10.0

    def __post_init__(self) -> None:
        if self.version not in (4, 5):
            raise Invalid(f"[connect] version is 4 (MQTT 3.1.1) or 5, not {self.version}")
        for name in ("per_s", "on_s"):
            _at_least(f"[connect] {name}", float(getattr(self, name)), 0.1)
        _at_least("[connect] off_s", self.off_s, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """One message each `every_s` seconds (0: none) on `topic`, where {thing} stands for the device's name."""

    every_s: float = 5.0
    topic: str = "sim/{thing}/telemetry"
    qos: int = 1
    size: int = 100
    over: Literal["mqtt", "https"] = "mqtt"

    def __post_init__(self) -> None:
        _at_least("[telemetry] every_s", self.every_s, 0)
        if self.qos not in (0, 1):
            raise Invalid(f"[telemetry] qos is 0 or 1, not {self.qos}")
        if not 60 <= self.size <= 128 << 10:
            raise Invalid(f"[telemetry] size is 60 to {128 << 10} bytes, not {self.size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`delay_ms` before every packet goes out; `cut`: the share of messages after which the line breaks."""

    delay_ms: int = 0
    cut: float = 0.0

    def __post_init__(self) -> None:
        _at_least("[line] delay_ms", self.delay_ms, 0)
        _share("[line] cut", self.cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowUse:
    """ "follow" reports what is desired `after_s` later; "ignore" hears and does nothing; "off" does not listen. `stuck`: the
    share of the following devices that ignore all the same."""

    behaviour: Literal["off", "follow", "ignore"] = "follow"
    after_s: float = 0.0
    stuck: float = 0.0

    def __post_init__(self) -> None:
        _at_least("[shadow] after_s", self.after_s, 0)
        _share("[shadow] stuck", self.stuck)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUse:
    """Devices take jobs, work `takes_s` seconds on each and report. `failed`, `rejected`, `silent`: shares of the fleet that
    report FAILED, REJECTED, or begin and never say more."""

    takes: bool = True
    takes_s: float = 0.0
    failed: float = 0.0
    rejected: float = 0.0
    silent: float = 0.0

    def __post_init__(self) -> None:
        _at_least("[jobs] takes_s", self.takes_s, 0)
        for name in ("failed", "rejected", "silent"):
            _share(f"[jobs] {name}", float(getattr(self, name)))
        if self.failed + self.rejected + self.silent > 1:
            raise Invalid("[jobs] failed, rejected and silent are together at most 1")


SECTIONS: Final[Mapping[str, type]] = {
    "connect": Connect, "telemetry": Telemetry, "line": Line, "shadow": ShadowUse, "jobs": JobUse,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    connect: Connect = field(default_factory=Connect)
    telemetry: Telemetry = field(default_factory=Telemetry)
    line: Line = field(default_factory=Line)
    shadow: ShadowUse = field(default_factory=ShadowUse)
    jobs: JobUse = field(default_factory=JobUse)


BUILT_IN: Final[Mapping[str, Profile]] = {
    "steady": Profile(),
    "idle": Profile(telemetry=Telemetry(every_s=0), shadow=ShadowUse(behaviour="off"), jobs=JobUse(takes=False)),
    "battery": Profile(
        connect=Connect(pattern="duty", clean=False, on_s=5, off_s=30), telemetry=Telemetry(every_s=1, qos=1)
    ),
    "bad-link": Profile(
        connect=Connect(pattern="flapping", clean=False, on_s=8, off_s=1), line=Line(delay_ms=300, cut=0.05),
        telemetry=Telemetry(every_s=2),
    ),
    "faulty": Profile(shadow=ShadowUse(stuck=0.05), jobs=JobUse(failed=0.03, rejected=0.01, silent=0.01)),
    "https": Profile(telemetry=Telemetry(over="https"), shadow=ShadowUse(behaviour="off"), jobs=JobUse(takes=False)),
}  # fmt: skip


def load(text: str) -> Profile:
    """A built-in profile by its name, or a TOML file. Raises Invalid (BadSetting with file, line and key)."""
    known = BUILT_IN.get(text)
    if known is not None:
        return known
    path = Path(text)
    if not path.exists():
        raise Invalid(f"there is no profile {text!r}; built in are {', '.join(BUILT_IN)}, anything else is a TOML file")
    config.known_sections(path, SECTIONS)
    return Profile(
        connect=config.load(Connect, "connect", path=path),
        telemetry=config.load(Telemetry, "telemetry", path=path),
        line=config.load(Line, "line", path=path),
        shadow=config.load(ShadowUse, "shadow", path=path),
        jobs=config.load(JobUse, "jobs", path=path),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which devices, by number, do not do what they should."""

    stuck: frozenset[int]
    failed: frozenset[int]
    rejected: frozenset[int]
    silent: frozenset[int]


def roles(profile: Profile, devices: int, seed: int) -> Roles:
    """The same for the same seed and number of devices; each share is rounded to whole devices."""
    rnd = random.Random(f"{seed} {devices}")  # noqa: S311  # reproducible on purpose
    order = rnd.sample(range(devices), devices)
    jobs = profile.jobs
    ends = [round(devices * share) for share in (jobs.failed, jobs.failed + jobs.rejected)]
    last = round(devices * (jobs.failed + jobs.rejected + jobs.silent))
    return Roles(
        failed=frozenset(order[: ends[0]]),
        rejected=frozenset(order[ends[0] : ends[1]]),
        silent=frozenset(order[ends[1] : last]),
        stuck=frozenset(rnd.sample(range(devices), round(devices * profile.shadow.stuck))),
    )
