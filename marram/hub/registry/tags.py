"""Tags of resources: up to 50 keys and values on whatever a slice declares to be taggable.

Tags are kept with the id of the very resource that bears them. One that is deleted and made again under its name has
another id, and none of the old tags: the slice that owns it has nothing to clear.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from marram.core import arn
from marram.core.errors import Invalid, LimitExceeded, NotFound, Unsupported
from marram.hub.registry import store
from marram.hub.registry.names import Arns
from marram.kit.db import Db, Tx

MAX_TAGS: Final = 50
MAX_KEY: Final = 128
MAX_VALUE: Final = 256
# What AWS tags and no slice here declares is known by name, so that the refusal can say which of the two it is.
ELSEWHERE: Final = frozenset(
    {
        "authorizer", "billinggroup", "certificateprovider", "command", "custommetric", "dimension", "domainconfiguration",
        "fleetmetric", "mitigationaction", "otaupdate", "package", "scheduledaudit", "securityprofile", "stream", "job",
        "jobtemplate", "policy", "rolealias", "rule",
    }
)  # fmt: skip

BearerId = Callable[[Tx, str], str | None]


class Tags:
    def __init__(self, db: Db, arns: Arns) -> None:
        self._db, self._arns = db, arns
        self._bearers: dict[str, BearerId] = {}

    def declare(self, kind: str, bearer_id: BearerId) -> None:
        """Things of `kind` (the word in the ARN, as "thinggroup") may be tagged. bearer_id: (tx, name) to an id that a
        resource made anew under the name does not have; None when there is no such resource."""
        self._bearers[kind] = bearer_id

    async def tag(self, resource_arn: str, tags: Mapping[str, str]) -> None:
        """Adds to the tags, or changes them. Raises NotFound, Invalid, LimitExceeded."""
        kind, name = self._parse(resource_arn)
        await self._db.write(lambda tx: self.tag_tx(tx, kind, name, tags))

    def tag_tx(self, tx: Tx, kind: str, name: str, tags: Mapping[str, str]) -> None:
        """As `tag`, within the transaction that makes the resource."""
        if not tags:
            return
        _check(tags)
        bearer = self._bearer(tx, kind, name)
        present = store.tags(tx, f"{kind}/{name}", bearer)
        if len(present.keys() | tags.keys()) > MAX_TAGS:
            raise LimitExceeded(f"a resource has at most {MAX_TAGS} tags", limit=MAX_TAGS)
        store.set_tags(tx, f"{kind}/{name}", bearer, tags)

    async def untag(self, resource_arn: str, keys: Iterable[str]) -> None:
        """Keys that are not there are fine. Raises NotFound."""
        kind, name = self._parse(resource_arn)

        def work(tx: Tx) -> None:
            self._bearer(tx, kind, name)
            store.drop_tags(tx, f"{kind}/{name}", keys)

        await self._db.write(work)

    async def of(self, resource_arn: str) -> dict[str, str]:
        """In the order of their keys. Raises NotFound."""
        kind, name = self._parse(resource_arn)
        return self._db.read_now(lambda tx: self.of_tx(tx, kind, name))

    def of_tx(self, tx: Tx, kind: str, name: str) -> dict[str, str]:
        return store.tags(tx, f"{kind}/{name}", self._bearer(tx, kind, name))

    def _bearer(self, tx: Tx, kind: str, name: str) -> str:
        found = self._bearers[kind](tx, name)
        if found is None:
            raise NotFound(f"{kind} {name} does not exist")
        return found

    def _parse(self, text: str) -> tuple[str, str]:
        parsed = arn.parse(text)
        if (parsed.service, parsed.region, parsed.account) != ("iot", self._arns.region, self._arns.account):
            raise Invalid(f"{text!r} is not the ARN of an iot resource of this hub")
        kind, _, name = parsed.resource.partition("/")
        if kind in self._bearers and name:
            return kind, name
        if kind in ELSEWHERE:
            raise Unsupported(
                f"tags of a {kind} are not supported here; those of {', '.join(sorted(self._bearers))} are"
            )
        raise Invalid(f"{text!r} cannot be tagged; {', '.join(sorted(self._bearers))} can")


def _check(tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        if key.lower().startswith("aws:"):
            raise Invalid(f"the tag key {key!r} begins with aws:, which is reserved")
        if not 0 < len(key) <= MAX_KEY or len(value) > MAX_VALUE:
            raise Invalid(f"tag {key[:20]!r}: a key has 1 to {MAX_KEY} characters, a value up to {MAX_VALUE}")
