"""Devices provisioned a second, each on the disk before it is answered: `main() -> dict`.

`by_claim_per_s`: two requests a device, CreateKeysAndCertificate and RegisterThing, with 64 devices at once; `bulk_csr_per_s`: lines
of a registration task whose devices bring a signing request, `bulk_per_s`: lines without one. The ratios are against the bare
statements of one device (thing, certificate, attachments) in the same database. Signing is most of the first two.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from marram.core import sigv4
from marram.hub.bus import Bus
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.objects.service import Objects
from marram.hub.provisioning import store
from marram.hub.provisioning.claims import Asker
from marram.hub.provisioning.service import Provisioning
from marram.hub.registry.service import Registry
from marram.kit.blobs import Blobs
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db, Migrations, Tx

DEVICES, AT_ONCE, LINES, CSR_LINES, BARE = 400, 64, 5_000, 500, 4_000
ACCOUNT, REGION = "000000000001", "local-1"
NAMES = ("identity", "registry", "objects", "provisioning")
SLICES = [Migrations(slice=name, package=f"marram.hub.{name}") for name in NAMES]
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
THING = {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}}}
POLICIES = {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": POLICY}}


def template(**resources: object) -> str:
    csr = {"CSR": {"Type": "String"}} if "csr" in json.dumps(resources).lower() else {}
    body = {"Parameters": {"Name": {"Type": "String"}, **csr}, "Resources": {"thing": THING, **resources}}
    return json.dumps(body)


def main() -> dict[str, float]:
    return asyncio.run(_main())


async def _main() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="marram-bench-") as name:
        folder, clock, entropy = Path(name), SystemClock(), SystemEntropy()
        with Db.open(folder / "hub.db", clock=clock, entropy=entropy, migrations=SLICES) as db:
            pki = Pki.open(folder / "pki", clock=clock, entropy=entropy)
            identity = Identity(db, pki, Bus(), clock=clock, entropy=entropy, account=ACCOUNT, region=REGION)
            identity.admin_key()
            registry = Registry(db, identity, Bus(), entropy=entropy)
            signer = SimpleNamespace(credentials=lambda: sigv4.Credentials("id", "secret"))
            objects = Objects(
                db, Blobs(folder / "blobs", db, entropy=entropy), clock, region=REGION, endpoint=lambda: "http://x",
                signer=signer,
            )  # fmt: skip
            replies = SimpleNamespace(answer=lambda *_: True)
            slice_ = Provisioning(db, identity, registry, objects, replies, clock=clock)
            bare = await _timed(BARE, lambda at: _bare(db, at))
            claimed = await _by_claim(slice_, identity)
            await objects.create_bucket("input")
            plain = await _task(slice_, db, objects, template(), [{"Name": f"b{at}"} for at in range(LINES)])
            request = _request()
            certificate = {
                "Type": "AWS::IoT::Certificate",
                "Properties": {"CertificateSigningRequest": {"Ref": "CSR"}, "Status": "ACTIVE"},
            }
            signed = await _task(
                slice_, db, objects, template(certificate=certificate, policy=POLICIES),
                [{"Name": f"c{at}", "CSR": request} for at in range(CSR_LINES)],
            )  # fmt: skip
    return {
        "bare_rows_per_s": bare,
        "by_claim_per_s": claimed,
        "by_claim_ratio": round(claimed / bare, 3),
        "bulk_per_s": plain,
        "bulk_ratio": round(plain / bare, 3),
        "bulk_csr_per_s": signed,
        "bulk_csr_ratio": round(signed / bare, 3),
    }


async def _by_claim(slice_: Provisioning, identity: Identity) -> float:
    certificate = {
        "Type": "AWS::IoT::Certificate",
        "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}},
    }
    body = template(certificate=certificate, policy=POLICIES)
    await slice_.templates.create(
        "fleet", kind="FLEET_PROVISIONING", body=body, role=identity.role_arn(), description="", enabled=True
    )
    claim = await identity.create_certificate(active=True)

    async def device(at: int) -> None:
        name = f"d{at}"
        asker = Asker(subject=identity.with_client(identity.certificate_subject(claim.der), name), client_id=name)
        _, token = await slice_.claims.create_certificate(asker)
        await slice_.claims.register(asker, "fleet", token, {"Name": name})

    return await _timed(DEVICES, device)


async def _task(slice_: Provisioning, db: Db, objects: Objects, body: str, rows: list[dict[str, str]]) -> float:
    await objects.put("input", "things.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    task = await slice_.bulk.start(
        template=body, bucket="input", key="things.jsonl", role=f"arn:aws:iam::{ACCOUNT}:role/marram-service"
    )
    began = time.perf_counter()
    runner = asyncio.create_task(slice_.bulk.run(), name="bulk")
    while db.read_now(store.unfinished) is not None:
        await asyncio.sleep(0.01)
    spent = time.perf_counter() - began
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    assert (await slice_.bulk.task(task)).successes == len(rows)
    return round(len(rows) / spent)


async def _bare(db: Db, at: int) -> None:
    def work(tx: Tx) -> None:
        name = f"bare{at}"
        tx.execute(
            "INSERT INTO registry_thing (name, id, type, attributes, version, created_ms) VALUES (?, ?, '', '{}', 1, 0)",
            name,
            name,
        )
        tx.execute("INSERT INTO identity_thing (thing, certificate, exclusive) VALUES (?, ?, 0)", name, name)
        tx.execute("INSERT INTO identity_attachment (target, policy) VALUES (?, 'p')", f"cert/{name}")

    await db.write(work)


async def _timed(count: int, work: Callable[[int], Awaitable[None]]) -> float:
    async def worker(first: int) -> None:
        for at in range(first, count, AT_ONCE):
            await work(at)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for first in range(AT_ONCE):
            group.create_task(worker(first), name="worker")
    return round(count / (time.perf_counter() - began))


def _request() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
