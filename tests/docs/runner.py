"""Runs what documents tell a reader to type.

A fenced block after `<!-- run -->` is typed into one bash, in one folder, for the whole document: lines that begin with "$ "
are commands, with what follows of a heredoc or a backslash; other lines are output. A command that ends in "&" stays in
the background until the document ends; one that says when it is ready is waited for. After `<!-- run: compare -->` the
output must be the printed one, "..." standing for anything. A block after `<!-- file: PATH -->` is written to that file, one
after `<!-- more: PATH -->` is added to it. `<!-- after: PAGE -->` types the blocks of another page of the folder first.
Every command must exit 0: a document that shows a failure writes `command || echo "exit code $?"`.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
MARK: Final = re.compile(r"<!--\s*(run|run: compare|(file|more): (?P<path>[\w./-]+)|after: (?P<page>[\w.-]+))\s*-->")
CLIENTS: Final = ROOT / ".clients"  # what tools/test_setup.sh installs apart from the lock
HEREDOC: Final = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")
READY_S: Final = 30.0
COMMAND_S: Final = 40.0
STOP_S: Final = 10.0


@dataclass
class Command:
    text: str
    line: int
    output: list[str] = field(default_factory=list)


@dataclass
class Block:
    line: int
    commands: list[Command] = field(default_factory=list)
    compare: bool = False
    path: str | None = None
    content: str = ""
    more: bool = False


class DocumentFailed(AssertionError):
    """What a document says is not what happens."""


def blocks(document: Path) -> list[Block]:
    """The marked blocks in their order. Raises DocumentFailed for a mark that no block follows."""
    lines = document.read_text().splitlines()
    found: list[Block] = []
    at = 0
    while at < len(lines):
        mark = MARK.fullmatch(lines[at].strip())
        if mark is None:
            at += 1
            continue
        if mark["page"] is not None:
            found += blocks(document.with_name(mark["page"]))
            at += 1
            continue
        begin = at + 1
        if begin >= len(lines) or not lines[begin].startswith("```"):
            raise DocumentFailed(f"{document.name}:{at + 1}: no fenced block follows this mark")
        end = begin + 1
        while lines[end] != "```":
            end += 1
        body = lines[begin + 1 : end]
        block = Block(
            begin + 1, compare=mark[1].endswith("compare"), path=mark["path"], more=mark[1].startswith("more")
        )
        if block.path is not None:
            block.content = "\n".join(body) + "\n"
        else:
            block.commands = list(_commands(body, begin + 2))
        found.append(block)
        at = end + 1
    return found


def _commands(body: list[str], first: int) -> Iterator[Command]:
    made: Command | None = None
    until: str | None = None
    for number, text in enumerate(body, first):
        if made is not None and (until is not None or made.text.endswith("\\")):
            made.text += "\n" + text
            until = None if text == until else until
        elif text.startswith("$ "):
            if made is not None:
                yield made
            made = Command(text[2:].rstrip(), number)
            heredoc = HEREDOC.search(made.text)
            until = heredoc[1] if heredoc else None
        elif made is not None:
            made.output.append(text)
    if made is not None:
        yield made


def run(document: Path, folder: Path) -> int:
    """Type the document; the number of commands. Raises DocumentFailed with place, command and output."""
    given = blocks(document)
    with Shell(folder) as shell:
        for block in given:
            if block.path is not None:
                target = folder / block.path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("a" if block.more else "w") as file:
                    file.write(block.content)
                continue
            for command in block.commands:
                code, output = shell.type(command.text)
                place = f"{document.name}:{command.line}: $ {command.text}"
                if code != 0:
                    raise DocumentFailed(f"{place}\nexit code {code}\n{output}\n{shell.logs()}")
                if block.compare and not same(command.output, output.splitlines()):
                    raise DocumentFailed(
                        f"{place}\nprinted:\n{output}\nthe document says:\n" + "\n".join(command.output)
                    )
    return sum(len(block.commands) for block in given)


def same(wanted: list[str], printed: list[str]) -> bool:
    """ "..." stands for any text within a line, and alone on a line for any lines."""
    pattern = "".join(
        r"(?:.*\n)*" if line.strip() == "..." else ".*".join(map(re.escape, line.rstrip().split("..."))) + r"\n"
        for line in wanted
    )
    return re.fullmatch(pattern, "".join(f"{line.rstrip()}\n" for line in printed)) is not None


class Shell:
    """One bash for a document. Its background processes end with it, by their pids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.background: list[tuple[int, Path]] = []
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        self.environment = kept | {
            "PATH": f"{Path(sys.executable).parent}:{CLIENTS / 'bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "NODE_PATH": str(CLIENTS / "node" / "node_modules"),
            "HOME": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def __enter__(self) -> "Shell":
        self.output = self.folder / ".output"
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
        )
        return self

    def type(self, text: str) -> tuple[int, str]:
        """(exit code, what it printed on both outputs). The commands run in this shell: exports stay."""
        stripped = text.rstrip()
        if stripped.endswith("&") and not stripped.endswith("&&"):
            return self._start(stripped[:-1].rstrip())
        self._write(f"{{ {text}\n}} </dev/null >'{self.output}' 2>&1\n echo \"$?\"\n")
        code = self._answer(text)
        return code, self.output.read_text(errors="replace")

    def _start(self, text: str) -> tuple[int, str]:
        log = self.folder / f".background-{len(self.background)}"
        log.touch()
        self._write(f"{{ exec {text}\n}} </dev/null >'{log}' 2>&1 &\n echo \"$!\"\n")
        pid = self._answer(text)
        self.background.append((pid, log))
        if not re.search(r"\b(hub|edge|marram) up\b", text):
            return 0, ""
        began = time.monotonic()
        while " ready" not in log.read_text(errors="replace") and "Ctrl-C stops" not in log.read_text(errors="replace"):
            if not Path(f"/proc/{pid}").exists() or time.monotonic() - began > READY_S:
                return 1, log.read_text(errors="replace")
            time.sleep(0.02)
        return 0, log.read_text(errors="replace")

    def _write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def _answer(self, text: str) -> int:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], COMMAND_S)[0]:
            raise DocumentFailed(f"did not end within {COMMAND_S:g} s: {text}\n{self.logs()}")
        line = self.process.stdout.readline()
        if not line.strip().isdigit():
            raise DocumentFailed(
                f"the shell ended at: {text}\n{line}{self.output.read_text() if self.output.exists() else ''}"
            )
        return int(line)

    def logs(self) -> str:
        return "\n".join(f"-- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for _, log in self.background)

    def __exit__(self, *_: object) -> None:
        try:
            for pid, _log in reversed(self.background):
                _end(pid, signal.SIGTERM)
                began = time.monotonic()
                while _alive(pid) and time.monotonic() - began < STOP_S:
                    time.sleep(0.02)
                _end(pid, signal.SIGKILL)
        finally:
            self.process.kill()
            self.process.communicate()


def _end(pid: int, number: int) -> None:
    if _alive(pid):
        os.kill(pid, number)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
