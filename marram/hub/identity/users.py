"""Users: whoever has access keys."""

from dataclasses import replace

from marram.core.errors import AlreadyExists, Conflict
from marram.hub.identity import store_iam as store
from marram.hub.identity.entities import Entities
from marram.hub.identity.store_iam import Entity, Tags
from marram.kit.db import Tx


class Users(Entities):
    kind, title, id_prefix = "user", "User", "AIDA"
    quota, max_entities, max_inline = "UsersPerAccount", 5000, 2048

    def changed(self, tx: Tx, entity: Entity) -> None:
        for key in store.keys_of(tx, entity.id):
            tx.touch("identity_key", key.id)
            self._base.changed(tx, key.id)

    async def create(self, name: str, path: str, tags: Tags) -> Entity:
        user_id = self.new_id()

        def work(tx: Tx) -> Entity:
            return self.create_tx(tx, user_id, name, path, tags)

        return await self._base.db.write(work)

    def create_tx(self, tx: Tx, user_id: str, name: str, path: str = "/", tags: Tags = ()) -> Entity:
        entity = Entity(
            id=user_id, kind=self.kind, name=name, path=path, description="", tags=tags, trust="", principals={},
            max_session_s=0, created_ms=tx.now_ms,
        )  # fmt: skip
        self.add(tx, entity)
        return entity

    async def rename(self, name: str, new_name: str | None, new_path: str | None) -> None:
        """Its keys and policies stay with it."""

        def rename(tx: Tx, entity: Entity) -> Entity:
            if new_name is not None:
                other = store.entity(tx, self.kind, new_name)
                if other is not None and other.id != entity.id:
                    raise AlreadyExists(f"User with name {new_name} already exists.")
            return replace(entity, name=new_name or entity.name, path=new_path or entity.path)

        await self.change(name, rename)

    async def delete(self, name: str) -> None:
        """Raises Conflict while it has keys or policies."""

        def work(tx: Tx) -> None:
            entity = self.find(tx, name)
            if store.keys_of(tx, entity.id):
                raise Conflict("Cannot delete entity, must delete access keys first.")
            self.remove(tx, entity)

        await self._base.db.write(work)
