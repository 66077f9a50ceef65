"""docs/metrics.md is what the hub declares, and a Prometheus elsewhere gets in with its token and not without."""

import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_as_the_hub_declares_it() -> None:
    run = subprocess.run(
        [sys.executable, "tools/metrics_page.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert run.returncode == 0, run.stderr


def test_off_loopback_metrics_want_the_token(start_hub: Callable[..., Any], marram: Callable[..., Any]) -> None:
    address = _own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    hub = start_hub(args=("--bind", address, "--name", "localhost"))
    token = marram("hub", "metrics-token", "--data", hub.data).stdout.strip()
    assert json.loads(marram("hub", "metrics-token", "--data", hub.data, "--json").stdout) == {"token": token}
    context = ssl.create_default_context(cafile=hub.info["ca_file"])
    context.check_hostname = False  # the certificate names localhost; what is asked here is the token
    url = f"https://{address}:{hub.port('api')}/metrics"

    def get(**headers: str) -> tuple[int, str]:
        request = urllib.request.Request(url, headers=headers)
        try:
            with urllib.request.urlopen(request, context=context, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    status, text = get(authorization=f"Bearer {token}")
    assert status == 200 and "marram_mqtt_connections" in text
    for wrong in (
        {},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {token[:-1]}0x"},
        {"authorization": "Bearer \u00e9"},
    ):
        status, text = get(**wrong)
        assert status in (401, 403) and "marram_mqtt" not in text, (wrong, status)
    assert hub.stop() == 0


def _own_address() -> str | None:
    run = subprocess.run(["hostname", "-I"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    found = [word for word in run.stdout.split() if "." in word and not word.startswith("127.")]
    return found[0] if found else None
