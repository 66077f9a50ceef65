"""Use cases of shadows. Every change leaves, by the outbox of its own transaction, as accepted, delta and documents.

A request by MQTT that is refused answers on `.../rejected`; one by HTTP or another slice gets the exception alone, as AWS.
"""

import re
from typing import Final

from marram.core import shadow as algebra
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, NotFound
from marram.hub.shadow import store
from marram.kit.db import Db, Tx

NAME: Final = re.compile(r"[$a-zA-Z0-9:_-]{1,64}")
THING: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")


class Shadows:
    def __init__(self, db: Db) -> None:
        self._db = db

    async def get(self, thing: str, name: str = "") -> algebra.Document:
        """Raises NotFound with AWS's text when there is none."""
        _check(thing, name)
        return _existing(self._db.read_now(lambda tx: store.load(tx, thing, name)), name)

    async def update(self, thing: str, name: str, payload: bytes) -> JsonObject:
        """Apply the update request in `payload`; returns the accepted body. Raises Invalid, LimitExceeded, VersionConflict."""
        _check(thing, name)
        patch = algebra.parse_patch(payload)
        return await self._db.write(lambda tx: update(tx, thing, name, patch))

    async def delete(self, thing: str, name: str = "", token: str | None = None) -> JsonObject:
        """Returns the accepted body. Raises NotFound."""
        _check(thing, name)

        def work(tx: Tx) -> JsonObject:
            document = _existing(store.load(tx, thing, name), name)
            store.delete(tx, thing, name, document.version)
            body: JsonObject = {"version": document.version, "timestamp": tx.now_ms // 1000}
            tx.emit(f"{prefix(thing, name)}/delete/accepted", algebra.with_token(body, token))
            return body

        return await self._db.write(work)

    async def names(self, thing: str, *, after: str = "", limit: int = 25) -> list[str]:
        _check(thing, "")
        return await self._db.read(lambda tx: store.names(tx, thing, after, limit))

    async def answer(self, topic: str, body: JsonObject) -> None:
        """Send a reply (accepted of a get, any rejected) by the outbox, behind the changes that were before it."""
        await self._db.write(lambda tx: tx.emit(topic, body))


def update(tx: Tx, thing: str, name: str, patch: algebra.Patch) -> JsonObject:
    """The update inside somebody's transaction (a deployment writes a shadow and its rows as one commit)."""
    before = store.load(tx, thing, name)
    ground = before if before.exists else algebra.Document(version=store.version_before(tx, thing, name))
    after = algebra.apply(ground, patch, tx.now_ms)
    store.save(tx, thing, name, after)
    at = prefix(thing, name)
    body = algebra.accepted(patch, after, tx.now_ms)
    tx.emit(f"{at}/update/accepted", body)
    changed_desired = (
        patch.desired is not None or patch.clear_desired or patch.reported is not None or patch.clear_reported
    )
    if changed_desired and (message := algebra.delta_message(after, tx.now_ms, patch.token)):
        tx.emit(f"{at}/update/delta", message)
    tx.emit(f"{at}/update/documents", algebra.documents(before, after, tx.now_ms, patch.token))
    return body


def prefix(thing: str, name: str) -> str:
    return f"$aws/things/{thing}/shadow" + (f"/name/{name}" if name else "")


def document_body(document: algebra.Document, now_ms: int, token: str | None = None) -> JsonObject:
    """The body of a get: state with delta, metadata, version, timestamp."""
    body: JsonObject = {
        "state": algebra.state_view(document),
        "metadata": algebra.metadata_view(document),
        "version": document.version,
        "timestamp": now_ms // 1000,
    }
    return algebra.with_token(body, token)


def _check(thing: str, name: str) -> None:
    if not THING.fullmatch(thing):
        raise Invalid("Invalid thing name")
    if name and not NAME.fullmatch(name):
        raise Invalid("Invalid shadow name")


def _existing(document: algebra.Document, name: str) -> algebra.Document:
    if not document.exists:
        raise NotFound(f"No shadow exists with name: '{name}'" if name else "No shadow exists")
    return document
