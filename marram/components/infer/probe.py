"""Does this bundle answer rightly? Exit 0 or 1, for install steps and for people.

python3 -m marram.components.infer.probe BUNDLE_FOLDER [--least 0.6]
"""

import argparse
import json
import sys
from pathlib import Path

from marram.components.infer import engine
from marram.core.errors import MarramError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--least", type=float, default=engine.MIN_CANARIES_RIGHT)
    arguments = parser.parse_args(argv)
    try:
        manifest, graph, canaries = engine.open_bundle(arguments.bundle)
        checked = engine.Engine(manifest, graph, threads=1).check(canaries, least=arguments.least)
    except MarramError as error:
        sys.stderr.write(f"probe: {error.message}{f' [{error.code}]' if error.code else ''}\n")
        return 1
    print(json.dumps({"model": manifest.model, "version": manifest.version, "right": checked.right, "of": checked.of}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
