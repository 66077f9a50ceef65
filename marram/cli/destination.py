"""`marram destination`: which addresses rules and deliveries may call. Not there yet: the hub calls nobody, and says so."""

import argparse
import sys
from pathlib import Path

from marram.cli.main import FAILED, command


@command("destination", help="let rules and deliveries call out to an address (not yet there)")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    allow = verbs.add_parser(
        "allow",
        help="allow the addresses below a URL (not yet there)",
        epilog="example: marram destination allow https://example.org/hook --data var/hub",
    )
    allow.add_argument("url", metavar="URL-PREFIX")
    allow.add_argument("--ca", type=Path, metavar="FILE", help="the CA that vouches for it")
    allow.add_argument("--data", type=Path, required=True, metavar="DIR")
    allow.add_argument("--json", action="store_true")
    allow.set_defaults(run=_not_yet)


def _not_yet(_given: argparse.Namespace) -> int:
    sys.stderr.write("marram: destination allow is not there yet: no rule action of this version calls out\n")
    return FAILED
