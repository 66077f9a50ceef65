"""The https port and signatures: publish, shadows by certificate without MQTT, MQTT over WebSocket, who is refused and how."""

import base64
import http.client
import json
import queue
import ssl
from typing import Any
from urllib.parse import quote

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import paho.mqtt.client as paho
from botocore.exceptions import ClientError

from tests.behaviours.row import row
from tests.behaviours.world import Device, World

PUBLISH = "guide: HTTPS publish"
MODEL = "model: iot-data Publish"
SHADOW = "guide: Device Shadow REST API"
PORTS = "guide: Device communication protocols"
SOCKET = "guide: MQTT over WSS"


def _ask(
    world: World, method: str, path: str, body: bytes | str = b"", *, device: Device | None = None, alpn: str | None = None,
    version: str = "HTTP/1.1", headers: dict[str, str] | None = None,
) -> tuple[int, bytes, Any]:  # fmt: skip
    """(status, body, headers) of one request to the https port."""
    context = ssl.create_default_context(cafile=world.endpoint.ca_file)
    if device is not None:
        context.load_cert_chain(device.certificate, device.key)
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    client = http.client.HTTPSConnection(*world.endpoint.https, context=context, timeout=10)
    if version == "HTTP/1.0":
        client._http_vsn, client._http_vsn_str = 10, version  # type: ignore[attr-defined]  # all that http.client offers
    try:
        client.request(method, path, body, headers or {})
        answer = client.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        client.close()


def _allow(action: str, resource: str) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": resource}]}


# HTTPS publish


@row(
    aws="POST /topics/TOPIC?qos=1 with a client certificate publishes with QoS 1, and answers 200 with no body.",
    source=PUBLISH,
)
def publish_with_a_certificate(world: World) -> None:
    device, topic = world.device(), world.name("topic")
    watch = world.connected(world.device())
    watch.subscribe(f"{topic}/#")
    assert _ask(world, "POST", f"/topics/{topic}/a?qos=1", b"hello", device=device)[:2] == (200, b"")
    got = watch.receive()
    assert (got.topic, got.payload, got.qos) == (f"{topic}/a", b"hello", 1)


@row(aws="Without qos the message has QoS 0; an encoded topic is the same topic.", source=MODEL)
def publish_without_qos(world: World) -> None:
    device, topic = world.device(), world.name("topic")
    watch = world.connected(world.device())
    watch.subscribe(f"{topic}/#")
    assert _ask(world, "POST", f"/topics/{quote(f'{topic}/b', safe='')}", b"x", device=device)[0] == 200
    got = watch.receive()
    assert (got.topic, got.qos) == (f"{topic}/b", 0)


@row(aws="HTTP/1.0 is served as 1.1 is.", source=PUBLISH)
def publish_by_http_10(world: World) -> None:
    assert _ask(world, "POST", f"/topics/{world.name()}", b"x", device=world.device(), version="HTTP/1.0")[0] == 200


@row(aws="ALPN x-amzn-http-ca is HTTP with a client certificate.", source=PORTS)
def publish_by_alpn(world: World) -> None:
    answer = _ask(world, "POST", f"/topics/{world.name()}", b"x", device=world.device(), alpn="x-amzn-http-ca")
    assert answer[0] == 200


@row(aws="A topic that the certificate's policy does not allow is 403.", source=PUBLISH)
def publish_denied(world: World) -> None:
    device = world.device(_allow("iot:Publish", world.arn("topic/allowed/*")))
    assert _ask(world, "POST", "/topics/allowed/a", b"x", device=device)[0] == 200
    assert _ask(world, "POST", "/topics/other/a", b"x", device=device)[0] == 403


@row(aws="RETAIN wants iot:RetainPublish beside iot:Publish.", source="guide: Retained messages, policies")
def publish_retained_denied(world: World) -> None:
    topic = world.name("topic")
    device = world.device(_allow("iot:Publish", world.arn(f"topic/{topic}")))
    assert _ask(world, "POST", f"/topics/{topic}?qos=1&retain=true", b"x", device=device)[0] == 403
    assert _ask(world, "POST", f"/topics/{topic}?qos=1&retain=false", b"x", device=device)[0] == 200


@row(aws="A retained message by HTTPS is there for who subscribes later.", source=MODEL)
def publish_retained(world: World) -> None:
    topic = world.name("topic")
    assert _ask(world, "POST", f"/topics/{topic}?qos=1&retain=true", b"kept", device=world.device())[0] == 200
    watch = world.connected(world.device())
    watch.subscribe(topic)
    got = watch.receive()
    assert (got.payload, got.retain) == (b"kept", True)


@row(aws="The properties of MQTT 5 are query parameters and x-amz-mqtt5-* headers.", source=MODEL)
def publish_with_properties(world: World) -> None:
    topic = world.name("topic")
    watch = world.connected(world.device())
    watch.subscribe(topic)
    headers = {
        "x-amz-mqtt5-user-properties": base64.b64encode(json.dumps([{"a": "b"}]).encode()).decode(),
        "x-amz-mqtt5-payload-format-indicator": "UTF8_DATA", "x-amz-mqtt5-correlation-data": "YWI=",
    }  # fmt: skip
    query = "qos=1&contentType=text%2Fplain&responseTopic=answer&messageExpiry=60"
    assert _ask(world, "POST", f"/topics/{topic}?{query}", b"x", device=world.device(), headers=headers)[0] == 200
    found = watch.receive().properties
    assert found.UserProperty == [("a", "b")] and found.CorrelationData == b"ab" and found.PayloadFormatIndicator == 1
    assert (found.ContentType, found.ResponseTopic) == ("text/plain", "answer") and found.MessageExpiryInterval <= 60


@row(aws="QoS 2 is 400.", source=MODEL)
def publish_with_qos_2(world: World) -> None:
    assert _ask(world, "POST", f"/topics/{world.name()}?qos=2", b"x", device=world.device())[0] == 400


@row(aws="A topic with a wildcard is 400.", source="guide: MQTT topics", unconfirmed=True)
def publish_to_a_wildcard(world: World) -> None:
    assert _ask(world, "POST", "/topics/a/+", b"x", device=world.device())[0] == 400


@row(aws="Without a certificate or a signature a request is 403.", source=PORTS)
def publish_by_nobody(world: World) -> None:
    assert _ask(world, "POST", f"/topics/{world.name()}", b"x")[0] == 403


@row(aws="A certificate that is not active is 403.", source="guide: X.509 client certificates")
def publish_with_an_inactive_certificate(world: World) -> None:
    device = world.device()
    world.iot.update_certificate(certificateId=device.id, newStatus="INACTIVE")
    assert _ask(world, "POST", f"/topics/{world.name()}", b"x", device=device)[0] == 403


@row(aws="A payload over 128 KB is refused.", source="guide: AWS IoT Core quotas")
def publish_too_much(world: World) -> None:
    device = world.device()
    assert _ask(world, "POST", f"/topics/{world.name()}", b"x" * 131_072, device=device)[0] == 200
    assert _ask(world, "POST", f"/topics/{world.name()}", b"x" * 131_073, device=device)[0] in (400, 413)


# shadows


@row(aws="GET of a shadow that does not exist is 404; POST makes it; DELETE takes it away.", source=SHADOW)
def shadow_by_rest(world: World) -> None:
    device, path = world.device(), f"/things/{world.thing()}/shadow"
    assert _ask(world, "GET", path, device=device)[0] == 404
    status, body, _ = _ask(world, "POST", path, '{"state": {"reported": {"a": 1}}}', device=device)
    assert status == 200 and json.loads(body)["state"]["reported"] == {"a": 1}
    assert json.loads(_ask(world, "GET", path, device=device)[1])["version"] == 1
    assert _ask(world, "DELETE", path, device=device)[0] == 200
    assert _ask(world, "GET", path, device=device)[0] == 404


@row(aws="A named shadow is `?name=`, and is listed under /api/things/shadow/ListNamedShadowsForThing.", source=SHADOW)
def named_shadow_by_rest(world: World) -> None:
    device, thing = world.device(), world.thing()
    assert (
        _ask(world, "POST", f"/things/{thing}/shadow?name=s", '{"state": {"desired": {"b": 2}}}', device=device)[0]
        == 200
    )
    status, body, _ = _ask(world, "GET", f"/api/things/shadow/ListNamedShadowsForThing/{thing}", device=device)
    assert status == 200 and json.loads(body)["results"] == ["s"]


@row(aws="A version that is not the shadow's is 409.", source=SHADOW)
def shadow_version_by_rest(world: World) -> None:
    device, path = world.device(), f"/things/{world.thing()}/shadow"
    assert _ask(world, "POST", path, '{"state": {"reported": {"a": 1}}}', device=device)[0] == 200
    assert _ask(world, "POST", path, '{"state": {"reported": {"a": 2}}, "version": 7}', device=device)[0] == 409


# WebSocket


def _path(world: World, *, secret: str | None = None, expires: int = 300, service: str = "iotdevicegateway") -> str:
    host, port = world.endpoint.https
    place = host if port == 443 else f"{host}:{port}"
    held = botocore.credentials.Credentials(world.endpoint.access_key_id, secret or world.endpoint.secret_access_key)
    request = botocore.awsrequest.AWSRequest("GET", f"https://{place}/mqtt")
    botocore.auth.SigV4QueryAuth(held, service, world.region, expires=expires).add_auth(request)
    token = (
        f"&X-Amz-Security-Token={quote(world.endpoint.session_token, safe='')}" if world.endpoint.session_token else ""
    )
    return str(request.url).partition(place)[2] + token


def _upgrade(world: World, path: str, **headers: str) -> tuple[int, Any]:
    fields = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "mqtt",
    }  # fmt: skip
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    status, _, found = _ask(world, "GET", path, headers=fields)
    return status, found


@row(aws="A URL signed for iotdevicegateway opens /mqtt; the answer names the subprotocol.", source=SOCKET)
def websocket_by_a_signed_url(world: World) -> None:
    status, headers = _upgrade(world, _path(world))
    assert (status, headers["sec-websocket-protocol"]) == (101, "mqtt")
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@row(aws="Over such a WebSocket MQTT is what it is over TLS.", source=SOCKET)
def websocket_speaks_mqtt(world: World) -> None:
    host, port = world.endpoint.https
    topic, got = world.name("topic"), queue.Queue[Any]()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=world.name("page"), transport="websockets")
    client.tls_set_context(ssl.create_default_context(cafile=world.endpoint.ca_file))
    client.ws_set_options(path=_path(world), headers={"Host": host if port == 443 else f"{host}:{port}"})
    client.on_connect = lambda c, *_: c.subscribe(topic, 1)
    client.on_subscribe = lambda c, *_: c.publish(topic, b"by a page", 1)
    client.on_message = lambda _c, _u, message: got.put(message.payload)
    client.connect(host, port, 30)
    client.loop_start()
    try:
        assert got.get(timeout=10) == b"by a page"
    finally:
        client.disconnect()
        client.loop_stop()


@row(aws="A wrong secret is 403, before the upgrade.", source=SOCKET)
def websocket_with_a_wrong_secret(world: World) -> None:
    assert _upgrade(world, _path(world, secret="wrong"))[0] == 403


@row(aws="A URL signed for another service is 403.", source=SOCKET)
def websocket_of_another_service(world: World) -> None:
    assert _upgrade(world, _path(world, service="iotdata"))[0] == 403


@row(aws="/mqtt without any credentials is 403.", source=SOCKET)
def websocket_by_nobody(world: World) -> None:
    assert _upgrade(world, "/mqtt")[0] == 403


# signatures


def _refused(client: Any, call: str, **parameters: Any) -> tuple[str, int]:
    try:
        getattr(client, call)(**parameters)
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    raise AssertionError("it was answered")


@row(aws="A wrong secret is InvalidSignatureException for iot.", source="observed: aws-sdk-js-v3 issue 1569")
def signature_of_iot(world: World) -> None:
    wrong = world.client("iot", aws_secret_access_key="wrong")
    assert _refused(wrong, "list_things") == ("InvalidSignatureException", 403)


@row(
    aws="A wrong secret is ForbiddenException for iot-data.",
    source="observed: javaquery/Examples issue 5, aws-sdk-ruby issue 1064",
)
def signature_of_iot_data(world: World) -> None:
    wrong = world.client("iot-data", aws_secret_access_key="wrong")
    assert _refused(wrong, "publish", topic=world.name(), payload=b"x") == ("ForbiddenException", 403)


@row(
    aws="A wrong secret is SignatureDoesNotMatch for sts and s3.", source="guide: STS common errors, S3 error responses"
)
def signature_of_sts_and_s3(world: World) -> None:
    assert (
        _refused(world.client("sts", aws_secret_access_key="wrong"), "get_caller_identity")[0]
        == "SignatureDoesNotMatch"
    )
    assert _refused(world.client("s3", aws_secret_access_key="wrong"), "list_buckets")[0] == "SignatureDoesNotMatch"


@row(aws="A region that is not the endpoint's is refused.", source="observed: aws-sdk-ruby issue 1064")
def signature_of_another_region(world: World) -> None:
    other = world.client("iot-data", region_name="eu-west-3")
    assert _refused(other, "publish", topic=world.name(), payload=b"x") == ("ForbiddenException", 403)
