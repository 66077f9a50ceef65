"""The wire model of `aws.greengrass#GreengrassCoreIPC`: which operations there are and how their messages look.

Source: the model classes of awsiotsdk 1.31 (35 operations). Requests are read strictly: a wrong type, a missing required member
and an unknown member are Invalid and named. Answers are plain JSON objects made by the operations.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from marram.core.codec import JsonObject, JsonValue, kind
from marram.core.errors import Invalid

Request: TypeAlias = Mapping[str, object]
Reader: TypeAlias = Callable[[JsonValue, str], object]

PREFIX: Final = "aws.greengrass#"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`stream` is the shape of its events, "" for a call with one answer."""

    name: str
    request: str
    response: str
    stream: str = ""


def _text(value: JsonValue, at: str) -> object:
    if not isinstance(value, str):
        raise Invalid(f"{at} must be a string, not {kind(value)}", member=at)
    return value


def _name(value: JsonValue, at: str) -> object:
    if not isinstance(value, str) or not value:
        raise Invalid(f"{at} must be a non-empty string", member=at)
    return value


def _integer(value: JsonValue, at: str) -> object:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid(f"{at} must be an integer, not {kind(value)}", member=at)
    return value


def _number(value: JsonValue, at: str) -> object:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Invalid(f"{at} must be a number, not {kind(value)}", member=at)
    return value


def _boolean(value: JsonValue, at: str) -> object:
    if not isinstance(value, bool):
        raise Invalid(f"{at} must be a boolean, not {kind(value)}", member=at)
    return value


def _time_ms(value: JsonValue, at: str) -> object:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e11:
        raise Invalid(f"{at} must be a time in seconds since 1970", member=at)
    return round(value * 1000)


def _blob(value: JsonValue, at: str) -> object:
    if not isinstance(value, str):
        raise Invalid(f"{at} must be base64 text, not {kind(value)}", member=at)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Invalid(f"{at} is not base64", member=at) from exc


def _document(value: JsonValue, at: str) -> object:
    return value


def _one_of(*allowed: str) -> Reader:
    def read(value: JsonValue, at: str) -> object:
        if value not in allowed:
            raise Invalid(f"{at} must be one of {', '.join(allowed)}, not {value!r:.60}", member=at)
        return value

    return read


def _list_of(item: Reader) -> Reader:
    def read(value: JsonValue, at: str) -> object:
        if not isinstance(value, list):
            raise Invalid(f"{at} must be an array, not {kind(value)}", member=at)
        return [item(each, f"{at}[{index}]") for index, each in enumerate(value)]

    return read


def _map_of(item: Reader) -> Reader:
    def read(value: JsonValue, at: str) -> object:
        if not isinstance(value, dict):
            raise Invalid(f"{at} must be an object, not {kind(value)}", member=at)
        return {key: item(each, f"{at}.{key}") for key, each in value.items()}

    return read


def _shape(
    required: Mapping[str, Reader], optional: Mapping[str, Reader] | None = None
) -> Callable[[JsonValue, str], dict[str, object]]:
    readers = {**required, **(optional or {})}

    def read(value: JsonValue, at: str) -> dict[str, object]:
        if not isinstance(value, dict):
            raise Invalid(f"{at or 'request'} must be an object, not {kind(value)}", member=at)
        out: dict[str, object] = {}
        for key, each in value.items():
            reader = readers.get(key)
            if reader is None:
                raise Invalid(
                    f"{at + '.' if at else ''}{key} is not a member; there are {', '.join(readers)}", member=key
                )
            if each is not None:
                out[key] = reader(each, f"{at}.{key}" if at else key)
        for key in required:
            if key not in out:
                raise Invalid(f"{at + '.' if at else ''}{key} is required", member=key)
        return out

    return read


def _union(members: Mapping[str, Reader]) -> Reader:
    inner = _shape({}, members)

    def read(value: JsonValue, at: str) -> object:
        out = inner(value, at)
        if len(out) != 1:
            raise Invalid(f"{at} must have exactly one of {', '.join(members)}", member=at)
        return out

    return read


_PATH: Final = _list_of(_text)
_QOS: Final = _one_of("0", "1")
_CONTEXT: Final = _shape({}, {"topic": _text})
_CREDENTIAL: Final = _union(
    {"mqttCredential": _shape({}, {"clientId": _text, "certificatePem": _text, "username": _text, "password": _text})}
)
_LIMITS: Final = _shape({}, {"memory": _integer, "cpus": _number})
_RUN_WITH: Final = _shape({}, {"posixUser": _text, "windowsUser": _text, "systemResourceLimits": _LIMITS})
_EMPTY: Final = _shape({})
_SHADOW: Final = {"thingName": _name}
_NAMED: Final = {"shadowName": _text}

REQUESTS: Final[Mapping[str, Reader]] = {
    "AuthorizeClientDeviceAction": _shape({"clientDeviceAuthToken": _text, "operation": _text, "resource": _text}),
    "CancelLocalDeployment": _shape({"deploymentId": _name}),
    "CreateDebugPassword": _EMPTY,
    "CreateLocalDeployment": _shape(
        {},
        {
            "groupName": _text,
            "rootComponentVersionsToAdd": _map_of(_text),
            "rootComponentsToRemove": _list_of(_text),
            "componentToConfiguration": _map_of(_map_of(_document)),
            "componentToRunWithInfo": _map_of(_RUN_WITH),
            "recipeDirectoryPath": _text,
            "artifactsDirectoryPath": _text,
            "failureHandlingPolicy": _one_of("ROLLBACK", "DO_NOTHING"),
        },
    ),
    "DeferComponentUpdate": _shape({"deploymentId": _text}, {"message": _text, "recheckAfterMs": _integer}),
    "DeleteThingShadow": _shape(_SHADOW, _NAMED),
    "GetClientDeviceAuthToken": _shape({"credential": _CREDENTIAL}),
    "GetComponentDetails": _shape({"componentName": _name}),
    "GetConfiguration": _shape({}, {"componentName": _text, "keyPath": _PATH}),
    "GetLocalDeploymentStatus": _shape({"deploymentId": _name}),
    "GetSecretValue": _shape({"secretId": _name}, {"versionId": _text, "versionStage": _text, "refresh": _boolean}),
    "GetThingShadow": _shape(_SHADOW, _NAMED),
    "ListComponents": _EMPTY,
    "ListLocalDeployments": _EMPTY,
    "ListNamedShadowsForThing": _shape(_SHADOW, {"nextToken": _text, "pageSize": _integer}),
    "PauseComponent": _shape({"componentName": _name}),
    "PublishToIoTCore": _shape(
        {"topicName": _name, "qos": _QOS},
        {
            "payload": _blob,
            "retain": _boolean,
            "userProperties": _list_of(_shape({"key": _text, "value": _text})),
            "messageExpiryIntervalSeconds": _integer,
            "correlationData": _blob,
            "responseTopic": _text,
            "payloadFormat": _one_of("0", "1"),
            "contentType": _text,
        },
    ),
    "PublishToTopic": _shape(
        {
            "topic": _name,
            "publishMessage": _union(
                {
                    "jsonMessage": _shape({"message": _map_of(_document)}, {"context": _CONTEXT}),
                    "binaryMessage": _shape({"message": _blob}, {"context": _CONTEXT}),
                }
            ),
        }
    ),
    "PutComponentMetric": _shape({"metrics": _list_of(_shape({"name": _text, "unit": _text, "value": _number}))}),
    "RestartComponent": _shape({"componentName": _name}),
    "ResumeComponent": _shape({"componentName": _name}),
    "SendConfigurationValidityReport": _shape(
        {
            "configurationValidityReport": _shape(
                {"status": _one_of("ACCEPTED", "REJECTED"), "deploymentId": _text}, {"message": _text}
            )
        }
    ),
    "StopComponent": _shape({"componentName": _name}),
    "SubscribeToCertificateUpdates": _shape({"certificateOptions": _shape({"certificateType": _one_of("SERVER")})}),
    "SubscribeToComponentUpdates": _EMPTY,
    "SubscribeToConfigurationUpdate": _shape({}, {"componentName": _text, "keyPath": _PATH}),
    "SubscribeToIoTCore": _shape({"topicName": _name, "qos": _QOS}),
    "SubscribeToIoTCoreConnectionStatus": _EMPTY,
    "SubscribeToTopic": _shape(
        {"topic": _name},
        {"receiveMode": _one_of("RECEIVE_ALL_MESSAGES", "RECEIVE_MESSAGES_FROM_OTHERS")},
    ),
    "SubscribeToValidateConfigurationUpdates": _EMPTY,
    "UpdateConfiguration": _shape({"timestamp": _time_ms, "valueToMerge": _map_of(_document)}, {"keyPath": _PATH}),
    "UpdateState": _shape({"state": _one_of("RUNNING", "ERRORED")}),
    "UpdateThingShadow": _shape({**_SHADOW, "payload": _blob}, _NAMED),
    "ValidateAuthorizationToken": _shape({"token": _text}),
    "VerifyClientDeviceIdentity": _shape({"credential": _CREDENTIAL}),
}

_STREAMS: Final = {
    "SubscribeToCertificateUpdates": "CertificateUpdateEvent",
    "SubscribeToComponentUpdates": "ComponentUpdatePolicyEvents",
    "SubscribeToConfigurationUpdate": "ConfigurationUpdateEvents",
    "SubscribeToIoTCore": "IoTCoreMessage",
    "SubscribeToIoTCoreConnectionStatus": "IoTCoreConnectionStatusEvent",
    "SubscribeToTopic": "SubscriptionResponseMessage",
    "SubscribeToValidateConfigurationUpdates": "ValidateConfigurationUpdateEvents",
}

OPERATIONS: Final[Mapping[str, Operation]] = {
    PREFIX + name: Operation(
        name=PREFIX + name,
        request=f"{PREFIX}{name}Request",
        response=f"{PREFIX}{name}Response",
        stream=PREFIX + _STREAMS[name] if name in _STREAMS else "",
    )
    for name in REQUESTS
}


def read_request(operation: str, body: JsonValue) -> Request:
    """The members of a request: blobs as bytes, times as ms, enumerations checked. Raises Invalid naming the member."""
    out = REQUESTS[operation.removeprefix(PREFIX)](body, "")
    assert isinstance(out, dict)
    return cast(Request, out)


def blob(data: bytes) -> str:
    return base64.b64encode(data).decode()


def error_body(shape: str, message: str, **members: str) -> JsonObject:
    # Python's SDK reads `message`, the Java and C ones `_message`: one that misses its own shows nothing.
    return {
        "message": message,
        "_message": message,
        "_errorCode": shape.removeprefix(PREFIX),
        "_service": "GreengrassCoreIPC",
        **members,
    }
