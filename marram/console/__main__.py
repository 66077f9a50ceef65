"""The console's own process: started by the hub, or by hand beside it.

Health: GET /health. Stops on SIGTERM. Example: python -m marram.console --hub-json var/hub/hub.json --port 8080
"""

import argparse
import os
import signal
import ssl
import sys
import threading
from pathlib import Path

import uvicorn

from marram.console.app import Console
from marram.console.client import Hub
from marram.core import codec
from marram.kit import disk, log
from marram.kit.clock import SystemClock


def main() -> int:
    parser = argparse.ArgumentParser(prog="marram.console", description="The web pages of a hub.")
    for name in ("--api", "--https", "--ca", "--region"):
        parser.add_argument(name)
    parser.add_argument("--hub-json", type=Path, help="read the above from a running hub's file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--follow-stdin", action="store_true", help="stop when standard input ends (the parent is gone)"
    )
    given = parser.parse_args()
    if given.follow_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    log.setup()
    api, https, ca, region = given.api, given.https, given.ca, given.region
    if given.hub_json is not None:
        body = codec.loads_object(disk.read(given.hub_json))
        endpoints = body["endpoints"]
        assert isinstance(endpoints, dict)
        api, https, ca, region = (
            str(endpoints["api"]),
            str(endpoints["https"]),
            str(body["ca_file"]),
            str(body["region"]),
        )
    clock = SystemClock()
    hub = Hub(api=api, https=https, region=region, tls=ssl.create_default_context(cafile=ca), clock=clock)
    uvicorn.run(Console(hub, clock).app(), host="127.0.0.1", port=given.port, log_level="warning", log_config=None)
    return 0


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
