"""Servers of tests in the test's own loop: at the end nothing of them is left to the garbage collector."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(handler: Handler, **options: Any) -> AsyncIterator[int]:
    """`asyncio.start_server` on a free port of loopback; yields the port. Connections that are still there are cut."""
    held: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await handler(reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()
        for _ in range(3):  # what is aborted is closed in a later turn, TLS one more after that
            await asyncio.sleep(0)
