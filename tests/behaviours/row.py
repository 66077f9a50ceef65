"""What one row is: a sequence of calls with the answer that AWS gives, and where that is known from.

A row is a function that takes a World and asserts what AWS does. `differs` says what Marram does instead: such a row must
fail against Marram, else the word is stale. `unconfirmed` marks what nobody has checked against a source.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.behaviours.world import World


@dataclass(frozen=True, kw_only=True)
class Row:
    id: str
    area: str
    aws: str
    source: str
    run: Callable[[World], None]
    differs: str = ""
    unconfirmed: bool = False
    slow: bool = False


ROWS: dict[str, Row] = {}


def row(
    *, aws: str, source: str, differs: str = "", unconfirmed: bool = False, slow: bool = False
) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Declare a row; its id is the file's name and the function's, its area the file's.

    `aws`: one sentence of what AWS does. `source`: "model" (botocore), "guide: PAGE", "sdk: NAME", "observed: CLIENT".
    `slow`: only in make test-full.
    """

    def declare(function: Callable[[World], None]) -> Callable[[World], None]:
        area = function.__module__.rpartition(".")[2]
        name = f"{area}-{function.__name__.replace('_', '-')}"
        if name in ROWS:
            raise RuntimeError(f"row {name} is declared twice")
        if not aws or not source:
            raise RuntimeError(f"row {name} says neither what AWS does nor how that is known")
        ROWS[name] = Row(
            id=name,
            area=area,
            aws=aws,
            source=source,
            run=function,
            differs=differs,
            unconfirmed=unconfirmed,
            slow=slow,
        )
        return function

    return declare
