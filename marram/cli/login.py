"""`marram login`: a one-time link to the console."""

import argparse
from pathlib import Path

from marram.cli.main import DONE, command, print_json


@command("login", help="print a one-time console link (works once, for 15 minutes)")
def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the hub's folder")
    parser.add_argument("--json", action="store_true")
    parser.epilog = "example: marram login --data var/hub"
    parser.set_defaults(run=_login)


def _login(given: argparse.Namespace) -> int:
    link = login_link(given.data)
    if given.json:
        print_json({"link": link})
    else:
        print(link)
    return DONE


def login_link(data: Path) -> str:
    """Ask the running hub for a link. Raises NoHub, HubNotReachable, Denied."""
    from marram.cli import client
    from marram.serve import folder

    hub = folder.read_hub_json(data / folder.HUB_JSON)
    answer = client.Api.from_data(data).marram("identity/CreateLoginLink", {})
    return f"{hub.endpoints['console']}/login?token={answer['token']}"
