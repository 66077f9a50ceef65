"""Reserved topics: each publish goes to the handler of its slice, whose transaction comes before the PUBACK.

A client's messages keep their order: it has one lane of the few there are. A lane is bounded; beyond it a message is refused.
Handlers that keep the order by their transaction (`at_once`) have no lane: each message is a task, their number is bounded.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from marram.core.errors import MarramError, Unavailable
from marram.core.topic import Templates
from marram.hub import slice as declared
from marram.hub.broker.message import Ack
from marram.hub.broker.session import dropped
from marram.hub.identity.service import Subject
from marram.hub.slice import TopicMessage
from marram.kit.clock import Clock
from marram.kit.log import logger

log = logger(__name__)

LANES: Final = 32
LANE_DEPTH: Final = 1000
MAX_AT_ONCE: Final = 10_000  # of all clients

Handler = Callable[[TopicMessage], Awaitable[None]]

_full: Final = dropped.labels(reason="reserved topic busy")


@dataclass(slots=True)
class _Job:
    handler: Handler
    message: TopicMessage
    ack: Ack | None


class Reserved:
    """`settle(ack, failed)` is called when a handler is done."""

    def __init__(self, clock: Clock, settle: Callable[[Ack, MarramError | None], None]) -> None:
        self._clock, self._settle = clock, settle
        self._handlers: Templates[Handler] = Templates({})
        self._at_once: frozenset[Handler] = frozenset()
        self._private: frozenset[Handler] = frozenset()
        self._hubs_own: Mapping[Handler, Callable[[str], bool]] = {}
        self._lanes: list[asyncio.Queue[_Job]] = []
        self._group: asyncio.TaskGroup | None = None
        self._in_flight: dict[str, int] = {}  # by client id
        self._running = 0

    def declare(self, services: Mapping[str, object]) -> None:
        """Every reserved topic that a slice among `services` has declared."""
        found = {
            template: (made, _bound(made, services[made.slice]))
            for template, made in declared.TOPICS.items()
            if made.slice in services
        }
        self.use(
            {template: handler for template, (_, handler) in found.items()},
            at_once=(handler for made, handler in found.values() if made.at_once),
            private=(handler for made, handler in found.values() if made.private),
            hubs_own={handler: made.is_hubs_own for made, handler in found.values() if made.is_hubs_own is not None},
        )

    def use(
        self,
        handlers: Mapping[str, Handler],
        *,
        at_once: Iterable[Handler] = (),
        private: Iterable[Handler] = (),
        hubs_own: Mapping[Handler, Callable[[str], bool]] = MappingProxyType({}),
    ) -> None:
        self._handlers, self._at_once, self._private = Templates(handlers), frozenset(at_once), frozenset(private)
        self._hubs_own = hubs_own

    def has(self, topic: str) -> bool:
        """Whether a client may publish there at all, his policy allowing it."""
        found = self._handlers.match(topic)
        if found is None:
            return False
        is_hubs_own = self._hubs_own.get(found[0])
        return is_hubs_own is None or not is_hubs_own(topic)

    def is_private(self, topic: str) -> bool:
        """Only the handler gets what is published there."""
        found = self._handlers.match(topic)
        return found is not None and found[0] in self._private

    async def run(self) -> None:
        """The lanes. Returns when cancelled."""
        self._lanes = [asyncio.Queue(LANE_DEPTH) for _ in range(LANES)]
        try:
            async with asyncio.TaskGroup() as self._group:
                for number, lane in enumerate(self._lanes):
                    self._group.create_task(self._work(lane), name=f"broker-lane-{number}")
        finally:
            self._lanes, self._group = [], None
            self._in_flight.clear()  # of tasks that never began
            self._running = 0

    async def handle(self, topic: str, payload: bytes, subject: Subject, client_id: str) -> None:
        """For publishers in the process: at once. Raises what the handler raises."""
        found = self._handlers.match(topic)
        if found is not None:
            await found[0](self._message(topic, found[1], payload, subject, client_id))

    def hand_over(self, client_id: str, subject: Subject, topic: str, payload: bytes, ack: Ack | None) -> None:
        """For a client: behind what it sent before."""
        found = self._handlers.match(topic)
        if found is None:
            return
        if ack is not None:
            ack.left += 1
        is_at_once = found[0] in self._at_once
        in_flight = self._in_flight.get(client_id, 0) + 1 if is_at_once else 1
        message = self._message(topic, found[1], payload, subject, client_id, in_flight)
        job = _Job(found[0], message, ack)
        try:
            if self._group is None or self._running >= MAX_AT_ONCE:
                raise asyncio.QueueFull
            if is_at_once:
                self._begin(job)
                return
            self._lanes[hash(client_id) % LANES].put_nowait(job)
        except asyncio.QueueFull:
            _full.inc()
            if ack is not None:
                self._settle(ack, Unavailable("too much waits on the reserved topic"))

    def _begin(self, job: _Job) -> None:
        assert self._group is not None
        self._running += 1
        self._in_flight[job.message.client_id] = job.message.in_flight
        self._group.create_task(self._alone(job), name="broker-request")

    async def _alone(self, job: _Job) -> None:
        try:
            await self._handle(job)
        finally:
            client_id = job.message.client_id
            self._running -= 1
            left = self._in_flight[client_id] - 1
            if left:
                self._in_flight[client_id] = left
            else:
                del self._in_flight[client_id]

    def _message(
        self,
        topic: str,
        params: Mapping[str, str],
        payload: bytes,
        subject: Subject,
        client_id: str,
        in_flight: int = 1,
    ) -> TopicMessage:
        return TopicMessage(
            topic=topic,
            params=params,
            payload=payload,
            subject=subject,
            client_id=client_id,
            time_ms=self._clock.wall_ms(),
            in_flight=in_flight,
        )

    async def _work(self, lane: "asyncio.Queue[_Job]") -> None:
        while True:
            await self._handle(await lane.get())

    async def _handle(self, job: _Job) -> None:
        failed: MarramError | None = None
        try:
            await job.handler(job.message)
        except Unavailable as exc:
            failed = exc
        except MarramError as exc:
            log.info("broker.handler_refused", topic=job.message.topic, reason=exc.message)
        except Exception as exc:  # a border: one message must not stop the lane
            log.error("broker.handler_failed", exc_info=exc, topic=job.message.topic)
            failed = Unavailable("internal error")
        if job.ack is not None:
            self._settle(job.ack, failed)


def _bound(made: declared.Topic, service: object) -> Handler:
    function = made.function

    async def call(message: TopicMessage) -> None:
        await function(service, message)

    return call
