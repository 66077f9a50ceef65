"""The demo's camera: real digit scans on a meter, seen by a badly mounted camera, as H.265 at 60 frames a second.

The scans are the 1,797 8x8 images inside scikit-learn, split once by a fixed seed. A frame shows a reading of five of them;
the camera is turned by 20 degrees, out of focus and lit at 60 %. Gate and final crops are taken the same way, through the
same encoder, from scans that the stream never shows. Imports nothing of Marram. PyAV is imported where it encodes only.

    python demo/clip.py --out var/clip       writes clip.mp4, clip.json (frame -> digits), places.json, sets/<set>/*.pgm
"""

import argparse
import io
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # height, width

SEED = 20240501
WIDTH, HEIGHT, RATE = 640, 480, 60
DIGIT, WINDOW, PITCH, DIGITS = 64, 96, 100, 5
ANGLE, BLUR, LIGHT, NOISE = 20.0, 3.0, 0.6, 3.0
HOLD = 5  # frames that one reading stays
SETS = {"train": (0, 600), "stream": (600, 1195), "gate": (1195, 1495), "final": (1495, 1795)}  # 2 scans are left over
ENCODERS = ("libx265", "hevc", "libx264", "mpeg4")


@dataclass(frozen=True)
class Scans:
    images: NDArray[np.uint8]  # (1797, 8, 8), 0..255
    digits: NDArray[np.int64]
    sets: dict[str, list[int]]  # set -> scan numbers


def scans() -> Scans:
    """All scans and the one split. A scan's number is its row in scikit-learn."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(SEED).permutation(len(found.target)).tolist()
    return Scans(
        images=np.asarray(found.images * 255 / 16, np.uint8),
        digits=np.asarray(found.target, np.int64),
        sets={name: order[begin:end] for name, (begin, end) in SETS.items()},
    )


def clean(image: Image) -> Image:
    """A scan at the size the camera sees it: what the first model learns from."""
    from scipy import ndimage

    big = ndimage.zoom(image.astype(np.float32), DIGIT / image.shape[0], order=1, grid_mode=True, mode="nearest")
    return np.clip(np.rint(big), 0, 255).astype(np.uint8)


def places() -> list[tuple[int, int, int, int]]:
    """x, y, width, height of the five digits in the camera's picture: measured once when the camera was mounted."""
    turn = np.deg2rad(ANGLE)
    boxes = []
    for at in range(DIGITS):
        along = (at - (DIGITS - 1) / 2) * PITCH
        x, y = WIDTH / 2 + along * np.cos(turn), HEIGHT / 2 - along * np.sin(turn)
        boxes.append((round(x - DIGIT / 2), round(y - DIGIT / 2), DIGIT, DIGIT))
    return boxes


def frame(images: list[Image]) -> Image:
    """The camera's picture of one reading, without noise."""
    from scipy import ndimage

    scene = np.full((HEIGHT, WIDTH), 70, np.float32)
    for at, image in enumerate(images):
        x, y = round(WIDTH / 2 + (at - (DIGITS - 1) / 2) * PITCH), HEIGHT // 2
        scene[y - WINDOW // 2 : y + WINDOW // 2, x - WINDOW // 2 : x + WINDOW // 2] = 0
        scene[y - DIGIT // 2 : y + DIGIT // 2, x - DIGIT // 2 : x + DIGIT // 2] = clean(image)
    seen = ndimage.rotate(scene, ANGLE, reshape=False, order=1, mode="nearest")
    return np.clip(np.rint(ndimage.gaussian_filter(seen, BLUR) * LIGHT), 0, 255).astype(np.uint8)


def encode(frames: list[Image], hold: int, target: "Path | io.BytesIO") -> str:
    """Write the frames, each `hold` times with fresh noise, at 60 a second. Returns the encoder's name."""
    import av

    name = next(name for name in ENCODERS if name in av.codecs_available)
    rng = np.random.default_rng(SEED + 1)
    noise = [np.rint(rng.normal(0, NOISE, (HEIGHT, WIDTH))).astype(np.int16) for _ in range(8)]
    options = {"preset": "ultrafast", "crf": "23", "tune": "zerolatency"}
    if name == "libx265":
        options["x265-params"] = "log-level=none:keyint=60:bframes=0"
    with av.open(str(target) if isinstance(target, Path) else target, "w", format="mp4") as container:
        stream = container.add_stream(name, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        count = 0
        for picture in frames:
            for _ in range(hold):
                noisy = np.clip(picture + noise[count % len(noise)], 0, 255).astype(np.uint8)
                made = av.VideoFrame.from_ndarray(noisy, format="gray")
                container.mux(stream.encode(made.reformat(format="yuv420p")))
                count += 1
        container.mux(stream.encode(None))
    return name


def crops(video: "Path | io.BytesIO") -> list[Image]:
    """The digits of every frame, in order, as a device would cut them out."""
    import av

    found: list[Image] = []
    with av.open(str(video) if isinstance(video, Path) else video) as container:
        for picture in container.decode(video=0):
            grey = picture.to_ndarray(format="gray")
            found += [grey[y : y + h, x : x + w].copy() for x, y, w, h in places()]
    return found


def view(source: Scans, numbers: list[int]) -> list[Image]:
    """The camera's crops of these scans, one each, through scene, camera and encoder."""
    padded = numbers + numbers[: -len(numbers) % DIGITS]
    frames = [frame([source.images[n] for n in padded[at : at + DIGITS]]) for at in range(0, len(padded), DIGITS)]
    buffer = io.BytesIO()
    encode(frames, 1, buffer)
    buffer.seek(0)
    return crops(buffer)[: len(numbers)]


def stream_clip(source: Scans, path: Path) -> dict[str, object]:
    """Write the camera's clip of the stream scans. Returns the answer key: for each frame its five scan numbers and digits."""
    numbers = source.sets["stream"]
    readings = [numbers[at : at + DIGITS] for at in range(0, len(numbers), DIGITS)]
    name = encode([frame([source.images[n] for n in reading]) for reading in readings], HOLD, path)
    frames = [
        {"scans": reading, "digits": "".join(str(source.digits[n]) for n in reading)}
        for reading in readings
        for _ in range(HOLD)
    ]
    return {"encoder": name, "rate": RATE, "width": WIDTH, "height": HEIGHT, "hold": HOLD, "frames": frames}


def pgm(image: Image) -> bytes:
    return b"P5 %d %d 255\n" % (image.shape[1], image.shape[0]) + image.tobytes()


def write(out: Path) -> dict[str, object]:
    """Everything the demo needs, under `out`. Returns the answer key."""
    source = scans()
    out.mkdir(parents=True, exist_ok=True)
    key = stream_clip(source, out / "clip.mp4")
    (out / "clip.json").write_text(json.dumps(key))
    (out / "places.json").write_text(json.dumps(places()))
    pictures = {
        "train": [clean(source.images[n]) for n in source.sets["train"]],
        "gate-clean": [clean(source.images[n]) for n in source.sets["gate"]],
        "final-clean": [clean(source.images[n]) for n in source.sets["final"]],
        "gate": view(source, source.sets["gate"]),
        "final": view(source, source.sets["final"]),
    }
    for name, images in pictures.items():
        folder = out / "sets" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in zip(source.sets[name.removesuffix("-clean")], images, strict=True):
            (folder / f"{number:04d}-{source.digits[number]}.pgm").write_bytes(pgm(image))
    return key


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the demo's clip and image sets.")
    parser.add_argument("--out", type=Path, required=True)
    began = time.monotonic()
    out: Path = parser.parse_args().out
    key = write(out)
    frames = key["frames"]
    assert isinstance(frames, list)
    print(f"{len(frames)} frames by {key['encoder']} in {time.monotonic() - began:.1f} s: {out / 'clip.mp4'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
