"""`marram`: finds the commands, parses, runs one, turns errors into one line on stderr and an exit code.

Commands live in marram/cli/<noun>.py and declare themselves with `@command`. Only the file of the noun that was typed is
imported, so the edge's command line never loads the hub.
"""

import argparse
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn, TypeAlias, cast

from marram import VERSION
from marram.core.errors import Conflict, Corrupt, Denied, Invalid, MarramError, NotFound, Unavailable, Unsupported

Configure: TypeAlias = Callable[[argparse.ArgumentParser], None]

# Control characters but the end of a line, and the marks that turn the direction of text.
_STEERS: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SAMPLES: Final = {"data": "var/hub", "root": "var/edge"}

DONE, FAILED, USAGE, NOT_FOUND, NOT_ALLOWED, NOT_REACHABLE, TIMED_OUT, STOPPED, PROBLEMS = range(9)


class Exit(Exception):
    """Leave with this code; the command has already said what there was to say."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class HubNotReachable(Unavailable):
    """No running hub answers where the command looked."""

    code = "MRM-1009"


class TimedOut(Unavailable):
    """The command stopped waiting; the work goes on."""

    code = "MRM-1010"


class WrongUsage(Invalid):
    """The words of the command line do not fit together: exit code 2, as for a word that the parser refuses."""


COMMANDS: Final[dict[str, tuple[str, Configure]]] = {}


def command(name: str, *, help: str) -> Callable[[Configure], Configure]:
    """Declare the noun `name`; the function adds its verbs to a parser, each with `set_defaults(run=function)`.

    `run(arguments) -> int | None` returns an exit code (None is 0) or raises one of ours.
    """

    def declare(configure: Configure) -> Configure:
        COMMANDS[name] = (help, configure)
        return configure

    return declare


def nouns() -> list[str]:
    return sorted(
        path.stem.replace("_", "-")
        for path in Path(__file__).parent.glob("*.py")
        if path.stem not in {"__init__", "main", "client", "progress", "edge_join", "entities"}
    )


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except Exit as leave:
        return leave.code
    except MarramError as error:
        return _report(error, as_json="--json" in arguments)
    except BrokenPipeError:  # `marram ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, sort_keys=True))


def plain(text: str) -> str:
    """Without what steers a terminal: names of clients and refused requests are whatever somebody chose. Lines stay lines."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> None:
    """Columns padded to their widest cell; for people, never parsed (that is what --json is for)."""
    cells = [[plain(str(value)).replace("\n", "\\n") for value in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"marram: {message} (try: {self.prog} --help)\n")
        raise SystemExit(USAGE)


def _run(arguments: list[str]) -> int:
    noun = next((word for word in arguments if not word.startswith("-")), None)
    known = nouns()
    wanted = [noun] if noun in known else known if noun is None else []
    parser = _Parser(
        prog="marram",
        description="Hub, edge and learning loop, for unmodified AWS IoT clients.",
        epilog="example: marram hub up --data var/hub",
    )
    parser.add_argument("--version", action="version", version=f"marram {VERSION}")
    verbs = parser.add_subparsers(dest="noun", metavar="NOUN", parser_class=_Parser, required=True)
    if noun is not None and not wanted:
        parser.error(f"there is no command {noun!r}; there are: {', '.join(known)}")
    for name in wanted:
        importlib.import_module(f"marram.cli.{str(name).replace('-', '_')}")
    for name, (text, configure) in sorted(COMMANDS.items()):
        if name in wanted:
            made = verbs.add_parser(name, help=text, description=text)
            configure(made)
            _give_examples(made)
    parsed = parser.parse_args(arguments)
    code = parsed.run(parsed)
    return int(code or DONE)


def _give_examples(parser: argparse.ArgumentParser) -> None:
    """Every help ends with an example: the command's own, else one made of what it requires; a noun shows its first verb's."""
    inner = [
        cast("Mapping[str, argparse.ArgumentParser]", each.choices)
        for each in parser._actions
        if each.nargs == argparse.PARSER
    ]
    for verbs in inner:
        for verb in verbs.values():
            _give_examples(verb)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # an example that is wrapped cannot be pasted
    if parser.epilog is not None:
        return
    if inner:
        parser.epilog = next(iter(inner[0].values())).epilog
        return
    words = [parser.prog]
    for each in parser._actions:
        name = str(each.metavar or each.dest).upper()
        if not each.option_strings:
            words.append(name)
        elif each.required:
            words += [each.option_strings[-1], _SAMPLES.get(each.dest, name)]
    parser.epilog = f"example: {' '.join(words)}"


def _report(error: MarramError, *, as_json: bool) -> int:
    if as_json:
        print_json({"error": {"kind": type(error).__name__, "code": error.code, "message": error.message}})
    tag = f" [{error.code}]" if error.code else ""
    sys.stderr.write(f"marram: {plain(error.message)}{tag}\n")
    match error:
        case WrongUsage():
            return USAGE
        case HubNotReachable():
            return NOT_REACHABLE
        case TimedOut():
            return TIMED_OUT
        case NotFound():
            return NOT_FOUND
        case Denied():
            return NOT_ALLOWED
        case Invalid() | Conflict() | Corrupt() | Unsupported():
            return FAILED
        case _:
            return FAILED


if __name__ == "__main__":
    # `python -m marram.cli.main`: the commands register with the imported module, not with `__main__`.
    from marram.cli.main import main as registered

    sys.exit(registered())
