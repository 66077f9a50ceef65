"""The hub's folder: one hub at a time, and hub.json, which says where the running one is."""

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, cast

from marram import VERSION
from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Conflict, Corrupt, Invalid, NotFound
from marram.kit import disk

FOLDERS: Final = ("log", "streams", "ts", "recordings", "blobs", "jobs", "pki", "tmp")
HUB_JSON: Final = "hub.json"


class AlreadyRunning(Conflict):
    """Another hub holds the folder's lock."""

    code = "MRM-1005"


class BadHubJson(Corrupt):
    """hub.json is not what a hub wrote; a running hub writes it anew at its next start."""

    code = "MRM-1006"


class NoHub(NotFound):
    """No hub was ever started on this folder, or none is starting up."""

    code = "MRM-1007"


class Lock:
    """Held for the life of the process; the kernel frees it when the process dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        with disk.errors_of(self._path):
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            owner = os.read(self._handle, 32).decode(errors="replace").strip()
            os.close(self._handle)
            raise AlreadyRunning(f"a hub is running on {folder} (pid {owner or 'unknown'}); stop it first") from exc
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, str(os.getpid()).encode(), 0)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubJson:
    """See docs/api.md; `format` is raised when a field changes its meaning."""

    pid: int
    account_id: str
    region: str
    endpoints: dict[str, str]
    ca_file: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    version: str = VERSION

    @property
    def local_api(self) -> str:
        """The plain API door: on loopback whatever the hub is bound to, also where HOST does not resolve."""
        return f"http://127.0.0.1:{self.endpoints['api'].rpartition(':')[2]}"


def prepare(folder: Path) -> None:
    disk.make_dirs(folder)
    for name in FOLDERS:
        disk.make_dirs(folder / name)


def write_hub_json(folder: Path, hub: HubJson) -> None:
    body: JsonObject = {
        "format": 1,
        "version": hub.version,
        "pid": hub.pid,
        "account_id": hub.account_id,
        "region": hub.region,
        "endpoints": dict(hub.endpoints),
        "ca_file": hub.ca_file,
        "admin": {"access_key_id": hub.access_key_id, "secret_access_key": hub.secret_access_key},
    }
    disk.write_atomic(folder / HUB_JSON, codec.dumps(body) + b"\n", mode=0o600)


def read_hub_json(path: Path) -> HubJson:
    """Raises NoHub when the file is missing, BadHubJson when it is not one of ours."""
    try:
        body = codec.loads_object(disk.read(path, limit=1 << 20), what="hub.json")
    except NotFound as exc:
        raise NoHub(f"no {path}: start the hub first (marram hub up --data {path.parent})") from exc
    except Invalid as exc:
        raise BadHubJson(f"{path}: {exc.message}; restart the hub to have it written anew") from exc
    try:
        admin = cast(JsonObject, body["admin"])
        endpoints = cast("dict[str, str]", body["endpoints"])
        made = HubJson(
            pid=int(str(body["pid"])),
            account_id=str(body["account_id"]),
            region=str(body["region"]),
            endpoints={name: str(endpoints[name]) for name in ("api", "mqtt", "https", "console")},
            ca_file=str(body["ca_file"]),
            access_key_id=str(admin["access_key_id"]),
            secret_access_key=str(admin["secret_access_key"]),
            version=str(body["version"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise BadHubJson(f"{path} lacks or misspells {exc}; restart the hub to have it written anew") from exc
    return made
