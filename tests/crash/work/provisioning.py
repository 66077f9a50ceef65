"""Workload: devices provisioned by claim, by their CA and in bulk; print what was answered.

argv: variant, folder. Lines: `certificate ID`, `thing NAME`, `arrived`, `task ID`, `completed ID`. Variants but "good" are broken
on purpose, so that the sweep can show that it notices.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import tests.hub.conftest as hubs
from marram.core.codec import JsonValue
from marram.hub.provisioning import bulk, claims, service, store
from marram.hub.provisioning.claims import Asker
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Tx
from tests.crash.work import db as databases
from tests.hub.provisioning.conftest import Plant, template
from tests.wire.authority import CertificateAuthority

MARK = "MARRAM_SWEEP_MARK"
SLICES = ("identity", "registry", "objects", "provisioning")
DEVICES = 3
BULK = [*({"Name": f"b{number}"} for number in range(7)), {"Name": "no name"}, {"Name": "b7"}]
BODY = json.dumps(
    {
        "Parameters": {"Name": {"Type": "String"}},
        "Resources": {"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}}}},
    }
)
FIELD = "AWS::IoT::Certificate::CommonName"


class ReportFirst(bulk.Bulk):
    """The rows of a report go, and the task moves on, before its objects are written."""

    async def _report(self, task_id: str, position: int, number: int) -> None:
        kept = self._objects.put
        waiting: list[tuple[str, str, bytes]] = []

        async def put(bucket: str, key: str, data: bytes) -> None:
            waiting.append((bucket, key, data))

        self._objects.put = put  # type: ignore[method-assign, assignment]
        try:
            await super()._report(task_id, position, number)
        finally:
            self._objects.put = kept  # type: ignore[method-assign]
        for bucket, key, data in waiting:
            await kept(bucket, key, data)


class RowLater(bulk.Bulk):
    """A line and the row that says it is done are two transactions."""

    def _note(self, tx: Tx, task_id: str, line: bulk.Line, report: str, *, failed: bool) -> None:
        tx.after_commit(
            lambda: self._db.write_sync(lambda tx: bulk.Bulk._note(self, tx, task_id, line, report, failed=failed))
        )


class TwoSteps(claims.Claims):
    """The token ends in one transaction, what it was good for comes in the next."""

    async def register(
        self, asker: Asker, template: str, token: object, parameters: Mapping[str, str]
    ) -> tuple[Mapping[str, JsonValue], str | None]:
        certificate = self._certificate_of(token, asker)
        await self._db.write(lambda tx: store.end_pending(tx, certificate))
        kept, store.is_pending = store.is_pending, lambda tx, certificate_id: True
        try:
            return await super().register(asker, template, token, parameters)
        finally:
            store.is_pending = kept


def opened(folder: Path, seed: int) -> Plant:
    plant = Plant(folder, FakeClock(), SeededEntropy(seed), slices=SLICES)
    plant.open()
    return plant


def prepare(folder: Path) -> None:
    """Templates, a claim, a CA with a device's certificate (beside the folder's database), the input of a task."""

    async def work() -> None:
        plant = opened(folder, 1)
        plant.identity.admin_key()
        (folder / "claim.der").write_bytes(await plant.claim())
        await plant.fleet(template())
        jitp = json.loads(template())
        jitp["Parameters"] = {FIELD: {"Type": "String"}}
        jitp["Resources"]["thing"]["Properties"] = {"ThingName": {"Ref": FIELD}}
        now = datetime.fromtimestamp(plant.clock.wall_ms() / 1000, tz=UTC)
        ca = CertificateAuthority(now=now)
        code = (await plant.call("GetRegistrationCode"))["registrationCode"]
        await plant.call(
            "RegisterCACertificate", caCertificate=ca.pem, verificationCertificate=ca.proof(str(code)), setAsActive=True,
            allowAutoRegistration=True,
            registrationConfig={"templateBody": json.dumps(jitp), "roleArn": plant.role},
        )  # fmt: skip
        (folder / "device.pem").write_text(ca.issue(CN="jitp0")[0])
        await plant.objects.create_bucket("input")
        text = "".join(json.dumps(row) + "\n" for row in BULK)
        await plant.objects.put("input", "things.jsonl", text.encode())
        plant.db.close()

    asyncio.run(work())


def say(line: str) -> None:
    print(line, flush=True)


async def by_claim(plant: Plant, der: bytes, name: str, tell: Callable[[str], None] = say) -> None:
    asker = Asker(subject=plant.device(der, name), client_id=name)
    issued, token = await plant.provisioning.claims.create_certificate(asker)
    tell(f"certificate {issued.id}")
    _, thing = await plant.provisioning.claims.register(asker, "fleet", token, {"Serial": name})
    tell(f"thing {thing}")


async def by_authority(plant: Plant, folder: Path) -> None:
    plant.clock.advance(3000)
    await plant.provisioning.arrivals.arrived(plant.der((folder / "device.pem").read_text()))


async def finish(plant: Plant) -> None:
    """Work tasks off."""
    while (task := plant.db.read_now(store.unfinished)) is not None:
        await plant.provisioning.bulk._work_off(task)


async def work(plant: Plant, folder: Path) -> None:
    der = (folder / "claim.der").read_bytes()
    Path(os.environ[MARK]).touch()
    for number in range(DEVICES):
        await by_claim(plant, der, f"c{number}")
    await by_authority(plant, folder)
    say("arrived")
    task = await plant.provisioning.bulk.start(template=BODY, bucket="input", key="things.jsonl", role=plant.role)
    say(f"task {task}")
    await finish(plant)
    say(f"completed {task}")


def main(variant: str, folder: str) -> None:
    bulk.LINES_AT_ONCE, bulk.LINES_A_REPORT = 3, 6  # type: ignore[misc]  # several reports of few lines
    match variant:
        case "no-sync":
            hubs.Db = databases.Normal  # type: ignore[misc]
        case "no-transaction":
            hubs.Db = databases.NoTransaction  # type: ignore[misc]
        case "report-first":
            service.Bulk = ReportFirst  # type: ignore[misc]
        case "row-later":
            service.Bulk = RowLater  # type: ignore[misc]
        case "token-first":
            service.Claims = TwoSteps  # type: ignore[misc]
        case _:
            assert variant == "good"
    asyncio.run(work(opened(Path(folder), 2), Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
