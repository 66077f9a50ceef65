"""Images in and out, and the one resize of training and serving."""

import struct
import zlib

import numpy as np
import pytest

from marram.components.infer import prepare
from marram.core.errors import Invalid, Unsupported


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(channels: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (13, 7, channels), dtype=np.uint8)
    data = prepare.encode_png(image)
    assert data == prepare.encode_png(image)
    np.testing.assert_array_equal(prepare.decode(data), image)


@pytest.mark.parametrize("kind", range(5))
def test_png_filters(kind: int) -> None:
    image = np.random.default_rng(kind).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    rows = b""
    above = [0] * 15
    for line in image.reshape(6, 15).tolist():
        row = []
        for i, value in enumerate(line):
            left, corner = (line[i - 3], above[i - 3]) if i >= 3 else (0, 0)
            up = above[i]
            p = left + up - corner
            paeth = min((abs(p - left), 0, left), (abs(p - up), 1, up), (abs(p - corner), 2, corner))[2]
            row.append((value - [0, left, up, (left + up) // 2, paeth][kind]) & 255)
        rows += bytes([kind, *row])
        above = line
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = prepare.PNG_MAGIC + b"".join(
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts
    )
    np.testing.assert_array_equal(prepare.decode(data), image)


def test_pgm_is_read() -> None:
    image = prepare.decode(b"P5\n# scan\n3 2\n255\n" + bytes(range(6)))
    assert image[:, :, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"", Invalid, id="empty"),
        pytest.param(b"\xff\xd8\xff\xe0", Unsupported, id="jpeg"),
        pytest.param(b"P5 9 9 255 xx", Invalid, id="short pgm"),
        pytest.param(b"P5 99999 99999 255 xx", Invalid, id="huge pgm"),
        pytest.param(b"P5 2 2 65535 xxxxxxxx", Unsupported, id="16 bit"),
    ],
)
def test_bad_files(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        prepare.decode(data)


def test_any_damage_of_a_png_is_refused() -> None:
    data = prepare.encode_png(np.full((4, 4, 1), 9, np.uint8))
    for at in range(len(data)):
        with pytest.raises((Invalid, Unsupported)):
            prepare.decode(data[:at])
        with pytest.raises((Invalid, Unsupported)):
            prepare.decode(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])


def test_fit_is_an_area_average_down_and_linear_up() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1) * 10
    assert prepare.fit(image, 2, 2, 1)[:, :, 0].tolist() == [[25, 45], [105, 125]]
    flat = np.full((5, 9, 1), 77, np.uint8)
    assert np.unique(prepare.fit(flat, 16, 16, 3)).tolist() == [77]
    assert prepare.fit(np.array([[[0], [100]]], np.uint8), 1, 4, 1)[0, :, 0].tolist() == [0, 25, 75, 100]


def test_crop_stays_in_the_frame() -> None:
    frame = np.zeros((10, 10, 1), np.uint8)
    assert prepare.crop(frame, (-2, 8, 5, 5)).shape == (2, 3, 1)
    with pytest.raises(Invalid):
        prepare.crop(frame, (20, 0, 5, 5))
