"""Writes docs/limits.md from the table in marram/hub/border/limits.py. `--check` only says whether it is as it should be."""

import dataclasses
import importlib
import sys
from pathlib import Path

from marram.hub.border import limits
from marram.hub.border.limits import AWS_API, FIXED, Limits

PAGE = Path(__file__).parents[1] / "docs" / "limits.md"
HEAD = """# Limits

Written by `tools/limits.py` from the hub's own table; do not edit. AWS's figures are those of its quota pages.

Sizes and counts are on, at AWS's figures where AWS has one. Rates are off. `[hub] limits = "aws"` in `marram.toml` turns on every
rate that AWS has; `[limits]` sets each by its name, and `[limits.api]` the calls a second of one operation:

```toml
[hub]
limits = "aws"

[limits]
publish_per_s = 500

[limits.api]
"iot:CreateThing" = 1000
```

An unknown name is refused at the start. What is over a limit is counted in `marram_limit_hits_total{limit="..."}` of `/metrics`.
"""


def render() -> str:
    lines = [
        HEAD,
        "## Settings\n",
        "| setting | what | AWS | default | with `aws` | kept by |",
        "|---|---|---|---|---|---|",
    ]
    with_aws = limits.aws()
    for each in dataclasses.fields(Limits):
        data = each.metadata
        if each.name == "api":
            lines.append(f"| `[limits.api]` | {data['what']} | {data['aws']} | off | see below | `{data['where']}` |")
            continue
        aws = data["aws"] if data["aws"] is not None else "-"
        lines.append(
            f"| `{each.name}` | {data['what']} | {aws} | {each.default or 'off'} | {getattr(with_aws, each.name) or 'off'}"
            f" | `{data['where']}` |"
        )
    lines += [
        "\n## Fixed\n",
        "What no setting changes, as a protocol says so or the code is written for it. A refusal is an error of the call.\n",
        "| limit | what | AWS | here | kept by |",
        "|---|---|---|---|---|",
        *(f"| {row.name} | {row.what} | {row.aws} | {_constant(row.ours)} | `{row.where}` |" for row in FIXED),
        '\n## Calls a second with `limits = "aws"`\n',
        f"Operations of `iot` that are not in this list have {limits.API_DEFAULT} (*unconfirmed* for each of them).\n",
        "| operation | calls a second |",
        "|---|---|",
        *(f"| `{name}` | {rate} |" for name, rate in sorted(AWS_API.items())),
    ]
    return "\n".join(lines) + "\n"


def _constant(where: str) -> object:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


def main() -> int:
    text = render()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != text:
            print("docs/limits.md is old: run tools/limits.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
