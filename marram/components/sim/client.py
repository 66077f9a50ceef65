"""One MQTT connection of a simulated device: what it sends, what it hears, and cutting the line on purpose."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, TypeVar

from marram.core.errors import Conflict, Denied, LimitExceeded, MarramError, Unavailable
from marram.core.mqtt import packets
from marram.core.mqtt.connection import ClientConnection
from marram.core.mqtt.packets import Connack, Connect, Disconnect, Puback, Publish, Suback, Wish
from marram.kit import net

T = TypeVar("T")

ANSWER_S: Final = 30.0


class Client(asyncio.Protocol):
    """`heard(topic, payload)` is called for each message. `lost` resolves when the connection has ended."""

    def __init__(self, connect: Connect, heard: Callable[[str, bytes], None], delay_ms: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = ClientConnection(connect)
        self._heard, self._delay_s = heard, delay_ms / 1000
        self._transport: asyncio.Transport | None = None
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.accepted: asyncio.Future[Connack] = self._loop.create_future()
        self.lost: asyncio.Future[str] = self._loop.create_future()

    @classmethod
    async def open(
        cls, host: str, port: int, tls: ssl.SSLContext, connect: Connect, heard: Callable[[str, bytes], None],
        delay_ms: int = 0,
    ) -> "Client":  # fmt: skip
        """Connected and accepted. Raises Unavailable, Denied."""
        _, client = await net.connect(
            host, port, lambda: cls(connect, heard, delay_ms), tls=tls, server_hostname=host, timeout_s=ANSWER_S
        )
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await client.accepted
        except TimeoutError:
            client.cut()
            raise Unavailable("the hub did not answer the CONNECT") from None
        if answer.reason:
            client.cut()
            raise Denied(f"the CONNECT was answered with {answer.reason:#04x}")
        client._tick()
        return client

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send(self._client.start(self._now_ms()))

    def data_received(self, data: bytes) -> None:
        try:
            for packet in self._client.receive(data, self._now_ms()):
                self._receive(packet)
        except MarramError as exc:
            self._end(exc.message)
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(str(exc) if exc else "closed by the hub")

    def _receive(self, packet: packets.Packet) -> None:
        if isinstance(packet, Publish):
            self._heard(packet.topic, packet.payload)
            if packet.qos:
                self._send(self._client.ack(packet.packet_id, self._now_ms()))
        elif isinstance(packet, Puback):
            self._answer(packet.packet_id, packet.reason)
        elif isinstance(packet, Suback):
            self._answer(packet.packet_id, max(packet.reasons, default=0x80))
        elif isinstance(packet, Connack):
            if not self.accepted.done():
                self.accepted.set_result(packet)
        elif isinstance(packet, Disconnect):
            self._end(f"the hub disconnected with {packet.reason:#04x}")

    # what a device does

    async def publish(self, topic: str, payload: bytes, qos: int) -> int:
        """The reason code of the PUBACK, 0 for QoS 0. Raises Unavailable when the connection ended before it."""
        packet = Publish(topic, payload, qos)
        frame = self._made(lambda: self._client.publish(packet, self._now_ms()))
        if qos == 0:
            self._send(frame)
            return 0
        return await self._ask(packet.packet_id, frame)

    async def subscribe(self, filters: list[str]) -> int:
        """The worst reason code of the SUBACK."""
        wishes = [Wish(name, 1) for name in filters]
        packet_id, frame = self._made(lambda: self._client.subscribe(wishes, self._now_ms()))
        return await self._ask(packet_id, frame)

    def disconnect(self) -> None:
        if self._transport is not None:
            self._transport.write(self._client.disconnect())
            self._transport.close()

    def cut(self) -> None:
        """As a line that breaks: no DISCONNECT."""
        if self._transport is not None:
            self._transport.abort()

    # inside

    async def _ask(self, packet_id: int, frame: bytes) -> int:
        if self.lost.done():
            raise Unavailable("the connection ended")
        answer: asyncio.Future[int] = self._loop.create_future()
        self._answers[packet_id] = answer
        self._send(frame)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            raise Unavailable("no acknowledgement came") from None

    @staticmethod
    def _made(make: Callable[[], T]) -> T:
        try:
            return make()
        except (Conflict, LimitExceeded) as exc:
            raise Unavailable(exc.message) from exc

    def _answer(self, packet_id: int, reason: int) -> None:
        answer = self._answers.pop(packet_id, None)
        if answer is not None and not answer.done():
            answer.set_result(reason)

    def _send(self, frame: bytes) -> None:
        if self._delay_s:
            self._loop.call_later(self._delay_s, self._write, frame)
        else:
            self._write(frame)

    def _write(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    def _tick(self) -> None:
        self._timer = None
        if self.lost.done():
            return
        try:
            frame = self._client.on_timer(self._now_ms())
        except MarramError as exc:
            self._end(exc.message)
            self.cut()
            return
        if frame:
            self._send(frame)
        due = self._client.next_timer_ms()
        if due is not None:
            self._timer = self._loop.call_later(max(0.1, (due - self._now_ms()) / 1000), self._tick)

    def _end(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        error = Unavailable(f"the connection ended: {why}")
        if not self.accepted.done():
            self.accepted.set_exception(error)
            self.accepted.exception()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()
        self._answers.clear()
        if not self.lost.done():
            self.lost.set_result(why)

    def _now_ms(self) -> int:
        return int(self._loop.time() * 1000)
