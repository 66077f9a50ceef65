import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from marram.hub.timeseries.service import Settings, TimeSeries
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations
from marram.kit.seglog import Journal

Opened = Callable[..., AbstractAsyncContextManager[TimeSeries]]


@contextlib.asynccontextmanager
async def opened(root: Path, *, seed: int = 1, stop: bool = True, **settings: object) -> AsyncIterator[TimeSeries]:
    """The real thing over `root`; `stop` False leaves as a crash does, without the last flush."""
    clock = FakeClock()
    with (
        Db.open(
            root / "hub.db", clock=clock, migrations=[Migrations(slice="timeseries", package="marram.hub.timeseries")]
        ) as db,
        Journal.open(root / "log", clock=clock) as journal,
    ):
        made = TimeSeries(
            db=db,
            journal=journal,
            clock=clock,
            folder=root / "ts",
            entropy=SeededEntropy(seed),
            settings=Settings(**settings),  # type: ignore[arg-type]
        )
        await made.start()
        try:
            yield made
        finally:
            if stop:
                await made.stop()
            else:
                await made._writer.close()
                await made._reader.close()


@pytest.fixture(name="opened")
def _opened() -> Opened:
    return opened
