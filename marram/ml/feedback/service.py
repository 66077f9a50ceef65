"""Feedback items: taken in from devices, kept once, exported as a manifest to be labelled.

An item is known by the hash of its pixels. The propensity that the device recorded is kept: with it, the randomly drawn part
gives honest estimates although the rest was chosen for being hard. The image is checked by size and digest only; it is
decoded in worker processes, never here.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, NotFound
from marram.hub.objects.service import Objects
from marram.kit import metrics
from marram.kit.db import Db
from marram.ml import access
from marram.ml.access import Access
from marram.ml.datasets import manifest
from marram.ml.feedback import store

BUCKET: Final = "marram-feedback"
MAX_IMAGE: Final = 96 << 10
REASONS: Final = frozenset({"margin", "random", "least", "drift", "operator"})
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_received: Final = metrics.counter("marram_feedback_items_total", "Feedback items received", ("outcome",))


class Feedback:
    def __init__(self, db: Db, objects: Objects) -> None:
        self._db, self._objects = db, objects

    async def receive(self, thing: str, payload: bytes) -> bool:
        """Keep one item from `thing`; False when it was known. Raises Invalid for what is not an item."""
        item = codec.loads_object(payload, what="feedback item", max_bytes=128 << 10)
        document, image = _check(item)
        document["thing"] = thing  # as authenticated, whatever the payload says
        sha256 = str(document["sha256"])
        if await self._db.read(lambda tx: store.load(tx, sha256)) is not None:
            # The hash is what the device says: another one must not change the picture that is known by it.
            _received.inc(outcome="known")
            return False
        key = f"items/{sha256}.png"
        await self._objects.ensure_bucket(BUCKET)
        await self._objects.put(BUCKET, key, image)
        document |= {"uri": f"s3://{BUCKET}/{key}", "bytes": len(image)}
        new = await self._db.write(lambda tx: store.insert(tx, sha256, thing, document))
        _received.inc(outcome="kept" if new else "known")
        return new

    async def listing(
        self, thing: str | None = None, *, after: tuple[int, str] = (0, ""), limit: int = 100
    ) -> list[JsonObject]:
        """In the order of arrival, after (receivedMs, sha256) of the last one seen."""
        return await self._db.read(lambda tx: store.listing(tx, thing, after, limit))

    async def count(self) -> int:
        return await self._db.read(store.count)

    async def export(
        self, uri: str, *, items: Sequence[str] = (), limit: int = 1000, caller: Access = access.HUB
    ) -> int:
        """Write a manifest of unlabelled items to `uri` (s3://) for a labelling job: those named, else the oldest `limit`."""
        bucket, key = manifest.split_uri(uri)
        caller.write(uri)
        if items:
            found: list[JsonObject] = []
            for sha256 in items:
                one = await self._db.read(lambda tx, sha256=sha256: store.load(tx, sha256))  # type: ignore[misc]
                if one is None:
                    raise NotFound(f"there is no feedback item {sha256[:80]!r}")
                found.append(one)
        else:
            found = await self.listing(limit=limit)
        if not found:
            raise NotFound("there are no feedback items yet")
        lines = [
            codec.canonical(
                {
                    "source-ref": item["uri"],
                    "group": str(item["sha256"]),
                    "feedback": {
                        key: item.get(key)
                        for key in ("thing", "frame", "region", "reason", "propensity", "label", "margin")
                    },
                }
            )
            for item in found
        ]
        await self._objects.put(bucket, key, b"\n".join(lines) + b"\n")
        return len(found)


def _check(item: JsonObject) -> tuple[JsonObject, bytes]:
    """(document without the image, the image). Numbers are limited to what they mean."""
    sha256, encoded, reason = item.get("sha256"), item.get("image"), item.get("reason")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise Invalid("feedback item: sha256 is not 64 hex digits")
    if not isinstance(encoded, str) or len(encoded) > MAX_IMAGE * 4 // 3 + 4:
        raise Invalid(f"feedback item: image is not base64 of at most {MAX_IMAGE} bytes")
    try:
        image = base64.b64decode(encoded, validate=True)
    except binascii.Error as exc:
        raise Invalid(f"feedback item: image is not base64: {exc}") from exc
    if not isinstance(reason, str) or reason not in REASONS:
        raise Invalid(f"feedback item: reason {reason!r} is not one of {', '.join(sorted(REASONS))}")
    propensity = item.get("propensity")
    if propensity is not None and (
        not isinstance(propensity, (int, float)) or isinstance(propensity, bool) or not 0 < propensity <= 1
    ):
        raise Invalid("feedback item: propensity is null or above 0 to 1")
    if reason == "random" and propensity is None:
        raise Invalid("feedback item: a random one must record its propensity")
    kept = ("frame", "region", "label", "probabilities", "margin", "time_ms", "model", "version")
    document: JsonObject = {"sha256": sha256, "reason": reason, "propensity": propensity}
    document |= {key: item[key] for key in kept if key in item}
    document["imageSha256"] = hashlib.sha256(image).hexdigest()
    return document, image
