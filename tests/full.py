"""How much of a long test runs: a sample always, the whole in `make test-full`.

MARRAM_SHARE=0.1 takes a tenth of the long part of a full run (never less than the sample); docs/test-full.md says which.
"""

import os

FULL = os.environ.get("MARRAM_FULL") == "1"
SHARE = float(os.environ.get("MARRAM_SHARE", "1"))


def many(sample: float, full: float) -> int:
    """The number of cases or seconds of this run."""
    return max(round(sample), round(full * SHARE)) if FULL else round(sample)
