"""Reserved topics of shadows: get, update, delete, classic and named. Replies go to accepted or rejected.

Requests of one client run at once: the writer of the database takes them in their order, and several share a commit. What a
get or a delete says beside its clientToken is ignored.
Source: AWS IoT Developer Guide, "Device Shadow MQTT topics" and "Device Shadow error messages".
"""

from collections.abc import Callable
from typing import Final

from marram.core import codec
from marram.core import shadow as algebra
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, LimitExceeded, MarramError, NotFound, VersionConflict
from marram.hub.shadow.service import Shadows, check, document_body, prefix
from marram.hub.slice import TopicMessage, topic
from marram.kit.db import Tx

STATUS: Final[tuple[tuple[type[MarramError], str, int], ...]] = (
    (NotFound, "", 404),
    (VersionConflict, "", 409),
    (LimitExceeded, "rate", 429),
    (LimitExceeded, "", 413),
    (Invalid, "encoding", 415),
    (Invalid, "", 400),
)
REFUSALS: Final = (NotFound, VersionConflict, LimitExceeded, Invalid)


@topic("$aws/things/{thing}/shadow/get", at_once=True)
@topic("$aws/things/{thing}/shadow/name/{name}/get", at_once=True)
async def get(service: Shadows, message: TopicMessage) -> None:
    def prepare(thing: str, name: str) -> Callable[[Tx], None]:
        token = _token(message.payload)

        def work(tx: Tx) -> None:
            body = document_body(service.get_tx(tx, thing, name), tx.now_ms, token)
            tx.emit(f"{prefix(thing, name)}/get/accepted", body)

        return work

    await _answered(service, message, "get", prepare)


@topic("$aws/things/{thing}/shadow/update", at_once=True)
@topic("$aws/things/{thing}/shadow/name/{name}/update", at_once=True)
async def update(service: Shadows, message: TopicMessage) -> None:
    def prepare(thing: str, name: str) -> Callable[[Tx], object]:
        patch = service.parse(message.payload)
        heard = service.heard(thing, name)
        return lambda tx: service.update_tx(tx, thing, name, patch, heard)

    await _answered(service, message, "update", prepare)


@topic("$aws/things/{thing}/shadow/delete", at_once=True)
@topic("$aws/things/{thing}/shadow/name/{name}/delete", at_once=True)
async def delete(service: Shadows, message: TopicMessage) -> None:
    def prepare(thing: str, name: str) -> Callable[[Tx], object]:
        token = _token(message.payload)
        return lambda tx: service.delete_tx(tx, thing, name, token)

    await _answered(service, message, "delete", prepare)


async def _answered(
    service: Shadows, message: TopicMessage, verb: str, prepare: Callable[[str, str], Callable[[Tx], object]]
) -> None:
    """`prepare` reads the request; what it returns runs in the transaction. Whatever is refused is answered there as well."""
    thing, name = message.params["thing"], message.params.get("name", "")
    work: Callable[[Tx], object] | None = None
    refused: MarramError | None = None
    try:
        check(thing, name)
        limit = service.settings.in_flight
        if limit and message.in_flight > limit:
            raise LimitExceeded(f"Too many requests: more than {limit} in flight on one connection", kind="rate")
        work = prepare(thing, name)
    except REFUSALS as error:
        refused = error

    def run(tx: Tx) -> None:
        error = refused
        if work is not None:
            try:
                work(tx)
            except REFUSALS as found:  # raised before anything was written
                error = found
        if error is not None:
            tx.emit(f"{prefix(thing, name)}/{verb}/rejected", _rejected(error, message))

    await service.transact(run)


def _rejected(error: MarramError, message: TopicMessage) -> JsonObject:
    kind = str(error.data.get("kind", ""))
    code = next(code for cls, of, code in STATUS if isinstance(error, cls) and of in ("", kind))
    body: JsonObject = {"code": code, "message": error.message, "timestamp": message.time_ms // 1000}
    try:
        token = _token(message.payload)
    except Invalid:
        token = None
    return algebra.with_token(body, token)


def _token(payload: bytes) -> str | None:
    """The clientToken of a request whose other content does not count. Raises Invalid over 64 bytes."""
    if not payload or len(payload) > algebra.MAX_BYTES:
        return None
    try:
        body = codec.loads(payload)
    except Invalid:
        return None
    return algebra.read_token(body) if isinstance(body, dict) else None
