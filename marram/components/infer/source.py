"""Where frames come from: a video file or URL through PyAV, or frames made from the bundle's own canaries.

A source is a generator run in its own thread. It waits until a frame is due, stamps it, then decodes: the time to decode is
part of a frame's age, as with a camera. PyAV decodes single-threaded: frame threading adds latency and takes the engine's
core. PyAV is imported only when a `pyav` source starts.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from marram.components.infer import prepare
from marram.core.errors import Invalid, Unavailable

BEHIND_NS: Final = 1_000_000_000

Policy = Literal["latest", "block"]


@dataclass(slots=True)
class Frame:
    number: int  # counts every frame that was due, from 0, within one run of the component
    pts_s: float
    due_ns: int  # time.monotonic_ns() when it arrived
    decode_ns: int
    image: prepare.Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`fps` 0 = as fast as it can be read (files). `start` is the first frame of the clip, for cores that share one."""

    kind: str = "pyav"
    uri: str = ""
    fps: float = 0.0
    loop: bool = True
    frames: int = 0  # stop after so many; 0 = never


class Slots:
    """The queue between decoder and engine: a few places, `latest` drops the oldest, `block` makes the decoder wait."""

    def __init__(self, depth: int, policy: Policy) -> None:
        self._frames: deque[Frame] = deque()
        self._depth, self._policy = depth, policy
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def put(self, frame: Frame) -> bool:
        """False once the queue is closed."""
        with self._changed:
            if self._policy == "block":
                self._changed.wait_for(lambda: len(self._frames) < self._depth or self._closed)
            if self._closed:
                return False
            if len(self._frames) >= self._depth:
                self._frames.popleft()
                self.dropped += 1
            self._frames.append(frame)
            self._changed.notify_all()
            return True

    def get(self) -> Frame | None:
        """The oldest waiting frame; None when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._closed)
            if not self._frames:
                return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Pace:
    """When the next frame is due. More than a second behind, it skips ahead and counts the frames that never were."""

    def __init__(
        self, fps: float, *, now_ns: Callable[[], int] = time.monotonic_ns, wait: Callable[[float], object] = time.sleep
    ) -> None:
        self._step_ns = int(1e9 / fps) if fps else 0
        self._now_ns, self._wait = now_ns, wait
        self._due_ns = now_ns()
        self.number = -1
        self.skipped = 0

    def next(self) -> tuple[int, int]:
        """Wait; (frame number, the time at which it was due)."""
        self.number += 1
        now = self._now_ns()
        if not self._step_ns:
            return self.number, now
        self._due_ns += self._step_ns
        if now - self._due_ns > BEHIND_NS:
            lost = (now - self._due_ns) // self._step_ns
            self.skipped += lost
            self.number += lost
            self._due_ns += lost * self._step_ns
        if self._due_ns > now:
            self._wait((self._due_ns - now) / 1e9)
        return self.number, self._due_ns


def frames(settings: Settings, pace: Pace, channels: int, canaries: list[prepare.Image]) -> Iterator[Frame]:
    """Decode for ever (or once through without `loop`). Raises Unavailable when the source cannot be opened or breaks off."""
    match settings.kind:
        case "pyav":
            return _limited(_video(settings, pace, channels), settings.frames)
        case "generated":
            return _limited(_generated(pace, channels, canaries), settings.frames)
        case other:
            raise Invalid(f"source.kind {other!r} does not exist; there are pyav and generated")


def _limited(source: Iterator[Frame], count: int) -> Iterator[Frame]:
    for at, frame in enumerate(source, 1):
        yield frame
        if at == count:
            return


def _video(settings: Settings, pace: Pace, channels: int) -> Iterator[Frame]:
    try:
        import av
        from av.error import FFmpegError
    except ImportError as exc:
        raise Unavailable("a pyav source needs the extra: pip install 'marram[video]'") from exc
    form = "gray" if channels == 1 else "rgb24"
    while True:
        try:
            with av.open(settings.uri) as container:
                stream = container.streams.video[0]
                stream.thread_type = "NONE"
                stream.codec_context.thread_count = 1
                decoded = container.decode(stream)
                while True:
                    number, due_ns = pace.next()
                    began = time.monotonic_ns()
                    picture = next(decoded, None)
                    if picture is None:
                        pace.number -= 1  # the end of the file is not a frame
                        break
                    image: Any = picture.to_ndarray(format=form)
                    if image.ndim == 2:
                        image = image[:, :, None]
                    yield Frame(number, float(picture.time or 0), due_ns, time.monotonic_ns() - began, image)
        except (OSError, FFmpegError, IndexError) as exc:
            raise Unavailable(f"source {settings.uri}: {exc}") from exc
        if not settings.loop:
            return


def _generated(pace: Pace, channels: int, canaries: list[prepare.Image]) -> Iterator[Frame]:
    """One canary a frame, alone on it, in turn: works without a camera and without the video extra."""
    pictures: list[Any] = [prepare.fit(image, image.shape[0], image.shape[1], channels) for image in canaries]
    pictures = pictures or [np.zeros((64, 64, channels), np.uint8)]
    while True:
        number, due_ns = pace.next()
        yield Frame(number, 0.0, due_ns, 0, pictures[number % len(pictures)])
