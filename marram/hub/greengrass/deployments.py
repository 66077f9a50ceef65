"""Deployments: a wanted set of components for a thing or group, as revisions; each revision is one job.

A canary deployment gives its job to one or a few things first; when they report SUCCEEDED and stay healthy for the baking
time the rest get it; else it stops there, and things that had already taken it get the revision in force back.
Source of the document: observed, aws-greengrass-lite 2.6.0 and nucleus 2.18 (schema 2021-05-17).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from marram.core import arn, codec, semver
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Conflict, Invalid, NotFound, Unsupported
from marram.core.jobs import JobStatus, Status
from marram.hub.greengrass import store
from marram.hub.greengrass.store import Canary, Deployment
from marram.hub.jobs.service import Jobs, Target
from marram.hub.registry.service import Registry
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

NAMESPACE: Final = "namespace-aws-gg-deployment"
NOTIFY: Final = "NOTIFY_COMPONENTS"
NOTIFY_S: Final = 60  # AWS's defaults of the two waits
VALIDATION_S: Final = 30
TOKEN_LIFE_MS: Final = 24 * 3600 * 1000
UNHEALTHY: Final = frozenset({"ERRORED", "BROKEN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """One deployment as one core sees it."""

    deployment: Deployment
    status: Status
    details: Mapping[str, str]
    modified_ms: int


class Deployments:
    def __init__(self, db: Db, jobs: Jobs, registry: Registry, *, account: str, region: str) -> None:
        self._db, self._jobs, self._registry = db, jobs, registry
        self._account, self._region = account, region

    async def create(
        self, request: JsonObject, *, canary_things: int | list[str] = 0, bake_ms: int = 0, token: str = ""
    ) -> tuple[Deployment, Canary | None]:
        """`request` is CreateDeployment's, wire names. Replaces what is in force for its target (a canary only when promoted).

        The same `token` (clientToken) with the same request gives the deployment of the first time, for 24 hours.
        Raises NotFound when the target or a component version is unknown, Invalid, Unsupported (by name), Conflict while a
        canary bakes.
        """
        target = self._target(str(request["targetArn"]))
        _refuse_unsupported(request)
        self._jobs.check_config(_object(request.get("iotJobConfiguration")))
        components = _components(request)

        asked = codec.canonical(request)

        def work(tx: Tx) -> tuple[Deployment, Canary | None]:
            if token and (known := store.deployment_of_token(tx, token, TOKEN_LIFE_MS)) is not None:
                if known[1] != asked:
                    raise Conflict("the clientToken was used for another deployment request")
                return _found(store.deployment(tx, known[0]), known[0]), store.canary(tx, known[0])
            things = self._things(tx, target)
            self._check_components(tx, components)
            before = store.latest(tx, target)
            if before is not None and (bake := store.canary(tx, before.id)) and bake.state == store.BAKING:
                raise Conflict(
                    f"deployment {before.id} of {target} is baking on {', '.join(bake.things)}: cancel it first"
                )
            deployment = self._write(tx, request, target, components, before.revision + 1 if before else 1)
            if token:
                store.keep_token(tx, token, deployment.id, asked)
            if not canary_things:
                self._replace(tx, target, deployment)
                self._jobs.extend(tx, deployment.job, things)
                return deployment, None
            # Who is named may be a core that has not said a word yet; who is taken by number may not.
            chosen = _canaries(self._members(tx, target) if isinstance(canary_things, list) else things, canary_things)
            canary = Canary(
                deployment=deployment.id,
                things=chosen,
                bake_ms=bake_ms,
                state=store.BAKING,
                baking_since_ms=None,
                reason="",
            )
            store.insert_canary(tx, canary)
            self._jobs.extend(tx, deployment.job, chosen)
            return deployment, canary

        return await self._db.write(work)

    async def get(self, deployment_id: str) -> tuple[Deployment, bool, Canary | None]:
        """(deployment, whether it is the latest of its target, its canary). Raises NotFound."""

        def work(tx: Tx) -> tuple[Deployment, bool, Canary | None]:
            found = _found(store.deployment(tx, deployment_id), deployment_id)
            newest = store.latest(tx, found.target)
            return self._settled(tx, found), newest is not None and newest.id == found.id, store.canary(tx, found.id)

        return await self._db.read(work)

    async def page(
        self, target_arn: str | None, *, before: tuple[int, str], limit: int
    ) -> list[tuple[Deployment, bool]]:
        target = self._target(target_arn) if target_arn else None

        def work(tx: Tx) -> list[tuple[Deployment, bool]]:
            out: list[tuple[Deployment, bool]] = []
            for found in store.deployments(tx, target, before, limit):
                newest = store.latest(tx, found.target)
                out.append((self._settled(tx, found), newest is not None and newest.id == found.id))
            return out

        return await self._db.read(work)

    async def cancel(self, deployment_id: str) -> None:
        """Raises NotFound; Conflict when it has ended."""

        def work(tx: Tx) -> None:
            found = _found(store.deployment(tx, deployment_id), deployment_id)
            if self._settled(tx, found).status != store.ACTIVE:
                raise Conflict(
                    f"deployment {deployment_id} is {self._settled(tx, found).status} and cannot be canceled"
                )
            canary = store.canary(tx, found.id)
            if canary is not None and canary.state == store.BAKING:
                self._stop_canary(tx, found, canary, "canceled by request")
            else:
                self._jobs.cancel(tx, found.job, "canceled by request")
            store.set_status(tx, found.id, store.CANCELED, "canceled by request")

        await self._db.write(work)

    async def effective(self, thing: str) -> list[Effective]:
        """What was sent to a core, newest first. Raises NotFound when it never reported and has no deployment."""

        def work(tx: Tx) -> list[Effective]:
            out: list[Effective] = []
            for found in store.deployments(tx, None, (1 << 62, ""), 1000):
                execution = self._jobs.execution(tx, found.job, thing)
                if execution is not None and execution.status is not Status.REMOVED:
                    out.append(
                        Effective(
                            deployment=found,
                            status=execution.status,
                            details=execution.details,
                            modified_ms=execution.updated_ms,
                        )
                    )
            if not out and store.core(tx, thing) is None:
                raise NotFound(f"there is no core device {thing}")
            return out

        return await self._db.read(work)

    async def executions(self, deployment_id: str) -> dict[str, str]:
        """Status by thing."""

        def work(tx: Tx) -> dict[str, str]:
            found = _found(store.deployment(tx, deployment_id), deployment_id)
            return {item.thing: str(item.status) for item in self._jobs.executions(tx, found.job)}

        return await self._db.read(work)

    async def reconcile(self) -> None:
        """Things that joined a group get what is in force there; those that left lose what is queued. Also at start."""

        def work(tx: Tx) -> None:
            for found in store.active(tx):
                force = store.in_force(tx, found.target)
                if force is None or force.id != found.id:
                    continue
                wanted = set(self._things(tx, found.target, missing_ok=True))
                for execution in self._jobs.executions(tx, found.job):
                    if execution.thing not in wanted:
                        self._jobs.remove(tx, found.job, execution.thing)
                self._jobs.extend(tx, found.job, wanted)

        await self._db.write(work)

    async def watch_canaries(self) -> list[str]:
        """One look at all that bake: promote, stop or wait. Returns the deployments whose state changed."""

        def work(tx: Tx) -> list[str]:
            changed: list[str] = []
            for canary in store.baking(tx):
                deployment = store.deployment(tx, canary.deployment)
                assert deployment is not None
                if self._look(tx, deployment, canary):
                    changed.append(deployment.id)
            return changed

        return await self._db.write(work)

    def _look(self, tx: Tx, deployment: Deployment, canary: Canary) -> bool:
        statuses = {item.thing: item for item in self._jobs.executions(tx, deployment.job)}
        mine = [statuses[thing] for thing in canary.things if thing in statuses]
        for execution in mine:
            if execution.final and execution.status is not Status.SUCCEEDED:
                said = why(execution.details)
                reason = f"{execution.thing} reported {execution.status}" + (f": {said}" if said else "")
                self._stop_canary(tx, deployment, canary, reason)
                store.set_status(tx, deployment.id, store.FAILED, reason)
                return True
        if len(mine) < len(canary.things) or not all(item.status is Status.SUCCEEDED for item in mine):
            return False
        names = set(cast("Mapping[str, object]", deployment.document["components"]))
        for thing in canary.things:
            for item in store.installed(tx, thing):
                if item.name in names and item.state in UNHEALTHY:
                    reason = f"{item.name} is {item.state} on {thing} while baking"
                    self._stop_canary(tx, deployment, canary, reason)
                    store.set_status(tx, deployment.id, store.FAILED, reason)
                    return True
        if canary.baking_since_ms is None:
            store.set_canary(tx, deployment.id, store.BAKING, since_ms=tx.now_ms)
            return canary.bake_ms == 0
        if tx.now_ms - canary.baking_since_ms < canary.bake_ms:
            return False
        store.set_canary(tx, deployment.id, store.PROMOTED, since_ms=canary.baking_since_ms)
        self._replace(tx, deployment.target, deployment)
        self._jobs.extend(tx, deployment.job, self._things(tx, deployment.target, missing_ok=True))
        log.info("canary.promoted", deployment=deployment.id)
        return True

    def _stop_canary(self, tx: Tx, deployment: Deployment, canary: Canary, reason: str) -> None:
        store.set_canary(tx, deployment.id, store.STOPPED, since_ms=canary.baking_since_ms, reason=reason)
        statuses = {item.thing: item.status for item in self._jobs.executions(tx, deployment.job)}
        self._jobs.cancel(tx, deployment.job, reason)
        taken = [thing for thing in canary.things if statuses.get(thing) in {Status.SUCCEEDED, Status.IN_PROGRESS}]
        force = store.in_force(tx, deployment.target)
        if taken and force is not None:
            # The core rolls back by itself when its own watch fails; these had already said SUCCEEDED (or may yet).
            back = f"{force.job}-again-{tx.now_ms}"
            document = dict(force.document) | {"creationTimestamp": tx.now_ms}
            self._jobs.create(tx, back, namespace=NAMESPACE, document=document, things=taken)
        log.warning("canary.stopped", deployment=deployment.id, reason=reason)

    def _replace(self, tx: Tx, target: str, deployment: Deployment) -> None:
        for found in store.active(tx):
            if found.target == target and found.id != deployment.id:
                store.set_status(tx, found.id, store.INACTIVE, f"replaced by {deployment.id}")
                self._jobs.cancel(tx, found.job, f"replaced by deployment {deployment.id}")

    def _write(
        self, tx: Tx, request: JsonObject, target: str, components: Mapping[str, JsonObject], revision: int
    ) -> Deployment:
        deployment_id, job = tx.new_uuid(), tx.new_uuid()
        name = str(request.get("deploymentName") or f"Deployment for {target.partition('/')[2]}")
        policies = cast(JsonObject, request.get("deploymentPolicies") or {})
        document: JsonObject = {
            "deploymentId": deployment_id,
            "schemaDate": "2021-05-17",
            "deploymentName": name,
            "configurationArn": arn.build(
                "greengrass", self._region, self._account, f"configuration:{target}:{revision}"
            ),
            "creationTimestamp": tx.now_ms,
            "components": {key: _entry(value) for key, value in components.items()},
            "failureHandlingPolicy": policies.get("failureHandlingPolicy") or "ROLLBACK",
            "requiredCapabilities": [],
            "componentUpdatePolicy": _update_policy(policies),
            "configurationValidationPolicy": _validation_policy(policies),
        }
        deployment = Deployment(
            id=deployment_id,
            target=target,
            revision=revision,
            name=name,
            status=store.ACTIVE,
            reason="",
            job=job,
            request=request,
            document=document,
            created_ms=tx.now_ms,
        )
        store.insert_deployment(tx, deployment)
        kind, _, target_name = target.partition("/")
        self._jobs.create(
            tx, job, namespace=NAMESPACE, document=document, things=(), targets=[Target(kind, target_name)],
            continuous=kind == "thinggroup", description=name, config=_object(request.get("iotJobConfiguration")),
        )  # fmt: skip
        return deployment

    def _settled(self, tx: Tx, found: Deployment) -> Deployment:
        """CANCELED is read off the job; COMPLETED and FAILED off the executions of a deployment to a thing. One to a group
        stays ACTIVE, as AWS."""
        if found.status != store.ACTIVE:
            return found
        job = self._jobs.job(tx, found.job)
        if job is not None and job.status is JobStatus.CANCELED:  # by its abort criteria, or by CancelJob
            return _with_status(found, store.CANCELED)
        if not found.target.startswith("thing/"):
            return found
        statuses = [item.status for item in self._jobs.executions(tx, found.job)]
        if not statuses or any(status in {Status.QUEUED, Status.IN_PROGRESS} for status in statuses):
            return found
        done = all(status is Status.SUCCEEDED for status in statuses)
        return _with_status(found, store.COMPLETED if done else store.FAILED)

    def _target(self, text: str) -> str:
        found = arn.parse(text)
        kind, _, name = found.resource.partition("/")
        if found.service != "iot" or kind not in {"thing", "thinggroup"} or not name:
            raise Invalid(f"targetArn must be the ARN of a thing or thing group, not {text!r}")
        if (found.region, found.account) != (self._region, self._account):
            raise NotFound(f"{text} is not of this hub ({self._region}, {self._account})")
        return found.resource

    def _things(self, tx: Tx, target: str, *, missing_ok: bool = False) -> list[str]:
        """A thing, or the cores of a group: other devices in it have no use for a deployment."""
        members = self._members(tx, target, missing_ok=missing_ok)
        return members if target.startswith("thing/") else [name for name in members if store.is_core(tx, name)]

    def _members(self, tx: Tx, target: str, *, missing_ok: bool = False) -> list[str]:
        kind, _, name = target.partition("/")
        if kind == "thing":
            if self._registry.exists(tx, name):
                return [name]
        elif self._registry.group_exists(tx, name):
            return self._registry.things_in_tx(tx, name)
        if missing_ok:
            return []
        raise NotFound(f"there is no {'thing' if kind == 'thing' else 'thing group'} {name}")

    def _check_components(self, tx: Tx, components: Mapping[str, JsonObject]) -> None:
        for name, entry in components.items():
            version = str(entry["componentVersion"])
            known = store.component_versions(tx, name)
            if name.startswith("aws.greengrass."):
                continue  # built into the core, which answers whether it has it
            if version not in known:
                hint = f"; it has {', '.join(sorted(known))}" if known else ""
                raise NotFound(f"component {name} has no version {version}{hint}")


def target_arn(region: str, account: str, target: str) -> str:
    return arn.build("iot", region, account, target)


def why(details: Mapping[str, str]) -> str:
    """What a core said of its deployment, as AWS words it: the detailed status, and the cause of a failure.

    Source: aws-greengrass-nucleus 2.x, statusDetails of a job; failureCause is the name in shadow deployments.
    """
    status = details.get("detailed-deployment-status", "")
    cause = details.get("deployment-failure-cause") or details.get("failureCause", "")
    return ": ".join(text for text in (status, cause) if text)


def _components(request: JsonObject) -> dict[str, JsonObject]:
    wanted = request.get("components") or {}
    assert isinstance(wanted, dict)
    out: dict[str, JsonObject] = {}
    for name, entry in wanted.items():
        assert isinstance(entry, dict)
        if not entry.get("componentVersion"):
            raise Invalid(f"components.{name}.componentVersion is required")
        semver.parse(str(entry["componentVersion"]))
        out[name] = entry
        update = entry.get("configurationUpdate")
        if isinstance(update, dict) and update.get("merge"):
            try:
                codec.loads_object(str(update["merge"]), what="merge")
            except Invalid as exc:
                raise Invalid(f"components.{name}.configurationUpdate.merge: {exc.message}") from exc
    return out


def _refuse_unsupported(request: JsonObject) -> None:
    """What our cores would not obey is refused by its name when it asks for something else than AWS's default."""
    for name in ("parentTargetArn", "tags"):
        if request.get(name):
            raise Unsupported(f"{name} is not supported here: leave it out")
    policies = _object(request.get("deploymentPolicies"))
    update = _object(policies.get("componentUpdatePolicy"))
    waits = update.get("action", NOTIFY) == NOTIFY and update.get("timeoutInSeconds", NOTIFY_S) != NOTIFY_S
    if waits:
        raise Unsupported(
            "deploymentPolicies.componentUpdatePolicy.timeoutInSeconds is not supported here: a core does not wait for its"
            " components before it updates them"
        )
    if _object(policies.get("configurationValidationPolicy")).get("timeoutInSeconds", VALIDATION_S) != VALIDATION_S:
        raise Unsupported(
            "deploymentPolicies.configurationValidationPolicy.timeoutInSeconds is not supported here: a core does not ask its"
            " components before it changes their configuration"
        )
    for name, entry in _object(request.get("components")).items():
        run_with = _object(_object(entry).get("runWith"))
        if run_with.get("windowsUser"):
            raise Unsupported(f"components.{name}.runWith.windowsUser is not supported: cores run on Linux")
        if _object(run_with.get("systemResourceLimits")).get("cpus") is not None:
            raise Unsupported(
                f"components.{name}.runWith.systemResourceLimits.cpus is not supported here: leave it out; memory is"
            )


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _entry(entry: JsonObject) -> JsonObject:
    made: JsonObject = {"version": str(entry["componentVersion"])}
    update = entry.get("configurationUpdate")
    if isinstance(update, dict):
        configuration: JsonObject = {}
        if update.get("merge"):
            configuration["merge"] = codec.loads_object(str(update["merge"]))
        if update.get("reset"):
            configuration["reset"] = update["reset"]
        if configuration:
            made["configurationUpdate"] = configuration
    if entry.get("runWith"):
        made["runWith"] = entry["runWith"]
    return made


def _update_policy(policies: JsonObject) -> JsonObject:
    given = policies.get("componentUpdatePolicy")
    given = given if isinstance(given, dict) else {}
    return {"timeout": given.get("timeoutInSeconds", NOTIFY_S), "action": given.get("action", NOTIFY)}


def _validation_policy(policies: JsonObject) -> JsonObject:
    given = policies.get("configurationValidationPolicy")
    return {"timeout": given.get("timeoutInSeconds", VALIDATION_S) if isinstance(given, dict) else VALIDATION_S}


def _canaries(things: Iterable[str], wanted: int | list[str]) -> tuple[str, ...]:
    known = sorted(things)
    if isinstance(wanted, int):
        if not known:
            raise Invalid("no core of the target has reported itself yet: name the canaries, or wait for one")
        return tuple(known[:wanted])
    if strangers := sorted(set(wanted) - set(known)):
        raise Invalid(f"not in the target: {', '.join(strangers)}")
    return tuple(sorted(wanted))


def _found(found: Deployment | None, deployment_id: str) -> Deployment:
    if found is None:
        raise NotFound(f"there is no deployment {deployment_id}")
    return found


def _with_status(found: Deployment, status: str) -> Deployment:
    return Deployment(
        id=found.id,
        target=found.target,
        revision=found.revision,
        name=found.name,
        status=status,
        reason=found.reason,
        job=found.job,
        request=found.request,
        document=found.document,
        created_ms=found.created_ms,
    )


__all__ = ["NAMESPACE", "Deployments", "Effective", "JsonValue", "target_arn"]
