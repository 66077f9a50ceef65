"""The bundle: what a model travels in. A ZIP with `marram-bundle.json` (manifest), `marram-bundle.sig` and the files.

The manifest names every file with SHA-256 and size; the signature (Ed25519, 64 bytes) is over the manifest's bytes as they
lie in the ZIP, so that nobody has to agree on a canonical form. Pure: reading archives, keys and engines are elsewhere.
Format number 1; a reader takes its own and the one before.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Corrupt, Denied, Invalid, Unsupported

FORMAT: Final = 1
MANIFEST: Final = "marram-bundle.json"
SIGNATURE: Final = "marram-bundle.sig"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}){0,3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`input` is {name, height, width, channels}; `canaries` are crops with known answers: [{file, label}]."""

    model: str
    version: str
    task: str
    files: Mapping[str, File]
    labels: tuple[str, ...]
    input: Mapping[str, JsonValue]
    calibration: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    baseline: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    lineage: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    canaries: tuple[tuple[str, str], ...] = ()
    graph: str = "model.onnx"


def encode(manifest: Manifest) -> bytes:
    """The bytes to sign and ship. Equal manifests give equal bytes."""
    document: JsonObject = {
        "format": FORMAT,
        "model": manifest.model,
        "version": manifest.version,
        "task": manifest.task,
        "graph": manifest.graph,
        "files": {name: {"sha256": file.sha256, "size": file.size} for name, file in manifest.files.items()},
        "labels": list(manifest.labels),
        "input": dict(manifest.input),
        "calibration": dict(manifest.calibration),
        "baseline": dict(manifest.baseline),
        "lineage": dict(manifest.lineage),
        "canaries": [{"file": name, "label": label} for name, label in manifest.canaries],
    }
    data = codec.canonical(document)
    parse(data)  # what we cannot read back we do not write
    return data


def parse(data: bytes) -> Manifest:
    """Raises Invalid for a damaged manifest, Unsupported for another format number. Signature and files: `verify`, `check`."""
    document = codec.loads_object(data, what="bundle manifest", max_bytes=1 << 20)
    number = document.get("format")
    if number != FORMAT:
        raise Unsupported(f"bundle format {number!r} is not read here; this version reads {FORMAT}")
    files = {name: _file(name, value) for name, value in _object(document, "files").items()}
    labels = tuple(_text(label, "labels") for label in _array(document, "labels"))
    canaries = tuple(
        (_text(entry.get("file"), "canaries.file"), _text(entry.get("label"), "canaries.label"))
        for entry in (_entry(value) for value in _array(document, "canaries"))
    )
    manifest = Manifest(
        model=_text(document.get("model"), "model"),
        version=_text(document.get("version"), "version"),
        task=_text(document.get("task"), "task"),
        graph=_text(document.get("graph"), "graph"),
        files=files,
        labels=labels,
        input=_object(document, "input"),
        calibration=_object(document, "calibration"),
        baseline=_object(document, "baseline"),
        lineage=_object(document, "lineage"),
        canaries=canaries,
    )
    for name in (manifest.graph, *(name for name, _ in canaries)):
        if name not in files:
            raise Invalid(f"bundle manifest: {name!r} is used and not listed in files")
    return manifest


def verify(manifest: bytes, signature: bytes, check: Callable[[bytes, bytes], bool]) -> Manifest:
    """Parse a manifest whose signature `check(manifest, signature)` accepts. Raises Denied when it does not.

    With `marram.core.ed25519`: `functools.partial(ed25519.verify, public_key)`.
    """
    if len(signature) != 64:
        raise Denied(f"bundle signature has {len(signature)} bytes, not 64")
    if not check(manifest, signature):
        raise Denied("bundle signature does not match its manifest")
    return parse(manifest)


def check(manifest: Manifest, name: str, data: bytes) -> None:
    """Raises Corrupt when `data` is not the file `name` of the manifest."""
    wanted = manifest.files.get(name)
    if wanted is None:
        raise Invalid(f"bundle has no file {name!r}")
    if len(data) != wanted.size or hashlib.sha256(data).hexdigest() != wanted.sha256:
        raise Corrupt(f"bundle file {name} is not what the manifest states", file=name)


def describe(data: bytes) -> File:
    return File(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def _file(name: str, value: JsonValue) -> File:
    if not _NAME.fullmatch(name) or name in (MANIFEST, SIGNATURE):
        raise Invalid(f"bundle manifest: file name {name!r} is not allowed")
    entry = _entry(value)
    digest, size = entry.get("sha256"), entry.get("size")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise Invalid(f"bundle manifest: files.{name}.sha256 is not 64 hex digits")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Invalid(f"bundle manifest: files.{name}.size is not a count of bytes")
    return File(sha256=digest, size=size)


def _entry(value: JsonValue) -> JsonObject:
    if not isinstance(value, dict):
        raise Invalid(f"bundle manifest: expected an object, found {codec.kind(value)}")
    return value


def _object(document: JsonObject, key: str) -> JsonObject:
    value = document.get(key)
    if not isinstance(value, dict):
        raise Invalid(f"bundle manifest: {key} must be an object, not {codec.kind(value)}")
    return value


def _array(document: JsonObject, key: str) -> list[JsonValue]:
    value = document.get(key)
    if not isinstance(value, list):
        raise Invalid(f"bundle manifest: {key} must be an array, not {codec.kind(value)}")
    return value


def _text(value: JsonValue, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise Invalid(f"bundle manifest: {where} must be a text, not {codec.kind(value)}")
    return value
