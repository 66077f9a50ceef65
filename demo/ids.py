"""Frame ids: "run:3-5,9" as the component writes them, expanded and compared. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

Frame = tuple[str, int]  # run, number


def expand(text: str) -> list[Frame]:
    """ "ab12:3-5,9" -> [("ab12", 3), ("ab12", 4), ("ab12", 5), ("ab12", 9)]."""
    run, _, ranges = text.partition(":")
    made: list[Frame] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        made += [(run, number) for number in range(int(first), int(last or first) + 1)]
    return made


@dataclass(frozen=True)
class Ledger:
    """A component's own record: what it was about to hand over, what it knows was taken, what stayed on the box."""

    sending: frozenset[Frame]
    sent: frozenset[Frame]
    local: frozenset[Frame]


def ledger(lines: Iterable[str]) -> Ledger:
    """frames.log. A last line cut short by a kill is left out."""
    found: dict[str, set[Frame]] = {"sending": set(), "sent": set(), "local": set()}
    for line in lines:
        what, _, ids = line.rstrip("\n").partition(" ")
        if line.endswith("\n") and what in found:
            found[what].update(expand(ids))
    return Ledger(*(frozenset(found[what]) for what in ("sending", "sent", "local")))


@dataclass(frozen=True)
class Compared:
    frames: int  # different ids found
    missing: int  # taken at the edge, not found
    twice: int  # found more than once
    unknown: int  # found, never sent
    leaked: int  # found, though they stay local

    @property
    def exact(self) -> bool:
        return not (self.missing or self.twice or self.unknown or self.leaked)

    def __add__(self, other: "Compared") -> "Compared":
        return Compared(
            self.frames + other.frames,
            self.missing + other.missing,
            self.twice + other.twice,
            self.unknown + other.unknown,
            self.leaked + other.leaked,
        )

    def __str__(self) -> str:
        return (
            f"{self.frames} frames: {self.missing} missing, {self.twice} twice, {self.unknown} unknown,"
            f" {self.leaked} that should have stayed local"
        )


NOTHING = Compared(0, 0, 0, 0, 0)


def compare(edge: Ledger, found: Iterable[str]) -> Compared:
    """Both directions. `found`: the ids of every row of the time series, as they stand there."""
    count = Counter(frame for text in found for frame in expand(text))
    return Compared(
        frames=len(count),
        missing=len(edge.sent - count.keys()),
        twice=sum(1 for times in count.values() if times > 1),
        unknown=len(count.keys() - edge.sending - edge.sent),
        leaked=len(count.keys() & edge.local),
    )
