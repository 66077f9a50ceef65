"""Time and randomness: the one source of both, so that tests can drive them. Nothing else reads a clock or os.urandom."""

import os
import random
import time
from typing import Final, Protocol

ULID_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base 32, as the ULID text has it


class Clock(Protocol):
    def mono_ns(self) -> int:
        """Nanoseconds that never go back; for timers and leases."""
        ...

    def wall_ms(self) -> int:
        """Unix milliseconds, UTC; for records, display and expiry. May jump."""
        ...


class Entropy(Protocol):
    def bytes(self, count: int) -> bytes: ...


class SystemClock:
    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class FakeClock:
    """Stands still until told: `advance` moves both times, `jump` the wall clock alone."""

    def __init__(self, wall_ms: int = 1_750_000_000_000) -> None:
        self._wall_ms = wall_ms
        self._mono_ns = 1_000_000_000

    def mono_ns(self) -> int:
        return self._mono_ns

    def wall_ms(self) -> int:
        return self._wall_ms

    def advance(self, ms: int) -> None:
        self._wall_ms += ms
        self._mono_ns += ms * 1_000_000

    def jump(self, ms: int) -> None:
        self._wall_ms += ms


class SystemEntropy:
    def bytes(self, count: int) -> bytes:
        return os.urandom(count)


class SeededEntropy:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - for tests: the same seed gives the same ids

    def bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


def ulid(clock: Clock, entropy: Entropy) -> str:
    """26 characters: 48 bits of milliseconds, 80 of randomness; sorts by time."""
    value = (clock.wall_ms() & ((1 << 48) - 1)) << 80 | int.from_bytes(entropy.bytes(10))
    return "".join(ULID_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def uuid4(entropy: Entropy) -> str:
    raw = bytearray(entropy.bytes(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
