"""A shadow as it is kept: its sections as texts, each read when it is asked for and written once.

A report of one leaf changes one section and its metadata; the others go from row to row, and into the messages, as the texts
that they are. What is said is byte for byte what core/shadow.py says; the tests hold the one against the other.
"""

from dataclasses import dataclass
from typing import Final

from marram.core import codec
from marram.core import shadow as algebra
from marram.core.errors import Invalid, LimitExceeded, VersionConflict
from marram.core.shadow import Document, Patch, Section

_NOTHING: Final = b"{}"


class Part:
    """One section: text, value, or both. The value is shared: never change it."""

    __slots__ = ("_text", "_value")

    def __init__(self, text: bytes | None = None, value: Section | None = None) -> None:
        self._text, self._value = text, value

    @property
    def text(self) -> bytes:
        if self._text is None:
            self._text = codec.dumps(self._value)
        return self._text

    @property
    def value(self) -> Section:
        if self._value is None:
            assert self._text is not None
            found = codec.loads_own(self._text)
            if not isinstance(found, dict):
                raise Invalid("not a stored shadow")
            self._value = found
        return self._value

    @property
    def is_empty(self) -> bool:
        return not self._value if self._value is not None else self._text == _NOTHING


@dataclass(slots=True)
class Kept:
    """As core.shadow's Document. Version 0 = not there."""

    desired: Part
    reported: Part
    desired_meta: Part
    reported_meta: Part
    version: int

    @property
    def exists(self) -> bool:
        return self.version > 0

    @property
    def document(self) -> Document:
        return Document(
            desired=self.desired.value,
            reported=self.reported.value,
            desired_meta=self.desired_meta.value,
            reported_meta=self.reported_meta.value,
            version=self.version,
        )

    @property
    def delta(self) -> Section:
        return {} if self.desired.is_empty else algebra.difference(self.desired.value, self.reported.value)


_EMPTY: Final = Part(_NOTHING)
EMPTY: Final = Kept(_EMPTY, _EMPTY, _EMPTY, _EMPTY, 0)


def of(document: Document) -> Kept:
    return Kept(
        Part(value=document.desired),
        Part(value=document.reported),
        Part(value=document.desired_meta),
        Part(value=document.reported_meta),
        document.version,
    )


def encode(kept: Kept) -> bytes:
    """A line with the lengths of the four texts and the version, and the texts."""
    parts = (kept.desired.text, kept.reported.text, kept.desired_meta.text, kept.reported_meta.text)
    sizes = b"%d %d %d %d %d\n" % (*map(len, parts), kept.version)
    return sizes + b"".join(parts)


def decode(data: bytes) -> Kept:
    """Also what earlier versions stored, one JSON text. Raises Invalid."""
    if data.startswith(b"{"):
        return of(algebra.decode(data))
    head, _, texts = data.partition(b"\n")
    try:
        *sizes, version = map(int, head.split())
        parts: list[Part] = []
        at = 0
        for size in sizes:
            parts.append(Part(texts[at : at + size]))
            at += size
        if at != len(texts):
            raise ValueError("other sizes")
        desired, reported, desired_meta, reported_meta = parts
    except ValueError as exc:
        raise Invalid("not a stored shadow") from exc
    return Kept(desired, reported, desired_meta, reported_meta, version)


def apply(before: Kept, patch: Patch, now_ms: int, *, max_bytes: int) -> Kept:
    """As core.shadow.apply. Raises VersionConflict, LimitExceeded."""
    if patch.version is not None and patch.version != before.version:
        raise VersionConflict("Version conflict", expected=patch.version, actual=before.version)
    stamp = now_ms // 1000
    desired, desired_meta = _side(before.desired, before.desired_meta, patch.desired, patch.clear_desired, stamp)
    reported, reported_meta = _side(before.reported, before.reported_meta, patch.reported, patch.clear_reported, stamp)
    if len(desired.text) + len(reported.text) > max_bytes:
        raise LimitExceeded("The payload exceeds the maximum size allowed", limit=max_bytes)
    return Kept(desired, reported, desired_meta, reported_meta, before.version + 1)


def documents(before: Kept, after: Kept, now_ms: int, token: str | None) -> bytes:
    """Body of `update/documents`."""
    parts = [b'{"current":', _snapshot(after), b',"timestamp":%d' % (now_ms // 1000)]
    if before.exists:
        parts += (b',"previous":', _snapshot(before))
    if token is not None:
        parts += (b',"clientToken":', codec.dumps(token))
    return b"".join((*parts, b"}"))


def _side(values: Part, meta: Part, patch: Section | None, clear: bool, stamp: int) -> tuple[Part, Part]:
    if clear:
        return _EMPTY, _EMPTY
    if not patch:
        return values, meta
    return Part(value=algebra.merge(values.value, patch)), Part(value=algebra.stamped(meta.value, patch, stamp))


def _snapshot(kept: Kept) -> bytes:
    state = _view(kept.desired, kept.reported)
    metadata = _view(kept.desired_meta, kept.reported_meta)
    return b'{"state":%b,"metadata":%b,"version":%d}' % (state, metadata, kept.version)


def _view(desired: Part, reported: Part) -> bytes:
    """Empty sections are left out."""
    if desired.is_empty:
        return _NOTHING if reported.is_empty else b'{"reported":%b}' % reported.text
    if reported.is_empty:
        return b'{"desired":%b}' % desired.text
    return b'{"desired":%b,"reported":%b}' % (desired.text, reported.text)
