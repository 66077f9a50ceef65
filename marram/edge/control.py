"""The local tool's door: ROOT/control.socket, one JSON object a line each way, for the owner of ROOT alone (mode 0600).

A request is {"op": name, ...}; the answer {"ok": value} or {"error": {kind, code, message}}. `wait` sends {"progress": ...}
lines before its answer. IPC is not used for this: it asks for a token, and a person at the machine already owns the files.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, MarramError
from marram.edge.deploy.record import Deployment
from marram.edge.deploy.service import Deployments
from marram.edge.nucleus.root import Root, short_socket
from marram.edge.nucleus.supervisor import Supervisor
from marram.kit.log import logger

log = logger(__name__)

MAX_REQUEST: Final = 1 << 20
MAX_CONNECTIONS: Final = 32
IDLE_S: Final = 600.0

Progress = Callable[[JsonValue], None]
Operation = Callable[[JsonObject, Progress], Awaitable[JsonValue]]


class Control:
    """`status` gives what `marram edge status` shows beside the components; `more` adds operations of other parts."""

    def __init__(
        self,
        root: Root,
        supervisor: Supervisor,
        deployments: Deployments,
        status: Callable[[], JsonObject],
        more: Mapping[str, Operation] | None = None,
    ) -> None:
        self._root = root
        self._supervisor = supervisor
        self._deployments = deployments
        self._status = status
        self._open = 0
        self._operations: dict[str, Operation] = {
            "status": self._get_status,
            "components": self._components,
            "restart": self._restart,
            "stop": self._stop,
            "deploy": self._deploy,
            "wait": self._wait,
            "cancel": self._cancel,
            "deployments": self._list,
            "lock": self._lock,
            **(more or {}),
        }

    async def run(self) -> None:
        path = self._root.control_socket
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._serve, short_socket(path), limit=MAX_REQUEST)
        finally:
            os.umask(before)
        try:
            async with server:
                await server.serve_forever()
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open += 1
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readline()
                if not line:
                    break
                writer.write(codec.dumps(await self._answer(line, lambda value: _send(writer, value))) + b"\n")
                await writer.drain()
        except (OSError, ValueError, TimeoutError):
            pass  # the tool went away, or sent a line over the limit
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, line: bytes, send: Callable[[JsonObject], None]) -> JsonObject:
        try:
            request = codec.loads_object(line, what="request")
            operation = self._operations.get(str(request.get("op")))
            if operation is None:
                raise Invalid(f"no operation {request.get('op')!r}; there are: {', '.join(sorted(self._operations))}")
            return {"ok": await operation(request, lambda value: send({"progress": value}))}
        except MarramError as exc:
            return {"error": {"kind": type(exc).__name__, "code": exc.code, "message": exc.message}}
        except Exception as exc:  # a border
            log.error("control.fault", exc_info=exc)
            return {"error": {"kind": "Internal", "code": "", "message": "internal fault; see logs"}}

    async def _get_status(self, request: JsonObject, progress: Progress) -> JsonValue:
        rows: list[JsonValue] = [each.as_json() for each in self._supervisor.components()]
        return {**self._status(), "components": rows}

    async def _components(self, request: JsonObject, progress: Progress) -> JsonValue:
        return [each.as_json() for each in self._supervisor.components()]

    async def _restart(self, request: JsonObject, progress: Progress) -> JsonValue:
        await self._supervisor.restart(_text(request, "name"))
        return self._supervisor.status(_text(request, "name")).as_json()

    async def _stop(self, request: JsonObject, progress: Progress) -> JsonValue:
        await self._supervisor.stop(_text(request, "name"))
        return self._supervisor.status(_text(request, "name")).as_json()

    async def _deploy(self, request: JsonObject, progress: Progress) -> JsonValue:
        return await self._deployments.submit_local(
            add=_texts(request, "merge"),
            remove=[str(each) for each in _list(request, "remove")],
            configuration=_objects(request, "configuration"),
            recipes=_text(request, "recipes", ""),
            artifacts=_text(request, "artifacts", ""),
            rollback=request.get("rollback", True) is not False,
        )

    async def _wait(self, request: JsonObject, progress: Progress) -> JsonValue:
        wanted = _text(request, "id")

        def tell(row: Deployment) -> None:
            if row.id == wanted:
                progress(row.as_json())

        end = self._deployments.subscribe(tell)
        try:
            async with asyncio.timeout(_seconds(request)):
                return (await self._deployments.ended(wanted)).as_json()
        except TimeoutError:
            return self._deployments.status(wanted).as_json()
        finally:
            end()

    async def _cancel(self, request: JsonObject, progress: Progress) -> JsonValue:
        await self._deployments.cancel(_text(request, "id"))
        return self._deployments.status(_text(request, "id")).as_json()

    async def _list(self, request: JsonObject, progress: Progress) -> JsonValue:
        return [each.as_json() for each in self._deployments.list()]

    async def _lock(self, request: JsonObject, progress: Progress) -> JsonValue:
        return self._deployments.lock()


def _send(writer: asyncio.StreamWriter, value: JsonObject) -> None:
    if not writer.is_closing():
        writer.write(codec.dumps(value) + b"\n")


def _text(request: JsonObject, key: str, default: str | None = None) -> str:
    value = request.get(key, default)
    if not isinstance(value, str):
        raise Invalid(f"{key}: must be text")
    return value


def _seconds(request: JsonObject) -> float | None:
    value = request.get("timeout_s")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Invalid("timeout_s: must be a number")
    return float(value)


def _list(request: JsonObject, key: str) -> list[JsonValue]:
    value = request.get(key, [])
    if not isinstance(value, list):
        raise Invalid(f"{key}: must be a list")
    return value


def _texts(request: JsonObject, key: str) -> dict[str, str]:
    value = request.get(key, {})
    if not isinstance(value, dict):
        raise Invalid(f"{key}: must be an object")
    return {name: str(each) for name, each in value.items()}


def _objects(request: JsonObject, key: str) -> dict[str, JsonObject]:
    value = request.get(key, {})
    if not isinstance(value, dict) or not all(isinstance(each, dict) for each in value.values()):
        raise Invalid(f"{key}: must be an object of objects")
    return {name: each for name, each in value.items() if isinstance(each, dict)}
