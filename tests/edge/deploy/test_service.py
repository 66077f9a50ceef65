"""Deployments from a hub (a fake one): groups together, newest wins, broken downloads, bundles, reports until they are heard."""

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from marram.core import bundle, ed25519, plan, recipe
from marram.core.codec import JsonObject
from marram.core.errors import AlreadyExists, Invalid, NotFound, Unavailable, Unsupported
from marram.edge.deploy.record import Deployment
from marram.edge.deploy.service import Deployments
from marram.edge.deploy.work import Limits, Tools
from marram.edge.main import MIGRATIONS
from marram.edge.nucleus import prepare
from marram.edge.nucleus.config import Config
from marram.edge.nucleus.prepare import Device
from marram.edge.nucleus.root import Root
from marram.edge.nucleus.supervisor import Supervisor
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db


class Hub:
    """Source and reporter. `away` fails that many calls as an unreachable hub does."""

    def __init__(self) -> None:
        self.recipes: list[recipe.Recipe] = []
        self.files: dict[str, bytes] = {}
        self.member: list[str] | None = None
        self.away = 0
        self.told: list[tuple[str, str, str]] = []
        self.fetched: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()

    def _reach(self) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("the hub is away")

    async def candidate(
        self, name: str, requirements: Mapping[str, str], platform: Mapping[str, str], present: str | None
    ) -> JsonObject | None:
        await self.hold.wait()
        self._reach()
        by_version = {each.version: each for each in self.recipes if each.name == name}
        best = plan.best(list(by_version), requirements)
        return by_version[best].document if best is not None else None

    async def artifact(self, component: str, version: str, uri: str, path: Path, limit: int) -> None:
        self.fetched.append(uri)
        if uri not in self.files:
            raise NotFound(f"no artifact {uri}")
        if self.away:
            path.write_bytes(self.files[uri][:3])  # the link broke in mid-download
        self._reach()
        path.write_bytes(self.files[uri])

    async def groups(self) -> Sequence[str] | None:
        return self.member

    async def report(self, deployment: Deployment) -> None:
        self._reach()
        detailed = str(deployment.detail.get("detailed-deployment-status", ""))
        self.told.append((deployment.id, deployment.status, detailed))

    def has(self, name: str, version: str, files: Mapping[str, bytes] | None = None, **members: Any) -> None:
        artifacts = []
        for file, data in (files or {}).items():
            uri = f"greengrass:{name}-{version}/{file}"
            self.files[uri] = data
            digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
            unarchive = "ZIP" if file.endswith(".zip") else "NONE"
            artifacts.append({"Uri": uri, "Digest": digest, "Algorithm": "SHA-256", "Unarchive": unarchive})
        needs = {other: {"VersionRequirement": text} for other, text in members.pop("needs", {}).items()}
        self.recipes.append(
            recipe.parse(
                {
                    "RecipeFormatVersion": recipe.FORMAT,
                    "ComponentName": name,
                    "ComponentVersion": version,
                    "ComponentDependencies": needs,
                    "Manifests": [{"Artifacts": artifacts, "Lifecycle": members.pop("lifecycle", {})}],
                    "x-marram": {"health": {"settle_s": 0}},
                    **members,
                }
            )
        )


def document(number: int, target: str, components: Mapping[str, Any], **members: Any) -> JsonObject:
    return {
        "deploymentId": f"d{number}",
        "configurationArn": f"arn:aws:greengrass:local-1:000000000001:configuration:{target}:{number}",
        "components": {
            name: each if isinstance(each, dict) else {"version": each} for name, each in components.items()
        },
        "creationTimestamp": 1_700_000_000_000 + number,
        **members,
    }


KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@contextlib.asynccontextmanager
async def running(folder: Path, hub: Hub) -> AsyncIterator[Deployments]:
    root = Root(folder / "root")
    root.path.mkdir(exist_ok=True)
    root.prepare()
    clock, entropy = SystemClock(), SystemEntropy()
    db = Db.open(root.state_db, clock=clock, entropy=entropy, migrations=MIGRATIONS)
    try:
        config = Config(db)
        device = Device(
            root=root, thing="t", region="", root_ca="", path_first="", attributes=prepare.device_attributes(), extra={}
        )
        supervisor = Supervisor(db=db, config=config, device=device, clock=clock, entropy=entropy)
        tools = Tools(
            db=db,
            config=config,
            supervisor=supervisor,
            root=root,
            source=hub,
            limits=Limits(watch_s=10.0, resolve_s=10.0),
            verify_signature=partial(ed25519.verify, KEY.public_key().public_bytes_raw()),
        )
        deployments = Deployments(tools, hub, clock=clock, entropy=entropy)
        async with supervisor:
            await supervisor.boot()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(deployments.run(), name="deployments")
                yield deployments
                task.cancel()
    finally:
        db.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    from marram.edge.deploy import fetch, resolve, service

    monkeypatch.setattr(fetch, "RETRY_S", 0.01)
    monkeypatch.setattr(resolve, "RETRY_S", 0.01)
    monkeypatch.setattr(service, "REPORT_AGAIN_S", 0.01)
    return Hub()


async def end(deployments: Deployments, deployment: str) -> Deployment:
    async with asyncio.timeout(15):
        return await deployments.ended(deployment)


async def send(deployments: Deployments, value: JsonObject) -> Deployment:
    return await end(deployments, await deployments.submit(value, "job:j"))


def versions(deployments: Deployments) -> dict[str, str]:
    return {name: each.version for name, each in deployments.tools.supervisor.active().items()}


async def heard(hub: Hub, count: int) -> None:
    async with asyncio.timeout(10):
        while len(hub.told) < count:
            await asyncio.sleep(0.01)


async def test_groups_are_merged_and_a_group_that_is_left_goes(tmp_path: Path, hub: Hub) -> None:
    hub.has("a", "1.0.0", {"a.txt": b"A"}, needs={"c": "^1.0.0"})
    hub.has("b", "1.0.0", needs={"c": "<1.2.0"})
    for version in ("1.0.0", "1.1.0", "1.3.0"):
        hub.has("c", version)
    async with running(tmp_path, hub) as deployments:
        assert (await send(deployments, document(1, "thinggroup/one", {"a": "1.0.0"}))).status == "SUCCEEDED"
        assert versions(deployments) == {"a": "1.0.0", "c": "1.3.0"}
        assert (await send(deployments, document(2, "thing/t", {"b": "1.0.0"}))).status == "SUCCEEDED"
        assert versions(deployments) == {"a": "1.0.0", "b": "1.0.0", "c": "1.1.0"}
        hub.member = ["thinggroup/two"]
        assert (await send(deployments, document(3, "thinggroup/two", {"c": "1.0.0"}))).status == "SUCCEEDED"
        assert versions(deployments) == {"b": "1.0.0", "c": "1.0.0"}
        row = await send(deployments, document(4, "thinggroup/two", {"c": "1.3.0"}))
        assert row.status == "FAILED" and "b requires <1.2.0, thinggroup/two requires 1.3.0" in json.dumps(row.detail)
        await heard(hub, 4)
    assert [status for _, status, _ in hub.told] == ["SUCCEEDED"] * 3 + ["FAILED"]


async def test_a_hub_that_is_away_is_waited_for_and_told_later(tmp_path: Path, hub: Hub) -> None:
    hub.has("a", "1.0.0", {"a.txt": b"long enough"})
    hub.away = 5
    async with running(tmp_path, hub) as deployments:
        row = await send(deployments, document(1, "thinggroup/g", {"a": "1.0.0"}))
        assert row.status == "SUCCEEDED"
        kept = deployments.tools.root.artifacts("a", "1.0.0") / "a.txt"
        assert kept.read_bytes() == b"long enough"
        hub.away = 3
        await send(deployments, document(2, "thinggroup/g", {}))
        await heard(hub, 2)
        assert versions(deployments) == {} and not kept.exists()
    assert [told[0] for told in hub.told] == ["d1", "d2"]


async def test_a_report_that_nobody_heard_is_repeated_after_a_restart(tmp_path: Path, hub: Hub) -> None:
    hub.has("a", "1.0.0")
    hub.away = 0
    async with running(tmp_path, hub) as deployments:
        hub.away = 1_000_000
        hub.recipes = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await deployments.ended(await deployments.submit(document(1, "thinggroup/g", {"a": "1.0.0"}), "job:j"))
    assert hub.told == []
    hub.away = 0
    hub.has("a", "1.0.0")
    async with running(tmp_path, hub) as deployments:
        assert (await end(deployments, "d1")).status == "SUCCEEDED"
        await heard(hub, 1)
        with pytest.raises(AlreadyExists):
            await deployments.submit(document(1, "thinggroup/g", {"a": "1.0.0"}), "job:j")


async def test_the_newest_of_a_target_wins(tmp_path: Path, hub: Hub) -> None:
    hub.has("a", "1.0.0")
    hub.has("a", "2.0.0")
    hub.hold.clear()
    async with running(tmp_path, hub) as deployments:
        first = await deployments.submit(document(1, "thinggroup/g", {"a": "1.0.0"}), "job:1")
        other = await deployments.submit(document(2, "thinggroup/h", {}), "job:2")
        second = await deployments.submit(document(3, "thinggroup/g", {"a": "9.0.0"}), "job:3")
        third = await deployments.submit(document(4, "thinggroup/g", {"a": "2.0.0"}), "job:4")
        hub.hold.set()
        rows = [await end(deployments, each) for each in (first, other, second, third)]
        assert [row.status for row in rows] == ["CANCELED", "SUCCEEDED", "CANCELED", "SUCCEEDED"]
        assert versions(deployments) == {"a": "2.0.0"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"requiredCapabilities": ["TELEPORT"]}, Unsupported, id="capability"),
        pytest.param({"requiredCapabilities": ["LARGE_CONFIGURATION"]}, Unsupported, id="capability of AWS"),
        pytest.param(
            {"components": {"a": {"version": "1.0.0", "runWith": {"systemResourceLimits": {"memory": "1 GB"}}}}},
            Invalid,
            id="memory",
        ),
        pytest.param({"configurationArn": "arn:aws:greengrass:x:y:configuration:planet/p:1"}, Invalid, id="target"),
        pytest.param({"failureHandlingPolicy": "PANIC"}, Invalid, id="policy"),
        pytest.param({"components": {"a": {"version": "new"}}}, Invalid, id="version"),
        pytest.param({"components": []}, Invalid, id="components"),
        pytest.param({"deploymentId": 7}, Invalid, id="id"),
        pytest.param(
            {"components": {"a": {"version": "1.0.0", "configurationUpdate": {"merge": []}}}}, Invalid, id="merge"
        ),
        pytest.param(
            {"components": {"a": {"version": "1.0.0", "configurationUpdate": {"reset": ["a"]}}}}, Invalid, id="reset"
        ),
    ],
)
async def test_a_bad_document_is_refused_at_once(tmp_path: Path, hub: Hub, change: Any, error: Any) -> None:
    async with running(tmp_path, hub) as deployments:
        with pytest.raises(error):
            await deployments.submit({**document(1, "thinggroup/g", {}), **change}, "job:j")
        assert list(deployments.list()) == []


async def test_what_is_known_and_not_obeyed_is_in_the_detail(tmp_path: Path, hub: Hub) -> None:
    hub.has("a", "1.0.0")
    asked = document(1, "thinggroup/g", {"a": "1.0.0"})
    limits = {"memory": 4_000_000, "cpus": 0.5}
    asked["components"]["a"]["runWith"] = {"systemResourceLimits": limits, "windowsUser": "w"}
    asked |= {
        "onBehalfOf": "arn:x",
        "componentUpdatePolicy": {"timeout": 90, "action": "NOTIFY_COMPONENTS"},
        "configurationValidationPolicy": {"timeout": 31},
    }
    usual = {
        "requiredCapabilities": ["LINUX_RESOURCE_LIMITS"],
        "componentUpdatePolicy": {"timeout": 60, "action": "NOTIFY_COMPONENTS"},
        "configurationValidationPolicy": {"timeout": 30},
    }
    async with running(tmp_path, hub) as deployments:
        row = await send(deployments, asked)
        assert row.status == "SUCCEEDED" and row.detail["notSupported"] == [
            "onBehalfOf", "componentUpdatePolicy.timeout", "configurationValidationPolicy.timeout",
            "components.a.runWith.windowsUser", "components.a.runWith.systemResourceLimits.cpus",
        ]  # fmt: skip
        row = await send(deployments, {**document(2, "thinggroup/g", {"a": "1.0.0"}), **usual})
        assert row.status == "SUCCEEDED" and "notSupported" not in row.detail
        with pytest.raises(Unsupported, match=r"runWith\.systemResourceLimits\.cpus"):
            await deployments.submit_local(add={"a": "1.0.0"}, run_with={"a": {"systemResourceLimits": {"cpus": 1}}})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may become anybody")
async def test_a_user_that_the_core_cannot_become_is_refused_before_anything_stops(tmp_path: Path, hub: Hub) -> None:
    hub.has("a", "1.0.0", Manifests=[{"Platform": {"os": "linux"}, "Lifecycle": {"run": "sleep 60"}}])
    asked = document(1, "thinggroup/g", {"a": "1.0.0"})
    asked["components"]["a"]["runWith"] = {"posixUser": "root"}
    async with running(tmp_path, hub) as deployments:
        row = await send(deployments, asked)
    assert row.status == "FAILED" and "only a core that runs as root" in json.dumps(row.detail)
    assert row.detail["detailed-deployment-status"] == "FAILED_NO_STATE_CHANGE"


async def test_a_user_that_is_not_there_is_refused_before_anything_stops(tmp_path: Path, hub: Hub) -> None:
    hub.has("a", "1.0.0", Manifests=[{"Platform": {"os": "linux"}, "Lifecycle": {"run": "sleep 60"}}])
    asked = document(1, "thinggroup/g", {"a": "1.0.0"})
    asked["components"]["a"]["runWith"] = {"posixUser": "nobody-of-that-name"}
    async with running(tmp_path, hub) as deployments:
        row = await send(deployments, asked)
    assert row.status == "FAILED" and "no such user" in json.dumps(row.detail)
    assert row.detail["detailed-deployment-status"] == "FAILED_NO_STATE_CHANGE"


async def test_an_artifact_with_another_digest_is_refused_and_not_kept(tmp_path: Path, hub: Hub) -> None:
    hub.has("a", "1.0.0", {"a.txt": b"good"})
    hub.files["greengrass:a-1.0.0/a.txt"] = b"evil"
    async with running(tmp_path, hub) as deployments:
        row = await send(deployments, document(1, "thinggroup/g", {"a": "1.0.0"}))
        assert row.status == "FAILED" and "does not have the digest" in json.dumps(row.detail)
        assert not list(tmp_path.rglob("a.txt"))
        hub.files["greengrass:a-1.0.0/a.txt"] = b"good"
        assert (await send(deployments, document(2, "thinggroup/g", {"a": "1.0.0"}))).status == "SUCCEEDED"


def model(*, key: Ed25519PrivateKey = KEY, data: bytes = b"weights", shipped: bytes | None = None) -> bytes:
    manifest = bundle.encode(
        bundle.Manifest(
            model="m",
            version="1",
            task="t",
            files={"model.onnx": bundle.describe(data)},
            labels=("0",),
            input={"name": "x", "height": 1, "width": 1, "channels": 1},
        )
    )
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(bundle.MANIFEST, manifest)
        archive.writestr(bundle.SIGNATURE, key.sign(manifest))
        archive.writestr("model.onnx", data if shipped is None else shipped)
    return made.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(model(), "", id="good"),
        pytest.param(model(key=Ed25519PrivateKey.generate()), "signature does not match", id="another key"),
        pytest.param(model(shipped=b"Weights"), "is not what the manifest states", id="another file"),
    ],
)
async def test_a_bundle_must_be_signed_by_the_pinned_hub(tmp_path: Path, hub: Hub, data: bytes, words: str) -> None:
    hub.has("a", "1.0.0", {"model.zip": data})
    async with running(tmp_path, hub) as deployments:
        row = await send(deployments, document(1, "thinggroup/g", {"a": "1.0.0"}))
        assert (row.status == "SUCCEEDED") is (not words), row.detail
        assert words in json.dumps(row.detail)


async def test_merge_and_reset_reach_the_tree_in_aws_order(tmp_path: Path, hub: Hub) -> None:
    for version, default in (("1.0.0", 1), ("2.0.0", 2)):
        hub.has(
            "a", version, ComponentConfiguration={"DefaultConfiguration": {"kept": default, "fresh": {version[0]: 0}}}
        )
    async with running(tmp_path, hub) as deployments:
        wish = {"version": "1.0.0", "configurationUpdate": {"merge": {"mine": [1]}}}
        await send(deployments, document(1, "thinggroup/g", {"a": wish}))
        config = deployments.tools.config
        assert config.get("a") == {"kept": 1, "fresh": {"1": 0}, "mine": [1]}
        await send(deployments, document(2, "thinggroup/g", {"a": "2.0.0"}))
        assert config.get("a") == {"kept": 1, "fresh": {"1": 0, "2": 0}, "mine": [1]}
        wish = {"version": "2.0.0", "configurationUpdate": {"reset": ["/kept", "/mine"], "merge": {"fresh": {"2": 5}}}}
        await send(deployments, document(3, "thinggroup/g", {"a": wish}))
        assert config.get("a") == {"kept": 2, "fresh": {"1": 0, "2": 5}}
