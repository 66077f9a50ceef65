"""Ed25519 signatures: verify only (RFC 8032, 5.1.7), for processes without a crypto library. Pure.

Not here: signing. Nothing secret is handled, so constant time does not matter. Checks are strict: canonical encodings of R, A
and S, and the equation without the cofactor, as OpenSSL does. A verification costs some 4 ms of CPython.
"""

import hashlib
from typing import Final, TypeAlias

Point: TypeAlias = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T

P: Final = 2**255 - 19
L: Final = 2**252 + 27742317777372353535851937790883648493
D: Final = -121665 * pow(121666, P - 2, P) % P
SQRT_M1: Final = pow(2, (P - 1) // 4, P)
NEUTRAL: Final[Point] = (0, 1, 1, 0)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """True when `signature` (64 bytes) over `message` was made with the private half of `public_key` (32 bytes)."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    a = _decode(public_key)
    s = int.from_bytes(signature[32:], "little")
    if a is None or s >= L:
        return False
    r = signature[:32]
    k = int.from_bytes(hashlib.sha512(r + public_key + message).digest(), "little") % L
    negative = (P - a[0], a[1], a[2], P - a[3])
    return _encode(_two_scalars(s, BASE, k, negative)) == r


def _add(p: Point, q: Point) -> Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _double(p: Point) -> Point:
    a = p[0] * p[0] % P
    b = p[1] * p[1] % P
    c = 2 * p[2] * p[2] % P
    h = a + b
    e = h - (p[0] + p[1]) ** 2
    g = a - b
    f = c + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def _two_scalars(s: int, p: Point, k: int, q: Point) -> Point:
    """s*p + k*q in one pass over the bits (Shamir's trick): half the doublings of two multiplications."""
    both = _add(p, q)
    total = NEUTRAL
    for bit in range(max(s.bit_length(), k.bit_length()) - 1, -1, -1):
        total = _double(total)
        match s >> bit & 1, k >> bit & 1:
            case 1, 1:
                total = _add(total, both)
            case 1, 0:
                total = _add(total, p)
            case 0, 1:
                total = _add(total, q)
            case _:
                pass
    return total


def _decode(data: bytes) -> Point | None:
    y = int.from_bytes(data, "little")
    sign = y >> 255
    y &= (1 << 255) - 1
    if y >= P:
        return None
    u, v = y * y - 1, D * y * y + 1
    # RFC 8032, 5.1.3: x = u v^3 (u v^7)^((p-5)/8), corrected by sqrt(-1) when v x^2 = -u.
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if (v * x * x - u) % P:
        x = x * SQRT_M1 % P
        if (v * x * x - u) % P:
            return None
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def _encode(p: Point) -> bytes:
    inverse = pow(p[2], P - 2, P)
    x, y = p[0] * inverse % P, p[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _base() -> Point:
    point = _decode((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))
    if point is None:  # pragma: no cover - a constant
        raise RuntimeError("the base point does not decode")
    return point


BASE: Final = _base()
