"""`marram sim`: a fleet of simulated devices against a running hub, in processes of their own.

Devices share one certificate, whose policy binds each to the topics, shadow and jobs of its own client id. What `run` made
(things, policy, certificate) it takes away again unless --keep. Not here: what a device does (marram/components/sim).
"""

import argparse
import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from marram.cli.main import DONE, FAILED, Exit, command, print_json, table
from marram.core.errors import Invalid, MarramError, NotFound

if TYPE_CHECKING:
    from marram.cli.client import Api

PREFIX: Final = "sim"
CHUNK: Final = 100
STOP_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What was made for a run."""

    policy: str
    certificate_arn: str
    certificate_id: str
    pem: Path
    key: Path


@command("sim", help="a fleet of simulated devices: run, profiles, clean")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    run = verbs.add_parser(
        "run",
        help="connect devices and let them work until --seconds are over or Ctrl-C",
        epilog="example: marram sim run --devices 100 --profile steady --seconds 60 --data var/hub",
    )
    run.add_argument("--devices", type=int, default=10, metavar="N")
    run.add_argument("--profile", default="steady", metavar="NAME|FILE", help="built in, or a TOML file (steady)")
    run.add_argument("--seconds", type=float, metavar="S", help="default: until Ctrl-C")
    run.add_argument("--prefix", default=PREFIX, help="of the things' names (sim)")
    run.add_argument("--seed", type=int, default=1, help="who misbehaves; the same seed, the same devices (1)")
    run.add_argument("--processes", type=int, metavar="N", help="default: one a core, at least 100 devices each")
    run.add_argument("--keep", action="store_true", help="leave things, policy and certificate")
    run.set_defaults(run=_run)
    profiles = verbs.add_parser("profiles", help="the built-in profiles and their settings")
    profiles.add_argument("--json", action="store_true")
    profiles.set_defaults(run=_profiles)
    clean = verbs.add_parser("clean", help="take away what runs with --keep have left")
    clean.add_argument("--prefix", default=PREFIX)
    clean.set_defaults(run=_clean)
    for verb in (run, clean):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")


def _profiles(given: argparse.Namespace) -> int:
    import dataclasses

    from marram.components.sim.profile import BUILT_IN

    if given.json:
        print_json({name: dataclasses.asdict(profile) for name, profile in BUILT_IN.items()})
        return DONE
    rows = [
        [name, profile.connect.pattern, f"{profile.telemetry.every_s:g} s by {profile.telemetry.over}",
         profile.shadow.behaviour, "takes jobs" if profile.jobs.takes else "no jobs"]
        for name, profile in BUILT_IN.items()
    ]  # fmt: skip
    table(rows, ["PROFILE", "CONNECTION", "TELEMETRY", "SHADOW", "JOBS"])
    return DONE


def _run(given: argparse.Namespace) -> int:
    from marram.cli import client
    from marram.components.sim import profile as profiles

    if not 1 <= given.devices <= profiles.MAX_DEVICES:
        raise Invalid(f"--devices is 1 to {profiles.MAX_DEVICES}, not {given.devices}")
    if given.seconds is not None and given.seconds <= 0:
        raise Invalid(f"--seconds is above 0, not {given.seconds:g}")
    profiles.load(given.profile)  # refused before anything is made
    api = client.Api.from_data(given.data)
    hub = json.loads((given.data / "hub.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        things = [f"{given.prefix}-{number}" for number in range(given.devices)]
        _make_things(api, things)
        fleet = _make_fleet(api, given.prefix, Path(folder))
        try:
            counts = _drive(given, hub, fleet)
        finally:
            if not given.keep:
                _take_away(api, fleet)
                _delete_things(api, things)
    if given.json:
        print_json(dict(counts))
    return DONE if counts.get("connects") else FAILED


def _make_things(api: "Api", names: list[str]) -> None:
    from marram.cli.progress import Progress

    with Progress("things", len(names)) as bar:
        for at in range(0, len(names), CHUNK):
            chunk = names[at : at + CHUNK]
            api.marram("registry/ImportThings", {"things": [{"thingName": name} for name in chunk]})
            bar.at(at + len(chunk))


def _make_fleet(api: "Api", prefix: str, folder: Path) -> Fleet:
    name = f"marram-sim-{prefix}-{secrets.token_hex(4)}"
    of = "${iot:ClientId}"
    document = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"arn:aws:iot:*:*:client/{prefix}-*"},
            {
                "Effect": "Allow",
                "Action": ["iot:Publish", "iot:Receive"],
                "Resource": [f"arn:aws:iot:*:*:topic/$aws/things/{of}/*", f"arn:aws:iot:*:*:topic/{prefix}/{of}/*"],
            },
            {
                "Effect": "Allow",
                "Action": "iot:Subscribe",
                "Resource": f"arn:aws:iot:*:*:topicfilter/$aws/things/{of}/*",
            },
            # By HTTPS a device has no client id: the fleet's own topics.
            {"Effect": "Allow", "Action": "iot:Publish", "Resource": f"arn:aws:iot:*:*:topic/{prefix}/{prefix}-*"},
        ],
    }
    api.call("iot", "CreatePolicy", {"policyName": name, "policyDocument": json.dumps(document)})
    made = api.call("iot", "CreateKeysAndCertificate", {"setAsActive": True})
    api.call("iot", "AttachPolicy", {"policyName": name, "target": made["certificateArn"]})
    pem, key = folder / "fleet.pem", folder / "fleet.key"
    pem.write_text(made["certificatePem"])
    with open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write(made["keyPair"]["PrivateKey"])
    return Fleet(
        policy=name, certificate_arn=made["certificateArn"], certificate_id=made["certificateId"], pem=pem, key=key
    )


def _drive(given: argparse.Namespace, hub: Mapping[str, Any], fleet: Fleet) -> "Counter[str]":
    """Start the processes, show what they count, end them. Returns the last counts of all."""
    processes = given.processes or max(1, min(os.cpu_count() or 1, given.devices // 100))
    shares = [given.devices // processes + (at < given.devices % processes) for at in range(processes)]
    for each in (signal.SIGINT, signal.SIGTERM):  # also where a shell started it in the background, deaf to SIGINT
        signal.signal(each, _interrupt)
    children: list[subprocess.Popen[str]] = []
    last: dict[int, dict[str, int]] = {}
    first = 0
    try:
        for share in shares:
            child = subprocess.Popen(
                [sys.executable, "-m", "marram.components.sim.main"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
            children.append(child)
            settings = {
                "prefix": given.prefix, "devices": given.devices, "first": first, "count": share, "seed": given.seed,
                "profile": given.profile, "mqtt": _place(hub["endpoints"]["mqtt"]),
                "https": _place(hub["endpoints"]["https"]), "ca": hub["ca_file"], "certificate": str(fleet.pem),
                "key": str(fleet.key),
            }  # fmt: skip
            assert child.stdin is not None
            child.stdin.write(json.dumps(settings) + "\n")
            child.stdin.flush()
            first += share
        with contextlib.suppress(KeyboardInterrupt):
            _watch(children, last, given.seconds, quiet=given.json)
        for child in children:
            child.terminate()
        _watch(children, last, STOP_S, quiet=True)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
    counts: Counter[str] = Counter()
    for found in last.values():
        counts.update(found)
    if not given.json:
        print(_line(counts, given.devices))
        for why, number in sorted(counts.items()):
            if why.startswith("why "):
                print(f"  {number} times: {why[4:]}")
    failed = [child.returncode for child in children if child.returncode not in (0, None)]
    if failed:
        raise Exit(FAILED)
    return counts


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _watch(
    children: "list[subprocess.Popen[str]]", last: dict[int, dict[str, int]], seconds: float | None, *, quiet: bool
) -> None:
    """Read what the processes tell until the time is over, or they have all ended."""
    end = None if seconds is None else time.monotonic() + seconds
    with selectors.DefaultSelector() as look:
        for child in children:
            assert child.stdout is not None
            look.register(child.stdout, selectors.EVENT_READ, child.pid)
        shown = time.monotonic()
        while look.get_map() and (end is None or time.monotonic() < end):
            for key, _ in look.select(0.2 if end is None else max(0.0, min(0.2, end - time.monotonic()))):
                pipe: IO[str] = key.fileobj  # type: ignore[assignment]  # what was registered
                line = pipe.readline()
                if not line:
                    look.unregister(pipe)
                    continue
                last[key.data] = json.loads(line)
            if not quiet and sys.stderr.isatty() and time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                total: Counter[str] = Counter()
                for found in last.values():
                    total.update(found)
                print(f"\r{_line(total, None)}\033[K", end="", file=sys.stderr, flush=True)
    if not quiet and sys.stderr.isatty():
        print(file=sys.stderr)


def _line(counts: Mapping[str, int], devices: int | None) -> str:
    parts = [f"{counts.get('connected', 0)} connected" if devices is None else f"{devices} devices"]
    for name, text in (
        ("connects", "connects"), ("published", "published"), ("refused", "refused"), ("unanswered", "unanswered"),
        ("received", "received"), ("shadow_reports", "shadow reports"), ("jobs_succeeded", "jobs succeeded"),
        ("jobs_failed", "failed"), ("jobs_rejected", "rejected"), ("jobs_silent", "silent"),
        ("connect_failed", "connects failed"), ("lost", "connections lost"), ("cut", "cut"),
    ):  # fmt: skip
        if counts.get(name):
            parts.append(f"{counts[name]} {text}")
    return ", ".join(parts)


def _take_away(api: "Api", fleet: Fleet) -> None:
    api.call("iot", "UpdateCertificate", {"certificateId": fleet.certificate_id, "newStatus": "INACTIVE"})
    api.call("iot", "DetachPolicy", {"policyName": fleet.policy, "target": fleet.certificate_arn})
    api.call("iot", "DeletePolicy", {"policyName": fleet.policy})
    api.call("iot", "DeleteCertificate", {"certificateId": fleet.certificate_id})


def _delete_things(api: "Api", names: list[str]) -> None:
    from marram.cli.progress import Progress

    with Progress("away", len(names)) as bar:
        for at, name in enumerate(names):
            api.call("iot", "DeleteThing", {"thingName": name})
            bar.at(at)


def _clean(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    policies = 0
    for policy in _pages(api, "ListPolicies", "policies", "marker", "nextMarker"):
        name = str(policy["policyName"])
        if not name.startswith(f"marram-sim-{given.prefix}-"):
            continue
        for target in api.call("iot", "ListTargetsForPolicy", {"policyName": name})["targets"]:
            certificate = target.rpartition("/")[2]
            try:
                api.call("iot", "UpdateCertificate", {"certificateId": certificate, "newStatus": "INACTIVE"})
                api.call("iot", "DeleteCertificate", {"certificateId": certificate, "forceDelete": True})
            except (NotFound, MarramError):
                api.call("iot", "DetachPolicy", {"policyName": name, "target": target})
        api.call("iot", "DeletePolicy", {"policyName": name})
        policies += 1
    things = [
        str(thing["thingName"])
        for thing in _pages(api, "ListThings", "things", "nextToken", "nextToken")
        if str(thing["thingName"]).startswith(f"{given.prefix}-")
        and str(thing["thingName"])[len(given.prefix) + 1 :].isdecimal()
    ]
    _delete_things(api, things)
    if given.json:
        print_json({"things": len(things), "policies": policies})
    else:
        print(f"{len(things)} things and {policies} policies are gone")
    return DONE


def _pages(api: "Api", operation: str, member: str, asked: str, answered: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    request: dict[str, Any] = {}
    while True:
        answer = api.call("iot", operation, request)
        found += answer[member]
        if not answer.get(answered):
            return found
        request = {asked: answer[answered]}


def _place(url: str) -> list[object]:
    host, _, port = url.rpartition("//")[2].rpartition(":")
    return [host, int(port)]
