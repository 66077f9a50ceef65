"""`marram hub`: up, status, env, join-token."""

import argparse
import os
import sys
import urllib.request
from pathlib import Path

from marram.cli.main import DONE, FAILED, HubNotReachable, command, print_json
from marram.core.errors import MarramError, Unavailable


@command("hub", help="start the hub, ask for its health, let cores join")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    up = verbs.add_parser(
        "up", help="the hub in the foreground", epilog="example: marram hub up --data var/hub --ports auto"
    )
    up.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the hub's folder; made when it is not there"
    )
    up.add_argument("--bind", metavar="ADDR", help="also serve other machines on this address (TLS only); needs --name")
    up.add_argument("--name", metavar="HOST", help="the name other machines use; the server certificate carries it")
    up.add_argument("--ports", choices=["auto"], help="take free ports at the first start, and keep them")
    up.add_argument("--no-console", action="store_true", help="do not start the web pages")
    up.set_defaults(run=_up)

    status = verbs.add_parser("status", help="health of a running hub: exit 0 healthy, 1 not")
    status.add_argument("--data", type=Path, required=True, metavar="DIR")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)

    env = verbs.add_parser(
        "env", help="exports for AWS clients", epilog='example: eval "$(marram hub env --data var/hub)"'
    )
    env.add_argument("--data", type=Path, required=True, metavar="DIR")
    env.add_argument("--json", action="store_true")
    env.set_defaults(run=_env)

    metrics = verbs.add_parser(
        "metrics-token", help="what a Prometheus on another machine sends as its bearer token",
        epilog="example: marram hub metrics-token --data var/hub",
    )  # fmt: skip
    metrics.add_argument("--data", type=Path, required=True, metavar="DIR")
    metrics.add_argument("--json", action="store_true")
    metrics.set_defaults(run=_metrics_token)

    token = verbs.add_parser(
        "join-token", help="a token for one core to join, good once and for 15 minutes",
        epilog="example: marram hub join-token --data var/hub",
    )  # fmt: skip
    token.add_argument("--data", type=Path, required=True, metavar="DIR")
    token.add_argument("--thing", default="", help="the only thing name that may join with it")
    token.add_argument("--json", action="store_true")
    token.set_defaults(run=_join_token)


def _up(given: argparse.Namespace) -> int:
    try:
        from marram.serve import hub
    except ModuleNotFoundError as missing:
        sys.stderr.write(f'marram: the hub needs its packages ({missing.name} is missing): pip install "marram[hub]"\n')
        return FAILED
    options = hub.Options(
        data=given.data,
        bind=given.bind,
        name=given.name,
        auto_ports=given.ports == "auto",
        console=not given.no_console,
    )
    return hub.run(options)


def _status(given: argparse.Namespace) -> int:
    from marram.cli import client
    from marram.serve import folder

    hub = folder.read_hub_json(given.data / folder.HUB_JSON)
    problem = ""
    if not _alive(hub.pid):
        problem = f"no process {hub.pid}: the hub is not running"
    else:
        try:
            client.Api.from_data(given.data).call("iot", "DescribeEndpoint", {"endpointType": "iot:Data-ATS"})
            problem = _disk_problem(hub.local_api, given.data)
        except MarramError as error:
            problem = error.message
    if given.json:
        print_json(
            {
                "healthy": not problem, "problem": problem, "pid": hub.pid, "version": hub.version,
                "endpoints": hub.endpoints, "account_id": hub.account_id, "region": hub.region,
            }
        )  # fmt: skip
    elif problem:
        print(f"not healthy: {problem}")
    else:
        print(f"healthy: pid {hub.pid}, api {hub.endpoints['api']}, mqtt {hub.endpoints['mqtt']}")
    return FAILED if problem else DONE


def _disk_problem(api: str, data: Path) -> str:
    """What its own gauges say."""
    url = f"{api}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http to loopback
            lines = answer.read().decode().splitlines()
    except OSError as exc:
        raise HubNotReachable(f"{url}: {exc}") from exc
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("marram_disk_"))
    if float(values.get("marram_disk_full", 0)) == 0:
        return ""
    free = int(float(values.get("marram_disk_free_bytes", 0)))
    return f"the disk of {data} is at its reserve ({free} bytes are free): new data is refused until there is room"


def _env(given: argparse.Namespace) -> int:
    from marram.serve import folder

    hub = folder.read_hub_json(given.data / folder.HUB_JSON)
    values = {
        "AWS_ENDPOINT_URL": hub.endpoints["api"],
        "AWS_ACCESS_KEY_ID": hub.access_key_id,
        "AWS_SECRET_ACCESS_KEY": hub.secret_access_key,
        "AWS_DEFAULT_REGION": hub.region,
        "AWS_REGION": hub.region,
        "AWS_CA_BUNDLE": hub.ca_file,
        "AWS_DATA_PATH": str(Path(__file__).parent.parent / "hub" / "border" / "models"),
    }
    if given.json:
        print_json(values)
    else:
        for name, value in values.items():
            print(f"export {name}='{value}'")
    return DONE


def _metrics_token(given: argparse.Namespace) -> int:
    from marram.cli import client

    answer = client.Api.from_data(given.data).marram("identity/GetMetricsToken")
    if given.json:
        print_json(answer)
    else:
        print(answer["token"])
    return DONE


def _join_token(given: argparse.Namespace) -> int:
    from marram.cli import client

    answer = client.Api.from_data(given.data).marram(
        "identity/CreateJoinToken", {"thingName": given.thing} if given.thing else {}
    )
    if given.json:
        print_json(answer)
    else:
        print(answer["token"])
    return DONE


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


__all__ = ["HubNotReachable", "Unavailable"]
