"""What a caller may let the learning loop read and write: its own rights decide, although the hub does the work.

A job reads and writes s3:// with the hub's rights, so each place is checked when it is asked for, on what S3 would check:

    manifests, samples, code, models, label lists   s3:GetObject on the object
    everything below a prefix                       s3:ListBucket on the bucket, s3:GetObject on each object there
    manifests and models that are written           s3:PutObject on the object

The slices' own buckets (marram-*) are written by the slices alone. To read they are objects like others, with two exceptions,
for ids that operations hand out:

    marram-datasets/versions/ID/...  also whoever may marram:DescribeDataset that version; its samples come with it
    marram-feedback/items/...        as samples, also whoever may marram:ExportFeedback (on *): it hands these out

What a slice does with what it made itself (compiled graphs, bundles) is covered by the operation's own action.
Not here: policies (hub/identity), the decision itself (the door puts it into the call as `authorise`).
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from marram.core import arn
from marram.core.errors import Denied, Invalid
from marram.hub.slice import Call

TOGETHER: Final = 500  # decisions between two looks at the loop
_VERSION: Final = re.compile(r"s3://marram-datasets/versions/([0-9a-f]{64})/[^/]+")
_FEEDBACK: Final = "s3://marram-feedback/items/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`authorise(action, resource)` raises Denied."""

    authorise: Callable[[str, str], None]
    region: str = ""
    account: str = ""

    def read(self, uri: str) -> None:
        self.authorise("s3:GetObject", _object(uri))

    def write(self, uri: str) -> None:
        if uri.startswith("s3://marram-"):
            raise Denied(f"{uri[:200]}: the buckets marram-* belong to the hub: write to one of your own")
        self.authorise("s3:PutObject", _object(uri))

    def list_bucket(self, bucket: str) -> None:
        self.authorise("s3:ListBucket", f"arn:aws:s3:::{bucket}")

    def dataset(self, id: str) -> None:
        """A dataset version by its id."""
        self.authorise("marram:DescribeDataset", self._own(f"dataset-version/{id}"))

    def compilation(self, id: str) -> None:
        self.authorise("marram:DescribeCompilation", self._own(f"compilation/{id}"))

    def manifest(self, uri: str) -> bool:
        """Whether the samples of the manifest at `uri` come with it: those of a dataset version do."""
        version = _VERSION.fullmatch(uri)
        if version is None:
            self.read(uri)
            return False
        self._either(lambda: self.read(uri), lambda: self.dataset(version[1]))
        return True

    async def samples(self, uris: Iterable[str]) -> None:
        """Each of them; in pieces, for there may be many."""
        feedback: bool | None = None
        for number, uri in enumerate(uris, 1):
            if uri.startswith(_FEEDBACK):
                if feedback is None:
                    feedback = self._has("marram:ExportFeedback", "*")
                if feedback:
                    continue
            self.read(uri)
            if number % TOGETHER == 0:
                await asyncio.sleep(0)

    def _has(self, action: str, resource: str) -> bool:
        try:
            self.authorise(action, resource)
        except Denied:
            return False
        return True

    def _either(self, first: Callable[[], None], second: Callable[[], None]) -> None:
        """The first refusal is the one that is told: it names what most callers lack."""
        try:
            first()
        except Denied as refusal:
            try:
                second()
            except Denied:
                raise refusal from None

    def _own(self, resource: str) -> str:
        return arn.build("marram", self.region, self.account, resource)


def of(call: Call) -> Access:
    """The caller's own."""
    authorise = cast("Callable[[str, str], None]", call.extra["authorise"])
    return Access(authorise=authorise, region=call.region, account=call.account)


def _hub(_action: str, _resource: str) -> None:
    """The hub may all."""


HUB: Final = Access(authorise=_hub)  # for the slices among themselves; what came over a door uses `of`


def _object(uri: str) -> str:
    return f"arn:aws:s3:::{uri.removeprefix('s3://')}"


def check_role(check: Callable[[str], None], request: Mapping[str, Any]) -> None:
    """Raises Invalid unless the request's RoleArn is a role that is there and trusts the service; `check` is the hub's."""
    try:
        check(str(request["RoleArn"]))
    except Invalid as exc:
        raise Invalid(f"RoleArn: {exc.message}") from exc
