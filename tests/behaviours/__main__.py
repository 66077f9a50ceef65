"""`python -m tests.behaviours --hub-json FILE | --endpoint URL --mqtt HOST:PORT ...`: the rows against any endpoint.

Exit 0 when every row did what it says of AWS, 1 when not. `--write` brings docs/known-differences.md up to date.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from tests.behaviours import page
from tests.behaviours.world import Endpoint, opened


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.behaviours", description=__doc__)
    parser.add_argument("--hub-json", type=Path, help="of a running hub; or give the rest")
    parser.add_argument("--endpoint", help="URL of the APIs; AWS's own when it is left out")
    parser.add_argument("--region", default=os.environ.get("AWS_REGION", "us-east-1"))
    parser.add_argument("--mqtt", help="HOST:PORT of the MQTT door")
    parser.add_argument("--https", help="HOST:PORT of the device HTTPS door")
    parser.add_argument("--ca-file", help="root of both doors; the system's roots when it is left out")
    parser.add_argument("--only", default="", help="rows whose id begins so")
    parser.add_argument("--write", action="store_true", help="only write docs/known-differences.md")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = [row for row in page.load() if row.id.startswith(given.only)]
    if given.write:
        page.PAGE.write_text(page.written(rows, page.PAGE.read_text()))
        return 0
    if given.hub_json:
        endpoint = Endpoint.of_hub(json.loads(given.hub_json.read_text()))
    elif given.mqtt and given.https:
        endpoint = Endpoint(
            api=given.endpoint, region=given.region, access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
            secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"], session_token=os.environ.get("AWS_SESSION_TOKEN"),
            mqtt=_place(given.mqtt), https=_place(given.https), ca_file=given.ca_file,
        )  # fmt: skip
    else:
        parser.error("give --hub-json, or --mqtt and --https with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set")
    results: list[dict[str, str]] = []
    with opened(endpoint) as world:
        for row in rows:
            try:
                row.run(world)
                why = ""
            except Exception as exc:  # whatever a row meets is its result
                why = f"{type(exc).__name__}: {exc}"
            finally:
                world.end_row()
            results.append({"id": row.id, "result": "different" if why else "same", "why": why})
            if not given.json:
                print(f"{'DIFFERENT' if why else 'same':9}  {row.id}{'  ' + why if why else ''}", flush=True)
    failed = sum(result["result"] == "different" for result in results)
    print(json.dumps(results, indent=1) if given.json else f"{len(results) - failed} of {len(results)} rows as AWS")
    return 1 if failed else 0


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    sys.exit(main())
