"""Reserved topics: each publish goes to the handler of its slice, whose transaction comes before the PUBACK.

A client's messages keep their order: it has one lane of the few there are. A lane is bounded; beyond it a message is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from marram.core.errors import MarramError, Unavailable
from marram.core.topic import Templates
from marram.hub import slice as declared
from marram.hub.broker.session import Ack, Link, dropped
from marram.hub.identity.service import Subject
from marram.hub.slice import TopicMessage
from marram.kit.clock import Clock
from marram.kit.log import logger

log = logger(__name__)

LANES: Final = 32
LANE_DEPTH: Final = 1000

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
        self._lanes: list[asyncio.Queue[_Job]] = []

    def declare(self, services: Mapping[str, object]) -> None:
        """Every reserved topic that a slice among `services` has declared."""
        self.use(
            {
                template: _bound(made, services[made.slice])
                for template, made in declared.TOPICS.items()
                if made.slice in services
            }
        )

    def use(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = Templates(handlers)

    def has(self, topic: str) -> bool:
        return self._handlers.match(topic) is not None

    async def run(self) -> None:
        """The lanes. Returns when cancelled."""
        self._lanes = [asyncio.Queue(LANE_DEPTH) for _ in range(LANES)]
        try:
            async with asyncio.TaskGroup() as group:
                for number, lane in enumerate(self._lanes):
                    group.create_task(self._work(lane), name=f"broker-lane-{number}")
        finally:
            self._lanes = []

    async def handle(self, topic: str, payload: bytes, subject: Subject, client_id: str) -> None:
        """For publishers in the process: at once. Raises what the handler raises."""
        found = self._handlers.match(topic)
        if found is not None:
            await found[0](self._message(topic, found[1], payload, subject, client_id))

    def hand_over(self, link: Link, topic: str, payload: bytes, ack: Ack | None) -> None:
        """For a client: behind what it sent before."""
        found = self._handlers.match(topic)
        if found is None:
            return
        if ack is not None:
            ack.left += 1
        job = _Job(found[0], self._message(topic, found[1], payload, link.subject, link.client_id), ack)
        try:
            if not self._lanes:
                raise asyncio.QueueFull
            self._lanes[hash(link.client_id) % LANES].put_nowait(job)
        except asyncio.QueueFull:
            _full.inc()
            if ack is not None:
                self._settle(ack, Unavailable("too much waits on the reserved topic"))

    def _message(
        self, topic: str, params: Mapping[str, str], payload: bytes, subject: Subject, client_id: str
    ) -> TopicMessage:
        return TopicMessage(
            topic=topic,
            params=params,
            payload=payload,
            subject=subject,
            client_id=client_id,
            time_ms=self._clock.wall_ms(),
        )

    async def _work(self, lane: "asyncio.Queue[_Job]") -> None:
        while True:
            job = await lane.get()
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
