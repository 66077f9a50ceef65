"""The contract of rule actions: a file in actions/ declares one with `@action`, and the engine does the rest.

`parse` turns AWS's settings into the action's own, checking everything that can be known when the rule is created. `run`
decides what is to happen and hands it to `Out`; it raises Invalid when this message cannot be served. Retry, origin, hop
count, error action and dead letters are the engine's.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from marram.core import codec
from marram.core.codec import JsonValue
from marram.core.errors import Invalid, Unsupported
from marram.core.sql import template
from marram.core.sql.functions import Message
from marram.core.sql.template import Template
from marram.hub.timeseries.points import Point
from marram.kit.registry import Declared


@dataclass(slots=True)
class Event:
    """One message that a rule let through. `row` is the SELECT's result; `raw` is set when that is the payload as it came."""

    message: Message
    row: JsonValue
    raw: bytes | None

    def payload(self) -> bytes:
        return codec.dumps(self.row) if self.raw is None else self.raw


class Out(Protocol):
    """Where results go. Both return at once: the engine performs a whole batch and then moves the cursor."""

    def publish(self, topic: str, payload: bytes, *, qos: int) -> None: ...

    def append(self, given: Sequence[Point]) -> None: ...


class Settings(Protocol):
    """What `parse` returns has at least this."""

    @property
    def reads_payload(self) -> bool:
        """Whether it can serve only messages whose payload is JSON, whatever the SELECT is."""
        ...


Parse: TypeAlias = Callable[[Mapping[str, Any]], Settings]
Run: TypeAlias = Callable[[Any, Event, Out], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    parse: Parse
    run: Run


ACTIONS: Final[Declared[Action]] = Declared("rule action")


def action(name: str, *, parse: Parse) -> Callable[[Run], Run]:
    def declare(run: Run) -> Run:
        ACTIONS.add(name, Action(name, parse, run))
        return run

    return declare


def only(settings: Mapping[str, Any], known: set[str], what: str) -> None:
    """Raises Unsupported for a setting that AWS has and the action here has not."""
    for name, value in settings.items():
        if value is not None and name not in known:
            raise Unsupported(f"{what}: the setting {name} is not supported here; it has {', '.join(sorted(known))}")


def parse_template(settings: Mapping[str, Any], name: str, what: str) -> Template:
    """The required setting `name`. Raises Invalid naming action and setting."""
    value = settings.get(name)
    if not isinstance(value, str) or not value:
        raise Invalid(f"{what}: {name} must be a text")
    try:
        return template.parse(value)
    except Invalid as exc:
        raise Invalid(f"{what}: {name}: {exc.message}", **exc.data) from exc
