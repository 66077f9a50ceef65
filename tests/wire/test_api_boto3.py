"""The API door with unmodified boto3: real sockets, real signatures, real store."""

import asyncio
import hashlib
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
import botocore.crt.auth
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import ClientError

from marram.cli import client
from marram.cli.main import HubNotReachable
from marram.core import sigv4
from marram.core.errors import AlreadyExists, Denied, Invalid, NotFound, Unsupported
from marram.hub.border.chain import Api
from marram.hub.border.https import HttpDoor
from marram.hub.bus import Bus
from marram.hub.identity import api as identity_api  # noqa: F401 - declares its operations
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import ALL_ALLOWED, Identity
from marram.hub.objects import api as objects_api  # noqa: F401 - declares its operations
from marram.hub.objects.service import Objects
from marram.hub.slice import OPERATIONS, ROUTES
from marram.kit import http, metrics
from marram.kit.blobs import Blobs
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db, Migrations
from marram.serve.folder import NoHub

REGION = "local-1"
ACCOUNT = "000000000001"
ONLY_A_BUCKET = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:PutObject","s3:GetObject"],'
    '"Resource":"arn:aws:s3:::allowed/*"}]}'
)


class Hub:
    """A hub of two slices on a loop of its own, so that boto3 may block in the test's thread."""

    def __init__(self, folder: Path) -> None:
        self._ready = threading.Event()
        self._folder = folder
        self._stop: asyncio.Event | None = None
        self._clients: list[Any] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def start(self) -> "Hub":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        for made in self._clients:
            made.close()
        assert self._stop is not None
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        clock, entropy = SystemClock(), SystemEntropy()
        slices = ("identity", "objects")
        db = Db.open(
            self._folder / "hub.db",
            clock=clock,
            migrations=[Migrations(slice=name, package=f"marram.hub.{name}") for name in slices],
        )
        pki = Pki.open(self._folder / "pki", clock=clock, entropy=entropy, names=["localhost"])
        identity = Identity(db, pki, Bus(), clock=clock, entropy=entropy, account=ACCOUNT, region=REGION)
        admin = await identity.create_key("admin2", ALL_ALLOWED)
        narrow = await identity.create_key("narrow", ONLY_A_BUCKET)
        self.key, self.secret = admin.id, admin.secret
        self.narrow_key, self.narrow_secret = narrow.id, narrow.secret
        self.endpoint = ""
        credentials = sigv4.Credentials(admin.id, admin.secret)

        class Signer:
            def credentials(self) -> sigv4.Credentials:
                return credentials

        self.objects = Objects(
            db,
            Blobs(self._folder / "blobs", db),
            clock,
            region=REGION,
            endpoint=lambda: self.endpoint,
            signer=Signer(),
        )
        self.api = Api(
            services={"identity": identity, "objects": self.objects},
            identity=identity,
            clock=clock,
            entropy=entropy,
            account=ACCOUNT,
            region=REGION,
            page_key=entropy.bytes(32),
            metrics_text=metrics.render,
            operations={key: item for key, item in OPERATIONS.items() if item.slice in slices},
            routes={key: item for key, item in ROUTES.items() if item.slice in slices},
        )
        door = HttpDoor(self.api, clock)
        server = await self.loop.create_server(door.connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        async with asyncio.TaskGroup() as tasks:
            ticks = tasks.create_task(door.run())
            self._ready.set()
            await self._stop.wait()
            server.close()
            await door.close()
            ticks.cancel()
        db.close()

    def call(self, make: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(make(), self.loop).result(30)

    def client(self, service: str, *, key: str = "", secret: str = "", region: str = REGION, **config: Any) -> Any:
        made = boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=key or self.key,
            aws_secret_access_key=secret or self.secret,
            region_name=region,
            config=Config(retries={"max_attempts": 0}, **config),
        )
        self._clients.append(made)
        return made


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    made = Hub(tmp_path_factory.mktemp("hub")).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def s3(hub: Hub) -> Any:
    client = hub.client("s3")
    client.create_bucket(Bucket="data", CreateBucketConfiguration={"LocationConstraint": REGION})
    return client


def error_of(call: Callable[[], Any]) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return (
        response["Error"]["Code"],
        response["ResponseMetadata"]["HTTPStatusCode"],
        response["Error"].get("Message", ""),
    )


def fetch(url: str, **request: Any) -> tuple[int, Any, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, **request)) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_who_calls_is_told(hub: Hub) -> None:
    found = hub.client("sts").get_caller_identity()
    assert found["Account"] == ACCOUNT
    assert found["ResponseMetadata"]["RequestId"]


CALLS = [
    pytest.param("sts", lambda c: c.get_caller_identity(), "InvalidClientTokenId", id="query"),
    pytest.param("iot", lambda c: c.list_policies(), "UnrecognizedClientException", id="rest-json"),
    pytest.param("sagemaker", lambda c: c.list_models(), "UnrecognizedClientException", id="json"),
    pytest.param("s3", lambda c: c.list_buckets(), "InvalidAccessKeyId", id="rest-xml"),
    pytest.param("greengrassv2", lambda c: c.list_components(), "UnrecognizedClientException", id="greengrassv2"),
]


@pytest.mark.parametrize(("service", "call", "unknown_key"), CALLS)
def test_a_wrong_key_or_secret_or_region_is_refused_in_the_protocol_of_the_service(
    hub: Hub, service: str, call: Callable[[Any], Any], unknown_key: str
) -> None:
    assert error_of(lambda: call(hub.client(service, key="AKIANOBODY")))[:2] == (unknown_key, 403)
    wrong = "SignatureDoesNotMatch" if service in ("s3", "sts") else "InvalidSignatureException"
    assert error_of(lambda: call(hub.client(service, secret="wrong")))[:2] == (wrong, 403)
    assert error_of(lambda: call(hub.client(service, region="us-east-1")))[:2] == (wrong, 403)


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize(("service", "code"), [("iot", "InvalidSignatureException"), ("s3", "RequestTimeTooSkewed")])
def test_a_clock_an_hour_off_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, service: str, code: str, hours: int
) -> None:
    wrong = datetime.now(UTC) + timedelta(hours=hours)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: wrong.replace(tzinfo=None))
    # With awscrt installed botocore signs by it.
    monkeypatch.setattr(botocore.crt.auth, "get_current_datetime", lambda **_: wrong)
    client = hub.client(service)
    found, status, message = error_of(client.list_policies if service == "iot" else client.list_buckets)
    assert (found, status) == (code, 403)
    assert "60 minutes " + ("ahead of" if hours > 0 else "behind") in message


def test_a_known_operation_that_is_not_served_is_named(hub: Hub) -> None:
    code, status, message = error_of(lambda: hub.client("iot").list_billing_groups())
    assert (code, status) == ("NotImplementedException", 501)
    assert "ListBillingGroups" in message


def test_an_unknown_operation_is_unknown(hub: Hub) -> None:
    headers = sigv4.sign(
        sigv4.Credentials(hub.key, hub.secret), method="GET", path="/no/such/thing", query=[], body=b"",
        headers={"host": f"127.0.0.1:{hub.port}"}, region=REGION, service="iot",
        now_ms=SystemClock().wall_ms(),
    )  # fmt: skip
    status, answered, body = fetch(f"{hub.endpoint}/no/such/thing", headers=headers)
    assert (status, answered["x-amzn-errortype"]) == (404, "UnknownOperationException")
    assert b"/no/such/thing" in body


def test_no_policy_no_right_and_the_refusal_names_action_and_resource(hub: Hub, s3: Any) -> None:
    narrow = hub.client("s3", key=hub.narrow_key, secret=hub.narrow_secret)
    s3.create_bucket(Bucket="allowed")
    narrow.put_object(Bucket="allowed", Key="a", Body=b"x")
    code, status, message = error_of(lambda: narrow.put_object(Bucket="data", Key="a", Body=b"x"))
    assert (code, status) == ("AccessDenied", 403)
    assert "s3:PutObject" in message and "arn:aws:s3:::data/a" in message
    assert (
        error_of(lambda: narrow.copy_object(Bucket="allowed", Key="b", CopySource="data/secret"))[0] == "AccessDenied"
    )
    iot = hub.client("iot", key=hub.narrow_key, secret=hub.narrow_secret)
    assert error_of(lambda: iot.list_policies())[:2] == ("AccessDeniedException", 403)


def test_metrics_need_no_signature_on_loopback(hub: Hub) -> None:
    assert b"marram_api_calls_total" in fetch(f"{hub.endpoint}/metrics")[2]


@pytest.mark.parametrize("size", [0, 1, 70_000, 9 << 20, 21 << 20])
def test_a_file_comes_back_as_it_went(hub: Hub, s3: Any, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    s3.upload_file(str(source), "data", f"files/{size}", ExtraArgs={"Metadata": {"a": "b"}, "ContentType": "x/y"})
    s3.download_file("data", f"files/{size}", str(target))
    assert target.read_bytes() == source.read_bytes()
    head = s3.head_object(Bucket="data", Key=f"files/{size}")
    assert (head["ContentLength"], head["Metadata"], head["ContentType"]) == (size, {"a": "b"}, "x/y")


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256", "CRC32C", "CRC64NVME"])
def test_every_checksum_algorithm_is_verified(s3: Any, algorithm: str) -> None:
    body = os.urandom(100_001)
    put = s3.put_object(Bucket="data", Key="sum", Body=body, ChecksumAlgorithm=algorithm)
    assert put[f"Checksum{algorithm}"]
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert s3.get_object(Bucket="data", Key="sum")["Body"].read() == body


def test_a_wrong_checksum_leaves_the_old_object(s3: Any) -> None:
    s3.put_object(Bucket="data", Key="kept", Body=b"old")
    code, status, _ = error_of(lambda: s3.put_object(Bucket="data", Key="kept", Body=b"new", ChecksumCRC32="AAAAAA=="))
    assert (code, status) == ("BadDigest", 400)
    assert (
        error_of(lambda: s3.put_object(Bucket="data", Key="kept", Body=b"new", ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg=="))[
            0
        ]
        == "BadDigest"
    )
    assert s3.get_object(Bucket="data", Key="kept")["Body"].read() == b"old"


def test_multipart_by_hand(s3: Any) -> None:
    parts = [os.urandom(5 << 20), os.urandom(100)]
    upload = s3.create_multipart_upload(Bucket="data", Key="multi")["UploadId"]
    tags = []
    for number, part in enumerate(parts, 1):
        made = s3.upload_part(Bucket="data", Key="multi", UploadId=upload, PartNumber=number, Body=part)
        tags.append({"PartNumber": number, "ETag": made["ETag"]})
    assert [p["Size"] for p in s3.list_parts(Bucket="data", Key="multi", UploadId=upload)["Parts"]] == [5 << 20, 100]
    assert error_of(lambda: s3.head_object(Bucket="data", Key="multi"))[1] == 404
    wrong = {"Parts": [tags[1], tags[0]]}
    assert (
        error_of(
            lambda: s3.complete_multipart_upload(Bucket="data", Key="multi", UploadId=upload, MultipartUpload=wrong)
        )[0]
        == "InvalidPartOrder"
    )
    done = s3.complete_multipart_upload(Bucket="data", Key="multi", UploadId=upload, MultipartUpload={"Parts": tags})
    assert done["ETag"].endswith('-2"')
    assert s3.get_object(Bucket="data", Key="multi")["Body"].read() == b"".join(parts)
    assert error_of(lambda: s3.list_parts(Bucket="data", Key="multi", UploadId=upload))[:2] == ("NoSuchUpload", 404)


def test_an_aborted_upload_is_gone(s3: Any) -> None:
    upload = s3.create_multipart_upload(Bucket="data", Key="aborted")["UploadId"]
    s3.upload_part(Bucket="data", Key="aborted", UploadId=upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket="data", Key="aborted", UploadId=upload)
    assert error_of(lambda: s3.upload_part(Bucket="data", Key="aborted", UploadId=upload, PartNumber=1, Body=b"x"))[
        0
    ] == ("NoSuchUpload")


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        pytest.param("bytes=2-4", b"234", id="inside"),
        pytest.param("bytes=7-", b"789", id="open"),
        pytest.param("bytes=-3", b"789", id="suffix"),
        pytest.param("bytes=8-99", b"89", id="beyond"),
        pytest.param("bytes=0-1,4-5", b"0123456789", id="several"),
        pytest.param("bytes=5-2", b"0123456789", id="backwards"),
    ],
)
def test_ranges(s3: Any, asked: str, wanted: bytes) -> None:
    s3.put_object(Bucket="data", Key="range", Body=b"0123456789")
    assert s3.get_object(Bucket="data", Key="range", Range=asked)["Body"].read() == wanted


def test_a_range_outside_is_refused(s3: Any) -> None:
    s3.put_object(Bucket="data", Key="range", Body=b"0123456789")
    assert error_of(lambda: s3.get_object(Bucket="data", Key="range", Range="bytes=10-"))[:2] == ("InvalidRange", 416)


def test_conditions(s3: Any) -> None:
    tag = s3.put_object(Bucket="data", Key="cond", Body=b"x")["ETag"]
    assert error_of(lambda: s3.get_object(Bucket="data", Key="cond", IfNoneMatch=tag))[1] == 304
    assert error_of(lambda: s3.get_object(Bucket="data", Key="cond", IfMatch='"other"'))[1] == 412
    assert error_of(lambda: s3.put_object(Bucket="data", Key="cond", Body=b"y", IfNoneMatch="*"))[1] == 412
    s3.put_object(Bucket="data", Key="cond2", Body=b"y", IfNoneMatch="*")


def test_presigned_urls(hub: Hub, s3: Any) -> None:
    put = s3.generate_presigned_url("put_object", Params={"Bucket": "data", "Key": "pre signed/ä"}, ExpiresIn=60)
    assert fetch(put, data=b"hello", method="PUT")[0] == 200
    get = s3.generate_presigned_url("get_object", Params={"Bucket": "data", "Key": "pre signed/ä"}, ExpiresIn=60)
    assert fetch(get)[2] == b"hello"
    assert fetch(get.replace("pre%20signed", "pre%20signee"))[0] == 403
    assert fetch(re.sub("(X-Amz-Expires|Expires)=[0-9]+", r"\1=99999", get))[0] == 403


def test_a_browser_runs_nothing_that_is_an_object(hub: Hub, s3: Any) -> None:
    s3.create_bucket(Bucket="pages")
    s3.put_object(Bucket="pages", Key="a.html", Body=b"<script>alert(1)</script>", ContentType="text/html")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "pages", "Key": "a.html"})
    with urllib.request.urlopen(url) as answer:
        assert answer.headers["content-security-policy"] == "sandbox"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_our_own_presigned_url_is_resumed(hub: Hub, s3: Any, tmp_path: Path) -> None:
    body = os.urandom(300_000)
    s3.put_object(Bucket="data", Key="dir/ö x", Body=body)
    url = hub.objects.presign("data", "dir/ö x", 60)
    (tmp_path / "file.part").write_bytes(body[:100_000])
    found = asyncio.run(http.download(url, tmp_path / "file", limit=1 << 20, sha256=hashlib.sha256(body).hexdigest()))
    assert (found.size, found.resumed_at) == (300_000, 100_000)
    assert (tmp_path / "file").read_bytes() == body
    with pytest.raises(NotFound):
        asyncio.run(http.download(hub.objects.presign("data", "none", 60), tmp_path / "none", limit=10))


def test_listing_pages_and_folds(s3: Any) -> None:
    s3.create_bucket(Bucket="listed")
    keys = sorted(["a", "b/1", "b/2", "b/3", "c/d/1", "c/e", "z", "ä/ö", "x y+z&<"], key=str.encode)
    for key in keys:
        s3.put_object(Bucket="listed", Key=key, Body=b"x")
    for call, token in (("list_objects_v2", "v2"), ("list_objects", "v1")):
        pages = s3.get_paginator(call).paginate(Bucket="listed", PaginationConfig={"PageSize": 2})
        assert [item["Key"] for page in pages for item in page.get("Contents", [])] == keys, token
        folded = list(s3.get_paginator(call).paginate(Bucket="listed", Delimiter="/", PaginationConfig={"PageSize": 1}))
        assert [item["Prefix"] for page in folded for item in page.get("CommonPrefixes", [])] == ["b/", "c/", "ä/"]
        assert [item["Key"] for page in folded for item in page.get("Contents", [])] == ["a", "x y+z&<", "z"]
    under = s3.list_objects_v2(Bucket="listed", Prefix="c/", Delimiter="/")
    assert [p["Prefix"] for p in under["CommonPrefixes"]] == ["c/d/"]
    assert error_of(lambda: s3.list_objects_v2(Bucket="listed", ContinuationToken="abcd"))[0] == "InvalidArgument"


def test_copy_and_delete(s3: Any) -> None:
    s3.put_object(Bucket="data", Key="from", Body=b"x", Metadata={"k": "v"})
    s3.copy_object(Bucket="data", Key="to/é", CopySource={"Bucket": "data", "Key": "from"})
    assert s3.get_object(Bucket="data", Key="to/é")["Metadata"] == {"k": "v"}
    deleted = s3.delete_objects(Bucket="data", Delete={"Objects": [{"Key": "from"}, {"Key": "never"}]})
    assert [item["Key"] for item in deleted["Deleted"]] == ["from", "never"]
    s3.delete_object(Bucket="data", Key="to/é")
    assert error_of(lambda: s3.get_object(Bucket="data", Key="to/é"))[:2] == ("NoSuchKey", 404)


def test_buckets(s3: Any) -> None:
    s3.create_bucket(Bucket="short-lived")
    assert s3.head_bucket(Bucket="short-lived")["BucketRegion"] == REGION
    assert s3.get_bucket_location(Bucket="short-lived")["LocationConstraint"] == REGION
    assert "short-lived" in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    assert error_of(lambda: s3.create_bucket(Bucket="short-lived"))[:2] == ("BucketAlreadyOwnedByYou", 409)
    s3.put_object(Bucket="short-lived", Key="k", Body=b"")
    assert error_of(lambda: s3.delete_bucket(Bucket="short-lived"))[:2] == ("BucketNotEmpty", 409)
    s3.delete_object(Bucket="short-lived", Key="k")
    s3.delete_bucket(Bucket="short-lived")
    assert error_of(lambda: s3.head_bucket(Bucket="short-lived"))[1] == 404
    assert error_of(lambda: s3.list_objects_v2(Bucket="short-lived"))[:2] == ("NoSuchBucket", 404)


@pytest.mark.parametrize(
    "key", ["..", "../../etc/passwd", "a/../b", "%2e%2e/x", "/lead", "a//b", "trail/", "+", "~", "a?b#c"]
)
def test_keys_are_data(s3: Any, key: str) -> None:
    s3.put_object(Bucket="data", Key=key, Body=key.encode())
    assert s3.get_object(Bucket="data", Key=key)["Body"].read() == key.encode()
    assert key in [item["Key"] for item in s3.list_objects_v2(Bucket="data", Prefix=key)["Contents"]]


def test_what_is_not_honoured_is_refused_by_name(s3: Any) -> None:
    code, status, message = error_of(
        lambda: s3.put_object(Bucket="data", Key="k", Body=b"", ServerSideEncryption="AES256")
    )
    assert (code, status) == ("NotImplementedException", 501)
    assert "ServerSideEncryption" in message
    assert error_of(lambda: s3.head_object(Bucket="data", Key="k", ExpectedBucketOwner="111122223333"))[1] == 403
    assert error_of(lambda: s3.get_bucket_acl(Bucket="data"))[:2] == ("NotImplementedException", 501)
    assert error_of(lambda: s3.put_object(Bucket="data", Key="k" * 1025, Body=b""))[0] == "KeyTooLongError"


def test_a_large_upload_in_parallel_parts(s3: Any, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(17 << 20))
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=4)
    s3.upload_file(str(source), "data", "parallel", Config=config)
    s3.download_file("data", "parallel", str(tmp_path / "back"), Config=config)
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_other_slices_use_objects_directly(hub: Hub) -> None:
    async def work() -> bytes:
        await hub.objects.ensure_bucket("marram-artifacts")
        await hub.objects.ensure_bucket("marram-artifacts")
        stored = await hub.objects.put("marram-artifacts", "k", b"bytes")
        assert hub.objects.path(stored).read_bytes() == b"bytes"
        with pytest.raises(AlreadyExists):
            await hub.objects.create_bucket("marram-artifacts", internal=True)
        return await hub.objects.get("marram-artifacts", "k")

    assert hub.call(work) == b"bytes"


def test_an_upload_of_unknown_length(s3: Any, tmp_path: Path) -> None:
    body = os.urandom(3 << 20)

    class Pipe:
        def __init__(self) -> None:
            self.at = 0

        def read(self, size: int = -1) -> bytes:
            piece = body[self.at : self.at + size] if size >= 0 else body[self.at :]
            self.at += len(piece)
            return piece

    s3.upload_fileobj(Pipe(), "data", "piped")
    assert s3.get_object(Bucket="data", Key="piped")["Body"].read() == body


def test_a_bucket_in_the_host_name(hub: Hub, s3: Any) -> None:
    s3.put_object(Bucket="data", Key="virtual/k", Body=b"found")
    headers = sigv4.sign(
        sigv4.Credentials(hub.key, hub.secret), method="GET", path="/virtual/k", query=[], body=b"",
        headers={"host": f"data.localhost:{hub.port}"}, region=REGION, service="s3", now_ms=SystemClock().wall_ms(),
    )  # fmt: skip
    assert fetch(f"{hub.endpoint}/virtual/k", headers=headers)[::2] == (200, b"found")


def test_a_body_swapped_for_another_is_refused(hub: Hub, s3: Any) -> None:
    headers = sigv4.sign(
        sigv4.Credentials(hub.key, hub.secret), method="PUT", path="/data/swapped", query=[], body=b"mine",
        headers={"host": f"127.0.0.1:{hub.port}"}, region=REGION, service="s3", now_ms=SystemClock().wall_ms(),
    )  # fmt: skip
    assert fetch(f"{hub.endpoint}/data/swapped", headers=headers, data=b"evil", method="PUT")[0] == 400
    assert error_of(lambda: s3.head_object(Bucket="data", Key="swapped"))[1] == 404


def test_the_command_line_has_its_own_client(hub: Hub, tmp_path: Path) -> None:
    mine = client.Api(hub.endpoint, REGION, sigv4.Credentials(hub.key, hub.secret))
    mine.call("iot", "CreatePolicy", {"policyName": "cli+1", "policyDocument": ALL_ALLOWED})
    assert "cli+1" in [item["policyName"] for item in mine.call("iot", "ListPolicies", {"pageSize": 250})["policies"]]
    with pytest.raises(AlreadyExists):
        mine.call("iot", "CreatePolicy", {"policyName": "cli+1", "policyDocument": ONLY_A_BUCKET})
    with pytest.raises(NotFound):
        mine.call("iot", "GetPolicy", {"policyName": "none"})
    with pytest.raises(Invalid, match="pageSise"):
        mine.call("iot", "ListPolicies", {"pageSise": 1})
    with pytest.raises(Unsupported):
        mine.call("sagemaker", "ListModels", {})
    mine.put_object("data", "cli/ä", b"bytes")
    mine.get_object("data", "cli/ä", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"bytes"
    with pytest.raises(Denied):
        client.Api(hub.endpoint, REGION, sigv4.Credentials(hub.key, "wrong")).call("iot", "ListPolicies")
    with pytest.raises(HubNotReachable):
        client.Api("http://127.0.0.1:1", REGION, sigv4.Credentials("a", "b")).call("iot", "ListPolicies")
    with pytest.raises(NoHub):
        client.Api.from_data(tmp_path)
