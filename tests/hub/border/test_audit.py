"""What the API door tells an auditor: each act once, with its resources and how it ended; what only looks, never."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from marram.core import codec, sigv4
from marram.core.errors import AlreadyExists
from marram.hub.border import audit
from marram.hub.border.awsjson import Request, Response
from marram.hub.border.chain import Api
from marram.hub.slice import Act, Call, Operation, Params, Result
from marram.kit.clock import FakeClock, SeededEntropy

REGION, ACCOUNT = "local-1", "000000000001"
WHO = sigv4.Credentials("AKIATEST", "secret")
ARN = f"arn:aws:iot:{REGION}:{ACCOUNT}:thing/"


class Identity:
    epoch = 1
    allow = True

    def key(self, access_key_id: str) -> Any:
        return SimpleNamespace(secret=WHO.secret, expires_ms=None, subject=SimpleNamespace(arn="arn:aws:iam::1:user/a"))

    session = certificate_subject = None

    def key_used(self, *_: object) -> None:
        return None

    def denial(self, *_: object) -> str:
        return "no"

    def may(self, *_: object) -> bool:
        return self.allow


class Book:
    def __init__(self) -> None:
        self.lines: list[tuple[str, list[str], str]] = []
        self.broken = False

    async def record(self, call: Call, operation: Act, resources: Sequence[str], outcome: str) -> None:
        assert call.subject.arn == "arn:aws:iam::1:user/a"
        self.lines.append((operation.name, list(resources), outcome))
        if self.broken:
            raise RuntimeError("no disk")


async def create(service: object, call: Call, params: Params) -> Result:
    if params["thingName"] == "there":
        raise AlreadyExists("it is there")
    return {"thingName": params["thingName"]}


def _operation(name: str, service: str = "iot") -> Operation:
    return Operation(
        service=service, name=name, slice="test", action=f"iot:{name}", function=create,
        resource=lambda call, params: ARN + params["thingName"],
    )  # fmt: skip


def made(identity: Identity, book: Book) -> Api:
    operations = [_operation("CreateThing"), _operation("DescribeThing"), _operation("GetThingShadow", "iot-data")]
    return Api(
        services={"test": None}, identity=identity, clock=FakeClock(), entropy=SeededEntropy(1), account=ACCOUNT,  # type: ignore[arg-type]
        region=REGION, page_key=b"k" * 32, operations={(each.service, each.name): each for each in operations}, routes={},
        auditor=book,
    )  # fmt: skip


async def ask(api: Api, method: str, name: str, body: object = None) -> Response:
    path, data = f"/things/{name}", codec.dumps(body or {})  # type: ignore[arg-type]
    headers = sigv4.sign(
        WHO, method=method, path=path, query=(), headers={"host": "localhost"}, body=data, region=REGION, service="iot",
        now_ms=FakeClock().wall_ms(),
    )  # fmt: skip
    return await api.handle(Request(method=method, target=path, headers=headers, body=data, source_ip="127.0.0.1"))


async def test_an_act_has_one_line_however_it_ends() -> None:
    identity, book = Identity(), Book()
    api = made(identity, book)
    assert (await ask(api, "POST", "new")).status == 200
    assert (await ask(api, "POST", "there")).status == 409
    assert (await ask(api, "POST", "bad", {"noSuchMember": 1})).status == 400
    identity.allow = False
    assert (await ask(api, "POST", "denied")).status == 403
    assert book.lines == [
        ("CreateThing", [ARN + "new"], audit.OK),
        ("CreateThing", [ARN + "there"], "ResourceAlreadyExistsException"),
        ("CreateThing", [], "InvalidRequestException"),
        ("CreateThing", [ARN + "denied"], "AccessDeniedException"),
    ]


async def test_looking_is_no_act() -> None:
    book = Book()
    await ask(made(Identity(), book), "GET", "new")
    assert book.lines == []


async def test_an_auditor_that_fails_does_not_undo_the_answer() -> None:
    book = Book()
    book.broken = True
    assert (await ask(made(Identity(), book), "POST", "new")).status == 200
    assert len(book.lines) == 1


@pytest.mark.parametrize(
    ("service", "name", "expected"),
    [
        pytest.param("iot", "UpdateThing", True, id="a change"),
        pytest.param("iot", "SearchIndex", False, id="a search"),
        pytest.param("iot", "TestAuthorization", False, id="a try"),
        pytest.param("iot-data", "Publish", False, id="data plane"),
        pytest.param("iot-data", "DeleteConnection", True, id="a device is put out"),
        pytest.param("marram", "broker/DryRunPolicy", False, id="a dry run"),
        pytest.param("iot-jobs-data", "UpdateJobExecution", False, id="job executions"),
        pytest.param("s3", "PutObject", False, id="an object"),
        pytest.param("s3", "CompleteMultipartUpload", False, id="an upload"),
        pytest.param("s3", "DeleteBucket", True, id="a bucket"),
        pytest.param("greengrassv2", "BatchAssociateClientDeviceWithCoreDevice", True, id="batch"),
        pytest.param("sts", "AssumeRole", True, id="a role"),
        pytest.param("marram", "identity/CreateKey", True, id="our own"),
        pytest.param("marram", "timeseries/Write", False, id="points"),
    ],
)
def test_what_is_an_act(service: str, name: str, expected: bool) -> None:
    assert audit.is_act(replace(_operation(name), service=service)) is expected
