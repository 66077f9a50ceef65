"""What a reading sets in motion on the spot, before any cloud hears of it: label at a place -> message on a local topic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """One object in a frame."""

    label: str
    confidence: float
    box: Box
    region: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`on` "change": once while the label stays; "every": at each frame. `region` None: at any place."""

    topic: str
    label: str
    region: int | None = None
    min_confidence: float = 0.0
    on: str = "change"
    payload: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])


def parse(value: JsonValue) -> list[Decision]:
    """The configuration's `decisions`. Raises Invalid naming the entry."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise Invalid("decisions must be a list")
    made: list[Decision] = []
    for at, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise Invalid(f"decisions[{at}] must be an object")
        unknown = sorted(set(entry) - {"topic", "label", "region", "min_confidence", "on", "payload"})
        if unknown:
            raise Invalid(f"decisions[{at}] has an unknown key {unknown[0]!r}")
        topic, label, region = entry.get("topic"), entry.get("label"), entry.get("region")
        least, on, payload = entry.get("min_confidence", 0.0), entry.get("on", "change"), entry.get("payload", {})
        if not isinstance(topic, str) or not topic or label is None:
            raise Invalid(f"decisions[{at}] needs topic and label")
        if region is not None and not _is_number(region):
            raise Invalid(f"decisions[{at}].region is not a number")
        if not isinstance(least, (int, float)) or on not in ("change", "every") or not isinstance(payload, dict):
            raise Invalid(f"decisions[{at}]: min_confidence is a number, on is change or every, payload an object")
        made.append(
            Decision(
                topic=topic,
                label=str(label),
                region=None if region is None else int(str(region).split(".")[0]),
                min_confidence=float(least),
                on=str(on),
                payload=payload,
            )
        )
    return made


class Decider:
    """Remembers which decisions hold, so that `change` fires once."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self._decisions = list(decisions)
        self._held = [False] * len(self._decisions)

    def decide(self, objects: Sequence[Seen], context: JsonObject) -> list[tuple[str, JsonObject]]:
        """(topic, message) of what fires at this frame; `context` (frame id, times) is put beside the payload."""
        fired: list[tuple[str, JsonObject]] = []
        for at, decision in enumerate(self._decisions):
            hit = next((seen for seen in objects if _matches(decision, seen)), None)
            if hit is not None and (decision.on == "every" or not self._held[at]):
                message: JsonObject = {**decision.payload, **context}
                message |= {"label": hit.label, "confidence": round(hit.confidence, 4), "region": hit.region}
                fired.append((decision.topic, message))
            self._held[at] = hit is not None
        return fired


def _matches(decision: Decision, seen: Seen) -> bool:
    return (
        seen.label == decision.label
        and seen.confidence >= decision.min_confidence
        and decision.region in (None, seen.region)
    )


def _is_number(value: JsonValue) -> bool:
    # the nucleus hands integers of a configuration back as JSON numbers, some as 2.0
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)
