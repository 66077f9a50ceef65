"""The manifest of samples: JSON Lines in SageMaker's augmented form. Pure.

A line has `source-ref` (s3://...), the label under an attribute of the caller's choice (a number or a text) and, as Ground
Truth writes it, `<attribute>-metadata` with `class-name`. Ours beside them: `group` (near-duplicates share it and never
cross splits), `split`, `weight`.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, LimitExceeded

MAX_SAMPLES: Final = 50_000
MAX_BYTES: Final = 64 << 20
_URI: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,62})/(.{1,1024})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One sample. `label` None: not labelled yet."""

    uri: str
    label: str | None = None
    group: str = ""
    split: str = ""
    weight: float = 1.0
    sha256: str = ""
    size: int = 0


def split_uri(uri: str) -> tuple[str, str]:
    """s3://bucket/key -> (bucket, key). Raises Invalid."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise Invalid(f"{uri[:200]!r} is not s3://BUCKET/KEY")
    return found[1], found[2]


def parse(data: bytes, *, label_attribute: str = "label", need_labels: bool = True) -> list[Entry]:
    """Raises Invalid naming the line."""
    entries: list[Entry] = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        if len(entries) == MAX_SAMPLES:
            raise LimitExceeded(f"a manifest has at most {MAX_SAMPLES} samples", limit=MAX_SAMPLES)
        try:
            entries.append(_entry(codec.loads_object(line, what="line"), label_attribute, need_labels))
        except Invalid as exc:
            raise Invalid(f"manifest line {number}: {exc.message}") from exc
    if not entries:
        raise Invalid("the manifest has no samples")
    return entries


def write(entries: Sequence[Entry]) -> bytes:
    """Canonical lines, in the order given: equal entries give equal bytes."""
    lines: list[bytes] = []
    for entry in entries:
        line: JsonObject = {"source-ref": entry.uri}
        if entry.label is not None:
            line["label"] = entry.label
        line |= {key: value for key, value in (("group", entry.group), ("split", entry.split)) if value}
        if entry.weight != 1.0:
            line["weight"] = entry.weight
        if entry.sha256:
            line |= {"sha256": entry.sha256, "bytes": entry.size}
        lines.append(codec.canonical(line))
    return b"\n".join(lines) + b"\n"


def place(entry: Entry, shares: Mapping[str, float], salt: str) -> str:
    """The split of a sample: the one it names, else by hash of its group, so that a group is never torn."""
    if entry.split:
        return entry.split
    group = entry.group or entry.sha256 or entry.uri
    point = int.from_bytes(hashlib.sha256(f"{salt}\0{group}".encode()).digest()[:8]) / 2**64
    for name, share in shares.items():
        point -= share
        if point < 0:
            return name
    return list(shares)[-1]


def check_shares(shares: Mapping[str, float]) -> None:
    if not shares or any(not 0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise Invalid("the shares of the splits must be 0 to 1 and sum to 1")
    for name in shares:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name):
            raise Invalid(f"split name {name!r}: lower-case letters, digits and dashes, at most 32")


def _entry(line: JsonObject, attribute: str, need_label: bool) -> Entry:
    uri = line.get("source-ref")
    if not isinstance(uri, str):
        raise Invalid("source-ref is missing or not a text")
    split_uri(uri)
    weight = line.get("weight", 1.0)
    if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not math.isfinite(weight) or weight <= 0:
        raise Invalid(f"weight {weight!r} is not a number above 0")
    label = _label(line.get(attribute), line.get(f"{attribute}-metadata"))
    if label is None and need_label:
        raise Invalid(f"there is no label under {attribute!r}")
    return Entry(
        uri=uri,
        label=label,
        group=_text(line, "group"),
        split=_text(line, "split"),
        weight=float(weight),
        sha256=_text(line, "sha256"),
        size=int(str(line.get("bytes", 0))) if str(line.get("bytes", 0)).isdecimal() else 0,
    )


def _label(value: JsonValue, metadata: JsonValue) -> str | None:
    if isinstance(metadata, dict) and isinstance(metadata.get("class-name"), str):
        return str(metadata["class-name"])
    if value is None or isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value) or None


def _text(line: JsonObject, key: str) -> str:
    value = line.get(key, "")
    if not isinstance(value, str) or len(value) > 256:
        raise Invalid(f"{key} must be a text of at most 256 characters")
    return value
