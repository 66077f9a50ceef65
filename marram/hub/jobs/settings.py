"""What a job was asked to do, beyond document and targets: wire form to values, with every refusal that the model leaves to us.

The wire form is what is stored and shown again; the values are read from it where they are needed.
Source: AWS IoT Developer Guide, "How job configurations work", and the model's documentation of CreateJob.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from marram.core import codec
from marram.core.errors import Invalid, Unsupported
from marram.core.jobs import MAX_MINUTES
from marram.core.rollout import ALL, MAX_PER_MINUTE, Criterion, Exponential, Pace, Retries
from marram.hub.jobs.schedule import Schedule, parse_schedule

MAX_RETRIES: Final = 10
DEFAULT_URL_S: Final = 3600
# Members that are stored with a job as they came.
KEPT: Final = (
    "presignedUrlConfig", "jobExecutionsRolloutConfig", "abortConfig", "timeoutConfig", "jobExecutionsRetryConfig",
    "schedulingConfig",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    pace: Pace = field(default_factory=Pace)
    paced: bool = False  # the pace was asked for
    abort: tuple[Criterion, ...] = ()
    timeout_ms: int | None = None
    retries: Retries = field(default_factory=Retries)
    schedule: Schedule = field(default_factory=Schedule)
    role: str = ""
    url_s: int = DEFAULT_URL_S


def parse(config: Mapping[str, Any]) -> Settings:
    """Read the stored wire form, or a new one. Raises Invalid; times of a schedule are checked by `schedule.check`."""
    presigned: Mapping[str, Any] = config.get("presignedUrlConfig") or {}
    return Settings(
        pace=_pace(config.get("jobExecutionsRolloutConfig")),
        paced=bool(config.get("jobExecutionsRolloutConfig")),
        abort=_abort(config.get("abortConfig")),
        timeout_ms=_timeout(config.get("timeoutConfig")),
        retries=_retries(config.get("jobExecutionsRetryConfig")),
        schedule=parse_schedule(config.get("schedulingConfig")),
        role=str(presigned.get("roleArn") or ""),
        url_s=int(presigned.get("expiresInSec") or DEFAULT_URL_S),
    )


def wanted(params: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a request that are kept with the job. Raises Unsupported for what we do not do."""
    if params.get("destinationPackageVersions"):
        raise Unsupported("destinationPackageVersions is not supported here: there is no software package catalogue")
    return {name: params[name] for name in KEPT if params.get(name)}


def _pace(config: Mapping[str, Any] | None) -> Pace:
    if not config:
        return Pace()
    maximum = int(config.get("maximumPerMinute") or MAX_PER_MINUTE)
    if maximum > MAX_PER_MINUTE:
        raise Invalid(f"jobExecutionsRolloutConfig.maximumPerMinute must be 1 to {MAX_PER_MINUTE}, not {maximum}")
    growing: Mapping[str, Any] | None = config.get("exponentialRate")
    if growing is None:
        return Pace(maximum=maximum)
    criteria: Mapping[str, Any] = growing.get("rateIncreaseCriteria") or {}
    notified, succeeded = criteria.get("numberOfNotifiedThings"), criteria.get("numberOfSucceededThings")
    if notified is None and succeeded is None:
        raise Invalid("rateIncreaseCriteria needs numberOfNotifiedThings or numberOfSucceededThings")
    if int(growing["baseRatePerMinute"]) > maximum:
        raise Invalid("exponentialRate.baseRatePerMinute is above maximumPerMinute")
    return Pace(
        maximum=maximum,
        growth=Exponential(
            base=int(growing["baseRatePerMinute"]),
            factor_tenths=_whole(growing["incrementFactor"], 10, "exponentialRate.incrementFactor", "one digit"),
            notified=notified,
            succeeded=succeeded,
        ),
    )


def _abort(config: Mapping[str, Any] | None) -> tuple[Criterion, ...]:
    if not config:
        return ()
    made: list[Criterion] = []
    for found in config["criteriaList"]:
        threshold = _whole(found["thresholdPercentage"], 100, "abortConfig: thresholdPercentage", "two digits")
        if threshold <= 0:
            raise Invalid("abortConfig: thresholdPercentage must be above 0")
        if any(other.failure == found["failureType"] for other in made):
            raise Invalid(f"abortConfig has two criteria for {found['failureType']}")
        made.append(
            Criterion(
                failure=found["failureType"], threshold=threshold, minimum=int(found["minNumberOfExecutedThings"])
            )
        )
    return tuple(made)


def _timeout(config: Mapping[str, Any] | None) -> int | None:
    minutes = (config or {}).get("inProgressTimeoutInMinutes")
    if minutes is None:
        return None
    if not 1 <= minutes <= MAX_MINUTES:
        raise Invalid(f"timeoutConfig.inProgressTimeoutInMinutes must be 1 to {MAX_MINUTES}, not {minutes}")
    return int(minutes) * 60_000


def _retries(config: Mapping[str, Any] | None) -> Retries:
    if not config:
        return Retries()
    count: dict[str, int] = {}
    for found in config["criteriaList"]:
        kind = str(found["failureType"])
        if kind in count:
            raise Invalid(f"jobExecutionsRetryConfig has two criteria for {kind}")
        count[kind] = int(found["numberOfRetries"])
    if ALL in count and len(count) > 1:
        raise Invalid("jobExecutionsRetryConfig: ALL stands alone")
    if sum(count.values()) > MAX_RETRIES:
        raise Invalid(f"jobExecutionsRetryConfig allows {sum(count.values())} retries; at most {MAX_RETRIES} a thing")
    return Retries(failed=count.get("FAILED", 0), timed_out=count.get("TIMED_OUT", 0), of_all=count.get(ALL, 0))


def _whole(value: float, scale: int, what: str, digits: str) -> int:
    """`value` times `scale` as a whole number. Raises Invalid when it has more decimals than that."""
    # By the shortest text that gives this float: 10.99 * 100 is 1098.9999999999998.
    scaled = round(float(value) * scale)
    if scaled / scale != float(value):
        raise Invalid(f"{what} may have {digits} after the point, not {value}")
    return scaled


@lru_cache(maxsize=1024)
def read(stored: str) -> Settings:
    """The settings of a job, from the text they are stored as; many executions of few jobs ask for it."""
    return parse(codec.loads_object(stored, what="settings"))
