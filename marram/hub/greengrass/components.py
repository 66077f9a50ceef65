"""Component versions: recipes checked and normalised, artifacts taken over by digest, candidates for a core's resolver.

`s3://` artifacts are read once, at creation; cores then get them as `greengrass:NAME` from the hub, so that a bucket that
changes or goes later cannot break a device, and nucleus lite does not look for s3.<region>.amazonaws.com.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from marram.core import arn, codec, recipe, semver
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import AlreadyExists, Conflict, Invalid, NotFound, Unsupported
from marram.hub.greengrass import store
from marram.hub.greengrass.store import Artifact, Component
from marram.hub.objects.service import Objects
from marram.kit import yaml_bounded
from marram.kit.db import Db, Tx

MAX_RECIPE_BYTES: Final = 1 << 20
URL_LIFE_S: Final = 3600
BUCKET: Final = "marram-components"
_S3: Final = re.compile(r"s3://([^/]+)/(.+)")


class Components:
    def __init__(self, db: Db, objects: Objects, *, account: str, region: str) -> None:
        self._db, self._objects = db, objects
        self._account, self._region = account, region

    def arn(self, name: str, version: str = "") -> str:
        tail = f":versions:{version}" if version else ""
        return arn.build("greengrass", self._region, self._account, f"components:{name}{tail}")

    async def create(self, text: bytes, may_read: Callable[[str, str], None] | None = None) -> Component:
        """Raises Invalid with the place in the recipe, NotFound for a missing artifact, AlreadyExists for a known version.

        `may_read(bucket, key)` raises Denied for an artifact that the caller may not read; None: the hub's own component.
        """
        if len(text) > MAX_RECIPE_BYTES:
            raise Invalid(f"the recipe is larger than {MAX_RECIPE_BYTES} bytes")
        document = yaml_bounded.loads(text)
        parsed = recipe.parse(document)
        if parsed.name.startswith("aws.greengrass."):
            raise Invalid(f"the name {parsed.name} is reserved: aws.greengrass.* are built into the core")
        normalised, artifacts = await self._take_over(parsed.document, may_read)
        original = codec.canonical(document)

        def work(tx: Tx) -> Component:
            version = str(parsed.version)
            known = store.component(tx, parsed.name, version)
            if known is not None:
                raise AlreadyExists(
                    f"component {parsed.name} {version} exists: versions never change, raise the number"
                )
            made = Component(
                name=parsed.name,
                version=version,
                original=original,
                recipe=codec.dumps(normalised),
                publisher=parsed.publisher,
                description=parsed.description,
                created_ms=tx.now_ms,
            )
            store.insert_component(tx, made, artifacts)
            return made

        return await self._db.write(work)

    async def get(self, name: str, version: str) -> Component:
        return _found(await self._db.read(lambda tx: store.component(tx, name, version)), name, version)

    async def delete(self, name: str, version: str) -> None:
        """Raises NotFound, or Conflict while a deployment in force names it."""

        def work(tx: Tx) -> list[str]:
            _found(store.component(tx, name, version), name, version)
            for deployment in store.active(tx):
                entry = cast("Mapping[str, JsonObject]", deployment.document["components"]).get(name)
                if entry is not None and entry["version"] == version:
                    raise Conflict(f"component {name} {version} is part of deployment {deployment.id}")
            kept = store.artifacts(tx, name, version)
            store.delete_component(tx, name, version)
            return [_key(item) for item in kept if not store.is_used(tx, item)]

        if unused := await self._db.write(work):
            await self._objects.delete(BUCKET, unused)

    async def names(self, after: str, limit: int) -> list[tuple[str, Component]]:
        """(name, its newest version), in order of names."""

        def work(tx: Tx) -> list[tuple[str, Component]]:
            out: list[tuple[str, Component]] = []
            for name in store.component_names(tx, after, limit):
                newest = max(store.component_versions(tx, name), key=semver.parse)
                out.append((name, _found(store.component(tx, name, newest), name, newest)))
            return out

        return await self._db.read(work)

    async def versions(self, name: str) -> list[str]:
        """Newest first. Raises NotFound."""
        found = await self._db.read(lambda tx: store.component_versions(tx, name))
        if not found:
            raise NotFound(f"there is no component {name}")
        return sorted(found, key=semver.parse, reverse=True)

    async def resolve(self, name: str, requirements: Mapping[str, str], platform: Mapping[str, str]) -> Component:
        """The newest version that meets every requirement and has a manifest for the platform.

        Raises NotFound with the words that both AWS nuclei look for ("no usable version", "claim platform").
        """
        ranges = [semver.parse_range(text) for text in requirements.values()]

        def work(tx: Tx) -> list[Component]:
            fitting = [
                text
                for text in store.component_versions(tx, name)
                if all(item.covers(semver.parse(text)) for item in ranges)
            ]
            fitting.sort(key=semver.parse, reverse=True)
            return [_found(store.component(tx, name, text), name, text) for text in fitting]

        candidates = await self._db.read(work)
        for candidate in candidates:
            parsed = recipe.parse(codec.loads(candidate.recipe))
            if any(recipe.fits(manifest.platform, platform) for manifest in parsed.manifests):
                return candidate
        wanted = ", ".join(f"{by} asks {text}" for by, text in requirements.items()) or "any version"
        if candidates:
            raise NotFound(f"component {name}: no version of it does claim platform {dict(platform)}")
        raise NotFound(f"component {name} has no usable version ({wanted})")

    async def artifact_url(self, name: str, version: str, artifact: str) -> str:
        """A URL, good for an hour, that needs no client certificate. Raises NotFound."""
        found = await self._db.read(lambda tx: store.artifacts(tx, name, version))
        for item in found:
            if item.name == artifact:
                return self._objects.presign(BUCKET, _key(item), URL_LIFE_S)
        raise NotFound(f"component {name} {version} has no artifact {artifact}")

    async def _take_over(
        self, document: JsonObject, may_read: Callable[[str, str], None] | None
    ) -> tuple[JsonObject, list[Artifact]]:
        taken: dict[str, Artifact] = {}
        manifests: list[JsonValue] = []
        for at, manifest in enumerate(cast("Sequence[JsonObject]", document.get("Manifests") or [])):
            entries: list[JsonValue] = []
            for index, entry in enumerate(cast("Sequence[JsonObject]", manifest.get("Artifacts") or [])):
                place = f"Manifests[{at}].Artifacts[{index}]"
                changed, artifact = await self._artifact(entry, place, may_read)
                if (known := taken.setdefault(artifact.name, artifact)).digest != artifact.digest:
                    raise Invalid(f"{place}: another artifact with other content is called {known.name}: rename one")
                entries.append(changed)
            manifests.append({**manifest, **({"Artifacts": entries} if entries else {})})
        return {**document, "Manifests": manifests}, list(taken.values())

    async def _artifact(
        self, entry: JsonObject, place: str, may_read: Callable[[str, str], None] | None
    ) -> tuple[JsonObject, Artifact]:
        uri = str(entry.get("Uri", ""))
        match = _S3.fullmatch(uri)
        if match is None:
            scheme = uri.partition(":")[0]
            raise Unsupported(f"{place}: artifacts come from s3:// of this hub; {scheme}: is not supported here")
        if may_read is not None:
            may_read(match[1], match[2])
        try:
            stored = await self._objects.stat(match[1], match[2])
        except NotFound as exc:
            raise Invalid(f"{place}: {uri}: {exc.message}") from exc
        digest = base64.b64encode(bytes.fromhex(stored.digest)).decode()
        if entry.get("Digest") not in (None, "", digest):
            raise Invalid(f"{place}: Digest is {entry['Digest']}, but the object's is {digest}")
        name = match[2].rpartition("/")[2]
        artifact = Artifact(name=name, digest=stored.digest, size=stored.size)
        # By digest: a copy for a version that is then refused changes nothing for the versions that are there.
        await self._objects.ensure_bucket(BUCKET)
        await self._objects.copy(stored, BUCKET, _key(artifact))
        changed: JsonObject = {**entry, "Uri": f"greengrass:{name}", "Digest": digest, "Algorithm": "SHA-256"}
        return changed, artifact


def _key(artifact: Artifact) -> str:
    return f"{artifact.digest}/{artifact.name}"


def _found(found: Component | None, name: str, version: str) -> Component:
    if found is None:
        raise NotFound(f"there is no component {name} {version}")
    return found


__all__ = ["Component", "Components"]
