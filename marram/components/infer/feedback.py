"""Which crops are worth a person's time: sampled on the device, kept on its disk, sent within a budget of bytes a day.

Each window of time gives up to `per_window` crops: 15 % drawn uniformly from all that were seen (a reservoir, so the
propensity is known exactly: size over seen), the rest those with the smallest margin between the two best classes. Before
that, exact and near duplicates go. Margin is the default because it needed 0.36 to 0.55 of random's labels on digits, while
entropy was worse than random under 100 labels.

The queue is a folder, one file an item, written whole; over its limit the lowest score goes. `next_item` gives the best,
`sent` removes it after the nucleus took it. Not here: the wire (main.py), labels (marram/ml/labelling).
"""

import base64
import hashlib
import heapq
import random
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marram.components.infer import prepare
from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, MarramError
from marram.kit import disk

DAY_MS: Final = 86_400_000
THUMB: Final = 8  # near duplicates are compared at 8x8
SEEN: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`near` is the mean difference of grey levels at 8x8 under which two crops of one region count as the same."""

    enabled: bool = True
    window_s: float = 30.0
    per_window: int = 40
    random_share: float = 0.15
    bytes_per_day: int = 4_000_000
    queue_items: int = 1000
    every: int = 5  # look at each n-th frame
    items_per_s: float = 20.0  # how quickly the queue is sent
    near: float = 2.5


@dataclass(slots=True)
class Item:
    """A crop that may be sent. `propensity` is the chance that a uniform draw took it; None for those taken by margin."""

    sha256: str
    image: prepare.Image
    frame: str
    region: int
    label: str
    probabilities: list[float]
    margin: float
    time_ms: int
    reason: str = "margin"
    propensity: float | None = None


class Sampler:
    """Chooses within one window. `offer` is called for every crop looked at; `close_window` returns the chosen."""

    def __init__(self, settings: Settings, *, seed: int) -> None:
        self.settings = settings
        self._random = random.Random(seed)  # noqa: S311 - a draw of samples, not a secret
        self._exact: OrderedDict[str, None] = OrderedDict()
        self._thumbs: dict[int, NDArray[np.int16]] = {}
        self._at: dict[int, int] = {}
        self._drawn: list[Item] = []
        self._hardest: list[tuple[float, int, Item]] = []  # heap: the easiest of the chosen on top
        self._seen = 0
        self.duplicates = 0

    def offer(self, item: Item, small: prepare.Image) -> None:
        """`small`: the crop at the model's size, for near duplicates."""
        if self._is_known(item, small):
            self.duplicates += 1
            return
        self._seen += 1
        uniform = self._uniform_places()
        if len(self._drawn) < uniform:
            self._drawn.append(item)
        elif uniform and (place := self._random.randrange(self._seen)) < uniform:
            self._drawn[place] = item
        entry = (-item.margin, self._seen, item)
        if len(self._hardest) < self.settings.per_window:
            heapq.heappush(self._hardest, entry)
        else:
            heapq.heappushpop(self._hardest, entry)

    def close_window(self) -> list[Item]:
        """The chosen, hardest first; starts a new window. A crop in both lots counts as drawn: its propensity is known."""
        seen, drawn = self._seen, self._drawn
        propensity = min(1.0, len(drawn) / seen) if seen else 0.0
        for item in drawn:
            item.reason, item.propensity = "random", round(propensity, 6)
        taken = {id(item) for item in drawn}
        ranked = [item for _, _, item in sorted(self._hardest, key=lambda e: (-e[0], e[1])) if id(item) not in taken]
        chosen = drawn + ranked[: max(0, self.settings.per_window - len(drawn))]
        self._drawn, self._hardest, self._seen = [], [], 0
        return sorted(chosen, key=lambda item: item.margin)

    def _uniform_places(self) -> int:
        share = self.settings.per_window * self.settings.random_share
        return max(1, round(share)) if self.settings.random_share > 0 else 0

    def _is_known(self, item: Item, small: prepare.Image) -> bool:
        if item.sha256 in self._exact:
            self._exact.move_to_end(item.sha256)
            return True
        thumb = prepare.fit(small, THUMB, THUMB, 1).reshape(-1).astype(np.int16)
        known = self._thumbs.get(item.region)
        if known is None:
            known = self._thumbs[item.region] = np.full((SEEN, THUMB * THUMB), -1000, np.int16)
        if float(np.abs(known - thumb).mean(axis=1).min()) < self.settings.near:
            return True
        at = self._at.get(item.region, 0)
        known[at % SEEN] = thumb
        self._at[item.region] = at + 1
        self._exact[item.sha256] = None
        if len(self._exact) > SEEN:
            self._exact.popitem(last=False)
        return False


class Queue:
    """Items on disk, best first, within a number of items and of bytes a day. One owner, one thread."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self.settings = settings
        disk.make_dirs(folder)
        self._items: dict[str, tuple[float, int]] = {}  # sha256 -> score, bytes
        for path in folder.glob("*.json"):
            try:
                document = codec.loads_object(disk.read(path, limit=1 << 20))
                self._items[path.stem] = (float(str(document["score"])), path.stat().st_size)
            except (MarramError, KeyError, ValueError):
                disk.remove(path)  # a file of another version; a crop is not worth a failed start
        self._state = folder / "budget"
        self._day, self._used = self._load_budget()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> bool:
        """Keep an item; False when it is there already or worth less than all that are kept."""
        if item.sha256 in self._items:
            return False
        # Random ones first: if margin could push them out, the propensity written into them would be a lie.
        score = 2.0 if item.reason == "random" else 1.0 - item.margin
        if len(self._items) >= self.settings.queue_items:
            worst = min(self._items, key=lambda name: self._items[name][0])
            if self._items[worst][0] >= score:
                self.evicted += 1
                return False
            self.sent(worst, 0)
            self.evicted += 1
        body = encode(item, score)
        disk.write_atomic(self._path(item.sha256), body)
        self._items[item.sha256] = (score, len(body))
        return True

    def next_item(self, now_ms: int) -> tuple[str, JsonObject] | None:
        """The best item that today's budget still pays for; None when there is none."""
        self._turn_day(now_ms)
        left = self.settings.bytes_per_day - self._used
        fitting = [(score, name) for name, (score, size) in self._items.items() if size <= left]
        if not fitting:
            return None
        name = max(fitting)[1]
        return name, codec.loads_object(disk.read(self._path(name), limit=1 << 20))

    def sent(self, name: str, now_ms: int) -> None:
        """It is on its way for good: forget it and count its bytes (`now_ms` 0: thrown away, costs nothing)."""
        _, size = self._items.pop(name)
        if now_ms:
            self._turn_day(now_ms)
            self._used += size
            # Counted before the file goes: a crash between the two sends it again, and the hub knows its hash.
            disk.write_atomic(self._state, codec.dumps({"day": self._day, "used": self._used}))
        disk.remove(self._path(name))

    def _turn_day(self, now_ms: int) -> None:
        if now_ms // DAY_MS > self._day:  # a clock set back does not open the budget twice
            self._day, self._used = now_ms // DAY_MS, 0

    def _load_budget(self) -> tuple[int, int]:
        try:
            document = codec.loads_object(disk.read(self._state, limit=1000))
            return int(str(document["day"])), int(str(document["used"]))
        except (MarramError, KeyError, ValueError):
            return 0, 0

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def encode(item: Item, score: float) -> bytes:
    """The message that goes to the hub, with the score under which it waits."""
    return codec.dumps(
        {
            "format": 1,
            "sha256": item.sha256,
            "image": base64.b64encode(prepare.encode_png(item.image)).decode(),
            "frame": item.frame,
            "region": item.region,
            "label": item.label,
            "probabilities": [round(p, 5) for p in item.probabilities],
            "margin": round(item.margin, 5),
            "reason": item.reason,
            "propensity": item.propensity,
            "time_ms": item.time_ms,
            "score": round(score, 5),
        }
    )


def digest(image: prepare.Image) -> str:
    return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()


def check(settings: Settings) -> Settings:
    if not 0 < settings.items_per_s <= 1000:
        raise Invalid("feedback: items_per_s is above 0 to 1000")
    if settings.every < 1 or settings.window_s <= 0 or not 0 <= settings.random_share <= 1 or settings.per_window < 1:
        raise Invalid("feedback: every and per_window are at least 1, window_s above 0, random_share 0 to 1")
    return settings
