"""Use cases of shadows. Every change leaves, by the outbox of its own transaction, as accepted, delta and documents.

A request by MQTT that is refused answers on `.../rejected`; one by HTTP or another slice gets the exception alone, as AWS.
A shadow needs no thing of its name, and stays when the thing is deleted, as AWS. A wish that is not reached in time is told
on a topic of our own (`unreached_topic`), and so is its end; run.py looks when it is time.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from marram.core import shadow as algebra
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, NotFound
from marram.core.shadow import Document, Patch
from marram.hub.bus import Bus
from marram.hub.shadow import kept, store, unreached
from marram.hub.shadow.kept import Kept
from marram.hub.shadow.store import Stored
from marram.hub.shadow.store import Unreached as Unreached
from marram.kit.db import Db, Tx

NAME: Final = re.compile(r"[$a-zA-Z0-9:_-]{1,64}")
THING: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
MAX_MAX_BYTES: Final = 30 * 1024  # what AWS raises the 8 KB to on request
IN_FLIGHT: Final = 10
EVENTS: Final = "$marram/events/shadow"

T = TypeVar("T")
Found = TypeVar("Found", Document, Kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Section [shadow] of marram.toml. Raises Invalid for a value that cannot be."""

    max_document_bytes: int = algebra.MAX_BYTES
    in_flight: int = IN_FLIGHT  # requests of one MQTT connection; more are rejected with 429; 0 = any number
    unreached_minutes: int = 15  # a wish that is not reached for so long is told; 0 = never

    def __post_init__(self) -> None:
        if not 1024 <= self.max_document_bytes <= MAX_MAX_BYTES:
            raise Invalid(f"[shadow] max_document_bytes is 1024 to {MAX_MAX_BYTES}, not {self.max_document_bytes}")
        if not 0 <= self.in_flight <= 1000:
            raise Invalid(f"[shadow] in_flight is 0 to 1000, not {self.in_flight}")
        if not 0 <= self.unreached_minutes <= 525_600:
            raise Invalid(f"[shadow] unreached_minutes is 0 to 525600, not {self.unreached_minutes}")


@dataclass(frozen=True, slots=True)
class Heard:
    """Which messages of an update somebody gets."""

    accepted: bool = True
    delta: bool = True
    documents: bool = True


@dataclass(frozen=True, slots=True)
class ShadowChanged:
    """Bus, after the commit: an update was accepted, or the shadow was deleted (then `version` is its last)."""

    thing: str
    shadow: str
    version: int


_EVERYTHING: Final = Heard()


class Index(Protocol):
    """The search index of things, of the registry."""

    def wants_shadow(self, shadow_name: str) -> bool: ...
    def shadow(self, tx: Tx, thing: str, shadow_name: str, document: JsonObject | None) -> None: ...


class Shadows:
    """`is_heard`: whether somebody gets what is published on a topic. What nobody gets is not put together."""

    def __init__(
        self, db: Db, bus: Bus | None = None, *, settings: Settings | None = None, index: Index | None = None,
        is_heard: Callable[[str], bool] = lambda topic: True,
    ) -> None:  # fmt: skip
        self.settings = settings or Settings()
        self._db, self._bus, self._index, self._is_heard = db, bus or Bus(), index, is_heard

    async def get(self, thing: str, name: str = "") -> Document:
        """Raises NotFound with AWS's text when there is none."""
        check(thing, name)
        return _existing(self._db.read_now(lambda tx: store.document(tx, thing, name)), thing, name)

    async def update(self, thing: str, name: str, payload: bytes) -> JsonObject:
        """Apply the update request in `payload`; returns the accepted body. Raises Invalid, LimitExceeded, VersionConflict."""
        check(thing, name)
        patch = self.parse(payload)
        heard = self.heard(thing, name)
        return await self._db.write(lambda tx: self.update_tx(tx, thing, name, patch, heard))

    async def delete(self, thing: str, name: str = "", token: str | None = None) -> JsonObject:
        """Returns the accepted body. Raises NotFound."""
        check(thing, name)
        return await self._db.write(lambda tx: self.delete_tx(tx, thing, name, token))

    async def names(self, thing: str, *, after: str = "", limit: int = 25) -> list[str]:
        check(thing, "")
        return await self._db.read(lambda tx: store.names(tx, thing, after, limit))

    async def unreached(
        self, minutes: int, *, after: tuple[int, str, str] = (-1, "", ""), limit: int = 100
    ) -> list[Unreached]:
        """Shadows with a wish that has not been reached for so long, the longest first. `after`: the last one before."""
        return await self._db.read(lambda tx: store.unreached(tx, tx.now_ms - minutes * 60_000, after, limit))

    def parse(self, payload: bytes) -> Patch:
        """Raises Invalid or LimitExceeded with AWS's texts."""
        return algebra.parse_patch(payload, max_bytes=self.settings.max_document_bytes)

    def heard(self, thing: str, name: str) -> Heard:
        """For an update that is asked for now: in the same turn of the loop as its `transact`. Who subscribes after that and
        then asks for the shadow gets it with this update in it, as their request comes behind it."""
        at = prefix(thing, name)
        return Heard(
            self._is_heard(f"{at}/update/accepted"),
            self._is_heard(f"{at}/update/delta"),
            self._is_heard(f"{at}/update/documents"),
        )

    async def transact(self, work: Callable[[Tx], T]) -> T:
        """Run `work` behind all that was asked before. For answers to requests by MQTT, in the order of the requests."""
        return await self._db.write(work)

    # within transactions

    def get_tx(self, tx: Tx, thing: str, name: str) -> Document:
        """Raises NotFound."""
        return _existing(store.document(tx, thing, name), thing, name)

    def update_tx(self, tx: Tx, thing: str, name: str, patch: Patch, heard: Heard = _EVERYTHING) -> JsonObject:
        """Returns the accepted body. Raises VersionConflict or LimitExceeded, having changed nothing."""
        stored = store.load(tx, thing, name)
        before = stored.kept
        ground = before if before.exists else replace(kept.EMPTY, version=store.version_before(tx, thing, name))
        after = kept.apply(ground, patch, tx.now_ms, max_bytes=self.settings.max_document_bytes)
        difference = after.delta
        since = _since(stored, difference, tx.now_ms)
        told = stored.told and self._is_due(since, tx.now_ms)
        store.save(tx, thing, name, Stored(after, since, told), stored)
        at = prefix(thing, name)
        body = algebra.accepted(patch, after.version, tx.now_ms)
        messages: list[tuple[str, JsonValue | bytes]] = []
        if heard.accepted:
            messages.append((f"{at}/update/accepted", body))
        touched = patch.desired is not None or patch.reported is not None or patch.clear_desired or patch.clear_reported
        if touched and difference and heard.delta:
            wished = Document(desired_meta=after.desired_meta.value, version=after.version)
            message = algebra.delta_message(wished, tx.now_ms, patch.token, difference=difference)
            messages.append((f"{at}/update/delta", message))
        if heard.documents:
            messages.append((f"{at}/update/documents", kept.documents(before, after, tx.now_ms, patch.token)))
        if stored.told and not told:
            messages.append(reached_event(thing, name, after.version, tx.now_ms))
        tx.emit_many(messages)
        self._changed(tx, thing, name, after.version, after)
        return body

    def delete_tx(self, tx: Tx, thing: str, name: str, token: str | None) -> JsonObject:
        """Returns the accepted body. Raises NotFound."""
        stored = store.load(tx, thing, name)
        version = _existing(stored.kept, thing, name).version
        store.delete(tx, thing, name, version)
        body = algebra.with_token({"version": version, "timestamp": tx.now_ms // 1000}, token)
        tx.emit(f"{prefix(thing, name)}/delete/accepted", body)
        if stored.told:
            tx.emit(*reached_event(thing, name, version, tx.now_ms))
        self._changed(tx, thing, name, version, None)
        return body

    def searchable(self, tx: Tx, thing: str) -> dict[str, JsonObject]:
        """All shadows of a thing, as the search index takes them."""
        return {name: _searchable(document) for name, document in store.documents(tx, thing).items()}

    # desired not reached

    async def tell_unreached(self, limit: int = 100) -> int:
        """Send the events that are due, at most `limit`; returns how many. An event and its mark are one commit."""
        minutes = self.settings.unreached_minutes
        if not minutes:
            return 0

        def work(tx: Tx) -> int:
            due = store.untold(tx, tx.now_ms - minutes * 60_000, limit)
            for found in due:
                store.told(tx, found.thing, found.name)
                tx.emit(*unreached_event(found, minutes, tx.now_ms))
            return len(due)

        if not self._db.read_now(lambda tx: store.untold(tx, tx.now_ms - minutes * 60_000, 1)):
            return 0  # nearly always: no transaction, and no fsync, for nothing
        return await self._db.write(work)

    async def time_old_ones(self, limit: int = 100) -> int:
        """Give times to shadows of a folder that knew none, at most `limit`; returns how many."""

        def work(tx: Tx) -> int:
            found = store.untimed(tx, limit)
            for thing, name in found:
                document = store.document(tx, thing, name)
                store.set_times(tx, thing, name, unreached.by_stamps(document, algebra.delta(document)))
            return len(found)

        return await self._db.write(work)

    async def forget_graves(self, limit: int = 1000) -> int:
        return await self._db.write(lambda tx: store.forget_graves(tx, limit))

    def _is_due(self, since: dict[str, int], now_ms: int) -> bool:
        minutes = self.settings.unreached_minutes
        return bool(minutes and since) and min(since.values()) <= now_ms - minutes * 60_000

    def _changed(self, tx: Tx, thing: str, name: str, version: int, now: Kept | None) -> None:
        if self._index is not None and self._index.wants_shadow(name):
            self._index.shadow(tx, thing, name, None if now is None else _searchable(now.document))
        tx.after_commit(lambda: self._bus.publish(ShadowChanged(thing, name, version)))


def _searchable(document: Document) -> JsonObject:
    return {
        "desired": document.desired,
        "reported": document.reported,
        "metadata": algebra.metadata_view(document),
        "version": document.version,
    }


def prefix(thing: str, name: str) -> str:
    return f"$aws/things/{thing}/shadow" + (f"/name/{name}" if name else "")


def check(thing: str, name: str) -> None:
    """Raises Invalid for what can be no name."""
    if not THING.fullmatch(thing):
        raise Invalid("Invalid thing name")
    if name and not NAME.fullmatch(name):
        raise Invalid("Invalid shadow name")


def document_body(document: Document, now_ms: int, token: str | None = None) -> JsonObject:
    """The body of a get: state with delta, metadata, version, timestamp."""
    body: JsonObject = {
        "state": algebra.state_view(document),
        "metadata": algebra.metadata_view(document),
        "version": document.version,
        "timestamp": now_ms // 1000,
    }
    return algebra.with_token(body, token)


def unreached_event(found: Unreached, minutes: int, now_ms: int) -> tuple[str, JsonObject]:
    """Topic and body: `$marram/events/shadow/unreached/<thing>`."""
    keys: list[JsonValue] = [{"key": pointer, "since": since // 1000} for pointer, since in sorted(found.since.items())]
    body = _event("unreached", found.thing, found.name, found.version, now_ms)
    body["minutes"] = minutes
    body["since"] = found.since_ms // 1000
    body["keys"] = keys
    return f"{EVENTS}/unreached/{found.thing}", body


def reached_event(thing: str, name: str, version: int, now_ms: int) -> tuple[str, JsonObject]:
    """Topic and body: `$marram/events/shadow/reached/<thing>`, after an `unreached` one."""
    return f"{EVENTS}/reached/{thing}", _event("reached", thing, name, version, now_ms)


def _event(kind: str, thing: str, name: str, version: int, now_ms: int) -> JsonObject:
    body: JsonObject = {"eventType": kind, "thingName": thing, "version": version, "timestamp": now_ms // 1000}
    return body | ({"shadowName": name} if name else {})


def _since(stored: Stored, difference: algebra.Section, now_ms: int) -> dict[str, int]:
    if not difference:
        return {}
    before = stored.kept.delta if stored.since or not stored.is_timed else {}
    known = stored.since if stored.is_timed else unreached.by_stamps(stored.kept.document, before)
    return unreached.since(before, known, difference, now_ms)


def _existing(document: Found, thing: str, name: str) -> Found:
    if not document.exists:
        raise NotFound(
            f"No shadow exists with name: '{thing}~{name}'" if name else f"No shadow exists with name: '{thing}'"
        )
    return document
