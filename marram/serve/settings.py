"""What a hub folder remembers of itself: account, region, ports, names. Chosen once at the first start, refused later."""

import re
import socket
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marram.core.errors import Conflict, Invalid, Unavailable
from marram.hub.border import limits
from marram.hub.border.limits import Limits
from marram.hub.provisioning.service import Settings as ProvisioningSettings
from marram.hub.shadow.service import Settings as ShadowSettings
from marram.hub.timeseries.service import Settings as SeriesSettings
from marram.kit import config
from marram.kit.clock import Entropy
from marram.kit.db import Db, Tx

PORTS: Final = {"api": 4566, "mqtt": 8883, "https": 8443, "console": 8080}
AUTO_FIRST, AUTO_COUNT = 20_000, 12_000
LOOPBACK: Final = "127.0.0.1"
ACCOUNT: Final = "000000000001"
REGION: Final = "local-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """The [hub] section of marram.toml. account_id and region count at the first start only; a port of 0 is the one it had, or the
    usual one. AWS's SDKs know 8883 and 443 alone where their user cannot say a port."""

    account_id: str = ""
    region: str = ""
    log_level: str = "info"
    limits: str = "default"  # or "aws": its rates are on too
    api_port: int = 0
    mqtt_port: int = 0
    https_port: int = 0
    console_port: int = 0

    def port(self, door: str) -> int:
        return int(getattr(self, f"{door}_port"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """marram.toml whole: a field each section, by its name."""

    hub: HubSettings
    limits: Limits
    timeseries: SeriesSettings
    shadow: ShadowSettings
    provisioning: ProvisioningSettings


def load(path: Path, environ: Mapping[str, str]) -> Sections:
    """Raises BadSetting for an unknown section or key, Invalid for a value that cannot be."""
    kinds = typing.get_type_hints(Sections)
    config.known_sections(path, kinds)
    plain = {name: kind for name, kind in kinds.items() if kind is not Limits}
    made = {name: config.load(kind, name, path=path, environ=environ) for name, kind in plain.items()}
    return Sections(**made, limits=limits.load(made["hub"].limits, path, environ))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this start listens. `host` is what clients are told; `bind` None means loopback only."""

    account: str
    region: str
    ports: dict[str, int]
    bind: str | None
    host: str


def remember(
    db: Db, wanted: HubSettings, *, entropy: Entropy, auto_ports: bool, bind: str | None, name: str | None
) -> Place:
    """Settle this start's place with what the folder holds. Raises Conflict for a changed account or region, Invalid."""
    if bind is not None and not name:
        raise Invalid(
            "--bind needs --name HOST: the name that other machines use, which the server certificate carries"
        )
    if wanted.account_id and not re.fullmatch(r"\d{12}", wanted.account_id):
        raise Invalid(f"account_id is 12 digits, not {wanted.account_id!r}")
    if wanted.region and not re.fullmatch(r"[a-z]{2,}(-[a-z0-9]+)+", wanted.region):
        raise Invalid(f"region looks like local-1 or eu-west-1, not {wanted.region!r}")
    named = {door: wanted.port(door) for door in PORTS if wanted.port(door)}
    if not all(0 < port < 65536 for port in named.values()) or len(set(named.values())) < len(named):
        raise Invalid(f"ports are four different numbers from 1 to 65535, not {named}")
    free: dict[str, int] = dict(PORTS)
    if auto_ports:
        taken: set[int] = set(named.values())
        for door in PORTS:
            while (port := _free_port(entropy)) in taken:
                pass
            taken.add(port)
            free[door] = port

    def work(tx: Tx) -> Place:
        account = _once(tx, "account", wanted.account_id, ACCOUNT)
        region = _once(tx, "region", wanted.region, REGION)
        for door, port in named.items():
            tx.execute(
                "INSERT INTO setting (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                f"port.{door}", str(port),
            )  # fmt: skip
        ports = {door: int(_once(tx, f"port.{door}", "", str(port))) for door, port in free.items()}
        return Place(account=account, region=region, ports=ports, bind=bind, host=name or "localhost")

    return db.write_sync(work)


def _once(tx: Tx, key: str, wanted: str, default: str) -> str:
    row = tx.one("SELECT value FROM setting WHERE key = ?", key)
    if row is not None:
        if wanted and row[0] != wanted:
            raise Conflict(f"{key} of this hub is {row[0]} since its first start; it cannot become {wanted}")
        return str(row[0])
    tx.execute("INSERT INTO setting (key, value) VALUES (?, ?)", key, wanted or default)
    return wanted or default


def _free_port(entropy: Entropy) -> int:
    """Below the range that the kernel takes for outgoing connections: there a kept port may be in use at the next start."""
    for _ in range(200):
        port = AUTO_FIRST + int.from_bytes(entropy.bytes(2)) % AUTO_COUNT
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Unavailable(f"no free port on loopback from {AUTO_FIRST} to {AUTO_FIRST + AUTO_COUNT - 1}")
