"""Gate G9, the MQTT codec: a share of ten seconds always, minutes with MARRAM_FULL=1; and that the target notices."""

import os
import random

import pytest

from marram.core.mqtt import packets
from marram.core.mqtt.connection import ServerConnection
from marram.core.mqtt.packets import Reader
from tests.core.mqtt import fuzz
from tests.full import FULL, many

SECONDS = float(many(8, 900))


@pytest.mark.timeout(1800 if FULL else 60)
def test_any_bytes_are_packets_or_a_protocol_error() -> None:
    seed = int(os.environ.get("MARRAM_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
    count, slowest = fuzz.run(SECONDS, seed)
    print(f"\nMQTT codec, seed {seed}: {count} inputs, slowest {slowest * 1000:.1f} ms")
    assert count > 1000
    assert slowest < 20 * fuzz.SLOW_S  # a machine with company; the target's own limit is a tenth of it


def _greedy(self: Reader) -> bytes:
    """A reader that takes what is left when a length says too much."""
    length = self.u16()
    at, self.at = self.at, min(self.at + length, self.end)
    return self.data[at : self.at]


def _any_length(self: Reader) -> int:
    """A variable byte integer that may be longer than it needs to be."""
    value = shift = 0
    while True:
        digit = self.byte()
        value |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return value


def _forgetful(self: ServerConnection, data: bytes, at: int, need: int) -> None:
    """Loses the first byte of what waits for more."""
    self._rest += data[at + 1 :]
    self._need = need


@pytest.mark.skipif(not packets.__file__.endswith(".py"), reason="a compiled codec cannot be broken on purpose")
@pytest.mark.parametrize(
    ("place", "name", "broken"),
    [
        pytest.param(packets.Reader, "binary", _greedy, id="a length that is not checked"),
        pytest.param(packets.Reader, "varint", _any_length, id="a length of many bytes"),
        pytest.param(ServerConnection, "_keep", _forgetful, id="a byte lost between two pieces"),
        pytest.param(packets, "text", lambda raw: raw.decode(), id="a string that is not UTF-8"),
    ],
)
def test_the_target_notices(monkeypatch: pytest.MonkeyPatch, place: object, name: str, broken: object) -> None:
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(AssertionError, match="seed 7"):
        fuzz.run(20.0, 7)
