"""`marram things`: the registry from the command line, and whole fleets of it from and to CSV.

The columns of a file: `name`, `type`, `attr:NAME` for each attribute, `groups` (by `;`), `csr` and `certificate` (PEM, or the
name of a PEM file beside the CSV file). Only `name` must be there; an empty cell says nothing.
"""

import argparse
import csv
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from marram.cli.main import DONE, PROBLEMS, command, print_json, table
from marram.core.errors import Invalid, MarramError, NotFound
from marram.kit import disk

if TYPE_CHECKING:
    from marram.cli.client import Api

CHUNK: Final = 100
SHOWN: Final = 20  # problems
PEM_BYTES: Final = 64 << 10
FIXED: Final = ("name", "type", "groups", "csr", "certificate")
ATTRIBUTE: Final = "attr:"
_INDEX: Final = re.compile(r"^things\[(\d+)\] (?:'[^']*': )?")


class BadLines(Invalid):
    """Lines of a CSV file cannot be imported; nothing of the file is."""

    code = "MRM-4010"


@dataclass(frozen=True, slots=True)
class Line:
    number: int  # in the file, from 1
    thing: dict[str, Any]  # as registry/ImportThings takes it


@command("things", help="things of the registry: import and export CSV, list, show, delete")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    importing = verbs.add_parser(
        "import",
        help="make the things of a CSV file: all of it is checked first, a bad line leaves nothing",
        epilog="example: marram things import fleet.csv --data var/hub",
    )
    importing.add_argument("file", type=Path)
    importing.add_argument(
        "--dry-run", action="store_true", help="only say what would be refused; exit code 8 when anything"
    )
    importing.add_argument(
        "--certificates", type=Path, metavar="DIR", help="where the certificates of the csr column go"
    )
    exporting = verbs.add_parser("export", help="every thing as CSV that `import` takes; certificates are not in it")
    exporting.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    listing = verbs.add_parser("list", help="by name")
    listing.add_argument("--type", metavar="NAME")
    listing.add_argument("--attribute", metavar="NAME=VALUE")
    listing.add_argument("--group", metavar="NAME", help="and the groups below it; names only")
    listing.add_argument("--limit", type=int, default=1000, metavar="N")
    show = verbs.add_parser("show", help="one thing, its groups and certificates")
    delete = verbs.add_parser("delete", help="one thing")
    delete.add_argument("--detach", action="store_true", help="its certificates first; they stay")
    for verb in (show, delete):
        verb.add_argument("name")
    for verb, run in ((importing, _import), (exporting, _export), (listing, _list), (show, _show), (delete, _delete)):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


# import


def _import(given: argparse.Namespace) -> int:
    from marram.cli import client
    from marram.cli.progress import Progress

    api = client.Api.from_data(given.data)
    total, problems = _checked(api, given.file, given.certificates)
    if given.dry_run:
        return _say_problems(total, problems, as_json=given.json)
    if problems:
        more = f"\n... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        shown = "\n".join(f"{given.file}, {_where(problem)}" for problem in problems[:SHOWN])
        raise BadLines(f"nothing was imported: {shown}{more}")
    began, done, created, certificates = time.monotonic(), 0, 0, 0
    with Progress("importing", total) as bar:
        for chunk in _chunks(_lines(given.file)):
            try:
                answer = api.marram("registry/ImportThings", {"things": [line.thing for line in chunk]})
            except MarramError as error:
                raise type(error)(
                    f"{given.file}, {_line_of(chunk, error.message)}; the lines before {chunk[0].number} are imported, and"
                    " importing the file again goes on from there",
                ) from error
            for each in answer["things"]:
                created += bool(each.get("created"))
                if pem := each.get("certificatePem"):
                    certificates += 1
                    disk.write_atomic(given.certificates / f"{each['thingName']}.pem", pem.encode())
            done += len(chunk)
            bar.at(done)
    spent = time.monotonic() - began
    if given.json:
        print_json({"things": done, "created": created, "certificates": certificates, "seconds": round(spent, 3)})
    else:
        there = f", {done - created} were there" if done > created else ""
        made = f", {certificates} certificates in {given.certificates}" if certificates else ""
        print(f"{created} things imported in {spent:.1f} s{there}{made}")
    return DONE


def _checked(api: "Api", file: Path, certificates: Path | None) -> tuple[int, list[tuple[int, str]]]:
    """(things in the file, (line, what is wrong) of each bad one), by the rules of the file and by the hub's."""
    from marram.cli.progress import Progress

    seen: dict[str, int] = {}
    problems: list[tuple[int, str]] = []
    with Progress("checking", file.stat().st_size // 40 if file.is_file() else 1) as bar:
        for chunk in _chunks(_lines(file, problems)):
            for line in chunk:
                name = str(line.thing["thingName"])
                if name in seen:
                    problems.append((line.number, f"thing {name} is on line {seen[name]} already"))
                seen.setdefault(name, line.number)
                if "certificateSigningRequest" in line.thing and certificates is None:
                    problems.append((line.number, "there is a csr: --certificates says where the certificate goes"))
            answer = api.marram("registry/ImportThings", {"things": [line.thing for line in chunk], "dryRun": True})
            problems += [(chunk[int(each["index"])].number, str(each["message"])) for each in answer["problems"]]
            bar.at(len(seen))
    if certificates is not None and not certificates.is_dir():
        raise NotFound(f"--certificates {certificates} is not a folder")
    return len(seen), sorted(set(problems))


def _say_problems(total: int, problems: list[tuple[int, str]], *, as_json: bool) -> int:
    if as_json:
        print_json({"things": total, "problems": [{"line": line, "message": text} for line, text in problems]})
    else:
        for problem in problems:
            print(_where(problem))
        print(f"{total} things, {len(problems)} problems" if problems else f"{total} things can be imported")
    return PROBLEMS if problems else DONE


def _where(problem: tuple[int, str]) -> str:
    return f"line {problem[0]}: {problem[1]}"


def _line_of(chunk: Sequence[Line], message: str) -> str:
    """The message of a refused batch, told of the line in place of the position."""
    found = _INDEX.match(message)
    if found is None or int(found[1]) >= len(chunk):
        return f"lines {chunk[0].number} to {chunk[-1].number}: {message}"
    return f"line {chunk[int(found[1])].number}: {message[found.end() :]}"


def _chunks(lines: Iterator[Line]) -> Iterator[list[Line]]:
    while chunk := list(islice(lines, CHUNK)):
        yield chunk


def _lines(file: Path, problems: list[tuple[int, str]] | None = None) -> Iterator[Line]:
    """The things of a file. A bad line is put down in `problems` and left out; raises BadLines where the file cannot be read on."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.reader(opened, strict=True)
            try:
                header = next(rows, None)
                _check_header(header)
                assert header is not None
                for row in rows:
                    if not row:
                        continue
                    try:
                        yield Line(rows.line_num, _thing(header, row, file.parent))
                    except (Invalid, NotFound) as error:
                        if problems is None:
                            raise BadLines(f"line {rows.line_num}: {error.message}") from error
                        problems.append((rows.line_num, error.message))
            except csv.Error as error:
                raise BadLines(f"{file}, line {rows.line_num}: {error}") from error
            except UnicodeDecodeError as error:
                raise BadLines(f"{file}, after line {rows.line_num}: not UTF-8: {error.reason}") from error
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from error


def _check_header(header: list[str] | None) -> None:
    if not header or "name" not in header:
        raise BadLines("line 1: the header names the columns, and `name` must be one of them")
    for column in header:
        if column not in FIXED and not (column.startswith(ATTRIBUTE) and len(column) > len(ATTRIBUTE)):
            raise BadLines(f"line 1: {column!r} is not a column; there are {', '.join(FIXED)} and {ATTRIBUTE}NAME")
    if len(set(header)) < len(header):
        raise BadLines("line 1: a column is there twice")


def _thing(header: list[str], row: list[str], folder: Path) -> dict[str, Any]:
    """Raises Invalid, NotFound."""
    from marram.hub.registry import names

    if len(row) != len(header):
        raise Invalid(f"{len(row)} cells, where the header has {len(header)}")
    cells = {column: cell.strip() for column, cell in zip(header, row, strict=True) if cell.strip()}
    attributes = {column.removeprefix(ATTRIBUTE): cell for column, cell in cells.items() if column not in FIXED}
    names.check_name(cells.get("name", ""), "thing")
    names.check_attributes(attributes)
    found: dict[str, Any] = {"thingName": cells["name"]}
    if attributes:
        found["attributes"] = attributes
    if "type" in cells:
        names.check_name(cells["type"], "thing type")
        found["thingTypeName"] = cells["type"]
    if "groups" in cells:
        found["thingGroupNames"] = [name.strip() for name in cells["groups"].split(";") if name.strip()]
        for name in found["thingGroupNames"]:
            names.check_name(name, "thing group")
    for column, member in (("csr", "certificateSigningRequest"), ("certificate", "certificatePem")):
        if column in cells:
            found[member] = _pem(cells[column], folder)
    return found


def _pem(cell: str, folder: Path) -> str:
    if cell.startswith("-----BEGIN"):
        return cell
    path = folder / cell
    if not _is_beside(path, folder):
        raise NotFound(f"{cell[:200]!r} is neither PEM nor a file in {folder}")
    return disk.read(path, limit=PEM_BYTES).decode("ascii", "replace")


def _is_beside(path: Path, folder: Path) -> bool:
    """In the folder or below: whoever wrote the CSV file, other files of whoever imports it are no business of his."""
    try:
        return path.resolve().is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


# export, list, show, delete


def _export(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    attributes = sorted({name for thing in _things(api, {}) for name in _attributes(thing)})
    header = ["name", "type", *(f"{ATTRIBUTE}{name}" for name in attributes), "groups"]
    count = 0
    with given.output.open("w", encoding="utf-8", newline="") if given.output else _Standard() as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        for thing in _things(api, {}):
            own = _attributes(thing)
            cells = [own.get(name, "") for name in attributes]
            groups = ";".join(_groups(api, thing["thingName"]))
            writer.writerow([thing["thingName"], thing.get("thingTypeName") or "", *cells, groups])
            count += 1
    if given.output:
        print_json({"things": count, "file": str(given.output)}) if given.json else print(f"{count} things exported")
    return DONE


class _Standard:
    """Standard output as a file that is not closed."""

    def __enter__(self) -> Any:
        return sys.stdout

    def __exit__(self, *_exc: object) -> None:
        sys.stdout.flush()


def _list(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    if given.group:
        if given.type or given.attribute:
            raise Invalid("--group goes with neither --type nor --attribute")
        pages = _pages(api, "ListThingsInThingGroup", {"thingGroupName": given.group, "recursive": True}, "things")
        names = list(islice(pages, given.limit))
        print_json(names) if given.json else print("\n".join(names))
        return DONE
    search: dict[str, Any] = {"thingTypeName": given.type} if given.type else {}
    if given.attribute:
        name, equals, value = given.attribute.partition("=")
        if not equals:
            raise Invalid(f"--attribute {given.attribute!r} is not NAME=VALUE")
        search |= {"attributeName": name, "attributeValue": value}
    found = list(islice(_things(api, search), given.limit))
    if given.json:
        print_json(found)
    elif found:
        rows = [[one["thingName"], one.get("thingTypeName") or "-", _written(_attributes(one))] for one in found]
        table(rows, ["NAME", "TYPE", "ATTRIBUTES"])
    return DONE


def _show(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    found = api.call("iot", "DescribeThing", {"thingName": given.name})
    found["groups"] = list(_groups(api, given.name))
    found["principals"] = list(_pages(api, "ListThingPrincipals", {"thingName": given.name}, "principals"))
    if given.json:
        print_json(found)
        return DONE
    rows = [
        ["name", found["thingName"]], ["arn", found["thingArn"]], ["type", found.get("thingTypeName") or "-"],
        ["version", found["version"]], ["attributes", _written(_attributes(found))],
        ["groups", ", ".join(found["groups"]) or "-"], *(["certificate", arn] for arn in found["principals"]),
    ]  # fmt: skip
    for name, value in rows:
        print(f"{name:12}{value}")
    return DONE


def _delete(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    api.call("iot", "DescribeThing", {"thingName": given.name})  # DeleteThing itself is fine with one that is not there
    if given.detach:
        for principal in list(_pages(api, "ListThingPrincipals", {"thingName": given.name}, "principals")):
            api.call("iot", "DetachThingPrincipal", {"thingName": given.name, "principal": principal})
    api.call("iot", "DeleteThing", {"thingName": given.name})
    print_json({"deleted": given.name}) if given.json else print(f"{given.name} deleted")
    return DONE


def _things(api: "Api", search: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return _pages(api, "ListThings", search, "things")


def _groups(api: "Api", thing: str) -> Iterator[str]:
    for group in _pages(api, "ListThingGroupsForThing", {"thingName": thing}, "thingGroups"):
        yield group["groupName"]


def _pages(api: "Api", operation: str, params: dict[str, Any], member: str) -> Iterator[Any]:
    token: str | None = None
    while True:
        given = {**params, "maxResults": 250} | ({"nextToken": token} if token else {})
        answer = api.call("iot", operation, given)
        yield from answer.get(member) or ()
        token = answer.get("nextToken")
        if not token:
            return


def _attributes(thing: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] | None = thing.get("attributes")
    return found or {}


def _written(attributes: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(attributes.items())) or "-"
