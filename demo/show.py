"""What the demo prints: steps, commands to repeat, progress, figures, promises. rich on a terminal, plain lines elsewhere."""

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Advance = Callable[[float], None]
PLAIN_EVERY_S = 5.0


class Stopped(Exception):
    """The demo cannot go on; the text says why."""


@dataclass
class Step:
    number: int
    title: str
    began: float
    seconds: float = 0.0


@dataclass
class Show:
    """One for the whole run. `failed` holds the promises that were not kept."""

    began: float = field(default_factory=time.monotonic)
    steps: list[Step] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    kept: int = 0

    def __post_init__(self) -> None:
        self._console: Any = None
        if sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(highlight=False)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began

    @contextlib.contextmanager
    def step(self, number: int, title: str) -> Iterator[None]:
        made = Step(number, title, time.monotonic())
        self.steps.append(made)
        self._line(f"\n[{number}/7] {title}   (at {self.elapsed_s:.0f} s)", "bold")
        try:
            yield
        finally:
            made.seconds = time.monotonic() - made.began

    def command(self, *words: object) -> None:
        self._line("  $ " + shlex.join(str(word) for word in words), "cyan")

    def call(self, text: str) -> None:
        """A boto3 or MQTT call, as a user would type it."""
        self._line(f"  > {text}", "cyan")

    def say(self, text: str) -> None:
        self._line(f"  {text}")

    def figure(self, name: str, value: str) -> None:
        self.figures[name] = value
        self._line(f"  {name}: {value}")

    def promise(self, holds: bool, text: str) -> bool:
        """A promise with its figures. One that fails is remembered: the demo goes on and exits 1."""
        if holds:
            self.kept += 1
            self._line(f"  ok    {text}", "green")
        else:
            self.failed.append(text)
            self._line(f"  FAIL  {text}", "bold red")
        return holds

    @contextlib.contextmanager
    def progress(self, text: str, total: float | None = None) -> Iterator[Advance]:
        """`advance(done)` with the absolute progress; without `total`, with the seconds since the begin."""
        if self._console is None:
            yield self._plain(text, total)
            return
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (TextColumn("  {task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(text, total=total)
            yield lambda done: bar.update(task, completed=done if total is None else min(done, total))

    def _plain(self, text: str, total: float | None) -> Advance:
        said = time.monotonic()

        def advance(done: float) -> None:
            nonlocal said
            if time.monotonic() - said < PLAIN_EVERY_S:
                return
            said = time.monotonic()
            if total is None:
                self._line(f"  {text} ... {done:.0f} s")
            else:
                share = min(1.0, done / total)
                self._line(f"  {text} [{'#' * round(share * 20):20}] {share:4.0%}")

        return advance

    def wait(self, text: str, done: Callable[[], bool], timeout_s: float, *, every_s: float = 0.1) -> float:
        """Until `done`; the seconds it took. Raises Stopped after `timeout_s`."""
        began = time.monotonic()
        with self.progress(text) as advance:
            while not done():
                passed = time.monotonic() - began
                if passed > timeout_s:
                    raise Stopped(f"{text}: not within {timeout_s:g} s")
                advance(passed)
                time.sleep(every_s)
        return time.monotonic() - began

    def sleep(self, text: str, seconds: float, look: Callable[[], None] = lambda: None) -> None:
        began = time.monotonic()
        with self.progress(text, seconds) as advance:
            while (passed := time.monotonic() - began) < seconds:
                advance(passed)
                look()
                time.sleep(min(0.25, seconds - passed))

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._line(f"\n{title}", "bold")
        widths = [max(len(row[at]) for row in (header, *rows)) for at in range(len(header))]
        for row in (header, *rows):
            self._line("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def _line(self, text: str, style: str = "") -> None:
        if self._console is None:
            print(text, flush=True)
        else:
            self._console.print(text, style=style or None, markup=False, soft_wrap=True)
