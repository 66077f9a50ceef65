import asyncio
import importlib.util
from pathlib import Path

import pytest

from marram.core.errors import Invalid
from marram.sdk import ipc
from marram.sdk.component import Component

spec = importlib.util.spec_from_file_location("ipc_fakes", Path(__file__).parents[1] / "edge" / "ipc" / "fakes.py")
assert spec is not None and spec.loader is not None
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)


async def test_the_ten_line_component(tmp_path: Path) -> None:
    core = fakes.make_core(
        fakes.FakeNucleus(
            configurations={"com.a": {"accessControl": fakes.ALL, "limit": 20}, "com.b": {"accessControl": fakes.ALL}}
        )
    )
    component = Component()
    seen: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    ticked = asyncio.Event()

    @component.on("plant/+/temp")
    async def too_hot(topic: str, payload: bytes) -> None:
        if float(payload) > component.setting("limit", 80.0):
            await component.ipc.publish_to_hub("plant/alarm", {"topic": topic})

    @component.on_hub("plant/alarm")
    async def alarm(topic: str, payload: bytes) -> None:
        seen.put_nowait((topic, payload))

    @component.every(3600)
    async def tick() -> None:
        ticked.set()

    async with fakes.serving(core, tmp_path) as server:
        async with asyncio.TaskGroup() as tasks:
            client = await ipc.connect(server.path, "token-of-com.a")
            task = tasks.create_task(component.serve(client))
            async with asyncio.timeout(5):
                await ticked.wait()
                while not (len(core.pubsub) and len(core.iot_core.hub)):
                    await asyncio.sleep(0)
                async with await ipc.connect(server.path, "token-of-com.b") as other:
                    await other.publish("plant/1/temp", "not a number")
                    await other.publish("plant/1/temp", "12")
                    await other.publish("plant/2/temp", "21")
                assert await seen.get() == ("plant/alarm", b'{"topic":"plant/2/temp"}')
            assert seen.empty()
            task.cancel()
        await client.close()


async def test_without_a_nucleus_it_says_so() -> None:
    with pytest.raises(Invalid, match="SVCUID"):
        await ipc.connect(environ=lambda name: None)
