"""Journal and database on a real ext4 whose power is cut. A few cuts in `make test`, fifty in `make test-full`."""

import random

import pytest

from tests.crash import test_db, test_journal
from tests.crash.sweep import FULL, Check, python
from tests.crash.tools import powercut

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(powercut.missing() is not None, reason=f"power cuts: {powercut.missing()}"),
]


@pytest.mark.parametrize(
    ("name", "check"),
    [pytest.param("journal", test_journal.check, id="journal"), pytest.param("db", test_db.check, id="db")],
)
def test_nothing_acknowledged_is_lost_on_ext4(name: str, check: Check) -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}")
    failures, _ = powercut.cut(python(name, "good"), check, cuts=50 if FULL else 3, seed=seed)
    assert not failures, failures
