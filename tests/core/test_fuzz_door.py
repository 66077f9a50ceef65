"""Gate G9, the bytes of the doors: a share of ten seconds always, minutes with MARRAM_FULL=1; and that the targets notice."""

import os
import random
import re
from typing import Any

import pytest

from marram.core import http1, sigv4, websocket
from tests.core import fuzz_door
from tests.full import FULL, many

SECONDS = float(many(3, 600))


@pytest.mark.timeout(1800 if FULL else 60)
@pytest.mark.parametrize("name", fuzz_door.TARGETS)
def test_any_bytes_are_read_as_the_slow_reader_reads_them(name: str) -> None:
    seed = int(os.environ.get("MARRAM_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
    count, slowest = fuzz_door.run(name, SECONDS, seed)
    print(f"\n{name}, seed {seed}: {count} inputs, slowest {slowest * 1000:.1f} ms")
    assert count > 200
    assert slowest < 20 * fuzz_door.SLOW_S  # a machine with company; the target's own limit is a tenth of it


def _lax_length(headers: dict[str, str], version_1_1: bool) -> int:
    """As many servers do: the coding counts, the length beside it does not."""
    if "chunked" in headers.get("transfer-encoding", ""):
        return http1.CHUNKED
    return int(headers.get("content-length") or 0)


def _lax_time(found: Any, now_ms: int, skew_ms: int) -> None:
    return None


_verify = sigv4.verify


def _blind_to_headers(found: Any, secret: str, *, headers: dict[str, str], **rest: Any) -> bytes:
    """Looks at those headers only that the signature names."""
    return _verify(found, secret, headers={k: v for k, v in headers.items() if k in found.signed_headers}, **rest)


def _blind_to_body(found: Any, secret: str, *, payload_hash: str, headers: dict[str, str], **rest: Any) -> bytes:
    stated = headers.get("x-amz-content-sha256", payload_hash)
    return _verify(found, secret, headers=headers, payload_hash=stated, **rest)


_head = websocket.Reader._head


def _takes_unmasked(self: Any, data: bytes, at: int) -> int:
    if len(data) - at >= 2 and not data[at + 1] & 128:
        data = data[: at + 1] + bytes([data[at + 1] | 128]) + data[at + 2 :]
    return _head(self, data, at)


def _forgets_the_mask(self: Any, piece: bytes) -> bytes:
    pattern = int.from_bytes((self._mask * (len(piece) // 4 + 1))[: len(piece)])
    return (int.from_bytes(piece) ^ pattern).to_bytes(len(piece))


@pytest.mark.parametrize(
    ("target", "place", "name", "broken"),
    [
        pytest.param("http", http1, "_length", _lax_length, id="a length beside a coding"),
        pytest.param("http", http1, "_FIELD", re.compile(rb"\r?\n([^:\r\n]+):[ \t]*([^\r\n]*?)[ \t]*(?=\r?\n|\Z)"), id="bare LF"),
        pytest.param("sigv4", sigv4, "verify", _blind_to_headers, id="a header that is not signed"),
        pytest.param("sigv4", sigv4, "verify", _blind_to_body, id="a body that is not looked at"),
        pytest.param("sigv4", sigv4, "_check_time", _lax_time, id="no clock"),
        pytest.param("websocket", websocket.Reader, "_head", _takes_unmasked, id="unmasked frames"),
        pytest.param("websocket", websocket.Reader, "_unmask", _forgets_the_mask, id="a mask that starts anew"),
    ],
)  # fmt: skip
def test_the_targets_notice(
    monkeypatch: pytest.MonkeyPatch, target: str, place: object, name: str, broken: object
) -> None:
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(AssertionError, match="seed 7"):
        fuzz_door.run(target, 30.0, 7)


def test_good_signatures_are_among_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the target is not passed by refusing everything."""
    monkeypatch.setattr(fuzz_door, "SIGNED", set())
    found = 0
    for data in fuzz_door.SIGNATURES:
        try:
            fuzz_door.signature(data)
        except AssertionError:
            found += 1
    assert found == len(fuzz_door.SIGNATURES) - 1  # all but the one of an hour ago
