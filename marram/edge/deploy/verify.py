"""Phase 3: digests, archives and signatures, before anything that runs is touched; then the files take their place.

A folder of a version is put in place by one rename; a version that is active is never written to.
"""

import asyncio
from pathlib import Path

from marram.core import bundle, codec, recipe
from marram.core.errors import Corrupt, Denied, Invalid
from marram.core.recipe import Artifact, Recipe
from marram.edge.deploy import fetch, unzip
from marram.edge.deploy.work import Work
from marram.kit import disk


async def run(work: Work) -> None:
    for each in work.made().recipes.values():
        await asyncio.to_thread(_component, work, each)


def _component(work: Work, each: Recipe) -> None:
    root = work.tools.root
    version = str(each.version)
    chosen = recipe.select(each, work.tools.supervisor.device.attributes)
    for artifact in chosen.artifacts:
        wanted = artifact.digest or work.artifacts[each.name][artifact.name]
        fresh = fetch.place(work, each, artifact)
        kept = root.artifacts(each.name, version) / artifact.name
        if fresh.exists():
            if fetch.digest_of(fresh) != wanted:
                fresh.unlink()  # a later attempt must not find it
                raise Invalid(
                    f"{each.name} {version}: artifact {artifact.name} does not have the digest that its recipe states"
                )
            unpacked = _unpack(work, each, artifact, fresh) if artifact.unzip else None
            _permit(fresh, artifact)
            disk.make_dirs(kept.parent, mode=0o755)
            if unpacked is not None:
                final = root.unarchived(each.name, version) / artifact.unpacked
                disk.make_dirs(final.parent, mode=0o755)
                disk.remove_tree(final)
                disk.rename(unpacked, final)
            disk.rename(fresh, kept)
        elif artifact.unzip and not (root.unarchived(each.name, version) / artifact.unpacked).is_dir():
            unpacked = _unpack(work, each, artifact, kept)
            final = root.unarchived(each.name, version) / artifact.unpacked
            disk.make_dirs(final.parent, mode=0o755)
            disk.rename(unpacked, final)
    path = root.recipe(each.name, version)
    data = codec.dumps(each.document)
    if not path.exists() or path.read_bytes() != data:
        disk.write_atomic(path, data, mode=0o644)


def _unpack(work: Work, each: Recipe, artifact: Artifact, archive: Path) -> Path:
    limits = work.tools.limits
    folder = work.folder / "unpacked" / each.name / artifact.unpacked
    disk.remove_tree(folder) if folder.exists() else None
    disk.make_dirs(folder.parent, mode=0o755)
    unzip.extract(
        archive,
        folder,
        max_bytes=limits.unpacked_bytes,
        max_files=limits.unpacked_files,
        executable=artifact.execute != "NONE",
    )
    folder.chmod(0o755)
    if (folder / bundle.MANIFEST).exists():
        check_bundle(work, folder)
    return folder


def check_bundle(work: Work, folder: Path) -> None:
    """A compiled model must carry the signature of the hub that this core has pinned. Raises Denied, Corrupt, Invalid."""
    check = work.tools.verify_signature
    data = disk.read(folder / bundle.MANIFEST, limit=1 << 20)
    if check is None:
        if not work.document.local:
            raise Denied(f"{bundle.MANIFEST}: no signing key of a hub is pinned on this core")
        manifest = bundle.parse(data)  # put here by hand, on a core that has joined no hub
    else:
        if not (folder / bundle.SIGNATURE).exists():
            raise Denied(f"bundle without {bundle.SIGNATURE}")
        manifest = bundle.verify(data, disk.read(folder / bundle.SIGNATURE, limit=1024), check)
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file.size or fetch.digest_of(path) != file.sha256:
            raise Corrupt(f"bundle file {name} is not what the manifest states", file=name)


def _permit(path: Path, artifact: Artifact) -> None:
    mode = {"NONE": 0o600, "OWNER": 0o644, "ALL": 0o644}[artifact.read]
    if artifact.execute != "NONE":
        mode |= 0o111 if mode & 0o044 else 0o100
    path.chmod(mode)
