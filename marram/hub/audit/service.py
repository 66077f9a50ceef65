"""Writing acts down, and finding out whether anybody changed what was written.

An act's digest is HMAC-SHA256 over the digest before it and its text, with a key made from the hub's master key: whoever can
write the database but does not have that key cannot make a chain that holds, nor say that the oldest acts went in their
time. What such a hand can do is cut the newest acts off; against that the newest number and digest are written to a second
file, DIR/audit/heads.jsonl, each hour and at a stop, for the operator to copy away. An act that was answered is in the log;
one that the power cut ended may be done and not be here. Not here: which operations are acts (hub/border/audit.py).
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, MarramError
from marram.hub.audit import store
from marram.hub.audit.store import Base, Stored
from marram.hub.slice import Act, Call
from marram.kit import disk, metrics
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

KEEP_MS: Final = 400 * 86_400_000
HEAD_EVERY_S: Final = 3600.0
PRUNE_AT_ONCE: Final = 500
PRUNE_SHARE: Final = (
    2400  # of the log an hour: four times what its age asks for, and nearly nothing under a clock that is wrong
)
VERIFY_AT_ONCE: Final = 5_000
MAX_PAGE: Final = 1_000
MAX_RESOURCES: Final = 20  # of one act; a call that names more says how many
REFUSED_BURST: Final = 100  # acts of one caller that were refused; after that one a second is written down
MAX_CALLERS: Final = 10_000  # whose refusals are counted
MAX_RESOURCE: Final = 512  # characters of one, which whoever was refused has chosen
MAX_HEADS_BYTES: Final = 16 << 20
LATEST_MS: Final = 1 << 53

_acts: Final = metrics.counter("marram_audit_acts_total", "Administrative acts written down", ("outcome",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One step of a verification. `problem` None: the chain holds so far; `done`: to its end."""

    checked: int
    last: int
    digest: bytes
    done: bool
    problem: str | None = None


class Audit:
    """`key`: 32 bytes that only this hub has. `folder`: DIR/audit."""

    def __init__(self, db: Db, *, key: bytes, folder: Path) -> None:
        self._db, self._key, self._folder = db, key, folder
        self._refused: dict[str, tuple[float, float, int]] = {}  # by caller: lines left, when that was, acts left out

    # writing

    async def record(self, call: Call, operation: Act, resources: Sequence[str], outcome: str) -> None:
        """As border's port asks. Returns when the act is on the disk. Raises Unavailable.

        Whoever may nothing could fill the disk with refusals: beyond a measure they are counted, and the next line says how
        many there were.
        """
        principal = call.subject.arn
        left_out = 0
        if outcome != "OK":
            is_written, left_out = self._may_be_told(principal)
            if not is_written:
                _acts.inc(outcome="left out")
                return
        name = f"{operation.service}:{operation.name}"
        entry: JsonObject = {
            "principal": principal,
            "key": call.subject.principal,
            "sourceIp": call.source_ip,
            "operation": name,
            "action": operation.action,
            "resources": [_shown(resource) for resource in resources[:MAX_RESOURCES]],
            "outcome": outcome,
            "requestId": call.request_id,
        }
        if left_out:
            entry["refusedBefore"] = left_out
        if len(resources) > MAX_RESOURCES:
            entry["moreResources"] = len(resources) - MAX_RESOURCES

        def work(tx: Tx) -> None:
            seq, before = store.head(tx)
            text = codec.dumps({"seq": seq + 1, "atMs": tx.now_ms, **entry})
            stored = Stored(seq + 1, text, self._digest(before, text))
            store.insert(tx, stored, at_ms=tx.now_ms, principal=principal, operation=name)

        await self._db.write(work)
        _acts.inc(outcome="ok" if outcome == "OK" else "refused")

    def _may_be_told(self, principal: str) -> tuple[bool, int]:
        """(whether a refusal of this caller is written down, how many before it were not)."""
        now = time.monotonic()
        left, at, left_out = self._refused.pop(principal, (float(REFUSED_BURST), now, 0))
        left = min(float(REFUSED_BURST), left + now - at)
        if len(self._refused) >= MAX_CALLERS:
            del self._refused[next(iter(self._refused))]  # the one that was silent longest
        if left < 1:
            self._refused[principal] = (left, now, left_out + 1)
            return False, 0
        self._refused[principal] = (left - 1, now, 0)
        return True, left_out

    def _seal(self, seq: int, digest: bytes) -> bytes:
        return hmac.new(self._key, b"base %d " % seq + digest, hashlib.sha256).digest()

    def _digest(self, before: bytes, text: bytes) -> bytes:
        return hmac.new(self._key, before + text, hashlib.sha256).digest()

    # reading

    async def page(
        self,
        *,
        before: int = LATEST_MS,
        limit: int = 100,
        from_ms: int = 0,
        to_ms: int | None = None,
        principal: str | None = None,
        operation: str | None = None,
    ) -> list[Stored]:
        """Acts with from_ms <= time < to_ms, newest first, numbers below `before`. Raises Invalid for a range upside down."""
        end = LATEST_MS if to_ms is None else to_ms
        if end < from_ms:
            raise Invalid(f"toMs {to_ms} is before fromMs {from_ms}")
        return await self._db.read(
            lambda tx: store.page(
                tx, before=before, limit=min(limit, MAX_PAGE), from_ms=from_ms, to_ms=end, principal=principal,
                operation=operation,
            )
        )  # fmt: skip

    async def verify(self, *, after: int | None = None, digest: bytes = b"") -> Checked:
        """Check a part of the chain, from its base or from where a part before ended (its `last` and `digest`).

        At the end the heads in the second file are compared as well.
        """

        def work(tx: Tx) -> tuple[Base, list[Stored]]:
            start = store.base(tx) if after is None else Base(after, digest)
            return start, store.after(tx, start.seq, VERIFY_AT_ONCE)

        base, found = await self._db.read(work)
        last, before, checked = base.seq, base.digest, 0
        if after is None and last and not hmac.compare_digest(self._seal(last, before), base.seal):
            why = f"acts 1 to {last} were not taken away by the hub: the oldest are cut off"
            return Checked(checked=0, last=last, digest=before, done=True, problem=why)
        for stored in found:
            problem = self._problem(stored, last, before)
            if problem is not None:
                return Checked(checked=checked, last=last, digest=before, done=True, problem=problem)
            last, before, checked = stored.seq, stored.digest, checked + 1
        done = len(found) < VERIFY_AT_ONCE
        problem = await self._beheaded(last) if done else None
        return Checked(checked=checked, last=last, digest=before, done=done, problem=problem)

    def _problem(self, stored: Stored, last: int, before: bytes) -> str | None:
        if stored.seq != last + 1:
            return f"acts {last + 1} to {stored.seq - 1} are missing"
        if not hmac.compare_digest(self._digest(before, stored.entry), stored.digest):
            return f"act {stored.seq} was changed, or one before it was taken out: its digest does not fit"
        return None

    async def _beheaded(self, last: int) -> str | None:
        """Whether an act that the second file knows is gone, or is another one."""
        heads = await asyncio.to_thread(self._heads)
        if not heads:
            return None

        def work(tx: Tx) -> str | None:
            first, newest = store.base(tx).seq, max(last, store.head(tx)[0])  # acts may have come meanwhile
            for seq, digest in heads:
                if seq > newest:
                    return f"the log ends at act {newest}, and {self._path.name} knows of act {seq}: the newest are cut off"
                if seq > first and store.digest_of(tx, seq) != digest:
                    return f"act {seq} is not the one that {self._path.name} knows"
            return None

        return await self._db.read(work)

    # the second file

    @property
    def _path(self) -> Path:
        return self._folder / "heads.jsonl"

    def _heads(self) -> list[tuple[int, bytes]]:
        if not self._path.exists():
            return []
        found: list[tuple[int, bytes]] = []
        for line in disk.read(self._path, limit=MAX_HEADS_BYTES).splitlines():
            try:
                value = cast("Mapping[str, object]", codec.loads_object(line, what="head"))
                found.append((int(str(value["seq"])), bytes.fromhex(str(value["digest"]))))
            except (Invalid, KeyError, ValueError):
                found.append((LATEST_MS, b""))  # a line that nobody of ours wrote: verify says so
        return found

    async def publish_head(self) -> None:
        """Add the newest number and digest to the second file, if they are new there."""
        seq, digest = await self._db.read(store.head)
        await asyncio.to_thread(self._add_head, seq, digest)

    def _add_head(self, seq: int, digest: bytes) -> None:
        known = self._heads()
        if seq == 0 or (known and known[-1][0] >= seq):
            return
        disk.make_dirs(self._folder, mode=0o700)
        before = disk.read(self._path, limit=MAX_HEADS_BYTES) if known else b""
        disk.write_atomic(self._path, before + codec.dumps({"seq": seq, "digest": digest.hex()}) + b"\n")

    # life

    async def tend(self) -> None:
        """Each hour: the head into the second file, acts older than 400 days away."""
        try:
            await self.publish_head()
            await self._prune()
        except MarramError as exc:
            log.warning("audit.tend_failed", reason=exc.message)

    async def _prune(self) -> None:
        """A little each hour: a clock that is years ahead for a while takes no more than that away."""
        span = await self._db.read(lambda tx: store.head(tx)[0] - store.base(tx).seq)
        left = max(PRUNE_AT_ONCE, span // PRUNE_SHARE)
        while left > 0:
            limit = min(left, PRUNE_AT_ONCE)
            gone = await self._db.write(
                lambda tx, limit=limit: store.prune(tx, tx.now_ms - KEEP_MS, limit, self._seal)  # type: ignore[misc]  # bound early
            )
            left = left - gone if gone == limit else 0

    async def stop(self) -> None:
        try:
            await self.publish_head()
        except MarramError as exc:
            log.warning("audit.head_failed", reason=exc.message)


def _shown(resource: str) -> str:
    return resource if len(resource) <= MAX_RESOURCE else f"{resource[:MAX_RESOURCE]}..."
