"""Every declared operation, whatever slice it is of: its model, unknown and missing members, denial, its answer's shape.

A new operation is checked by being declared.
"""

import importlib
import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import urlencode

import pytest

from marram.cli.client import rest_request
from marram.core import codec, sigv4
from marram.core.errors import MarramError, NotFound, Unauthenticated
from marram.hub import slice as declared
from marram.hub.border import plans
from marram.hub.border.awsjson import Request, Response
from marram.hub.border.chain import Api
from marram.hub.identity.service import Identity as IdentityService
from marram.hub.identity.service import Subject
from marram.hub.slice import OPERATIONS, ROUTES, Call, Operation
from marram.kit.clock import FakeClock, SeededEntropy
from tools import plans as compiler

ROOT = Path(__file__).parents[3]
REGION, ACCOUNT = "local-1", "000000000001"
WHO = sigv4.Credentials("AKIATEST", "secret")
SUBJECT = Subject(
    kind="key", principal=WHO.access_key_id, arn="arn:aws:iam::1:user/a", attributes={"aws:username": "a"}
)


def _declare_all() -> None:
    """Imports what declares operations: every api module of every slice."""
    compiler.build(ROOT)
    for folder in ("hub", "ml"):
        for path in sorted((ROOT / "marram" / folder).glob("*/api*/**/*.py")) + sorted(
            (ROOT / "marram" / folder).glob("*/api.py")
        ):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


_declare_all()
ALL = sorted(OPERATIONS)
JSON = [key for key in ALL if plans.load(key[0]).protocol in ("rest-json", "json")]

# Their resource wants one of two members that the model calls optional.
ASK_MORE = {("iot", "AddThingToThingGroup"), ("iot", "RemoveThingFromThingGroup")}


@dataclass
class Seen:
    params: Any = None
    result: Any = None


class Identity:
    epoch = 1

    def __init__(self, allow: bool) -> None:
        self.allow = allow
        self.asked: list[tuple[str, str]] = []

    def key(self, access_key_id: str) -> Any:
        if access_key_id != WHO.access_key_id:
            raise Unauthenticated("no")
        return SimpleNamespace(secret=WHO.secret, expires_ms=None, subject=SUBJECT)

    def session(self, access_key_id: str, token: str) -> Any:
        raise NotFound("no")

    def certificate_subject(self, der: bytes) -> Any:
        raise Unauthenticated("no")

    def key_used(self, access_key_id: str, service: str) -> None:
        return None

    def denial(self, subject: Any, action: str, resource: str, context: Any) -> str:
        return f"User: {subject.arn} is not authorized to perform: {action} on resource: {resource}"

    def may(self, subject: Any, action: str, resource: str, context: Any) -> bool:
        self.asked.append((action, resource))
        return self.allow


def door(key: tuple[str, str], seen: Seen, *, allow: bool = True) -> tuple[Api, Identity]:
    async def record(service: object, call: Call, params: Any) -> Any:
        seen.params = params
        return seen.result or {}

    identity = Identity(allow)

    def resource(call: Call, params: Any) -> Any:
        named = OPERATIONS[key].resource(call, params)
        return named if isinstance(named, str | list) else str(named)

    operation = replace(OPERATIONS[key], function=record, resource=resource)
    service = MagicMock()  # a resource function may look a name up in it
    service.__class__ = IdentityService
    made = Api(
        services={operation.slice: service}, identity=identity, clock=FakeClock(), entropy=SeededEntropy(1), account=ACCOUNT,
        region=REGION, page_key=b"k" * 32, operations={key: operation}, routes={},
    )  # fmt: skip
    return made, identity


TEXTS = [
    "a", "abc", "1", "v1", "2020-01-01", "000000000001", "a" * 36, "0" * 64, "ACTIVE", "SELECT * FROM 'a'", "{}", "1.0.0", "mrm1.a",
    f"arn:aws:iot:{REGION}:{ACCOUNT}:thing/a", f"arn:aws:iot:us-east-1:{ACCOUNT}:thing/a",
    f"arn:aws:greengrass:{REGION}:{ACCOUNT}:components:a:versions:1.0.0", f"arn:aws:iam::{ACCOUNT}:role/a",
    f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:labeling-job/a", "s3://bucket/key", "https://a.b/c",
    f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:a", "a.b.c", f"{ACCOUNT}.dkr.ecr.local-1.amazonaws.com/a:1",
    f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:workteam/private-crowd/a", f"arn:aws:iot:{REGION}:{ACCOUNT}:cert/{'0' * 64}",
    f"arn:aws:greengrass:{REGION}:{ACCOUNT}:components:a", f"arn:aws:greengrass:us-east-1:{ACCOUNT}:components:a:versions:1.0.0",
]  # fmt: skip


def sample(plan: plans.Plan, name: str, depth: int = 0) -> Any:
    """The least value that the model accepts."""
    shape = plan.shapes[name]
    match shape["type"]:
        case "structure":
            if shape.get("union"):
                first, ref = next(iter(shape["members"].items()))
                return {first: sample(plan, ref["shape"], depth + 1)}
            return {m: sample(plan, shape["members"][m]["shape"], depth + 1) for m in shape.get("required", ())}
        case "list":
            return [sample(plan, shape["member"]["shape"], depth + 1)] * shape.get("min", 0)
        case "map":
            return {}
        case "boolean":
            return True
        case "integer" | "long":
            return max(shape.get("min", 1), 1) if shape.get("max", 1) >= 1 else shape["max"]
        case "float" | "double":
            return float(shape.get("min", 1))
        case "timestamp":
            return 1_750_000_000
        case "blob":
            return "eA=="
    if shape.get("enum"):
        return shape["enum"][0]
    pattern = re.compile(shape.get("pattern", ".*"), re.ASCII | (0 if "pattern" in shape else re.DOTALL))
    for text in itertools.chain(TEXTS, ("a" * max(shape.get("min", 1), 1),)):
        if pattern.fullmatch(text) and shape.get("min", 0) <= len(text) <= shape.get("max", 1 << 30):
            return text
    raise AssertionError(f"{name}: no sample for {shape}")


def request_for(key: tuple[str, str], params: dict[str, Any], extra: dict[str, Any] | None = None) -> Request:
    plan = plans.load(key[0])
    operation = plan.operations[key[1]]
    headers: dict[str, str] = {}
    query: list[tuple[str, str]] = []
    method, path = "POST", "/"
    if plan.protocol == "json":
        headers = {"x-amz-target": f"{plan.target_prefix}.{key[1]}"}
        body = codec.dumps(params | (extra or {}))
    elif plan.protocol == "query":
        headers["content-type"] = "application/x-www-form-urlencoded"
        body = urlencode({"Action": key[1], "Version": plan.api_version, **flat("", params)}).encode()
    elif plan.protocol == "rest-json":
        method = operation.method
        path, query, headers, body = rest_request(plan, operation, params)
        if extra:
            body = codec.dumps(codec.loads(body or b"{}") | extra)  # type: ignore[operator]
    else:
        method, body = operation.method, b""
        path = "/" + "/".join({"{Bucket}": "bucket", "{Key+}": "key"}[segment] for segment in operation.segments)
        shape = plan.shapes[operation.input] if operation.input else {}
        query = list(operation.literal_query.items())
        for member in shape.get("required", ()):
            ref = shape["members"][member]
            if ref.get("location") == "querystring":
                query.append((ref["locationName"], str(sample(plan, ref["shape"]))))
            elif ref.get("location") == "header":
                headers[ref["locationName"].lower()] = "bucket/key" if member == "CopySource" else "a"
            elif ref.get("location") is None:
                body = b"<Delete><Object><Key>key</Key></Object></Delete>"
    signed = sigv4.sign(
        WHO, method=method, path=path, query=query, headers=headers | {"host": "localhost"}, body=body, region=REGION,
        service=plan.signing_name, now_ms=FakeClock().wall_ms(),
    )  # fmt: skip
    target = path + ("?" + sigv4.canonical_query(query) if query else "")
    return Request(method=method, target=target, headers=signed, body=body, source_ip="127.0.0.1")


def flat(name: str, value: Any) -> dict[str, str]:
    """Parameters of the query protocol: members by dots, lists by `.member.N`."""
    dot = f"{name}." if name else ""
    if isinstance(value, dict):
        return {key: text for member, item in value.items() for key, text in flat(f"{dot}{member}", item).items()}
    if isinstance(value, list):
        return {key: text for at, item in enumerate(value, 1) for key, text in flat(f"{dot}member.{at}", item).items()}
    return {name: str(value).lower() if isinstance(value, bool) else str(value)}


def params_of(key: tuple[str, str]) -> dict[str, Any]:
    plan = plans.load(key[0])
    operation = plan.operations[key[1]]
    return sample(plan, operation.input) if operation.input else {}  # type: ignore[no-any-return]


def code_of(response: Response) -> str:
    body = response.body
    assert isinstance(body, bytes)
    if response.headers.get("content-type") in ("text/xml", "application/xml"):
        return body.decode().partition("<Code>")[2].partition("</Code>")[0]
    found: Any = codec.loads(body)
    return response.headers.get("x-amzn-errortype") or str(found["__type"])


def _id(key: tuple[str, str]) -> str:
    return f"{key[0]}:{key[1]}"


def test_there_are_operations() -> None:
    assert ("s3", "PutObject") in OPERATIONS


@pytest.mark.parametrize("key", ALL, ids=_id)
def test_it_is_in_the_model_and_names_a_permission(key: tuple[str, str]) -> None:
    operation = OPERATIONS[key]
    assert key[1] in plans.load(key[0]).operations
    assert operation.public or re.fullmatch(r"[a-z0-9-]+:[A-Za-z0-9]+", operation.action)


@pytest.mark.parametrize("key", ALL, ids=_id)
async def test_a_good_request_arrives_and_a_denied_one_does_not(key: tuple[str, str]) -> None:
    operation = OPERATIONS[key]
    seen = Seen()
    api, identity = door(key, seen, allow=True)
    answer = await api.handle(request_for(key, params_of(key)))
    if answer.status >= 400:
        # The resource may say that the sample names nothing it knows; it must say so in the service's form.
        assert not code_of(answer).startswith("Internal"), answer.body
        pytest.skip(f"the sample is refused: {answer.body!r}")
    assert seen.params is not None
    if operation.public:
        return
    # A role that is handed over is asked for besides.
    assert {operation.action} <= {action for action, _ in identity.asked} <= {operation.action, "iam:PassRole"}
    seen.params = None
    api, _ = door(key, seen, allow=False)
    refused = await api.handle(request_for(key, params_of(key)))
    assert refused.status in (400, 401, 403) and seen.params is None
    if plans.load(key[0]).operations[key[1]].method == "HEAD":
        return  # an answer to HEAD has no body to say more in
    assert code_of(refused) in (
        "AccessDenied",
        "AccessDeniedException",
        "ForbiddenException",
        "CertificateValidationException",
    )
    assert isinstance(refused.body, bytes) and operation.action.encode() in refused.body


@pytest.mark.parametrize("key", JSON, ids=_id)
async def test_an_unknown_member_is_refused_by_name(key: tuple[str, str]) -> None:
    plan = plans.load(key[0])
    shape = plan.shapes[plan.operations[key[1]].input or ""] if plan.operations[key[1]].input else {}
    payload = shape.get("payload")
    if payload and plan.shapes[shape["members"][payload]["shape"]]["type"] == "blob":
        pytest.skip("the body is bytes")
    seen = Seen()
    api, _ = door(key, seen)
    answer = await api.handle(request_for(key, params_of(key), {"noSuchMember": 1}))
    assert answer.status == 400 and seen.params is None, answer.body
    assert isinstance(answer.body, bytes)
    assert b"noSuchMember" in answer.body or b"takes no" in answer.body


@pytest.mark.parametrize("key", JSON, ids=_id)
async def test_each_required_member_is_missed(key: tuple[str, str]) -> None:
    plan = plans.load(key[0])
    operation = plan.operations[key[1]]
    params = params_of(key)
    shape = plan.shapes[operation.input] if operation.input else {}
    for member in params:
        if shape["members"][member].get("location") == "uri":
            continue
        seen = Seen()
        api, _ = door(key, seen)
        answer = await api.handle(request_for(key, {k: v for k, v in params.items() if k != member}))
        assert answer.status == 400 and seen.params is None, (member, answer.body)
        assert isinstance(answer.body, bytes) and member.encode() in answer.body


@pytest.mark.parametrize("key", JSON, ids=_id)
async def test_a_result_that_the_model_does_not_know_is_our_fault(key: tuple[str, str]) -> None:
    seen = Seen(result={"noSuchMember": 1})
    api, _ = door(key, seen)
    answer = await api.handle(request_for(key, params_of(key)))
    if seen.params is not None:
        assert answer.status == 500


def test_an_operation_without_model_or_service_does_not_start() -> None:
    key = ("s3", "PutObject")
    good = OPERATIONS[key]
    for wrong in (
        {("s3", "PutNothing"): replace(good, name="PutNothing")},
        {key: replace(good, action="")},
        {key: replace(good, slice="x")},
    ):
        with pytest.raises(RuntimeError):
            Api(
                services={"objects": None}, identity=Identity(True), clock=FakeClock(), entropy=SeededEntropy(1),
                account=ACCOUNT, region=REGION, page_key=b"k" * 32, operations=wrong, routes={},
            )  # fmt: skip


def test_our_own_operations_are_loaded_by_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.session

    session = botocore.session.Session()
    session.set_config_variable("data_path", str(ROOT / "marram/hub/border/models"))
    client = session.create_client(
        "marram",
        endpoint_url="http://127.0.0.1:1",
        region_name=REGION,
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    own = {key[1].rpartition("/")[2] for key in ALL if key[0] == "marram"}
    assert own <= set(client.meta.service_model.operation_names)
    client.close()


@pytest.mark.parametrize("error", list(MarramError.__subclasses__()))
@pytest.mark.parametrize("service", plans.SERVICES)
async def test_every_error_of_ours_has_a_name_in_every_service(service: str, error: type[MarramError]) -> None:
    keys = [key for key in ALL if key[0] == service and key not in ASK_MORE]
    if not keys:
        pytest.skip("no operation is declared")
    operation: Operation = OPERATIONS[keys[0]]

    async def fail(*_: object) -> Any:
        raise error("a secret cause")

    identity = Identity(True)
    api = Api(
        services={operation.slice: None}, identity=identity, clock=FakeClock(), entropy=SeededEntropy(1), account=ACCOUNT,
        region=REGION, page_key=b"k" * 32, operations={keys[0]: replace(operation, function=fail)}, routes={},
    )  # fmt: skip
    answer = await api.handle(request_for(keys[0], params_of(keys[0])))
    assert answer.status >= 400
    assert code_of(answer) if answer.body else answer.status in (304, 404)
    if error.__name__ == "Corrupt":
        assert answer.status == 500 and isinstance(answer.body, bytes) and b"secret cause" not in answer.body


def test_routes_say_who_may_call_them() -> None:
    assert all(route.auth in ("certificate", "none") for route in ROUTES.values())
    assert declared.ROUTES is ROUTES
