"""`marram edge join`: the verb; marram.cli.edge adds it to its noun."""

import argparse
import sys
from pathlib import Path

from marram.cli.main import WrongUsage, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb, and what runs it."""
    parser.add_argument("--root", type=Path, required=True, help="folder of this core (its config, state and packages)")
    parser.add_argument("--thing", required=True, help="name of the core device")
    parser.add_argument("--hub-json", type=Path, help="hub.json of a hub on this machine")
    parser.add_argument("--endpoint", help="https address of a hub elsewhere, as https://hub.example:8443")
    parser.add_argument("--token", help="what `marram hub join-token` printed there; - reads it from standard input")
    parser.add_argument("--name", action="append", default=[], help="a name or address that local devices use for it")
    parser.add_argument("--replace", action="store_true", help="make a core that has joined another one")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = "example: marram edge join --hub-json var/hub/hub.json --thing core1 --root var/core1"
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from marram.edge.join import join_blocking

    endpoint, token = _where(arguments)
    joined = join_blocking(
        endpoint=endpoint,
        token=token,
        thing=arguments.thing,
        root=arguments.root,
        names=arguments.name,
        replace=arguments.replace,
    )
    if arguments.json:
        print_json(
            {
                "thing": joined.thing,
                "root": str(joined.root),
                "certificate_id": joined.certificate_id,
                "endpoint": joined.endpoint,
                "key_made_by": joined.key_made_by,
            }
        )
    else:
        print(f"{joined.root} is now the core device {joined.thing} of {joined.endpoint}")
    if joined.key_made_by == "hub":
        print(
            "The private key was made by the hub and sent here: this machine has neither the Python package cryptography"
            " nor the openssl command.",
            file=sys.stderr,
        )
    return 0


def _where(arguments: argparse.Namespace) -> tuple[str, str]:
    """(endpoint, token), the token made on the spot with the administrator's key where hub.json is at hand."""
    if arguments.hub_json is not None:
        if arguments.endpoint or arguments.token:
            raise WrongUsage("give either --hub-json, or --endpoint and --token")
        from marram.cli.client import Api
        from marram.core import sigv4
        from marram.serve.folder import read_hub_json

        hub = read_hub_json(arguments.hub_json)
        credentials = sigv4.Credentials(hub.access_key_id, hub.secret_access_key)
        api = Api(hub.local_api, hub.region, credentials, ca_file=hub.ca_file)
        made = api.marram("identity/CreateJoinToken", {"thingName": arguments.thing, "expiresInSeconds": 60})
        return hub.endpoints["https"], str(made["token"])
    if not arguments.endpoint or not arguments.token:
        raise WrongUsage("give --hub-json FILE, or --endpoint URL and --token TOKEN (- reads it from standard input)")
    token = sys.stdin.readline().strip() if arguments.token == "-" else arguments.token  # noqa: S105 - not a secret
    return arguments.endpoint, token
