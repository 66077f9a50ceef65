"""Job templates: a document and settings under a name. AWS's managed templates are not here: their documents mean handlers
of AWS's own device client."""

from collections.abc import Mapping
from typing import Any, Protocol

from marram.core import arn, codec
from marram.core.errors import AlreadyExists, Invalid, NotFound
from marram.hub.jobs import settings, store
from marram.hub.jobs.documents import Documents
from marram.hub.jobs.store import Template
from marram.kit.db import Db, Tx


class Tags(Protocol):
    def tag_tx(self, tx: Tx, kind: str, name: str, tags: Mapping[str, str]) -> None: ...


class Templates:
    def __init__(self, db: Db, documents: Documents, tags: Tags, *, account: str, region: str) -> None:
        self._db, self._documents, self._tags = db, documents, tags
        self._account, self._region = account, region

    def arn(self, template_id: str) -> str:
        return arn.build("iot", self._region, self._account, f"jobtemplate/{template_id}")

    async def create(
        self, template_id: str, *, description: str, job_arn: str | None, document: str | None, source: str | None,
        config: Mapping[str, Any], tags: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Of a job (its document and settings, under those given), or of a document. Raises AlreadyExists, NotFound, Invalid."""
        if sum(given is not None for given in (job_arn, document, source)) != 1:
            raise Invalid("give one of jobArn, document and documentSource")
        merged = dict(config)
        if job_arn is not None:
            name = self._named(job_arn, "job")
            job, text = self._db.read_now(lambda tx: (store.job(tx, name), store.document(tx, name)))
            if job is None:
                raise NotFound(f"job {name} does not exist")
            of_job = codec.loads_object(job.config)
            of_job.pop("schedulingConfig", None)
            merged = {**of_job, **config}
            source = job.source or None
        elif source is not None:
            text = await self._documents.fetch(source)
        else:
            assert document is not None
            text = document.encode()
        self._documents.check(text, settings.parse(merged).role)
        made = Template(id=template_id, description=description, document=text, source=source or "", config=merged)

        def work(tx: Tx) -> None:
            if store.template(tx, template_id) is not None:
                raise AlreadyExists(
                    f"job template {template_id} exists", resourceId=template_id, resourceArn=self.arn(template_id)
                )
            store.insert_template(tx, made)
            self._tags.tag_tx(tx, "jobtemplate", template_id, tags or {})

        await self._db.write(work)

    def get(self, template_id: str) -> Template:
        """Raises NotFound."""
        found = self._db.read_now(lambda tx: store.template(tx, template_id))
        if found is None:
            raise NotFound(f"job template {template_id} does not exist")
        return found

    def of_arn(self, text: str) -> Template:
        """Raises NotFound, Invalid."""
        return self.get(self._named(text, "jobtemplate"))

    async def page(self, after: str, limit: int) -> list[Template]:
        return await self._db.read(lambda tx: store.templates(tx, after, limit))

    async def delete(self, template_id: str) -> None:
        """Raises NotFound."""

        def work(tx: Tx) -> None:
            if not store.delete_template(tx, template_id):
                raise NotFound(f"job template {template_id} does not exist")

        await self._db.write(work)

    def _named(self, text: str, kind: str) -> str:
        parsed = arn.parse(text)
        found, _, name = parsed.resource.partition("/")
        if parsed.service != "iot" or found != kind or not name:
            raise Invalid(f"{text!r} is not the ARN of a {kind}")
        if (parsed.region, parsed.account) != (self._region, self._account):
            raise NotFound(f"{text} is not of this hub ({self._region}, {self._account})")
        return name
