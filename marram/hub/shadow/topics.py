"""Reserved topics of shadows: get, update, delete, classic and named. Replies go to accepted or rejected.

Source: AWS IoT Developer Guide, "Device Shadow MQTT topics" and "Device Shadow error messages".
"""

from collections.abc import Awaitable, Callable
from typing import Final

from marram.core import codec
from marram.core import shadow as algebra
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, LimitExceeded, MarramError, NotFound, VersionConflict
from marram.hub.shadow.service import Shadows, document_body, prefix
from marram.hub.slice import TopicMessage, topic

STATUS: Final[tuple[tuple[type[MarramError], int], ...]] = (
    (NotFound, 404),
    (VersionConflict, 409),
    (LimitExceeded, 413),
    (Invalid, 400),
)


@topic("$aws/things/{thing}/shadow/get")
@topic("$aws/things/{thing}/shadow/name/{name}/get")
async def get(service: Shadows, message: TopicMessage) -> None:
    async def work(thing: str, name: str, token: str | None) -> None:
        document = await service.get(thing, name)
        await service.answer(f"{prefix(thing, name)}/get/accepted", document_body(document, message.time_ms, token))

    await _answered(service, message, "get", work)


@topic("$aws/things/{thing}/shadow/update")
@topic("$aws/things/{thing}/shadow/name/{name}/update")
async def update(service: Shadows, message: TopicMessage) -> None:
    async def work(thing: str, name: str, _token: str | None) -> None:
        await service.update(thing, name, message.payload)

    await _answered(service, message, "update", work)


@topic("$aws/things/{thing}/shadow/delete")
@topic("$aws/things/{thing}/shadow/name/{name}/delete")
async def delete(service: Shadows, message: TopicMessage) -> None:
    async def work(thing: str, name: str, token: str | None) -> None:
        await service.delete(thing, name, token)

    await _answered(service, message, "delete", work)


def _code(error: MarramError) -> int:
    return next(code for kind, code in STATUS if isinstance(error, kind))


async def _answered(
    service: Shadows, message: TopicMessage, verb: str, work: Callable[[str, str, str | None], Awaitable[None]]
) -> None:
    thing, name = message.params["thing"], message.params.get("name", "")
    token: str | None = None
    try:
        token = _token(message.payload)
        await work(thing, name, token)
    except (NotFound, VersionConflict, LimitExceeded, Invalid) as error:
        body: JsonObject = {
            "code": _code(error),
            "message": error.message,
            "timestamp": message.time_ms // 1000,
        }
        await service.answer(f"{prefix(thing, name)}/{verb}/rejected", algebra.with_token(body, token))


def _token(payload: bytes) -> str | None:
    # A get or delete may be empty; a broken body is reported by the verb that reads it.
    if not payload or len(payload) > algebra.MAX_BYTES:
        return None
    try:
        body = codec.loads(payload)
    except Invalid:
        return None
    return algebra.read_token(body) if isinstance(body, dict) else None
