"""Writes docs/metrics.md from the metrics that the hub declares. `--check` only says whether it is as it should be."""

import importlib
import pkgutil
import sys
from pathlib import Path

import marram.hub
import marram.kit
from marram.kit import metrics
from marram.kit.metrics import Histogram

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
HEAD = """# Metrics

The table is written by `tools/metrics_page.py` from what the hub declares; do not edit it.

`GET /metrics` of the API port is Prometheus text. On loopback it needs nothing; over TLS (`--bind`) it wants a bearer token, which
`marram hub metrics-token` prints. It does not change while the hub keeps its `pki/master.key`.

<!-- run -->
```console
$ marram hub up --data var/hub --ports auto &
$ eval "$(marram hub env --data var/hub)"
$ curl -s $AWS_ENDPOINT_URL/metrics | grep marram_mqtt_connections
$ marram hub metrics-token --data var/hub > metrics.token
```

A Prometheus on another machine:

```yaml
scrape_configs:
  - job_name: marram
    scheme: https
    authorization: {credentials_file: metrics.token}
    tls_config: {ca_file: root-ca.pem}
    static_configs: [{targets: ["hub.example:4566"]}]
```

Worth an alarm: `marram_disk_full`, `marram_mqtt_append_refused_total`, `marram_limit_hits_total`, `marram_log_suppressed_total`, and
`marram_timeseries_flushes_total{result="failed"}`. Histograms are in seconds.

| metric | kind | labels | what |
|---|---|---|---|
"""


def render() -> str:
    """Importing every module of the hub declares every metric; workers and data engines stay out."""
    for package in (marram.hub, marram.kit):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.rpartition(".")[2] != "work":
                importlib.import_module(found.name)
    rows: list[str] = []
    for name, family in sorted(metrics.families().items()):
        labels = "" if isinstance(family, Histogram) else ", ".join(f"`{label}`" for label in family.label_names)
        rows.append(f"| `{name}` | {family.kind} | {labels} | {family.help} |")
    return HEAD + "\n".join(rows) + "\n"


def main(words: list[str]) -> int:
    wanted = render()
    if "--check" in words:
        if PAGE.exists() and PAGE.read_text() == wanted:
            return 0
        print("docs/metrics.md is not as the hub declares it: run tools/metrics_page.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
