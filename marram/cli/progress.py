"""One line on stderr that says how far long work is, when stderr is a terminal."""

import sys
import time
from typing import Final

WIDTH: Final = 30
EVERY_S: Final = 0.2


class Progress:
    """`with Progress("importing", 1000) as bar: bar.at(17)`. Leaves nothing on the terminal."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, max(total, 1)
        self._shown = sys.stderr.isatty()
        self._next = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def at(self, done: int) -> None:
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + EVERY_S
        full = min(WIDTH, WIDTH * done // self._total)
        sys.stderr.write(f"\r{self._what} [{'#' * full}{'.' * (WIDTH - full)}] {done} of {self._total}")
        sys.stderr.flush()
