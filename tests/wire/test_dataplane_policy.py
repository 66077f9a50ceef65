"""A policy's Deny on one component holds on the data plane and on the API, however its ARN is spelled."""

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError

from marram.cli.client import Api
from marram.core import codec
from marram.kit import http

SECRET = "arn:aws:greengrass:local-1:000000000001:components:com.example.Secret"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "greengrass:*", "Resource": "*"},
        {"Effect": "Deny", "Action": "greengrass:*", "Resource": f"{SECRET}*"},
    ],
}
SPELLINGS = [
    f"{SECRET}:versions:1.0.0",
    f"{SECRET}:versions:1.0.0".replace("local-1", "other-1"),
    f"{SECRET}:versions:1.0.0".replace("000000000001", ""),
    f"{SECRET}:versions:1.0.0".replace(":greengrass:", ":s3:"),
    f"{SECRET}:versions:1.0.0".replace("arn:aws:", "arn:aws-cn:"),
]


def recipe(name: str) -> bytes:
    manifest = {"Platform": {"os": "linux"}, "Artifacts": [{"URI": "s3://artifacts/main.py"}]}
    return json.dumps(
        {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": "1.0.0",
            "Manifests": [manifest],
        }
    ).encode()


class Site:
    def __init__(self, hub: Any, folder: Path) -> None:
        self.hub = hub
        s3, iot, greengrass = hub.client("s3"), hub.client("iot"), hub.client("greengrassv2")
        s3.create_bucket(Bucket="artifacts")
        s3.put_object(Bucket="artifacts", Key="main.py", Body=b"pass")
        for name in ("com.example.Secret", "com.example.Open"):
            greengrass.create_component_version(inlineRecipe=recipe(name))
        made = iot.create_keys_and_certificate(setAsActive=True)
        iot.create_policy(policyName="p", policyDocument=json.dumps(POLICY))
        iot.attach_policy(policyName="p", target=made["certificateArn"])
        (folder / "device.pem").write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
        self.tls = ssl.create_default_context(cafile=hub.info["ca_file"])
        self.tls.load_cert_chain(folder / "device.pem")

    async def ask(self, method: str, path: str, body: bytes = b"") -> http.Response:
        return await http.request(method, f"{self.hub.info['endpoints']['https']}{path}", body=body, tls=self.tls)

    async def resolve(self, name: str) -> http.Response:
        candidate = {"componentName": name, "versionRequirements": {"line": ">=0.0.0"}}
        body = {"componentCandidates": [candidate], "platform": {"attributes": {"os": "linux"}}}
        return await self.ask("POST", "/greengrass/v2/resolveComponentCandidates", codec.dumps(body))


@pytest.fixture
def site(start_hub: Callable[..., Any], tmp_path: Path) -> Site:
    return Site(start_hub(), tmp_path)


async def test_a_denied_component_is_neither_resolved_nor_fetched(site: Site) -> None:
    assert (await site.resolve("com.example.Open")).status == 200
    assert (await site.resolve("com.example.Secret")).status == 403
    for text in SPELLINGS:
        for encoded in (quote(text, safe=""), quote(quote(text, safe=""), safe="")):
            answer = await site.ask("GET", f"/greengrass/v2/components/{encoded}/artifacts/main.py")
            assert answer.status in (400, 403), (encoded, answer.body)
    open_arn = quote(SPELLINGS[0].replace("Secret", "Open"), safe="")
    answer = await site.ask("GET", f"/greengrass/v2/components/{open_arn}/artifacts/main.py")
    assert answer.status == 200, answer.body


def test_a_denied_component_is_not_read_by_the_api(site: Site) -> None:
    admin = site.hub.client("greengrassv2")
    assert admin.get_component(arn=SPELLINGS[0])["recipe"]
    made = Api.from_data(site.hub.data).marram("identity/CreateKey", {"name": "narrow", "policy": json.dumps(POLICY)})
    narrow = site.hub.client(
        "greengrassv2", aws_access_key_id=made["accessKeyId"], aws_secret_access_key=made["secretAccessKey"]
    )
    assert narrow.get_component(arn=SPELLINGS[0].replace("Secret", "Open"))["recipe"]
    for text in SPELLINGS:
        with pytest.raises(ClientError, match=r"AccessDenied|Validation"):
            narrow.get_component(arn=text)
