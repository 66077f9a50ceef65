"""From pixels to what a model takes: image files in and out, crops, resize. The one `prepare` of training and serving.

Images are uint8 arrays (height, width, channels), 1 or 3 channels. Normalisation is not here: it is inside the graph.
Files: PNG (8 bit grey or RGB, alpha dropped, not interlaced; W3C PNG 3rd edition) and binary PGM/PPM (netpbm). JPEG is
refused by name: it needs a codec that a device of ours need not have.
"""

import functools
import re
import struct
import zlib
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from marram.core.errors import Invalid, Unsupported

Image: TypeAlias = NDArray[np.uint8]

MAX_PIXELS: Final = 16 << 20
PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_CHANNELS: Final = {0: 1, 2: 3, 4: 2, 6: 4}  # PNG colour type -> samples a pixel
_NETPBM: Final = re.compile(rb"P([56])\s(?:\s*#[^\n]*\n)*\s*(\d{1,6})\s+(\d{1,6})\s+(\d{1,5})\s", re.DOTALL)


def decode(data: bytes) -> Image:
    """Read one image file. Raises Invalid for damage, Unsupported for a format we know and do not read."""
    if data.startswith(PNG_MAGIC):
        return _decode_png(data)
    if data[:2] in (b"P5", b"P6"):
        return _decode_netpbm(data)
    if data[:3] == b"\xff\xd8\xff":
        raise Unsupported("JPEG images are not read; convert to PNG (8 bit grey or RGB)")
    raise Invalid("not an image: neither PNG nor binary PGM/PPM")


def encode_png(image: Image) -> bytes:
    """8 bit grey or RGB; equal arrays give equal bytes."""
    height, width, channels = image.shape
    if channels not in (1, 3):
        raise Invalid(f"a PNG of ours has 1 or 3 channels, not {channels}")
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # filter 0 before each row
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return PNG_MAGIC + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def crop(frame: Image, box: tuple[int, int, int, int]) -> Image:
    """`box` = x, y, width, height in pixels; what lies outside the frame is cut off. Raises Invalid when nothing is left."""
    x, y, width, height = box
    part: Image = frame[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
    if not part.size:
        raise Invalid(f"region {box} lies outside the frame of {frame.shape[1]}x{frame.shape[0]}")
    return part


def fit(image: Image, height: int, width: int, channels: int) -> Image:
    """Scale to the model's size: area average when shrinking, linear when growing; grey <-> RGB as needed."""
    made: Image = fit_all([image], height, width, channels)[0]
    return made


def fit_all(images: list[Image], height: int, width: int, channels: int) -> Image:
    """As `fit`, into one batch (count, height, width, channels)."""
    out = np.empty((len(images), height, width, channels), np.uint8)
    for at, image in enumerate(images):
        out[at] = _fit(image, height, width, channels)
    return out


def _fit(image: Image, height: int, width: int, channels: int) -> Image:
    if image.shape[2] != channels:
        image = _recolour(image, channels)
    if image.shape[:2] == (height, width):
        return image
    down = _weights(image.shape[0], height)
    across = _weights(image.shape[1], width).T
    planes = [down @ image[:, :, plane].astype(np.float32) @ across for plane in range(channels)]
    scaled: Image = np.clip(np.rint(np.stack(planes, axis=2)), 0, 255).astype(np.uint8)
    return scaled


def _recolour(image: Image, channels: int) -> Image:
    if channels == 3 and image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    if channels == 1 and image.shape[2] == 3:
        grey = image @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
        made: Image = np.rint(grey).astype(np.uint8)[:, :, None]
        return made
    raise Invalid(f"an image of {image.shape[2]} channels does not fit a model of {channels}")


@functools.lru_cache(maxsize=64)
def _weights(source: int, target: int) -> NDArray[np.float32]:
    """(target, source) matrix of one axis; each row sums to 1."""
    scale = source / target
    table = np.zeros((target, source), np.float32)
    for row in range(target):
        if scale > 1:
            begin, end = row * scale, (row + 1) * scale
            for column in range(int(begin), min(source, int(np.ceil(end)))):
                table[row, column] = max(0.0, min(end, column + 1) - max(begin, column))
        else:
            place = min(max((row + 0.5) * scale - 0.5, 0.0), source - 1.0)
            low = int(place)
            table[row, low] += 1 - (place - low)
            table[row, min(low + 1, source - 1)] += place - low
    sums: NDArray[np.float32] = table.sum(axis=1, keepdims=True)
    return np.asarray(table / sums, np.float32)


def _decode_netpbm(data: bytes) -> Image:
    found = _NETPBM.match(data)
    if found is None:
        raise Invalid("PGM/PPM header is damaged")
    channels = 1 if found[1] == b"5" else 3
    width, height, peak = int(found[2]), int(found[3]), int(found[4])
    if peak != 255:
        raise Unsupported(f"PGM/PPM with a maximum of {peak} is not read; only 255")
    _check_size(width, height)
    body = data[found.end() : found.end() + width * height * channels]
    if len(body) != width * height * channels:
        raise Invalid(f"PGM/PPM of {width}x{height} ends early")
    return np.frombuffer(body, np.uint8).reshape(height, width, channels)


def _decode_png(data: bytes) -> Image:
    header: tuple[int, ...] | None = None
    packed: list[bytes] = []
    at = len(PNG_MAGIC)
    while True:
        if at + 12 > len(data):
            raise Invalid("PNG ends early")
        length = int.from_bytes(data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if len(body) != length or data[at + 8 + length : at + 12 + length] != struct.pack(
            ">I", zlib.crc32(kind + body)
        ):
            raise Invalid(f"PNG chunk {kind!r} is damaged")
        at += 12 + length
        if kind == b"IHDR" and length == 13:
            header = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            packed.append(body)
        elif kind == b"IEND":
            break
    if header is None:
        raise Invalid("PNG without header")
    width, height, depth, colour, _, _, interlaced = header
    samples = _CHANNELS.get(colour)
    if depth != 8 or samples is None or interlaced:
        raise Unsupported("only PNG of 8 bit grey or RGB, not interlaced, without palette, is read")
    _check_size(width, height)
    size = height * (1 + width * samples)
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(b"".join(packed), size)  # bounded: a small file cannot become a large one
    except zlib.error as exc:
        raise Invalid(f"PNG data are damaged: {exc}") from exc
    if len(raw) != size:
        raise Invalid("PNG data end early")
    image = _unfilter(np.frombuffer(raw, np.uint8).reshape(height, 1 + width * samples), samples)
    image = image.reshape(height, width, samples)
    return np.ascontiguousarray(image[:, :, : 1 if samples <= 2 else 3])


def _unfilter(rows: Image, step: int) -> Image:
    """PNG 9.2: each row was stored as a difference to its left and upper neighbours."""
    out = np.zeros((rows.shape[0], rows.shape[1] - 1), np.uint8)
    above = np.zeros(rows.shape[1] - 1, np.uint8)
    for at, row in enumerate(rows):
        line = row[1:].copy()
        match int(row[0]):
            case 0:
                pass
            case 1:
                pixels = line.reshape(-1, step)
                line = np.add.accumulate(pixels, axis=0, dtype=np.uint8).reshape(-1)
            case 2:
                line = line + above
            case 3 | 4 as kind:
                _unfilter_slow(line, above, step, paeth=kind == 4)
            case other:
                raise Invalid(f"PNG filter {other} does not exist")
        out[at] = above = line
    return out


def _unfilter_slow(line: Image, above: Image, step: int, *, paeth: bool) -> None:
    for i in range(len(line)):
        left = int(line[i - step]) if i >= step else 0
        up = int(above[i])
        if paeth:
            corner = int(above[i - step]) if i >= step else 0
            guess = left + up - corner
            far = (abs(guess - left), abs(guess - up), abs(guess - corner))
            value = left if far[0] <= far[1] and far[0] <= far[2] else up if far[1] <= far[2] else corner
        else:
            value = (left + up) // 2
        line[i] = (int(line[i]) + value) & 255


def _check_size(width: int, height: int) -> None:
    if not width or not height or width * height > MAX_PIXELS:
        raise Invalid(f"image of {width}x{height} is empty or over {MAX_PIXELS} pixels", limit=MAX_PIXELS)
