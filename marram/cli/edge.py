"""`marram edge`: the core in the foreground, joining, local deployments, components, logs, status."""

import argparse
import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

from marram.cli import edge_join
from marram.cli.main import DONE, FAILED, STOPPED, Exit, TimedOut, WrongUsage, command, print_json, table
from marram.core.errors import Conflict, Denied, Invalid, MarramError, NotFound, Unavailable

DEFAULT_WAIT_S: Final = 600.0
_KINDS: Final[Mapping[str, type[MarramError]]] = {
    "NotFound": NotFound,
    "Invalid": Invalid,
    "Denied": Denied,
    "Conflict": Conflict,
}


class CoreNotRunning(Unavailable):
    """No edge core answers at this ROOT."""

    code = "MRM-4002"


@command("edge", help="the edge core of this machine: run it, join it, deploy to it, look at it")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    up = _verb(verbs, "up", "run the edge core in the foreground", "marram edge up --root var/edge", json_too=False)
    up.add_argument("--ports", default="", help="'auto' takes free ports for local listeners and keeps them")
    up.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    up.add_argument("--system-python", action="store_true", help="do not put our own python3 first in components' PATH")
    up.set_defaults(run=_up)

    join = verbs.add_parser(
        "join", help="make ROOT a core device of a hub", description="make ROOT a core device of a hub"
    )
    edge_join.configure(join)

    deploy = _verb(
        verbs,
        "deploy",
        "deploy components from local folders",
        "marram edge deploy --recipes recipes --artifacts artifacts --merge com.example.Hello=1.0.0 --root var/edge",
    )
    deploy.add_argument("--recipes", type=Path, help="folder with recipe files")
    deploy.add_argument("--artifacts", type=Path, help="folder NAME/VERSION/file")
    deploy.add_argument("--merge", action="append", default=[], metavar="NAME=VERSION", help="add or change (repeat)")
    deploy.add_argument(
        "--remove", action="append", default=[], metavar="NAME", help="remove a root component (repeat)"
    )
    deploy.add_argument("--configuration", metavar="JSON", help='{"NAME": {"MERGE": {...}, "RESET": ["/..."]}}')
    deploy.add_argument("--no-wait", action="store_true", help="print the deployment's id and leave")
    deploy.add_argument("--no-rollback", action="store_true", help="leave a failed set in place")
    deploy.add_argument(
        "--timeout", type=float, default=DEFAULT_WAIT_S, metavar="S", help="stop waiting after S seconds"
    )
    deploy.set_defaults(run=_deploy)

    cancel = _verb(verbs, "cancel", "cancel a deployment", "marram edge cancel ID --root var/edge")
    cancel.add_argument("id")
    cancel.set_defaults(run=_cancel)

    deployments = _verb(verbs, "deployments", "the last deployments", "marram edge deployments --root var/edge")
    deployments.set_defaults(run=_deployments)

    component = verbs.add_parser("component", help="list, restart, stop components")
    inner = component.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = _verb(inner, "list", "all components", "marram edge component list --root var/edge")
    listing.set_defaults(run=_component_list)
    for action, text in (("restart", "stop and start a component"), ("stop", "stop a component until the next start")):
        one = _verb(inner, action, text, f"marram edge component {action} com.example.Hello --root var/edge")
        one.add_argument("name")
        one.set_defaults(run=_component_act)

    logs = _verb(
        verbs, "logs", "the log of a component", "marram edge logs com.example.Hello --root var/edge", json_too=False
    )
    logs.add_argument("name")
    logs.add_argument("--lines", type=int, default=100, help="how many of the last lines")
    logs.add_argument("--follow", action="store_true", help="go on printing")
    logs.set_defaults(run=_logs)

    status = _verb(verbs, "status", "state of the core", "marram edge status --root var/edge --json")
    status.set_defaults(run=_status)

    lock = _verb(verbs, "lock", "exact versions and digests of what is active", "marram edge lock --root var/edge")
    lock.set_defaults(run=_lock)

    sql = _verb(verbs, "sql", "ask the local time series (not yet there)", 'marram edge sql "SELECT 1" --root var/edge')
    sql.add_argument("statement")
    sql.set_defaults(run=_not_yet)


def _verb(
    verbs: Any,  # argparse names this type privately
    name: str,
    text: str,
    example: str,
    *,
    json_too: bool = True,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, epilog=f"example: {example}")
    parser.add_argument("--root", type=Path, required=True, help="folder of the edge core")
    if json_too:
        parser.add_argument("--json", action="store_true", help="machine-readable output")
    return parser


def _up(arguments: argparse.Namespace) -> int:
    import asyncio

    from marram.edge import main as edge
    from marram.kit import log

    if arguments.ports not in ("", "auto"):
        raise WrongUsage(f"--ports {arguments.ports!r}: 'auto' is known")
    log.setup(level=arguments.log_level)
    settings = edge.Settings(root=arguments.root, ports=arguments.ports, python_first=not arguments.system_python)
    asyncio.run(edge.run(settings, lambda: print("marram edge ready", flush=True)))
    return DONE


def _deploy(arguments: argparse.Namespace) -> int:
    merge: dict[str, str] = {}
    for text in arguments.merge:
        name, _, version = text.partition("=")
        if not name or not version:
            raise WrongUsage(f"--merge {text!r}: write NAME=VERSION")
        merge[name] = version
    configuration = _json_object(arguments.configuration) if arguments.configuration else {}
    if not (merge or arguments.remove or configuration):
        raise WrongUsage("nothing to do: give --merge, --remove or --configuration")
    for option in ("recipes", "artifacts"):
        folder = getattr(arguments, option)
        if folder is not None and not folder.is_dir():
            raise NotFound(f"--{option}: {folder} is no folder")
    core = _Core(arguments.root)
    deployment = core.ask(
        "deploy",
        merge=merge,
        remove=arguments.remove,
        configuration=configuration,
        recipes=str(arguments.recipes.absolute()) if arguments.recipes else "",
        artifacts=str(arguments.artifacts.absolute()) if arguments.artifacts else "",
        rollback=not arguments.no_rollback,
    )
    if arguments.no_wait:
        print_json({"id": deployment}) if arguments.json else print(deployment)
        return DONE
    row = core.ask("wait", id=deployment, timeout_s=arguments.timeout)
    return _tell(row, as_json=arguments.json)


def _cancel(arguments: argparse.Namespace) -> int:
    core = _Core(arguments.root)
    core.ask("cancel", id=arguments.id)
    row = core.ask("wait", id=arguments.id, timeout_s=DEFAULT_WAIT_S)
    if arguments.json:
        print_json(row)
    else:
        print(f"{row['id']} {row['status']}")
    return DONE if row["status"] == "CANCELED" else FAILED


def _tell(row: dict[str, Any], *, as_json: bool) -> int:
    """Print the end of a deployment; the exit code that INTERFACE gives it."""
    detail = row["detail"]
    if as_json:
        print_json(row)
    else:
        print(f"deployment {row['id']}: {row['status']} {detail.get('detailed-deployment-status', '')}".rstrip())
        for change in detail.get("changes", ()):
            print(f"  {change['component']}: {change['from'] or '-'} -> {change['to'] or '-'}")
    cause = detail.get("deployment-failure-cause")
    if cause:
        sys.stderr.write(f"marram: {cause}\n")
    if row["status"] == "SUCCEEDED":
        return DONE
    if row["status"] in ("QUEUED", "IN_PROGRESS"):
        raise TimedOut("stopped waiting; the deployment goes on (marram edge deployments)")
    rolled_back = str(detail.get("detailed-deployment-status", "")) == "FAILED_ROLLBACK_COMPLETE"
    raise Exit(STOPPED if rolled_back or row["status"] == "CANCELED" else FAILED)


def _deployments(arguments: argparse.Namespace) -> int:
    rows = _Core(arguments.root).ask("deployments")
    if arguments.json:
        print_json(rows)
        return DONE
    shown = [
        (each["id"], each["target"], each["status"], each["detail"].get("detailed-deployment-status", each["phase"]))
        for each in rows
    ]
    table(shown, ("ID", "TARGET", "STATUS", "DETAIL"))
    return DONE


def _component_list(arguments: argparse.Namespace) -> int:
    rows = _Core(arguments.root).ask("components")
    if arguments.json:
        print_json(rows)
    else:
        table([(each["name"], each["version"], each["state"]) for each in rows], ("NAME", "VERSION", "STATE"))
    return DONE


def _component_act(arguments: argparse.Namespace) -> int:
    row = _Core(arguments.root).ask(arguments.action, name=arguments.name)
    if arguments.json:
        print_json(row)
    else:
        print(f"{row['name']} {row['version']} {row['state']}")
    return DONE


def _logs(arguments: argparse.Namespace) -> int:
    name = arguments.name
    path = arguments.root / "logs" / f"{name}.log"
    if "/" in name or not path.is_file():
        raise NotFound(f"no log of a component {name!r} at {path.parent}")
    with path.open(errors="replace") as file:
        lines = file.readlines()
        sys.stdout.writelines(lines[-max(0, arguments.lines) :] if arguments.lines else [])
        sys.stdout.flush()
        if arguments.follow:
            for line in _follow(path, file):
                sys.stdout.write(line)
                sys.stdout.flush()
    return DONE


def _follow(path: Path, file: TextIO) -> Iterator[str]:
    """New lines, over the roll of the file."""
    while True:
        line = file.readline()
        if line:
            yield line
            continue
        time.sleep(0.2)
        try:
            rolled = path.stat().st_ino != _inode(file)
        except FileNotFoundError:
            continue
        if rolled:
            file = path.open(errors="replace")


def _inode(file: TextIO) -> int:
    import os

    return os.fstat(file.fileno()).st_ino


def _status(arguments: argparse.Namespace) -> int:
    facts = _Core(arguments.root).ask("status")
    if arguments.json:
        print_json(facts)
        return DONE
    for key in ("version", "pid", "thing", "root"):
        print(f"{key}: {facts[key] or '-'}")
    for key, value in facts["endpoints"].items():
        print(f"{key}: {value}")
    if hub := facts.get("hub"):
        state = "connected to" if hub["connected"] else "not connected to"
        print(f"hub: {state} {hub['host']}:{hub['port']}, {hub['waiting']} messages wait ({hub['spool_bytes']} bytes)")
    table(
        [(each["name"], each["version"], each["state"]) for each in facts["components"]], ("NAME", "VERSION", "STATE")
    )
    return DONE


def _lock(arguments: argparse.Namespace) -> int:
    print_json(_Core(arguments.root).ask("lock"))
    return DONE


def _not_yet(arguments: argparse.Namespace) -> int:
    sys.stderr.write("marram: edge sql is not there yet: the local time series comes with a later version\n")
    return FAILED


def _json_object(text: str) -> dict[str, Any]:
    from marram.core import codec

    try:
        return codec.loads_object(text, what="--configuration")
    except Invalid as exc:
        raise WrongUsage(f"--configuration: {exc.message}") from exc


def _refusal(error: dict[str, str]) -> MarramError:
    """The core's refusal as ours, with the core's MRM number."""
    kind = _KINDS.get(error["kind"], Invalid)
    made = kind(error["message"])
    vars(made)["code"] = error["code"]  # of this one: the class keeps its own
    return made


class _Core:
    """Client of ROOT/control.socket."""

    def __init__(self, root: Path) -> None:
        from marram.edge.nucleus.root import short_socket

        path = root.absolute() / "control.socket"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(short_socket(path))
        except PermissionError as exc:
            self._socket.close()
            raise Denied(f"{path} belongs to another user") from exc
        except OSError as exc:
            self._socket.close()
            raise CoreNotRunning(f"no edge core runs on {root} (start one: marram edge up --root {root})") from exc
        self._file = self._socket.makefile("rwb")

    def ask(self, op: str, **fields: object) -> Any:
        self._file.write(json.dumps({"op": op, **fields}).encode() + b"\n")
        self._file.flush()
        for line in self._file:
            answer = json.loads(line)
            if "progress" in answer:
                continue
            if "error" in answer:
                error = answer["error"]
                raise _refusal(error)
            return answer["ok"]
        raise CoreNotRunning("the edge core ended while it was asked")
