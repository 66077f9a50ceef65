"""Bring local shadows and the hub's together, both ways, after any time apart.

Local changes need no queue of their own: what differs from the agreed base is what is to be sent. With the link up the hub's copy
is followed by its accepted messages; each update to the hub names the version it was made for, so a change in between comes back
as a conflict and is merged. One worker, one shadow at a time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, cast

from marram.core import codec
from marram.core import shadow as algebra
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Denied, Invalid, LimitExceeded, MarramError, NotFound, Unavailable, VersionConflict
from marram.core.shadow import Document, Patch, Section
from marram.edge.pubsub.hub import Message
from marram.edge.shadow import store
from marram.edge.shadow.merge import Direction, difference, merge
from marram.edge.shadow.service import Shadows, change_events, prefix
from marram.kit import metrics
from marram.kit.clock import Entropy
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

ANSWER_S: Final = 10.0
ATTEMPTS: Final = 5
RETRY_S: Final = 5.0
RESERVED: Final = frozenset({"AWSManagedGreengrassV2Deployment"})

SYNCED: Final = metrics.counter("marram_shadow_synced_total", "shadows brought together with the hub")

Key = tuple[str, str]


class Link(Protocol):
    """The connection to the hub, as far as shadows need it."""

    async def send(self, topic: str, payload: bytes) -> None:
        """QoS 1, not spooled. Raises Unavailable when the link is down."""
        ...

    async def subscribe(self, filter: str, qos: int, deliver: Callable[[Message], None]) -> Callable[[], None]: ...
    def watch(self, changed: Callable[[bool], None]) -> Callable[[], None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`things`: whose shadows travel (all of theirs, classic and named). `direction` as AWS's ShadowManager names it."""

    things: Sequence[str] = ()
    direction: Direction = "betweenDeviceAndCloud"


class Sync:
    """`run` until cancelled. `settings` may be replaced while it runs (`configure`)."""

    def __init__(
        self, db: Db, shadows: Shadows, link: Link, *, entropy: Entropy, settings: Settings | None = None
    ) -> None:
        self._db = db
        self._shadows = shadows
        self._link = link
        self._entropy = entropy
        self._settings = settings or Settings()
        self._remote: dict[Key, Document] = {}  # the hub's copies, true while the link is up
        self._wanted: dict[Key, None] = {}  # in order of first request
        self._wake = asyncio.Event()
        self._connected = False
        self._answers: dict[str, asyncio.Future[JsonObject]] = {}
        self._subscriptions: dict[str, list[Callable[[], None]]] = {}
        self.idle = asyncio.Event()
        shadows.on_change(self._local_change)

    async def run(self) -> None:
        cancel = self._link.watch(self._link_changed)
        try:
            await self.configure(self._settings)
            while True:
                if not self._connected or not self._wanted:
                    self.idle.set()
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                key = next(iter(self._wanted))
                del self._wanted[key]
                await self._one(key)
        finally:
            cancel()
            for cancels in self._subscriptions.values():
                for each in cancels:
                    each()
            self._subscriptions.clear()

    async def configure(self, settings: Settings) -> None:
        """Follow other things, or another direction."""
        self._settings = settings
        for thing in [thing for thing in self._subscriptions if thing not in settings.things]:
            for each in self._subscriptions.pop(thing):
                each()
        for thing in settings.things:
            if thing not in self._subscriptions:
                self._subscriptions[thing] = [
                    await self._link.subscribe(f"$aws/things/{thing}/shadow/{tail}", 1, self._receive)
                    for tail in ("+/accepted", "+/rejected", "name/+/+/accepted", "name/+/+/rejected")
                ]
        self._want_all()

    # what starts a synchronisation

    def _local_change(self, thing: str, name: str) -> None:
        self._want((thing, name))

    def _link_changed(self, connected: bool) -> None:
        self._connected = connected
        self._remote.clear()  # what happened while we were away is unknown
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Unavailable("the link went down"))
        if connected:
            self._want_all()
        self._wake.set()

    def _want_all(self) -> None:
        for key in self._db.read_now(store.keys):
            self._want(key)
        for thing in self._settings.things:
            self._want((thing, ""))

    def _want(self, key: Key) -> None:
        if key[0] in self._settings.things and key[1] not in RESERVED:
            self._wanted[key] = None
            self.idle.clear()
            self._wake.set()

    def _receive(self, message: Message) -> None:
        """Any accepted or rejected of a shadow that we follow: our answer, or somebody's change."""
        levels = message.topic.split("/")
        named = len(levels) == 8
        thing, name, verb, outcome = levels[2], levels[5] if named else "", levels[-2], levels[-1]
        try:
            body = codec.loads_object(message.payload, what="shadow answer")
        except Invalid as exc:
            log.warning("shadow.bad_message", topic=message.topic, why=exc.message)
            return
        key = (thing, name)
        if outcome == "accepted" and verb != "get":
            self._follow(key, verb, body)
        token = body.get("clientToken")
        answer = self._answers.get(token) if isinstance(token, str) else None
        if answer is not None and not answer.done():
            if outcome == "accepted":
                answer.set_result(body)
            else:
                answer.set_exception(_refusal(body))

    def _follow(self, key: Key, verb: str, body: JsonObject) -> None:
        version = body.get("version")
        known = self._remote.get(key)
        if not isinstance(version, int):
            return
        if verb == "delete":
            self._remote[key] = Document(version=0)
        elif known is not None and version == known.version + 1:
            self._remote[key] = _patched(known, body)
        elif known is not None and known.exists and version <= known.version:
            return
        else:
            self._remote.pop(key, None)  # something was missed: ask
        self._want(key)

    # one shadow

    async def _one(self, key: Key) -> None:
        try:
            for _ in range(ATTEMPTS):
                if await self._attempt(key):
                    SYNCED.inc()
                    return
            log.warning("shadow.busy", thing=key[0], name=key[1])
            self._want(key)
        except (Unavailable, TimeoutError):
            self._remote.pop(key, None)
            if self._connected:
                asyncio.get_running_loop().call_later(RETRY_S, self._want, key)
        except (Denied, Invalid, LimitExceeded) as exc:
            # The hub will not take it as it is; the next change of either side tries again.
            log.warning("shadow.refused", thing=key[0], name=key[1], why=exc.message)
            self._remote.pop(key, None)

    async def _attempt(self, key: Key) -> bool:
        """One merge. False: the other side moved, do it again."""
        thing, name = key
        there = self._remote.get(key)
        if there is None:
            there = self._remote[key] = await self._fetch(key)
        direction = self._settings.direction
        events: list[tuple[str, JsonObject]] = []

        def work(tx: Tx) -> tuple[Document, Document | None]:
            """Settle what concerns us; returns our copy and what the hub should have (None: nothing at all)."""
            events.clear()  # this may run twice
            here = store.load(tx, thing, name)
            base = store.load_base(tx, thing, name)
            gone_here = not here.exists and base.exists
            gone_there = not there.exists and base.exists
            if not here.exists and not there.exists:
                store.save_base(tx, thing, name, algebra.EMPTY)
                return here, None
            if gone_here and direction != "cloudToDevice" and _unchanged(there, base):
                return here, None
            if gone_there and direction != "deviceToCloud" and _unchanged(here, base):
                store.save(tx, thing, name, Document(version=here.version), deleted=True)
                store.save_base(tx, thing, name, algebra.EMPTY)
                body: JsonObject = {"version": here.version, "timestamp": tx.now_ms // 1000}
                events.append((f"{prefix(thing, name)}/delete/accepted", body))
                return algebra.EMPTY, None
            common = algebra.EMPTY if gone_here or gone_there else base
            desired, reported = merge(common, here, there, direction)
            patch = Patch(
                desired=difference(here.desired, desired) or None, reported=difference(here.reported, reported) or None
            )
            after = here
            if patch.desired is not None or patch.reported is not None or not here.exists:
                ground = here if here.exists else Document(version=store.last_version(tx, thing, name))
                after = algebra.apply(ground, patch, tx.now_ms)
                store.save(tx, thing, name, after)
                events.extend(change_events(thing, name, here, after, tx.now_ms, patch))
            wanted = replace(after, desired=desired, reported=reported)
            if _unchanged(wanted, there):
                store.save_base(tx, thing, name, wanted)
            return after, wanted

        _, wanted = await self._db.write(work)
        self._shadows.announce(events)
        if wanted is None:
            if there.exists:
                await self._ask(f"{prefix(thing, name)}/delete", {})
                await self._db.write(lambda tx: _agree_gone(tx, thing, name))
            return True
        state: JsonObject = {}
        if desired := difference(there.desired, wanted.desired):
            state["desired"] = desired
        if reported := difference(there.reported, wanted.reported):
            state["reported"] = reported
        if not state:
            return True
        request: JsonObject = {"state": state}
        if there.exists:
            request["version"] = there.version
        try:
            await self._ask(f"{prefix(thing, name)}/update", request)
        except VersionConflict:
            self._remote.pop(key, None)
            return False
        agreed = wanted
        await self._db.write(lambda tx: store.save_base(tx, thing, name, agreed))
        return True

    async def _fetch(self, key: Key) -> Document:
        try:
            body = await self._ask(f"{prefix(*key)}/get", {})
        except NotFound:
            return algebra.EMPTY
        state, metadata = _object(body.get("state")), _object(body.get("metadata"))
        return Document(
            desired=_object(state.get("desired")),
            reported=_object(state.get("reported")),
            desired_meta=_object(metadata.get("desired")),
            reported_meta=_object(metadata.get("reported")),
            version=cast(int, body.get("version", 1)),
        )

    async def _ask(self, topic: str, request: JsonObject) -> JsonObject:
        token = self._entropy.bytes(8).hex()
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._answers[token] = answer
        try:
            await self._link.send(topic, codec.dumps({**request, "clientToken": token}))
            async with asyncio.timeout(ANSWER_S):
                return await answer
        finally:
            self._answers.pop(token, None)


def _agree_gone(tx: Tx, thing: str, name: str) -> None:
    # Made anew while the deletion was on its way: then the base goes, and the new one is sent next.
    store.save_base(tx, thing, name, algebra.EMPTY)


def _unchanged(one: Document, other: Document) -> bool:
    return not difference(one.desired, other.desired) and not difference(one.reported, other.reported)


def _patched(known: Document, body: JsonObject) -> Document:
    """The hub's copy after an accepted update, with the hub's times."""
    state, metadata = _object(body.get("state")), _object(body.get("metadata"))
    patch = Patch(
        desired=_object(state["desired"]) if isinstance(state.get("desired"), dict) else None,
        reported=_object(state["reported"]) if isinstance(state.get("reported"), dict) else None,
        clear_desired="desired" in state and state["desired"] is None,
        clear_reported="reported" in state and state["reported"] is None,
    )
    stamp = body.get("timestamp")
    after = algebra.apply(known, patch, (stamp if isinstance(stamp, int) else 0) * 1000)
    return replace(
        after,
        desired_meta=_overlaid(after.desired_meta, _object(metadata.get("desired"))),
        reported_meta=_overlaid(after.reported_meta, _object(metadata.get("reported"))),
    )


def _overlaid(below: Section, above: Mapping[str, JsonValue]) -> Section:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _overlaid(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _object(value: JsonValue) -> Section:
    return value if isinstance(value, dict) else {}


def _refusal(body: JsonObject) -> MarramError:
    text = str(body.get("message", "refused"))
    match body.get("code"):
        case 404:
            return NotFound(text)
        case 409:
            return VersionConflict(text)
        case 413:
            return LimitExceeded(text)
        case 401 | 403:
            return Denied(text)
        case 429 | 500 | 503:
            return Unavailable(text)
        case _:
            return Invalid(text)
