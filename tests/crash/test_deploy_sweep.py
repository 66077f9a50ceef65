"""A power cut at any disk operation of a deployment: after the reboot the old set or the new one runs, whole, and nothing is open."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from marram.core import config_tree
from marram.edge.deploy import record
from tests.crash.sweep import python, sweep
from tests.crash.work import deploy as workload


def check(folder: Path, acks: list[str]) -> None:
    try:
        asyncio.run(reboot(folder, int(acks[-1]) if acks else 0))
    except BaseExceptionGroup as group:
        inner: BaseException = group
        while isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        raise inner from group


async def reboot(folder: Path, acked: int) -> None:
    async with workload.core(folder) as deployments:
        async with asyncio.timeout(20):
            while open_ := [row for row in deployments.list() if not row.ended]:
                await deployments.ended(open_[0].id)
        supervisor = deployments.tools.supervisor
        async with asyncio.timeout(10):
            while any(each.state not in ("RUNNING", "FINISHED") for each in supervisor.components()):
                assert not any(each.state == "BROKEN" for each in supervisor.components()), supervisor.components()
                await supervisor.change()
        whole(deployments, acked)
        # and it can go on
        row = await workload.deploy(deployments, folder, 5)
        assert row.status == record.SUCCEEDED, f"cannot go on: {row.detail}"
        for row in deployments.list():
            assert row.detail.get("detailed-deployment-status") != "FAILED_UNABLE_TO_ROLLBACK", row.detail


def whole(deployments: workload.Deployments, acked: int) -> None:
    supervisor, config, root = deployments.tools.supervisor, deployments.tools.config, deployments.tools.root
    active = supervisor.active()
    versions = {name: each.version for name, each in active.items()}
    allowed = [workload.SETS[number] for number in (acked, acked + 1) if number < 5]
    assert versions in allowed, f"{versions} after {acked} were acknowledged"
    rows = deployments.list()
    if rows:
        last = rows[0].number
        told = workload.SETS[last if rows[0].status == record.SUCCEEDED else last - 1]
        assert versions == told, f"{versions}, and deployment {last} says {rows[0].status}"
    for name, each in active.items():
        for file, digest in each.artifacts.items():
            data = (root.artifacts(name, each.version) / file).read_bytes()
            assert hashlib.sha256(data).hexdigest() == digest, f"{name} {each.version}: {file} is torn"
    if workload.NAME in active:
        version = versions[workload.NAME]
        number = int(version[0])
        unpacked = root.unarchived(workload.NAME, version) / "app"
        assert (unpacked / "filler").read_bytes() == bytes([number]) * 9000, "an unpacked file is torn"
        tree = config_tree.get(config.tree(workload.NAME))
        assert tree == {"default": 1, "number": number}, f"configuration of another version: {tree}"
        assert deployments.roots() == {"LOCAL_DEPLOYMENT": {workload.NAME: version}}


def test_a_deployment_survives_a_power_cut_at_any_operation() -> None:
    sweep(
        python("deploy", "good", "4"), check, every=30, torn=1, prepare=workload.prepare, budget_s=10.0
    ).assert_clean()


@pytest.mark.parametrize(("broken", "last"), [("two-commits", "1"), ("unsynced", "1"), ("no-snapshot", "3")])
def test_the_sweep_notices(broken: str, last: str) -> None:
    result = sweep(
        python("deploy", broken, last),
        check,
        every=1,
        modes=("drop",),
        prepare=workload.prepare,
        stop_after=1,
        budget_s=40.0,
        marked=True,
    )
    result.assert_caught()
