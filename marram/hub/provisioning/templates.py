"""Provisioning templates by name: up to five versions, one of them the default.

A body is checked when it is given; what is stored can be evaluated. Not here: what a template means (core/provisioning.py).
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from marram.core import provisioning
from marram.core.errors import AlreadyExists, Conflict, LimitExceeded, NotFound
from marram.core.provisioning import Kind
from marram.hub.identity.service import Identity
from marram.hub.provisioning import store
from marram.hub.provisioning.store import Template, TemplateVersion
from marram.kit.db import Db, Tx

MAX_VERSIONS: Final = 5

Tag = Callable[[Tx, str, str, Mapping[str, str]], None]  # the registry's: kind and name of what bears them

# A fleet is provisioned by few templates, and most of the work of one is reading it.
parse = functools.lru_cache(maxsize=128)(provisioning.parse)


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """A template as a device meets it."""

    template: provisioning.Template
    role: str


class Templates:
    def __init__(self, db: Db, identity: Identity, tag: Tag) -> None:
        self._db, self._identity, self._tag = db, identity, tag

    def arn_of(self, name: str) -> str:
        return f"arn:aws:iot:{self._identity.region}:{self._identity.account}:provisioningtemplate/{name}"

    async def create(
        self,
        name: str,
        *,
        kind: str,
        body: str,
        role: str,
        description: str,
        enabled: bool,
        tags: Mapping[str, str] | None = None,
    ) -> Template:
        """Raises BadTemplate, AlreadyExists, and what check_role raises."""
        parse(body, Kind(kind))
        self._identity.check_role(role)

        def work(tx: Tx) -> Template:
            if store.template(tx, name) is not None:
                raise AlreadyExists(
                    f"provisioning template {name} exists", resourceId=name, resourceArn=self.arn_of(name)
                )
            made = Template(
                name=name, kind=kind, description=description, enabled=enabled, role=role, last_version=1,
                created_ms=tx.now_ms, modified_ms=tx.now_ms,
            )  # fmt: skip
            store.save_template(tx, made)
            store.add_version(tx, name, 1, body)
            tx.touch("provisioning_template", name)
            self._tag(tx, "provisioningtemplate", name, tags or {})
            return made

        return await self._db.write(work)

    async def create_version(self, name: str, body: str, *, as_default: bool) -> int:
        """The number of the new version; numbers are never used again. Raises BadTemplate, NotFound, LimitExceeded."""

        def work(tx: Tx) -> int:
            present = self._get(tx, name)
            parse(body, Kind(present.kind))
            if len(store.versions(tx, name)) >= MAX_VERSIONS:
                raise LimitExceeded(
                    f"provisioning template {name} has {MAX_VERSIONS} versions: delete one first",
                    kind="versions",
                    limit=MAX_VERSIONS,
                )
            number = present.last_version + 1
            store.add_version(tx, name, number, body)
            default = number if as_default else present.default_version
            self._save(tx, replace(present, last_version=number, default_version=default))
            return number

        return await self._db.write(work)

    async def update(
        self,
        name: str,
        *,
        description: str | None = None,
        enabled: bool | None = None,
        default_version: int | None = None,
        role: str | None = None,
    ) -> None:
        """None leaves it as it is. Raises NotFound for the template or the version."""
        if role is not None:
            self._identity.check_role(role)

        def work(tx: Tx) -> None:
            present = self._get(tx, name)
            if default_version is not None:
                self._version(tx, name, default_version)
            changed = replace(
                present,
                description=present.description if description is None else description,
                enabled=present.enabled if enabled is None else enabled,
                default_version=present.default_version if default_version is None else default_version,
                role=present.role if role is None else role,
            )
            self._save(tx, changed)

        await self._db.write(work)

    async def delete(self, name: str) -> None:
        """With all its versions. Raises Conflict while a CA provisions by it."""

        def work(tx: Tx) -> None:
            self._get(tx, name)
            if self._identity.authorities.uses_template(tx, name):
                raise Conflict(f"provisioning template {name} is the registration template of a CA certificate")
            store.delete_template(tx, name)
            tx.touch("provisioning_template", name)

        await self._db.write(work)

    async def delete_version(self, name: str, number: int) -> None:
        """Raises Conflict for the default one."""

        def work(tx: Tx) -> None:
            present = self._get(tx, name)
            self._version(tx, name, number)
            if number == present.default_version:
                raise Conflict(f"version {number} of provisioning template {name} is the default")
            store.delete_version(tx, name, number)

        await self._db.write(work)

    async def get(self, name: str) -> tuple[Template, TemplateVersion]:
        """With its default version. Raises NotFound."""

        def work(tx: Tx) -> tuple[Template, TemplateVersion]:
            found = self._get(tx, name)
            return found, self._version(tx, name, found.default_version)

        return self._db.read_now(work)

    async def version(self, name: str, number: int) -> tuple[Template, TemplateVersion]:
        return self._db.read_now(lambda tx: (self._get(tx, name), self._version(tx, name, number)))

    async def page(self, after: str, limit: int) -> list[Template]:
        return await self._db.read(lambda tx: store.templates(tx, after, limit))

    async def versions(self, name: str, after: int, limit: int) -> tuple[Template, list[TemplateVersion]]:
        return self._db.read_now(lambda tx: (self._get(tx, name), store.versions(tx, name, after, limit)))

    def in_use(self, name: str, kind: Kind) -> InUse:
        """The default version, for a device, from memory. Raises NotFound also when it is of another kind or not enabled."""

        def load(tx: Tx) -> tuple[Template, str] | None:
            found = store.template(tx, name)
            if found is None or not found.enabled:
                return None
            return found, self._version(tx, name, found.default_version).body

        found = self._db.cached("provisioning_template", name, load)
        if found is None or found[0].kind != kind.value:
            raise NotFound(f"there is no enabled provisioning template {name} for {kind.value}")
        return InUse(template=parse(found[1], kind), role=found[0].role)

    def bearer_id(self, tx: Tx, name: str) -> str | None:
        """For tags: of this template, and of no later one of its name."""
        found = store.template(tx, name)
        return str(found.created_ms) if found is not None else None

    def check_kind(self, tx: Tx, name: str, kind: Kind) -> None:
        """Raises NotFound."""
        if self._get(tx, name).kind != kind.value:
            raise NotFound(f"provisioning template {name} is not of type {kind.value}")

    def _get(self, tx: Tx, name: str) -> Template:
        found = store.template(tx, name)
        if found is None:
            raise NotFound(f"provisioning template {name} does not exist")
        return found

    def _version(self, tx: Tx, name: str, number: int) -> TemplateVersion:
        found = store.version(tx, name, number)
        if found is None:
            raise NotFound(f"provisioning template {name} has no version {number}")
        return found

    def _save(self, tx: Tx, template: Template) -> None:
        store.save_template(tx, replace(template, modified_ms=tx.now_ms))
        tx.touch("provisioning_template", template.name)
