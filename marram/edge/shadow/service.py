"""Local shadows: get, update, delete, for components (IPC) and devices (local MQTT), link up or down.

Answers and rejections go to the asker's space; delta, documents and accepted go to both local spaces. Not here: the hub (sync.py).
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from marram.core import codec
from marram.core import shadow as algebra
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, LimitExceeded, MarramError, NotFound, VersionConflict
from marram.core.shadow import Document
from marram.edge.pubsub.hub import Hub, Message
from marram.edge.shadow import store
from marram.kit.db import Db, Migrations, Tx

MIGRATIONS: Final = Migrations(slice="shadow", package="marram.edge.shadow")
PUBLISHER: Final = "aws.greengrass.ShadowManager"
TOPIC: Final = re.compile(r"\$aws/things/([^/]+)/shadow(?:/name/([^/]+))?/(get|update|delete)")
FILTERS: Final = ("$aws/things/+/shadow/+", "$aws/things/+/shadow/name/+/+")
THING: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
NAME: Final = re.compile(r"[$a-zA-Z0-9:_-]{1,64}")
STATUS: Final[tuple[tuple[type[MarramError], int], ...]] = (
    (NotFound, 404),
    (VersionConflict, 409),
    (LimitExceeded, 413),
    (Invalid, 400),
    (MarramError, 500),
)


class Shadows:
    """`spaces` are the local hubs that events go to. `on_change(thing, name)` is called after each local commit."""

    def __init__(self, db: Db, spaces: Sequence[Hub], *, wall_ms: Callable[[], int]) -> None:
        self._db = db
        self._spaces = spaces
        self._wall_ms = wall_ms
        self._changed: list[Callable[[str, str], None]] = []

    def on_change(self, call: Callable[[str, str], None]) -> None:
        self._changed.append(call)

    async def get(self, thing: str, name: str = "", token: str | None = None) -> bytes:
        """The body of get/accepted. Raises NotFound."""
        _check(thing, name)
        document = _existing(self._db.read_now(lambda tx: store.load(tx, thing, name)), name)
        now_ms = self._wall_ms()
        body: JsonObject = {
            "state": algebra.state_view(document),
            "metadata": algebra.metadata_view(document),
            "version": document.version,
            "timestamp": now_ms // 1000,
        }
        return codec.dumps(algebra.with_token(body, token))

    async def update(self, thing: str, name: str, payload: bytes) -> bytes:
        """Apply the update request in `payload`; the body of update/accepted. Raises Invalid, LimitExceeded, VersionConflict."""
        _check(thing, name)
        patch = algebra.parse_patch(payload)
        events: list[tuple[str, JsonObject]] = []

        def work(tx: Tx) -> JsonObject:
            before = store.load(tx, thing, name)
            # A shadow that is made anew goes on counting: a version must not name two states.
            ground = before if before.exists else Document(version=store.last_version(tx, thing, name))
            after = algebra.apply(ground, patch, tx.now_ms)
            store.save(tx, thing, name, after)
            events[:] = change_events(thing, name, before, after, tx.now_ms, patch)
            return algebra.accepted(patch, after.version, tx.now_ms)

        body = await self._db.write(work)
        self._tell(thing, name, events)
        return codec.dumps(body)

    async def delete(self, thing: str, name: str, token: str | None = None) -> bytes:
        """The body of delete/accepted. Raises NotFound."""
        _check(thing, name)

        def work(tx: Tx) -> JsonObject:
            document = _existing(store.load(tx, thing, name), name)
            store.save(tx, thing, name, Document(version=document.version), deleted=True)
            return algebra.with_token({"version": document.version, "timestamp": tx.now_ms // 1000}, token)

        body = await self._db.write(work)
        self._tell(thing, name, [(f"{prefix(thing, name)}/delete/accepted", body)])
        return codec.dumps(body)

    def names(self, thing: str, after: str, limit: int) -> Sequence[str]:
        return self._db.read_now(lambda tx: store.names(tx, thing, after, limit))

    async def handle(self, message: Message, answer: Callable[[Message], None]) -> None:
        """A request that came as a message on a shadow topic. `answer` publishes in the space that it came from."""
        found = TOPIC.fullmatch(message.topic)
        if found is None:
            return
        thing, name, verb = found[1], found[2] or "", found[3]
        token: str | None = None
        try:
            token = _token(message.payload)
            if verb == "get":
                body = await self.get(thing, name, token)
                answer(Message(f"{message.topic}/accepted", body, publisher=PUBLISHER, qos=message.qos))
            elif verb == "update":
                await self.update(thing, name, message.payload)
            else:
                await self.delete(thing, name, token)
        except MarramError as error:
            refusal: JsonObject = {
                "code": next(code for kind, code in STATUS if isinstance(error, kind)),
                "message": error.message,
                "timestamp": self._wall_ms() // 1000,
            }
            body = codec.dumps(algebra.with_token(refusal, token))
            answer(Message(f"{message.topic}/rejected", body, publisher=PUBLISHER, qos=message.qos))

    # for sync.py

    def announce(self, events: Sequence[tuple[str, JsonObject]]) -> None:
        """Publish in all local spaces."""
        for topic, body in events:
            message = Message(topic, codec.dumps(body), publisher=PUBLISHER, qos=1)
            for space in self._spaces:
                space.publish(message)

    def _tell(self, thing: str, name: str, events: Sequence[tuple[str, JsonObject]]) -> None:
        self.announce(events)
        for call in self._changed:
            call(thing, name)


def change_events(
    thing: str, name: str, before: Document, after: Document, now_ms: int, patch: algebra.Patch
) -> list[tuple[str, JsonObject]]:
    at = prefix(thing, name)
    events: list[tuple[str, JsonObject]] = [(f"{at}/update/accepted", algebra.accepted(patch, after.version, now_ms))]
    if delta := algebra.delta_message(after, now_ms, patch.token):
        events.append((f"{at}/update/delta", delta))
    events.append((f"{at}/update/documents", algebra.documents(before, after, now_ms, patch.token)))
    return events


def prefix(thing: str, name: str) -> str:
    return f"$aws/things/{thing}/shadow" + (f"/name/{name}" if name else "")


def _check(thing: str, name: str) -> None:
    if not THING.fullmatch(thing):
        raise Invalid("Invalid thing name")
    if name and not NAME.fullmatch(name):
        raise Invalid("Invalid shadow name")


def _existing(document: Document, name: str) -> Document:
    if not document.exists:
        raise NotFound(
            f"No shadow exists with name: '{name}'" if name else "No shadow exists",
            resource_type="shadow",
            resource_name=name,
        )
    return document


def _token(payload: bytes) -> str | None:
    if not payload or len(payload) > algebra.MAX_BYTES:
        return None
    try:
        body = codec.loads(payload)
    except Invalid:
        return None
    return algebra.read_token(body) if isinstance(body, dict) else None
