"""Provisioning after a power cut: what was answered is there whole, what was not is there whole or not at all, and it goes on."""

import asyncio
import json
from pathlib import Path

import pytest

from marram.hub.identity.service import certificate_id
from marram.hub.provisioning import bulk, store
from tests.crash.sweep import python, sweep
from tests.crash.work import provisioning as workload
from tests.hub.provisioning.conftest import Plant


def check(root: Path, acks: list[str]) -> None:
    asyncio.run(_look(root, acks))


async def _look(root: Path, acks: list[str]) -> None:
    plant = workload.opened(root, 3)
    try:
        _is_whole(plant, root)
        for line in acks:
            await _holds(plant, *line.split())
        await _goes_on(plant, root, {line.split()[1] for line in acks if line.startswith("task ")})
        _is_whole(plant, root)
    finally:
        plant.db.close()


def _is_whole(plant: Plant, root: Path) -> None:
    """A device's certificate waits for its thing and nothing else, or it is active and has all that the template gives."""
    rows = plant.db.read_now(
        lambda tx: {
            "pending": {row[0] for row in tx.all("SELECT certificate FROM provisioning_pending")},
            "certificates": {str(row[0]): str(row[1]) for row in tx.all("SELECT id, status FROM identity_certificate")},
            "things": {str(row[0]) for row in tx.all("SELECT name FROM registry_thing")},
            "of": dict(tx.all("SELECT certificate, thing FROM identity_thing")),
            "policies": {str(row[0]).removeprefix("cert/") for row in tx.all("SELECT target FROM identity_attachment")},
        }
    )
    claim = certificate_id((root / "claim.der").read_bytes())
    for certificate, status in rows["certificates"].items():
        if certificate == claim:
            continue
        is_pending = certificate in rows["pending"]
        has = (certificate in rows["of"], certificate in rows["policies"])
        wanted = ("PENDING_ACTIVATION", (False, False)) if is_pending else ("ACTIVE", (True, True))
        assert (status, has) == wanted, f"half a device: {status}, thing and policy {has}, pending {is_pending}"
    devices = {name for name in rows["things"] if name[0] in "cj"}
    assert devices == set(rows["of"].values()), "a thing without its certificate"


async def _holds(plant: Plant, what: str, *rest: str) -> None:
    match what, rest:
        case "certificate", (certificate,):
            assert (await plant.identity.certificate(certificate)).id == certificate
        case "thing", (name,):
            assert plant.registry.thing(name).name == name
        case "arrived", ():
            assert plant.registry.thing("jitp0").name == "jitp0"
        case "task", (task,):
            assert (await plant.provisioning.bulk.task(task)).id == task
        case "completed", (task,):
            assert (await plant.provisioning.bulk.task(task)).status == "Completed"
        case _:
            raise AssertionError(f"what is {what} {rest}?")


async def _goes_on(plant: Plant, root: Path, tasks: set[str]) -> None:
    await plant.provisioning.bulk.sweep()
    await workload.finish(plant)
    for task in tasks:
        await _every_line_once(plant, task)
    await workload.by_authority(plant, root)  # once more, or again
    assert plant.registry.thing("jitp0").name == "jitp0"
    await workload.by_claim(plant, (root / "claim.der").read_bytes(), "c-new", lambda line: None)
    plant.clock.advance(3_700_000)
    while await plant.provisioning.claims.end_pending():
        pass
    assert plant.db.read_now(lambda tx: tx.all("SELECT * FROM provisioning_pending")) == []


async def _every_line_once(plant: Plant, task_id: str) -> None:
    task = await plant.provisioning.bulk.task(task_id)
    assert (task.status, task.successes, task.failures) == ("Completed", 8, 1)
    numbers: list[int] = []
    for kind in ("RESULTS", "ERRORS"):
        for _, key in plant.db.read_now(lambda tx, kind=kind: store.reports(tx, task_id, kind, 0, 100)):  # type: ignore[misc]
            text = await plant.objects.get(bulk.BUCKET, key)
            numbers += [int(json.loads(line)["lineNumber"]) for line in text.splitlines()]
    assert sorted(numbers) == list(range(1, 10)), f"lines of the reports: {numbers}"
    for number in range(8):
        assert plant.registry.thing(f"b{number}").name == f"b{number}"
    assert plant.db.read_now(lambda tx: store.lines(tx, task_id)) == []


def test_provisioning_survives_a_power_cut_at_any_operation() -> None:
    sweep(
        python("provisioning", "good"), check, prepare=workload.prepare, every=10, budget_s=10, marked=True
    ).assert_clean()


@pytest.mark.parametrize(
    ("broken", "mode"),
    [
        ("no-sync", "drop"),
        ("no-transaction", "keep"),
        ("token-first", "keep"),
        ("row-later", "keep"),
        ("report-first", "keep"),
    ],
)
def test_the_sweep_notices(broken: str, mode: str) -> None:
    # Only the kind of disk on which this one shows.
    sweep(
        python("provisioning", broken), check, prepare=workload.prepare, every=2, modes=(mode,), stop_after=1, budget_s=40,
        marked=True,
    ).assert_caught()  # fmt: skip
