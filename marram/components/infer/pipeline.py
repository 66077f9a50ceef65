"""Decode, cut out, infer, decide: two threads and a slot queue between them. It knows nothing of IPC.

Results leave through `emit`, called on the engine's thread as soon as a frame is read. Every frame that was due is counted:
read + dropped (queue) + skipped (source too slow) + failed = due.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from marram.components.infer import decide, feedback, prepare, source
from marram.components.infer.engine import Engine
from marram.components.infer.feedback import Settings as FeedbackSettings
from marram.components.infer.source import Policy
from marram.components.infer.source import Settings as SourceSettings
from marram.core.codec import JsonObject
from marram.core.errors import MarramError
from marram.kit.log import logger

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    source: SourceSettings = field(default_factory=SourceSettings)
    regions: tuple[decide.Box, ...] = ()  # empty: the whole frame is one region
    depth: int = 3
    policy: Policy = "latest"
    decisions: tuple[decide.Decision, ...] = ()
    stay_local_every: int = 0  # every n-th frame is read and decided on, and never leaves; 0 = none
    feedback: FeedbackSettings = field(default_factory=FeedbackSettings)


@dataclass(slots=True)
class Reading:
    """What one frame gave. `stay_local`: nothing of it may leave the device."""

    number: int
    pts_s: float
    due_ns: int
    decode_us: int
    crop_us: int
    infer_us: int
    objects: list[decide.Seen]
    fired: list[tuple[str, JsonObject]]
    stay_local: bool


@dataclass(slots=True)
class Counts:
    read: int = 0
    failed: int = 0
    raw_bytes: int = 0


class Pipeline:
    def __init__(
        self,
        engine: Engine,
        canaries: list[prepare.Image],
        settings: Settings,
        emit: Callable[[Reading], None],
        *,
        run_id: str,
        context: Callable[[], JsonObject] = dict,
        ended: Callable[[BaseException | None], object] = lambda error: None,
        seed: int = 0,
    ) -> None:
        """`ended` is called once, on a thread of ours: the source is through (None) or broke."""
        self._engine, self._canaries, self._emit, self._ended = engine, canaries, emit, ended
        self._run_id, self._context = run_id, context
        self._settings = settings
        self._decider = decide.Decider(settings.decisions)
        self._slots = source.Slots(settings.depth, settings.policy)
        self._pace = source.Pace(settings.source.fps, wait=self._wait)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self.counts = Counts()
        self.sampler = feedback.Sampler(settings.feedback, seed=seed)
        self.chosen: queue.SimpleQueue[feedback.Item] = queue.SimpleQueue()
        self._window_ns = time.monotonic_ns()

    @property
    def dropped(self) -> int:
        return self._slots.dropped

    @property
    def skipped(self) -> int:
        return self._pace.skipped

    @property
    def due(self) -> int:
        return self._pace.number + 1

    def start(self) -> None:
        for name, work in (("decode", self._decode), ("engine", self._read)):
            thread = threading.Thread(target=work, name=f"infer-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, *, within_s: float = 2.0) -> None:
        self._stopping.set()
        self._slots.close()
        for thread in self._threads:
            thread.join(within_s)

    def update(self, settings: Settings) -> bool:
        """Take new settings while running. False when they need a new pipeline (source, queue)."""
        now = self._settings
        if (settings.source, settings.depth, settings.policy) != (now.source, now.depth, now.policy):
            return False
        if settings.decisions != now.decisions:
            self._decider = decide.Decider(settings.decisions)
        self.sampler.settings = settings.feedback
        self._settings = replace(settings)
        return True

    def _wait(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _decode(self) -> None:
        try:
            for frame in source.frames(self._settings.source, self._pace, self._engine.channels, self._canaries):
                if self._stopping.is_set() or not self._slots.put(frame):
                    return
        except Exception as exc:  # the thread's border: told to the owner, who ends the process
            self._error = exc
        finally:
            self._slots.close()

    def _read(self) -> None:
        try:
            while (frame := self._slots.get()) is not None:
                try:
                    self._one(frame)
                except MarramError as exc:  # a region outside the frame: this frame is lost, the stream goes on
                    self.counts.failed += 1
                    log.warning("infer.frame_failed", error=exc.message)
        except Exception as exc:  # the thread's border
            self._error = self._error or exc
            self._slots.close()
        finally:
            if not self._stopping.is_set():
                self._ended(self._error)

    def _one(self, frame: source.Frame) -> None:
        settings = self._settings
        began = time.monotonic_ns()
        height, width = frame.image.shape[:2]
        regions: Sequence[decide.Box] = settings.regions or ((0, 0, width, height),)
        crops = [prepare.crop(frame.image, box) for box in regions]
        batch = self._engine.fit(crops)
        cropped = time.monotonic_ns()
        answers = self._engine.predict(batch)
        inferred = time.monotonic_ns()
        best: list[int] = answers.argmax(axis=1).tolist()
        labels = self._engine.manifest.labels
        objects = [
            decide.Seen(labels[at], float(answers[region, at]), box, region)
            for region, (at, box) in enumerate(zip(best, regions, strict=True))
        ]
        every = settings.stay_local_every
        stay_local = every > 0 and frame.number % every == every - 1
        context: JsonObject = {"frame": frame.number, "run": self._run_id, "due_ns": frame.due_ns, **self._context()}
        self.counts.read += 1
        self.counts.raw_bytes += frame.image.nbytes
        self._emit(
            Reading(
                number=frame.number,
                pts_s=frame.pts_s,
                due_ns=frame.due_ns,
                decode_us=frame.decode_ns // 1000,
                crop_us=(cropped - began) // 1000,
                infer_us=(inferred - cropped) // 1000,
                objects=objects,
                fired=self._decider.decide(objects, context),
                stay_local=stay_local,
            )
        )
        if settings.feedback.enabled and not stay_local and frame.number % settings.feedback.every == 0:
            self._sample(frame, crops, batch, answers.tolist(), objects)

    def _sample(
        self,
        frame: source.Frame,
        crops: list[prepare.Image],
        batch: prepare.Image,
        answers: list[list[float]],
        objects: list[decide.Seen],
    ) -> None:
        for region, crop in enumerate(crops):
            ranked = sorted(answers[region], reverse=True)
            item = feedback.Item(
                sha256=feedback.digest(crop),
                image=crop.copy(),
                frame=f"{self._run_id}:{frame.number}",
                region=region,
                label=objects[region].label,
                probabilities=answers[region],
                margin=ranked[0] - ranked[1] if len(ranked) > 1 else 1.0,
                time_ms=int(time.time() * 1000),
            )
            self.sampler.offer(item, batch[region])
        now = time.monotonic_ns()
        if now - self._window_ns >= self._settings.feedback.window_s * 1e9:
            self._window_ns = now
            for chosen in self.sampler.close_window():
                self.chosen.put(chosen)
