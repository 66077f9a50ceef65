"""Core devices as they report themselves (fleet status), and the client devices that belong to a core.

Source of the message: observed, aws-greengrass-lite 2.6.0 and nucleus 2.18, `greengrassv2/health/json`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, NotFound
from marram.hub.greengrass import store
from marram.hub.greengrass.store import Core, Installed
from marram.hub.registry.service import Registry
from marram.kit.db import Db, Tx

STATES: Final = frozenset({"NEW", "INSTALLED", "STARTING", "RUNNING", "STOPPING", "ERRORED", "BROKEN", "FINISHED"})
GONE: Final = "UNINSTALLED"
MAX_COMPONENTS: Final = 1000


class Devices:
    def __init__(self, db: Db, registry: Registry) -> None:
        self._db, self._registry = db, registry

    async def report(self, thing: str, payload: bytes) -> None:
        """One fleet status message. COMPLETE replaces what is known, PARTIAL adds to it. Raises Invalid."""
        body = codec.loads_object(payload, what="fleet status")
        components = body.get("components", [])
        if not isinstance(components, list) or len(components) > MAX_COMPONENTS:
            raise Invalid(f"components must be a list of at most {MAX_COMPONENTS}")
        parsed = [_installed(thing, item) for item in components]

        def work(tx: Tx) -> None:
            known = store.core(tx, thing)
            sequence = _number(body, "sequenceNumber")
            launch = body.get("trigger") == "NUCLEUS_LAUNCH"  # the count may start again
            if known is not None and sequence < known.sequence and not launch:
                return  # an older message that overtook a newer one on the way
            complete = body.get("messageType") == "COMPLETE" and _chunks(body) == 1
            names = {item.name for item in parsed if item.state != GONE}
            before = {item.name: item for item in store.installed(tx, thing)}
            for name in before:
                if complete and name not in names:
                    store.forget_installed(tx, thing, name)
            for item in parsed:
                if item.state == GONE:
                    store.forget_installed(tx, thing, item.name)
                else:
                    store.save_installed(tx, _dated(item, before.get(item.name), tx.now_ms))
            store.save_core(
                tx,
                Core(
                    thing=thing,
                    nucleus_version=str(body.get("ggcVersion", "")),
                    platform=str(body.get("platform", "")),
                    architecture=str(body.get("architecture", "")),
                    runtime=str(body.get("runtime", "")),
                    status="UNHEALTHY" if body.get("overallDeviceStatus") == "UNHEALTHY" else "HEALTHY",
                    sequence=sequence,
                    reported_ms=tx.now_ms,
                ),
            )

        await self._db.write(work)

    async def asked(self, thing: str) -> bool:
        """The thing asked for its deployments, as only a core does. Whether that is news."""

        def work(tx: Tx) -> bool:
            if store.is_core(tx, thing):
                return False
            store.add_asker(tx, thing)
            return True

        return await self._db.write(work)

    async def get(self, thing: str) -> Core:
        """Raises NotFound."""
        return _found(await self._db.read(lambda tx: store.core(tx, thing)), thing)

    async def page(self, *, after: str, limit: int) -> list[Core]:
        return await self._db.read(lambda tx: store.cores(tx, after, limit))

    async def installed(self, thing: str) -> list[Installed]:
        """Raises NotFound."""

        def work(tx: Tx) -> list[Installed]:
            _found(store.core(tx, thing), thing)
            return store.installed(tx, thing)

        return await self._db.read(work)

    async def forget(self, thing: str) -> None:
        def work(tx: Tx) -> None:
            _found(store.core(tx, thing), thing)
            store.delete_core(tx, thing)

        await self._db.write(work)

    async def associate(self, core: str, things: Sequence[str]) -> dict[str, str]:
        """Let things connect to a core's local broker. Returns thing -> why not, for those refused."""

        def work(tx: Tx) -> dict[str, str]:
            refused: dict[str, str] = {}
            for thing in things:
                if not self._registry.exists(tx, thing):
                    refused[thing] = f"there is no thing {thing}"
                else:
                    store.associate(tx, core, thing)
            return refused

        return await self._db.write(work)

    async def disassociate(self, core: str, things: Sequence[str]) -> dict[str, str]:
        def work(tx: Tx) -> dict[str, str]:
            return {
                thing: f"{thing} is not associated with {core}"
                for thing in things
                if not store.disassociate(tx, core, thing)
            }

        return await self._db.write(work)

    async def clients(self, core: str, *, after: str = "", limit: int = 1000) -> list[tuple[str, int]]:
        """(thing, associated_ms)."""
        return await self._db.read(lambda tx: store.client_devices(tx, core, after, limit))


def _installed(thing: str, item: JsonValue) -> Installed:
    if not isinstance(item, dict) or not isinstance(item.get("componentName"), str):
        raise Invalid("components: each is an object with componentName")
    state = str(item.get("status", ""))
    if state not in STATES and state != GONE:
        raise Invalid(f"components: {item['componentName']}: status {state!r} is not a lifecycle state")
    details = item.get("componentStatusDetails")
    sources = item.get("fleetConfigArns")
    return Installed(
        thing=thing,
        name=str(item["componentName"]),
        version=str(item.get("version", "")),
        state=state,
        details=codec.dumps(details).decode() if details else "",
        is_root=bool(item.get("isRoot")),
        source=str(sources[0]) if isinstance(sources, list) and sources else "",
        changed_ms=0,
        reported_ms=0,
    )


def _dated(item: Installed, before: Installed | None, now_ms: int) -> Installed:
    same = before is not None and (before.state, before.version) == (item.state, item.version)
    return Installed(
        thing=item.thing,
        name=item.name,
        version=item.version,
        state=item.state,
        details=item.details,
        is_root=item.is_root,
        source=item.source,
        changed_ms=before.changed_ms if same and before is not None else now_ms,
        reported_ms=now_ms,
    )


def _number(body: Mapping[str, JsonValue], key: str) -> int:
    value = body.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid(f"{key} must be a number")
    return value


def _chunks(body: JsonObject) -> int:
    info = body.get("chunkInfo")
    total = info.get("totalChunks", 1) if isinstance(info, dict) else 1
    return total if isinstance(total, int) else 1


def _found(found: Core | None, thing: str) -> Core:
    if found is None:
        raise NotFound(f"there is no core device {thing}")
    return found
