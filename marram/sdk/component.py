"""The ten-line component.

    from marram.sdk.component import Component, run

    component = Component()

    @component.on("plant/+/temp")
    async def too_hot(topic: str, payload: bytes) -> None:
        if float(payload) > component.setting("limit", 80.0):
            await component.ipc.publish_to_hub("plant/alarm", {"topic": topic})

    run(component)

Handlers of one subscription run one after the other. The configuration is read at the start and again when it changes.
A lost connection ends the process, and the nucleus starts it anew: one way to recover, the one that is always tested.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from marram.core.codec import JsonObject
from marram.core.errors import Unavailable
from marram.kit.log import logger
from marram.sdk import ipc

log = logger(__name__)

Handler = Callable[[str, bytes], Awaitable[None]]
T = TypeVar("T", bound=Handler)
V = TypeVar("V")


class Component:
    """Handlers by topic, the configuration, and the IPC client (`ipc`, there once `run` is running)."""

    def __init__(self) -> None:
        self.ipc: ipc.Client
        self.configuration: JsonObject = {}
        self._local: list[tuple[str, Handler]] = []
        self._hub: list[tuple[str, Handler]] = []
        self._every: list[tuple[float, Callable[[], Awaitable[None]]]] = []

    def on(self, topic: str) -> Callable[[T], T]:
        """Call the function with (topic, payload) of what other components publish on `topic`."""
        return lambda handler: self._keep(self._local, topic, handler)

    def on_hub(self, topic: str) -> Callable[[T], T]:
        """The same for messages from the hub."""
        return lambda handler: self._keep(self._hub, topic, handler)

    def every(self, seconds: float) -> Callable[[Callable[[], Awaitable[None]]], Callable[[], Awaitable[None]]]:
        """Call the function each `seconds`."""

        def keep(work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
            self._every.append((seconds, work))
            return work

        return keep

    def setting(self, name: str, default: V) -> V:
        """The configuration's value when it has the default's type, else the default."""
        value: object = self.configuration.get(name)
        kind: type[V] = type(default)
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            return float(value)  # type: ignore[return-value]  # V is float here
        return value if isinstance(value, kind) else default

    async def serve(self, client: ipc.Client) -> None:
        """Run until the connection is lost or the task is cancelled."""
        self.ipc = client
        await self._configure()
        async with asyncio.TaskGroup() as tasks:
            for topic, handler in self._local:
                tasks.create_task(self._pump(client.messages(topic), handler), name=f"local {topic}")
            for topic, handler in self._hub:
                tasks.create_task(self._pump(client.hub_messages(topic), handler), name=f"hub {topic}")
            for seconds, work in self._every:
                tasks.create_task(self._tick(seconds, work), name=f"every {seconds}")
            tasks.create_task(self._watch_configuration(), name="configuration")
            await client.closed.wait()
            raise Unavailable("the IPC connection was lost")

    async def _configure(self) -> None:
        try:
            value = await self.ipc.configuration()
        except ipc.IpcError as exc:
            if exc.shape != "ResourceNotFoundError":
                raise
            value = {}
        self.configuration = value if isinstance(value, dict) else {}

    async def _watch_configuration(self) -> None:
        _, events = await self.ipc.subscribe("SubscribeToConfigurationUpdate", {"keyPath": []})
        async for _ in events:
            await self._configure()

    @staticmethod
    def _keep(where: list[tuple[str, Handler]], topic: str, handler: T) -> T:
        where.append((topic, handler))
        return handler

    @staticmethod
    async def _pump(messages: AsyncIterator[tuple[str, bytes]], handler: Handler) -> None:
        async for topic, payload in messages:
            try:
                await handler(topic, payload)
            except (ValueError, KeyError, TypeError, ipc.IpcError) as exc:
                # One bad message must not cost the good ones after it.
                log.error("component.message_failed", exc_info=exc, topic=topic)

    @staticmethod
    async def _tick(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await work()
            await asyncio.sleep(seconds)


def run(component: Component) -> None:
    """Connect to the nucleus that started this process and serve until SIGTERM."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with await ipc.connect() as client:
            await component.serve(client)

    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        asyncio.run(main())
