"""Acknowledgements of what publishers sent, and the publishers that are not read for a while.

An `Ack` waits for the journal, a retained message's commit, the handler of a reserved topic; the last of them settles it. A
write that failed is a reason code (MQTT 5) or a closed connection (3.1.1), never a PUBACK.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from marram.core.errors import MarramError
from marram.core.mqtt import packets
from marram.hub.broker import presence
from marram.hub.broker.message import Ack
from marram.hub.broker.session import Link
from marram.hub.broker.tick import Tick
from marram.kit.log import logger
from marram.kit.seglog import Journal

log = logger(__name__)

UNSYNCED_BYTES: Final = 8 << 20  # above it publishers are not read


class Awaited:
    """The end of a publish inside the process."""

    __slots__ = ("future",)

    def __init__(self, future: "asyncio.Future[MarramError | None]") -> None:
        self.future = future

    def settle(self, failed: MarramError | None) -> None:
        if not self.future.done():
            self.future.set_result(failed)


class Later:
    """A frame that waits for the journal: the SUBACK of a persistent session."""

    __slots__ = ("frame", "link", "tick")

    def __init__(self, tick: Tick, link: Link, frame: bytes) -> None:
        self.tick, self.link, self.frame = tick, link, frame

    def settle(self, failed: MarramError | None) -> None:
        if self.link.is_closed:
            return
        if failed is not None:
            self.link.owner.end(packets.QUOTA_EXCEEDED, failed.message, presence.SERVER_ERROR)
        else:
            self.link.send(self.frame)
            self.tick.touch()


class Acks:
    def __init__(self, tick: Tick, journal: Journal, in_flight: int) -> None:
        """`in_flight`: QoS 1 that a client may have sent without a PUBACK."""
        self._tick, self._journal = tick, journal
        self.in_flight = in_flight
        self._paused: list[Link] = []

    def settled(self, ack: Ack, failed: MarramError | None) -> None:
        """One of the things that `ack` waits for has come about."""
        if failed is not None and ack.failed is None:
            ack.failed = failed
        ack.left -= 1
        if ack.left:
            return
        link = ack.link
        if link is None:
            if ack.done is not None:
                ack.done.settle(ack.failed)
            return
        link.unacked -= 1
        if self._paused and link.unacked == self.in_flight // 2:
            self.resume()
        if link.is_closed:
            return
        if ack.failed is None:
            link.acknowledge(ack.packet_id)
            self._tick.touch()
        elif link.version == packets.V5:
            link.acknowledge(ack.packet_id, packets.QUOTA_EXCEEDED, ack.failed.message)
            self._tick.touch()
        else:
            link.owner.end(packets.QUOTA_EXCEEDED, ack.failed.message, presence.SERVER_ERROR)

    def all_synced(self, acks: Iterable[Ack]) -> None:
        """The journal has what these wait for."""
        for ack in acks:
            link = ack.link
            if link is None or ack.left > 1 or ack.failed is not None:
                self.settled(ack, None)
                continue
            ack.left = 0
            link.unacked -= 1
            if self._paused and link.unacked == self.in_flight // 2:
                self.resume()
            if not link.is_closed:
                link.acknowledge(ack.packet_id)
        self._tick.touch()

    def refuse(self, link: Link, packet_id: int, reason: int, why: str, event: str) -> None:
        """MQTT 5 with QoS 1: a PUBACK that says so. Else the connection ends, as AWS has it."""
        if link.version == packets.V5 and packet_id:
            link.acknowledge(packet_id, reason, why)
            log.info("mqtt.publish_refused", client=link.client_id, reason=why)
            self._tick.touch()
        else:
            link.owner.end(reason, why, event)

    def too_many(self, link: Link) -> bool:
        """Over `in_flight` unacknowledged: MQTT 5 ends, 3.1.1 is not read for a while. Whether the message is taken."""
        if link.version == packets.V5:
            why = f"over {self.in_flight} unacknowledged"
            link.owner.end(packets.RECEIVE_MAXIMUM_EXCEEDED, why, presence.CLIENT_ERROR)
            return False
        self.pause(link)
        return True

    def pause(self, link: Link) -> None:
        """Stop reading from the link until the journal has caught up."""
        self._paused.append(link)
        link.owner.pause()

    def resume(self) -> None:
        """Read again from those whose messages are safe by now."""
        if not self._paused or self._journal.unsynced_bytes >= UNSYNCED_BYTES // 2:
            return
        paused, self._paused = self._paused, []
        for link in paused:
            if link.is_closed:
                continue
            if link.unacked > self.in_flight // 2:
                self._paused.append(link)
            else:
                link.owner.resume()
