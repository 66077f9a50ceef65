"""The tables of components, deployments, canaries and core devices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from marram.core import codec
from marram.core.codec import JsonObject
from marram.kit.db import Tx

ACTIVE, COMPLETED, CANCELED, FAILED, INACTIVE = "ACTIVE", "COMPLETED", "CANCELED", "FAILED", "INACTIVE"
BAKING, PROMOTED, STOPPED = "BAKING", "PROMOTED", "STOPPED"
_DEPLOYMENT: Final = "id, target, revision, name, status, reason, job, request, document, created_ms"
_COMPONENT: Final = "name, version, original, recipe, publisher, description, created_ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """`original` as it was given, `recipe` normalised JSON as cores get it."""

    name: str
    version: str
    original: bytes
    recipe: bytes
    publisher: str
    description: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    name: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """`target` is "thing/T" or "thinggroup/G"; `request` what CreateDeployment gave, `document` what cores get."""

    id: str
    target: str
    revision: int
    name: str
    status: str
    reason: str
    job: str
    request: JsonObject
    document: JsonObject
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    deployment: str
    things: tuple[str, ...]
    bake_ms: int
    state: str
    baking_since_ms: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    thing: str
    nucleus_version: str
    platform: str
    architecture: str
    runtime: str
    status: str
    sequence: int
    reported_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    thing: str
    name: str
    version: str
    state: str
    details: str
    is_root: bool
    source: str
    changed_ms: int
    reported_ms: int


def insert_component(tx: Tx, component: Component, artifacts: Sequence[Artifact]) -> None:
    tx.execute(
        "INSERT INTO component (name, version, original, recipe, publisher, description, created_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        component.name,
        component.version,
        component.original,
        component.recipe,
        component.publisher,
        component.description,
        component.created_ms,
    )
    for artifact in artifacts:
        tx.execute(
            "INSERT INTO component_artifact (component, version, name, digest, size) VALUES (?, ?, ?, ?, ?)",
            component.name,
            component.version,
            artifact.name,
            artifact.digest,
            artifact.size,
        )


def component(tx: Tx, name: str, version: str) -> Component | None:
    row = tx.one(f"SELECT {_COMPONENT} FROM component WHERE name = ? AND version = ?", name, version)  # noqa: S608
    return _component(row) if row else None


def component_versions(tx: Tx, name: str) -> list[str]:
    return [str(row[0]) for row in tx.all("SELECT version FROM component WHERE name = ?", name)]


def component_names(tx: Tx, after: str, limit: int) -> list[str]:
    rows = tx.all("SELECT DISTINCT name FROM component WHERE name > ? ORDER BY name LIMIT ?", after, limit)
    return [str(row[0]) for row in rows]


def artifacts(tx: Tx, name: str, version: str) -> list[Artifact]:
    rows = tx.all(
        "SELECT name, digest, size FROM component_artifact WHERE component = ? AND version = ? ORDER BY name",
        name,
        version,
    )
    return [Artifact(name=str(row[0]), digest=str(row[1]), size=int(cast(int, row[2]))) for row in rows]


def is_used(tx: Tx, artifact: Artifact) -> bool:
    """Whether any component version has this content under this name."""
    row = tx.one(
        "SELECT 1 FROM component_artifact WHERE digest = ? AND name = ? LIMIT 1", artifact.digest, artifact.name
    )
    return row is not None


def delete_component(tx: Tx, name: str, version: str) -> None:
    tx.execute("DELETE FROM component_artifact WHERE component = ? AND version = ?", name, version)
    tx.execute("DELETE FROM component WHERE name = ? AND version = ?", name, version)


def insert_deployment(tx: Tx, deployment: Deployment) -> None:
    tx.execute(
        "INSERT INTO deployment (id, target, revision, name, status, reason, job, request, document, created_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        deployment.id,
        deployment.target,
        deployment.revision,
        deployment.name,
        deployment.status,
        deployment.reason,
        deployment.job,
        codec.dumps(deployment.request),
        codec.dumps(deployment.document),
        deployment.created_ms,
    )


def deployment(tx: Tx, deployment_id: str) -> Deployment | None:
    row = tx.one(f"SELECT {_DEPLOYMENT} FROM deployment WHERE id = ?", deployment_id)  # noqa: S608
    return _deployment(row) if row else None


def latest(tx: Tx, target: str) -> Deployment | None:
    row = tx.one(f"SELECT {_DEPLOYMENT} FROM deployment WHERE target = ? ORDER BY revision DESC LIMIT 1", target)  # noqa: S608
    return _deployment(row) if row else None


def in_force(tx: Tx, target: str) -> Deployment | None:
    """What the target's things run: the newest that was neither stopped nor replaced. A canary is not in force yet."""
    row = tx.one(
        f"SELECT {_DEPLOYMENT} FROM deployment d WHERE target = ? AND status IN ('ACTIVE', 'COMPLETED')"  # noqa: S608
        " AND NOT EXISTS (SELECT 1 FROM canary c WHERE c.deployment = d.id AND c.state <> 'PROMOTED')"
        " ORDER BY revision DESC LIMIT 1",
        target,
    )
    return _deployment(row) if row else None


def deployments(tx: Tx, target: str | None, before: tuple[int, str], limit: int) -> list[Deployment]:
    """Newest first, those created before the pair (created_ms, id)."""
    chosen = " AND target = ?" if target else ""
    rows = tx.all(
        f"SELECT {_DEPLOYMENT} FROM deployment WHERE (created_ms < ? OR (created_ms = ? AND id < ?)){chosen}"  # noqa: S608
        " ORDER BY created_ms DESC, id DESC LIMIT ?",
        before[0],
        before[0],
        before[1],
        *((target,) if target else ()),
        limit,
    )
    return [_deployment(row) for row in rows]


def active(tx: Tx) -> list[Deployment]:
    rows = tx.all(f"SELECT {_DEPLOYMENT} FROM deployment WHERE status IN ('ACTIVE', 'COMPLETED') ORDER BY created_ms")  # noqa: S608
    return [_deployment(row) for row in rows]


def set_status(tx: Tx, deployment_id: str, status: str, reason: str = "") -> None:
    tx.execute("UPDATE deployment SET status = ?, reason = ? WHERE id = ?", status, reason, deployment_id)


def deployment_of_token(tx: Tx, token: str, life_ms: int) -> tuple[str, bytes] | None:
    """(deployment id, the request as it was) of a token that is not older than `life_ms`."""
    row = tx.one(
        "SELECT deployment, request FROM deployment_token WHERE token = ? AND created_ms > ?",
        token,
        tx.now_ms - life_ms,
    )
    return (str(row[0]), bytes(cast(bytes, row[1]))) if row else None


def keep_token(tx: Tx, token: str, deployment_id: str, request: bytes) -> None:
    tx.execute(
        "INSERT INTO deployment_token (token, deployment, request, created_ms) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (token) DO UPDATE SET deployment = excluded.deployment, request = excluded.request,"
        " created_ms = excluded.created_ms",
        token,
        deployment_id,
        request,
        tx.now_ms,
    )


def insert_canary(tx: Tx, canary: Canary) -> None:
    tx.execute(
        "INSERT INTO canary (deployment, things, bake_ms, state, reason) VALUES (?, ?, ?, ?, ?)",
        canary.deployment,
        codec.dumps(list(canary.things)).decode(),
        canary.bake_ms,
        canary.state,
        canary.reason,
    )


def canary(tx: Tx, deployment_id: str) -> Canary | None:
    row = tx.one(
        "SELECT deployment, things, bake_ms, state, baking_since_ms, reason FROM canary WHERE deployment = ?",
        deployment_id,
    )
    return _canary(row) if row else None


def baking(tx: Tx) -> list[Canary]:
    rows = tx.all(
        "SELECT deployment, things, bake_ms, state, baking_since_ms, reason FROM canary WHERE state = 'BAKING'"
    )
    return [_canary(row) for row in rows]


def set_canary(tx: Tx, deployment_id: str, state: str, *, since_ms: int | None, reason: str = "") -> None:
    tx.execute(
        "UPDATE canary SET state = ?, baking_since_ms = ?, reason = ? WHERE deployment = ?",
        state,
        since_ms,
        reason,
        deployment_id,
    )


def core(tx: Tx, thing: str) -> Core | None:
    row = tx.one(f"SELECT {_CORE} FROM core_device WHERE thing = ?", thing)  # noqa: S608
    return _core(row) if row else None


def cores(tx: Tx, after: str, limit: int) -> list[Core]:
    rows = tx.all(f"SELECT {_CORE} FROM core_device WHERE thing > ? ORDER BY thing LIMIT ?", after, limit)  # noqa: S608
    return [_core(row) for row in rows]


def is_core(tx: Tx, thing: str) -> bool:
    """It has reported itself, or asked for deployments."""
    return (
        tx.one("SELECT 1 FROM core_device WHERE thing = ?", thing) is not None
        or tx.one("SELECT 1 FROM deployment_asker WHERE thing = ?", thing) is not None
    )


def add_asker(tx: Tx, thing: str) -> None:
    tx.execute(
        "INSERT INTO deployment_asker (thing, first_ms) VALUES (?, ?) ON CONFLICT (thing) DO NOTHING", thing, tx.now_ms
    )


def save_core(tx: Tx, found: Core) -> None:
    tx.execute(
        f"INSERT INTO core_device ({_CORE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
        " ON CONFLICT (thing) DO UPDATE SET nucleus_version = excluded.nucleus_version, platform = excluded.platform,"
        " architecture = excluded.architecture, runtime = excluded.runtime, status = excluded.status,"
        " sequence = excluded.sequence, reported_ms = excluded.reported_ms",
        found.thing,
        found.nucleus_version,
        found.platform,
        found.architecture,
        found.runtime,
        found.status,
        found.sequence,
        found.reported_ms,
    )


def delete_core(tx: Tx, thing: str) -> None:
    tx.execute("DELETE FROM installed_component WHERE thing = ?", thing)
    tx.execute("DELETE FROM core_device WHERE thing = ?", thing)
    tx.execute("DELETE FROM deployment_asker WHERE thing = ?", thing)


def installed(tx: Tx, thing: str) -> list[Installed]:
    rows = tx.all(f"SELECT {_INSTALLED} FROM installed_component WHERE thing = ? ORDER BY name", thing)  # noqa: S608
    return [_installed(row) for row in rows]


def save_installed(tx: Tx, found: Installed) -> None:
    tx.execute(
        f"INSERT INTO installed_component ({_INSTALLED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
        " ON CONFLICT (thing, name) DO UPDATE SET version = excluded.version, state = excluded.state,"
        " details = excluded.details, is_root = excluded.is_root, source = excluded.source,"
        " changed_ms = excluded.changed_ms, reported_ms = excluded.reported_ms",
        found.thing,
        found.name,
        found.version,
        found.state,
        found.details,
        int(found.is_root),
        found.source,
        found.changed_ms,
        found.reported_ms,
    )


def forget_installed(tx: Tx, thing: str, name: str) -> None:
    tx.execute("DELETE FROM installed_component WHERE thing = ? AND name = ?", thing, name)


_CORE: Final = "thing, nucleus_version, platform, architecture, runtime, status, sequence, reported_ms"
_INSTALLED: Final = "thing, name, version, state, details, is_root, source, changed_ms, reported_ms"


def _component(row: Sequence[object]) -> Component:
    name, version, original, recipe, publisher, description, created = row
    return Component(
        name=str(name),
        version=str(version),
        original=bytes(cast(bytes, original)),
        recipe=bytes(cast(bytes, recipe)),
        publisher=str(publisher),
        description=str(description),
        created_ms=cast(int, created),
    )


def _deployment(row: Sequence[object]) -> Deployment:
    found, target, revision, name, status, reason, job, request, document, created = row
    return Deployment(
        id=str(found),
        target=str(target),
        revision=cast(int, revision),
        name=str(name),
        status=str(status),
        reason=str(reason),
        job=str(job),
        request=codec.loads_object(bytes(cast(bytes, request))),
        document=codec.loads_object(bytes(cast(bytes, document))),
        created_ms=cast(int, created),
    )


def _canary(row: Sequence[object]) -> Canary:
    found, things, bake, state, since, reason = row
    return Canary(
        deployment=str(found),
        things=tuple(cast("list[str]", codec.loads(str(things)))),
        bake_ms=cast(int, bake),
        state=str(state),
        baking_since_ms=cast("int | None", since),
        reason=str(reason),
    )


def _core(row: Sequence[object]) -> Core:
    thing, version, platform, architecture, runtime, status, sequence, reported = row
    return Core(
        thing=str(thing),
        nucleus_version=str(version),
        platform=str(platform),
        architecture=str(architecture),
        runtime=str(runtime),
        status=str(status),
        sequence=cast(int, sequence),
        reported_ms=cast(int, reported),
    )


def _installed(row: Sequence[object]) -> Installed:
    thing, name, version, state, details, is_root, source, changed, reported = row
    return Installed(
        thing=str(thing),
        name=str(name),
        version=str(version),
        state=str(state),
        details=str(details),
        is_root=bool(is_root),
        source=str(source),
        changed_ms=cast(int, changed),
        reported_ms=cast(int, reported),
    )


def associate(tx: Tx, core_thing: str, thing: str) -> None:
    tx.execute(
        "INSERT INTO client_device (core, thing, associated_ms) VALUES (?, ?, ?) ON CONFLICT (core, thing) DO NOTHING",
        core_thing,
        thing,
        tx.now_ms,
    )


def disassociate(tx: Tx, core_thing: str, thing: str) -> bool:
    return tx.execute("DELETE FROM client_device WHERE core = ? AND thing = ?", core_thing, thing) > 0


def client_devices(tx: Tx, core_thing: str, after: str, limit: int) -> list[tuple[str, int]]:
    """(thing, associated_ms) in order of names."""
    rows = tx.all(
        "SELECT thing, associated_ms FROM client_device WHERE core = ? AND thing > ? ORDER BY thing LIMIT ?",
        core_thing,
        after,
        limit,
    )
    return [(str(row[0]), int(cast(int, row[1]))) for row in rows]
