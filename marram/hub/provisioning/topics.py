"""Reserved topics of fleet provisioning, in JSON and CBOR; answers come in the format of the request's topic.

Error codes: InvalidPayload and InvalidCertificateOwnershipToken observed (issues of aws-iot-device-sdk-js-v2, tests of
Fleet-Provisioning-for-AWS-IoT-embedded-sdk); statuses 400, 403, 404, 429, 500 as the C SDK lists them; other names ours.
Source of topics and bodies: AWS IoT Core developer guide, "Device provisioning MQTT API".
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from marram.core import cbor, codec
from marram.core.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    Invalid,
    LimitExceeded,
    MarramError,
    NotFound,
    Unavailable,
    Unsupported,
)
from marram.hub.provisioning.claims import Asker
from marram.hub.provisioning.making import check_given
from marram.hub.provisioning.service import Provisioning
from marram.hub.slice import TopicMessage, topic
from marram.kit.log import logger

log = logger(__name__)

MAX_BYTES: Final = 128 << 10
MAX_DEPTH: Final = 8

# By class and kind, the most particular first.
_REFUSALS: Final[tuple[tuple[type[MarramError], str, int, str], ...]] = (
    (Invalid, "payload", 400, "InvalidPayload"),
    (Invalid, "token", 400, "InvalidCertificateOwnershipToken"),
    (Invalid, "csr", 400, "InvalidCSR"),
    (Invalid, "parameters", 400, "InvalidParameters"),
    (LimitExceeded, "rate", 429, "TooManyRequests"),
    (LimitExceeded, "", 400, "LimitExceeded"),
    (Denied, "", 403, "AccessDenied"),
    (NotFound, "", 404, "ResourceNotFound"),
    (Conflict, "", 409, "ResourceConflict"),
    (AlreadyExists, "", 409, "ResourceConflict"),
    (Unsupported, "", 400, "InvalidRequest"),
    (Invalid, "", 400, "InvalidRequest"),
    (Unavailable, "", 503, "ServiceUnavailable"),
)

Body = Mapping[str, object]


@topic("$aws/certificates/create/json", private=True)
@topic("$aws/certificates/create/cbor", private=True)
async def create_keys_and_certificate(service: Provisioning, message: TopicMessage) -> None:
    async def work(asker: Asker, body: Body) -> Body:
        _only(body, ())
        issued, token = await service.claims.create_certificate(asker)
        return {
            "certificateId": issued.id,
            "certificatePem": issued.pem,
            "privateKey": issued.private_key_pem,
            "certificateOwnershipToken": token,
        }

    await _answered(service, message, work)


@topic("$aws/certificates/create-from-csr/json", private=True)
@topic("$aws/certificates/create-from-csr/cbor", private=True)
async def create_certificate_from_csr(service: Provisioning, message: TopicMessage) -> None:
    async def work(asker: Asker, body: Body) -> Body:
        _only(body, ("certificateSigningRequest",))
        request = body.get("certificateSigningRequest")
        if not isinstance(request, str) or not request:
            raise Invalid("certificateSigningRequest must be a request in PEM", kind="csr")
        issued, token = await service.claims.create_certificate(asker, request)
        return {"certificateId": issued.id, "certificatePem": issued.pem, "certificateOwnershipToken": token}

    await _answered(service, message, work)


@topic("$aws/provisioning-templates/{template}/provision/json", private=True)
@topic("$aws/provisioning-templates/{template}/provision/cbor", private=True)
async def register_thing(service: Provisioning, message: TopicMessage) -> None:
    async def work(asker: Asker, body: Body) -> Body:
        _only(body, ("certificateOwnershipToken", "parameters"))
        parameters = body.get("parameters")
        if parameters is None:
            parameters = {}
        if not isinstance(parameters, dict):
            raise Invalid("parameters must be an object", kind="parameters")
        given = check_given(parameters, "parameters")  # pyright: ignore[reportUnknownArgumentType]  # keys are text: JSON, CBOR
        configuration, thing = await service.claims.register(
            asker, message.params["template"], body.get("certificateOwnershipToken"), given
        )
        answer: dict[str, object] = {"deviceConfiguration": dict(configuration)}
        if thing is not None:
            answer["thingName"] = thing
        return answer

    await _answered(service, message, work)


async def _answered(
    service: Provisioning, message: TopicMessage, work: Callable[[Asker, Body], Awaitable[Body]]
) -> None:
    is_cbor = message.topic.endswith("/cbor")
    asker = Asker(subject=message.subject, client_id=message.client_id)
    kind = "accepted"
    try:
        body = await work(asker, _read(message.payload, is_cbor=is_cbor))
    except MarramError as error:
        kind, body = "rejected", refusal(error)
        log.info("provisioning.refused", topic=message.topic, client=message.client_id, why=error.message)
    except Exception as exc:  # a border: the device must hear of it
        log.error("provisioning.failed", exc_info=exc, topic=message.topic, client=message.client_id)
        kind, body = "rejected", {"statusCode": 500, "errorCode": "InternalFailure", "errorMessage": "Internal failure"}
    data = cbor.dumps(body) if is_cbor else codec.dumps(body)
    service.claims.answer(asker, f"{message.topic}/{kind}", data)


def _read(payload: bytes, *, is_cbor: bool) -> Body:
    if not payload:
        return {}
    try:
        if is_cbor:
            return cbor.loads_object(payload, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)
        return codec.loads_object(payload, what="the message", max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)
    except Invalid as exc:
        raise Invalid(f"Message cannot be parsed: {exc.message}", kind="payload") from exc


def _only(body: Body, known: tuple[str, ...]) -> None:
    unknown = [key for key in body if key not in known]
    if unknown:
        raise Invalid(f"Message cannot be parsed: unknown member {unknown[0][:100]!r}", kind="payload")


def refusal(error: MarramError) -> dict[str, object]:
    """The body of a rejected answer."""
    kind = str(error.data.get("kind", ""))
    for cls, of_kind, status, code in _REFUSALS:
        if isinstance(error, cls) and of_kind in ("", kind):
            return {"statusCode": status, "errorCode": code, "errorMessage": error.message[:1000]}
    return {"statusCode": 500, "errorCode": "InternalFailure", "errorMessage": "Internal failure"}
