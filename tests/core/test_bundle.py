"""Manifests: what we write we read; a wrong byte anywhere is refused."""

import dataclasses

import pytest

from marram.core import bundle
from marram.core.errors import Corrupt, Denied, Invalid, MarramError, Unsupported

GRAPH = b"\x08\x08graph"
MANIFEST = bundle.Manifest(
    model="meter",
    version="3",
    task="image-classification",
    files={"model.onnx": bundle.describe(GRAPH), "canary/0.png": bundle.describe(b"png")},
    labels=("0", "1"),
    input={"name": "image", "height": 16, "width": 16, "channels": 1},
    canaries=(("canary/0.png", "1"),),
)


def test_round_trip_and_check() -> None:
    data = bundle.encode(MANIFEST)
    assert bundle.parse(data) == MANIFEST
    bundle.check(MANIFEST, "model.onnx", GRAPH)
    with pytest.raises(Corrupt):
        bundle.check(MANIFEST, "model.onnx", GRAPH + b"x")
    with pytest.raises(Invalid):
        bundle.check(MANIFEST, "other", b"")


def test_signature_is_over_the_bytes_as_they_lie() -> None:
    data = bundle.encode(MANIFEST)
    assert bundle.verify(data, b"s" * 64, lambda message, signature: message == data and len(signature) == 64)
    with pytest.raises(Denied):
        bundle.verify(data, b"s" * 64, lambda message, signature: False)
    with pytest.raises(Denied, match="63 bytes"):
        bundle.verify(data, b"s" * 63, lambda message, signature: True)


def test_other_formats_and_unsafe_names_are_refused() -> None:
    with pytest.raises(Unsupported, match="format 2"):
        bundle.parse(bundle.encode(MANIFEST).replace(b'"format":1', b'"format":2'))
    for name in ("../etc/passwd", "/abs", "a//b", ".hidden", bundle.MANIFEST):
        with pytest.raises(Invalid):
            bundle.encode(dataclasses.replace(MANIFEST, files={**MANIFEST.files, name: bundle.describe(b"")}))
    with pytest.raises(Invalid, match="not listed"):
        bundle.encode(dataclasses.replace(MANIFEST, graph="absent.onnx"))


def test_cut_anywhere_is_refused() -> None:
    data = bundle.encode(MANIFEST)
    for at in range(len(data)):
        with pytest.raises(MarramError):
            bundle.parse(data[:at])
