"""The ledger of bytes: what is counted, what is written, and what a person is told."""

from pathlib import Path

from marram.edge.link import ledger
from marram.edge.link.ledger import Ledger
from marram.kit.clock import SystemClock
from marram.kit.db import Db

DAY_MS = 86_400_000


async def test_totals_are_what_was_written_and_what_is_not_yet(tmp_path: Path) -> None:
    now_ms = 1_800_000_000_000
    with Db.open(tmp_path / "state.db", clock=SystemClock(), migrations=[ledger.MIGRATIONS]) as db:
        made = Ledger(db, wall_ms=lambda: now_ms)
        assert made.totals() == {}
        made.add("mqtt", 100, 10)
        await made.save()
        now_ms += DAY_MS
        made.add("mqtt", 5, 1)
        await made.save()
        made.meter("artifacts")(7, 900)
        made.add("mqtt", 1, 0)
        assert made.totals() == {"mqtt": (106, 11), "artifacts": (7, 900)}
        assert [(each.destination, each.sent) for each in await made.spent(days=1)] == [("artifacts", 7), ("mqtt", 6)]
