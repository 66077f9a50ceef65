"""Step 1: the hub, the cable, three cores in folders of their own, and the machines behind them as things with certificates."""

import json
import secrets
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from demo import processes
from demo.processes import Child
from demo.world import DEVICES, GROUP, SITE, Core, World

TITLE = "hub, three cores, six machines: registered, mutual TLS, one group"


def run(world: World) -> None:
    show = world.show
    world.machines.mkdir(parents=True)
    world.facts["canary"] = f"STAY-{secrets.token_hex(12)}"
    show.command("marram", "hub", "up", "--data", world.hub_dir, "--ports", "auto")
    world.start_hub()
    world.facts["clip"] = start_clip(world)
    world.hub_ready()
    show.say(f"API {world.info['endpoints']['api']}, MQTT {world.info['endpoints']['mqtt']}")
    ports = _cable(world)
    iot = world.aws("iot")
    show.call(
        f"boto3 iot.create_thing_group('{SITE}'); below it '{GROUP}' for the cores, '{DEVICES}' for the machines behind them"
    )
    iot.create_thing_group(thingGroupName=SITE)
    for group in (GROUP, DEVICES):
        iot.create_thing_group(thingGroupName=group, parentGroupName=SITE)
    show.command(
        "marram",
        "edge",
        "join",
        "--hub-json",
        world.hub_dir / "hub.json",
        "--thing",
        "meter-1",
        "--root",
        world.cores[0].root,
    )
    show.command("marram", "edge", "up", "--root", world.cores[0].root, "--ports", "auto")
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda core: _join(world, core, ports), world.cores))
    for core in world.cores:
        world.start_core(core)
    show.call(
        "boto3 iot.create_keys_and_certificate(), create_thing(), attach_thing_principal(), add_thing_to_thing_group()"
    )
    show.call("boto3 greengrassv2.batch_associate_client_device_with_core_device()")
    boxes = [_machines(world, core) for core in world.cores]
    (world.machines / "devices.json").write_text(json.dumps(boxes))
    for core in world.cores:
        world.core_ready(core)
    world.devices = world.family.start(
        "devices", [sys.executable, "-m", "demo.devices", str(world.machines)], world.folder / "devices.log", talk=True
    )
    world.devices.wait_line("devices ready", 20)
    took = show.wait(
        "cores connect to the hub", lambda: all(connected(world, core) for core in world.cores), 30, every_s=0.5
    )
    show.figure("three cores connected through the cable", f"{took:.1f} s after they were ready")
    show.promise(_refused_without_certificate(world), "the MQTT door turns away a client without a certificate")


def connected(world: World, core: Core) -> bool:
    return bool((world.edge_status(core).get("hub") or {}).get("connected"))


def start_clip(world: World) -> Child:
    """The camera's clip is written by a process of its own while the rest starts."""
    argv = [sys.executable, str(Path(__file__).with_name("clip.py")), "--out", str(world.clip)]
    world.show.command("python", "demo/clip.py", "--out", world.clip)
    return world.family.start("clip", argv, world.folder / "clip.log")


def _cable(world: World) -> dict[str, int]:
    targets = []
    for core in world.cores:
        for door in ("mqtt", "https"):
            url = urlsplit(world.info["endpoints"][door])
            targets.append([f"{core.thing}/{door}", "127.0.0.1", url.port])
    argv = [sys.executable, "-m", "demo.proxy", json.dumps(targets)]
    world.cable = world.family.start("cable", argv, world.folder / "cable.log", talk=True)
    ports: dict[str, int] = json.loads(world.cable.wait_line("ports ", 10).partition(" ")[2])
    return ports


def _join(world: World, core: Core, ports: dict[str, int]) -> None:
    processes.run("edge", "join", "--hub-json", world.hub_dir / "hub.json", "--thing", core.thing, "--root", core.root)
    core.port_file = world.machines / f"{core.thing}.port"
    world.route_through_cable(core, ports)
    world.aws("iot").add_thing_to_thing_group(thingGroupName=GROUP, thingName=core.thing)


def _machines(world: World, core: Core) -> dict[str, Any]:
    iot = world.aws("iot")
    box: dict[str, Any] = {"core": core.thing, "port_file": str(core.port_file), "ca": world.info["ca_file"]}
    for kind, thing in (("sensor", core.sensor), ("relay", core.relay)):
        made = iot.create_keys_and_certificate(setAsActive=True)
        iot.create_thing(thingName=thing)
        iot.attach_thing_principal(thingName=thing, principal=made["certificateArn"])
        iot.add_thing_to_thing_group(thingGroupName=DEVICES, thingName=thing)
        certificate, key = world.machines / f"{thing}.pem", world.machines / f"{thing}.key"
        certificate.write_text(made["certificatePem"])
        key.touch(mode=0o600)
        key.write_text(made["keyPair"]["PrivateKey"])
        box[kind] = {"thing": thing, "certificate": str(certificate), "key": str(key)}
    answer = world.aws("greengrassv2").batch_associate_client_device_with_core_device(
        coreDeviceThingName=core.thing, entries=[{"thingName": core.sensor}, {"thingName": core.relay}]
    )
    assert not answer.get("errorEntries"), answer
    return box


def _refused_without_certificate(world: World) -> bool:
    url = urlsplit(world.info["endpoints"]["mqtt"])
    context = ssl.create_default_context(cafile=world.info["ca_file"])
    try:
        with socket.create_connection(("127.0.0.1", url.port or 0), timeout=5) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as secure:
                return secure.recv(1) == b""  # TLS 1.3: the alert comes with the first read
    except (ssl.SSLError, ConnectionError):
        return True
