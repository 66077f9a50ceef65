"""Components and deployments on real stores: the slice with registry, jobs, objects and identity around it."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from marram.core import sigv4
from marram.core.errors import AlreadyExists, Conflict, Invalid, NotFound, Unsupported
from marram.hub.bus import Bus
from marram.hub.greengrass.deployments import why
from marram.hub.greengrass.service import Greengrass
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.jobs.service import Jobs
from marram.hub.objects.service import Objects
from marram.hub.registry.service import Registry
from marram.kit.blobs import Blobs
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations

ACCOUNT, REGION = "000000000001", "local-1"
SLICES = ("identity", "registry", "jobs", "objects", "greengrass")


class Signer:
    def credentials(self) -> sigv4.Credentials:
        return sigv4.Credentials("AKIATEST", "secret")


@dataclass
class World:
    db: Db
    clock: FakeClock
    registry: Registry
    jobs: Jobs
    objects: Objects
    greengrass: Greengrass

    def group(self, name: str) -> str:
        return f"arn:aws:iot:{REGION}:{ACCOUNT}:thinggroup/{name}"

    async def finish(self, deployment_id: str, thing: str, status: str, **details: str) -> None:
        found, _, _ = await self.greengrass.deployments.get(deployment_id)
        await self.jobs.device.update(found.job, thing, {"status": status, "statusDetails": dict(details)})

    async def executions(self, deployment_id: str) -> dict[str, str]:
        return await self.greengrass.deployments.executions(deployment_id)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock, entropy, bus = FakeClock(), SeededEntropy(1), Bus()
    migrations = [Migrations(slice=name, package=f"marram.hub.{name}") for name in SLICES]
    with Db.open(tmp_path / "hub.db", clock=clock, entropy=entropy, migrations=migrations) as db:
        pki = Pki.open(tmp_path / "pki", clock=clock, entropy=entropy)
        identity = Identity(db, pki, bus, clock=clock, entropy=entropy, account=ACCOUNT, region=REGION)
        registry = Registry(db, identity, bus, entropy=entropy)
        jobs = Jobs(db, bus, registry)
        blobs = Blobs(tmp_path / "blobs", db, entropy=entropy)
        objects = Objects(db, blobs, clock, region=REGION, endpoint=lambda: "http://127.0.0.1:1", signer=Signer())
        greengrass = Greengrass(db, bus, identity, registry, jobs, objects, account=ACCOUNT, region=REGION)
        await registry.create_group("line")
        for thing in ("c1", "c2", "c3"):
            await registry.create_thing(thing)
            await registry.add_to_group("line", thing)
            await greengrass.devices.asked(thing)
        await objects.create_bucket("artifacts")
        yield World(db, clock, registry, jobs, objects, greengrass)


def recipe(version: str, *, uri: str = "", name: str = "com.example.Hello", **artifact: str) -> bytes:
    manifest: dict[str, object] = {"Platform": {"os": "linux"}, "Lifecycle": {"run": "echo hello"}}
    if uri:
        manifest["Artifacts"] = [{"URI": uri, **artifact}]
    return json.dumps(
        {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentPublisher": "tests",
            "Manifests": [manifest],
        }
    ).encode()


async def test_an_artifact_is_taken_over_by_digest(world: World) -> None:
    await world.objects.put("artifacts", "hello/1/main.py", b"print('hello')")
    made = await world.greengrass.components.create(recipe("1.0.0", uri="s3://artifacts/hello/1/main.py"))
    artifact = json.loads(made.recipe)["Manifests"][0]["Artifacts"][0]
    assert artifact["Uri"] == "greengrass:main.py"
    assert artifact["Digest"] == base64.b64encode(hashlib.sha256(b"print('hello')").digest()).decode()
    await world.objects.delete("artifacts", ["hello/1/main.py"])
    url = await world.greengrass.components.artifact_url("com.example.Hello", "1.0.0", "main.py")
    assert url.startswith("http://127.0.0.1:1/marram-components/")
    await world.greengrass.components.delete("com.example.Hello", "1.0.0")
    with pytest.raises(NotFound):
        await world.greengrass.components.artifact_url("com.example.Hello", "1.0.0", "main.py")


async def test_refused_components(world: World) -> None:
    create = world.greengrass.components.create
    await world.objects.put("artifacts", "a", b"x")
    await create(recipe("1.0.0"))
    for text, error, words in (
        (recipe("1.0.0"), AlreadyExists, "never change"),
        (recipe("2.0.0", uri="s3://artifacts/nope"), Invalid, "does not exist"),
        (recipe("2.0.0", uri="s3://artifacts/a", Digest=base64.b64encode(b"0" * 32).decode()), Invalid, "Digest"),
        (recipe("2.0.0", uri="docker:nginx"), Unsupported, "docker"),
        (recipe("2.0.0", name="aws.greengrass.Nucleus"), Invalid, "reserved"),
        (recipe("two"), Invalid, "two"),
        (b"RecipeFormatVersion: [", Invalid, "line"),
        (b"x" * (2 << 20), Invalid, "larger"),
    ):
        with pytest.raises(error, match=words):
            await create(text)


async def test_resolve_takes_the_newest_that_fits(world: World) -> None:
    for version in ("1.0.0", "1.2.0", "2.0.0"):
        await world.greengrass.components.create(recipe(version))
    resolve = world.greengrass.components.resolve
    assert (await resolve("com.example.Hello", {"a": "^1.0.0"}, {"os": "linux"})).version == "1.2.0"
    assert (await resolve("com.example.Hello", {}, {"os": "linux"})).version == "2.0.0"
    with pytest.raises(NotFound, match="no usable version"):
        await resolve("com.example.Hello", {"a": ">=3.0.0"}, {"os": "linux"})
    with pytest.raises(NotFound, match="claim platform"):
        await resolve("com.example.Hello", {}, {"os": "windows"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"parentTargetArn": "arn:x"}, "parentTargetArn", id="sub-deployment"),
        pytest.param({"tags": {"a": "b"}}, "tags", id="tags"),
        pytest.param(
            {"deploymentPolicies": {"componentUpdatePolicy": {"timeoutInSeconds": 90}}},
            r"componentUpdatePolicy\.timeoutInSeconds",
            id="notify",
        ),
        pytest.param(
            {"deploymentPolicies": {"configurationValidationPolicy": {"timeoutInSeconds": 10}}},
            r"configurationValidationPolicy\.timeoutInSeconds",
            id="validation",
        ),
        pytest.param({"runWith": {"windowsUser": "w"}}, r"Hello\.runWith\.windowsUser", id="windows"),
        pytest.param({"runWith": {"systemResourceLimits": {"cpus": 1.0}}}, r"systemResourceLimits\.cpus", id="cpus"),
    ],
)
async def test_what_cores_do_not_obey_is_refused_by_name(world: World, change: dict[str, Any], words: str) -> None:
    await world.greengrass.components.create(recipe("1.0.0"))
    entry: dict[str, Any] = {"componentVersion": "1.0.0"}
    if "runWith" in change:
        entry |= change
        change = {}
    request = {"targetArn": world.group("line"), "components": {"com.example.Hello": entry}, **change}
    with pytest.raises(Unsupported, match=words):
        await world.greengrass.deployments.create(request)


async def test_defaults_that_are_spelt_out_ask_for_nothing(world: World) -> None:
    await world.greengrass.components.create(recipe("1.0.0"))
    policies = {
        "failureHandlingPolicy": "ROLLBACK",
        "componentUpdatePolicy": {"timeoutInSeconds": 60, "action": "NOTIFY_COMPONENTS"},
        "configurationValidationPolicy": {"timeoutInSeconds": 30},
    }
    entry = {
        "componentVersion": "1.0.0",
        "runWith": {"posixUser": "ggc_user:ggc_group", "systemResourceLimits": {"memory": 65536}},
    }
    request: Any = {
        "targetArn": world.group("line"), "components": {"com.example.Hello": entry}, "deploymentPolicies": policies,
    }  # fmt: skip
    made, _ = await world.greengrass.deployments.create(request)
    assert made.document["components"]["com.example.Hello"]["runWith"] == entry["runWith"]  # type: ignore[index, call-overload]
    skipping = {"componentUpdatePolicy": {"timeoutInSeconds": 5, "action": "SKIP_NOTIFY_COMPONENTS"}}
    made, _ = await world.greengrass.deployments.create({**request, "deploymentPolicies": skipping})
    assert made.document["componentUpdatePolicy"] == {"timeout": 5, "action": "SKIP_NOTIFY_COMPONENTS"}


async def deploy(world: World, version: str, **canary: object) -> str:
    request = {"targetArn": world.group("line"), "components": {"com.example.Hello": {"componentVersion": version}}}
    made, _ = await world.greengrass.deployments.create(request, **canary)  # type: ignore[arg-type]
    return made.id


async def test_a_deployment_is_a_job_for_each_thing_and_replaces_the_one_before(world: World) -> None:
    for version in ("1.0.0", "2.0.0"):
        await world.greengrass.components.create(recipe(version))
    first = await deploy(world, "1.0.0")
    assert await world.executions(first) == dict.fromkeys(("c1", "c2", "c3"), "QUEUED")
    await world.finish(first, "c1", "SUCCEEDED")
    second = await deploy(world, "2.0.0")
    assert await world.executions(first) == {"c1": "SUCCEEDED", "c2": "CANCELED", "c3": "CANCELED"}
    found, is_latest, _ = await world.greengrass.deployments.get(first)
    assert (found.status, is_latest) == ("INACTIVE", False)
    found, is_latest, _ = await world.greengrass.deployments.get(second)
    assert (found.status, is_latest, found.revision) == ("ACTIVE", True, 2)
    assert (
        found.document["configurationArn"] == f"arn:aws:greengrass:{REGION}:{ACCOUNT}:configuration:thinggroup/line:2"
    )
    with pytest.raises(Conflict, match="part of deployment"):
        await world.greengrass.components.delete("com.example.Hello", "2.0.0")


async def test_a_repeated_request_is_one_deployment(world: World) -> None:
    for version in ("1.0.0", "2.0.0"):
        await world.greengrass.components.create(recipe(version))
    one = {"targetArn": world.group("line"), "components": {"com.example.Hello": {"componentVersion": "1.0.0"}}}
    create = world.greengrass.deployments.create
    first, _ = await create(one, token="t1")  # type: ignore[arg-type]
    again, _ = await create(dict(one), token="t1")  # type: ignore[arg-type]
    assert again.id == first.id
    other = {**one, "components": {"com.example.Hello": {"componentVersion": "2.0.0"}}}
    with pytest.raises(Conflict, match="clientToken"):
        await create(other, token="t1")  # type: ignore[arg-type]
    second, _ = await create(other, token="t2")  # type: ignore[arg-type]
    assert second.revision == 2


async def test_unknown_targets_and_versions(world: World) -> None:
    await world.greengrass.components.create(recipe("1.0.0"))
    for target, components, error in (
        (world.group("nope"), {}, NotFound),
        ("arn:aws:iot:eu-west-1:1:thinggroup/line", {}, NotFound),
        ("arn:aws:s3:::bucket/x", {}, Invalid),
        ("line", {}, Invalid),
        (world.group("line"), {"com.example.Hello": {"componentVersion": "9.0.0"}}, NotFound),
        (world.group("line"), {"com.example.Hello": {}}, Invalid),
        (
            world.group("line"),
            {"com.example.Hello": {"componentVersion": "1.0.0", "configurationUpdate": {"merge": "{"}}},
            Invalid,
        ),
    ):
        with pytest.raises(error):
            await world.greengrass.deployments.create({"targetArn": target, "components": components})  # type: ignore[dict-item]


async def test_who_joins_gets_what_is_in_force_and_who_leaves_loses_what_waits(world: World) -> None:
    await world.greengrass.components.create(recipe("1.0.0"))
    made = await deploy(world, "1.0.0")
    await world.registry.create_thing("c4")
    await world.registry.add_to_group("line", "c4")
    await world.registry.remove_from_group("line", "c1")
    await world.greengrass.deployments.reconcile()
    assert await world.executions(made) == {"c1": "REMOVED", "c2": "QUEUED", "c3": "QUEUED"}, "c4 is no core yet"
    assert await world.greengrass.devices.asked("c4")
    await world.greengrass.deployments.reconcile()
    assert await world.executions(made) == {"c1": "REMOVED", "c2": "QUEUED", "c3": "QUEUED", "c4": "QUEUED"}


async def test_a_deployment_has_the_pace_the_abort_and_the_timeout_of_a_job(world: World) -> None:
    await world.greengrass.components.create(recipe("1.0.0"))
    criterion = {"failureType": "ALL", "action": "CANCEL", "thresholdPercentage": 50.0, "minNumberOfExecutedThings": 1}
    wanted = {
        "jobExecutionsRolloutConfig": {"maximumPerMinute": 1},
        "abortConfig": {"criteriaList": [criterion]},
        "timeoutConfig": {"inProgressTimeoutInMinutes": 5},
    }
    components = {"com.example.Hello": {"componentVersion": "1.0.0"}}
    request: dict[str, Any] = {"targetArn": world.group("line"), "components": components}
    with pytest.raises(Invalid, match="10080"):
        bad = {"timeoutConfig": {"inProgressTimeoutInMinutes": 0}}
        await world.greengrass.deployments.create(request | {"iotJobConfiguration": bad})
    made, _ = await world.greengrass.deployments.create(request | {"iotJobConfiguration": wanted})
    await world.jobs.work_off()
    assert await world.executions(made.id) == {"c1": "QUEUED"}
    world.clock.advance(60_000)
    await world.jobs.work_off()
    assert await world.executions(made.id) == {"c1": "QUEUED", "c2": "QUEUED"}
    await world.jobs.device.start_next("c1", "namespace-aws-gg-deployment", None, None)
    world.clock.advance(6 * 60_000)
    await world.jobs.work_off()
    assert (await world.executions(made.id))["c1"] == "TIMED_OUT"
    assert (await world.executions(made.id))["c2"] == "CANCELED"
    assert (await world.greengrass.deployments.get(made.id))[0].status == "CANCELED"
    described = world.jobs.control.get(made.job)
    assert (described.job.status, described.targets[0].name) == ("CANCELED", "line")


async def canary_world(world: World) -> tuple[str, str]:
    for version in ("1.0.0", "2.0.0"):
        await world.greengrass.components.create(recipe(version))
    first = await deploy(world, "1.0.0")
    for thing in ("c1", "c2", "c3"):
        await world.finish(first, thing, "SUCCEEDED")
    return first, await deploy(world, "2.0.0", canary_things=1, bake_ms=5000)


async def test_a_canary_that_bakes_well_is_promoted(world: World) -> None:
    first, second = await canary_world(world)
    assert await world.executions(second) == {"c1": "QUEUED"}
    await world.greengrass.deployments.watch_canaries()
    await world.finish(second, "c1", "SUCCEEDED")
    await world.greengrass.deployments.watch_canaries()
    world.clock.advance(4000)
    assert await world.greengrass.deployments.watch_canaries() == []
    assert (await world.greengrass.deployments.get(first))[0].status == "ACTIVE"
    world.clock.advance(2000)
    assert await world.greengrass.deployments.watch_canaries() == [second]
    assert await world.executions(second) == {"c1": "SUCCEEDED", "c2": "QUEUED", "c3": "QUEUED"}
    assert (await world.greengrass.deployments.get(first))[0].status == "INACTIVE"


async def test_a_canary_that_fails_stops_there(world: World) -> None:
    first, second = await canary_world(world)
    await world.finish(second, "c1", "FAILED", failureCause="the probe says no")
    assert await world.greengrass.deployments.watch_canaries() == [second]
    found, _, canary = await world.greengrass.deployments.get(second)
    assert (found.status, found.reason) == ("FAILED", "c1 reported FAILED: the probe says no")
    assert canary is not None
    assert canary.state == "STOPPED"
    assert await world.executions(second) == {"c1": "FAILED"}
    assert (await world.greengrass.deployments.get(first))[0].status == "ACTIVE"
    assert world.jobs.device.next("c1", "namespace-aws-gg-deployment") is None  # it rolled back by itself
    third = await deploy(world, "2.0.0", canary_things=["c2"], bake_ms=0)
    assert await world.executions(third) == {"c2": "QUEUED"}


async def test_a_canary_that_breaks_while_baking_gets_the_old_version_back(world: World) -> None:
    _first, second = await canary_world(world)
    await world.finish(second, "c1", "SUCCEEDED")
    await world.greengrass.deployments.watch_canaries()
    status = {"componentName": "com.example.Hello", "version": "2.0.0", "status": "BROKEN"}
    report = {"messageType": "PARTIAL", "sequenceNumber": 1, "components": [status]}
    await world.greengrass.devices.report("c1", json.dumps(report).encode())
    assert await world.greengrass.deployments.watch_canaries() == [second]
    again = world.jobs.device.next("c1", "namespace-aws-gg-deployment")
    assert again is not None
    assert json.loads(world.jobs.device.document(again.job))["components"] == {
        "com.example.Hello": {"version": "1.0.0"}
    }
    assert world.jobs.device.next("c2", "namespace-aws-gg-deployment") is None


async def test_one_canary_at_a_time(world: World) -> None:
    await canary_world(world)
    with pytest.raises(Conflict, match="is baking on c1"):
        await deploy(world, "1.0.0")


async def test_cancel(world: World) -> None:
    await world.greengrass.components.create(recipe("1.0.0"))
    made = await deploy(world, "1.0.0")
    await world.greengrass.deployments.cancel(made)
    assert set((await world.executions(made)).values()) == {"CANCELED"}
    with pytest.raises(Conflict):
        await world.greengrass.deployments.cancel(made)
    with pytest.raises(NotFound):
        await world.greengrass.deployments.cancel("nope")


async def test_fleet_status(world: World) -> None:
    devices = world.greengrass.devices
    one = {"componentName": "a", "version": "1.0.0", "status": "RUNNING", "isRoot": True, "fleetConfigArns": ["x"]}
    two = {"componentName": "b", "version": "1.0.0", "status": "RUNNING"}
    complete = {"messageType": "COMPLETE", "sequenceNumber": 5, "components": [one, two], "ggcVersion": "2.18.0"}
    await devices.report("c1", json.dumps(complete).encode())
    assert [item.name for item in await devices.installed("c1")] == ["a", "b"]
    late = {"messageType": "PARTIAL", "sequenceNumber": 4, "components": [{**one, "status": "BROKEN"}]}
    await devices.report("c1", json.dumps(late).encode())
    assert (await devices.installed("c1"))[0].state == "RUNNING"
    gone = {"messageType": "PARTIAL", "sequenceNumber": 6, "components": [{**two, "status": "UNINSTALLED"}]}
    await devices.report("c1", json.dumps(gone).encode())
    assert [item.name for item in await devices.installed("c1")] == ["a"]
    for bad in (
        b"{",
        b'{"components": 3}',
        b'{"components": [{}]}',
        b'{"components": [{"componentName": "a", "status": "X"}]}',
    ):
        with pytest.raises(Invalid):
            await devices.report("c1", bad)
    with pytest.raises(NotFound):
        await devices.get("c2")


async def test_client_devices(world: World) -> None:
    await world.registry.create_thing("relay-1")
    assert await world.greengrass.devices.associate("c1", ["relay-1", "ghost"]) == {"ghost": "there is no thing ghost"}
    assert await world.greengrass.client_devices("c1") == [{"thingName": "relay-1", "certificateIds": []}]
    assert await world.greengrass.devices.disassociate("c1", ["relay-1", "relay-1"]) == {
        "relay-1": "relay-1 is not associated with c1"
    }


@pytest.mark.parametrize(
    ("details", "said"),
    [
        pytest.param({"detailed-deployment-status": "SUCCESSFUL"}, "SUCCESSFUL", id="well"),
        pytest.param(
            {
                "detailed-deployment-status": "FAILED_ROLLBACK_COMPLETE",
                "deployment-failure-cause": "hello ended with 1",
            },
            "FAILED_ROLLBACK_COMPLETE: hello ended with 1",
            id="job",
        ),
        pytest.param({"failureCause": "no space"}, "no space", id="shadow"),
        pytest.param({}, "", id="nothing yet"),
    ],
)
def test_the_reason_is_what_the_core_said(details: dict[str, str], said: str) -> None:
    assert why(details) == said
