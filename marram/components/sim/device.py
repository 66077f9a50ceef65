"""One simulated device: comes and goes by its profile, publishes, follows its shadow, takes jobs. It never gives up."""

import asyncio
import contextlib
import random
import ssl
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Final

from marram.components.sim.client import Client
from marram.components.sim.profile import Profile
from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, MarramError, Unavailable
from marram.core.mqtt.packets import V5, V311, Connect
from marram.kit import http

BACKOFF_S: Final = (0.2, 15.0)
JOBS_KEPT: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Where the doors are; `tls` holds the fleet's certificate."""

    mqtt: tuple[str, int]
    https: tuple[str, int]
    tls: ssl.SSLContext
    tls_https: ssl.SSLContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What this device does with shadows and jobs; see profile.Roles."""

    follows: bool
    job_ends: str  # SUCCEEDED, FAILED, REJECTED, or "" for one that begins and never says more


class Device:
    """`counts` are shared by all devices of the process."""

    def __init__(
        self, thing: str, profile: Profile, part: Part, hub: Hub, counts: "Counter[str]", rnd: random.Random
    ) -> None:
        self.thing, self._profile, self._part, self._hub, self._counts, self._rnd = (
            thing,
            profile,
            part,
            hub,
            counts,
            rnd,
        )
        self._client: Client | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent = 0
        self._jobs_seen: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """For ever; ends when cancelled, with a DISCONNECT."""
        connect = self._profile.connect
        low, high = BACKOFF_S
        pause = low
        try:
            while True:
                try:
                    await self._session()
                    pause = low
                except MarramError as exc:
                    self._counts["connect_failed" if self._client is None else "lost"] += 1
                    self._counts[f"why {exc.message[:60]}"] += 1
                    await asyncio.sleep(pause * self._rnd.uniform(0.5, 1.5))
                    pause = min(pause * 2, high)
                if connect.pattern != "steady":
                    await asyncio.sleep(connect.off_s * self._rnd.uniform(0.8, 1.2))
        finally:
            for task in self._tasks:
                task.cancel()
            if self._client is not None:
                self._client.disconnect()

    async def _session(self) -> None:
        """One connection, from CONNECT to its end by the profile. Raises Unavailable when it ended otherwise, Denied."""
        self._client = None
        use = self._profile.connect
        packet = Connect(
            self.thing,
            V5 if use.version == 5 else V311,
            use.clean,
            use.keep_alive_s,
            properties={"session_expiry_s": use.expiry_s} if use.version == 5 and not use.clean else {},
        )
        client = await Client.open(
            *self._hub.mqtt, self._hub.tls, packet, self._heard, delay_ms=self._profile.line.delay_ms
        )
        self._client = client
        self._counts["connects"] += 1
        self._counts["connected"] += 1
        beginning = asyncio.create_task(self._begin(client))
        talking = asyncio.create_task(self._talk(client))
        try:
            limit = None if use.pattern == "steady" else use.on_s * self._rnd.uniform(0.8, 1.2)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    why = await asyncio.shield(client.lost)
                    raise Unavailable(why)
            self._counts["cut" if use.pattern == "flapping" else "left"] += 1
        finally:
            self._counts["connected"] -= 1
            for task in (beginning, talking):
                task.cancel()
            if use.pattern == "flapping":
                client.cut()
            else:
                client.disconnect()

    async def _begin(self, client: Client) -> None:
        """Subscribe, then ask for what was missed."""
        base = f"$aws/things/{self.thing}"
        filters: list[str] = []
        if self._profile.shadow.behaviour != "off":
            filters += [f"{base}/shadow/update/delta", f"{base}/shadow/get/accepted"]
        if self._profile.jobs.takes:
            filters += [f"{base}/jobs/notify-next", f"{base}/jobs/start-next/accepted"]
        if not filters:
            return
        try:
            if await client.subscribe(filters) >= 0x80:
                self._counts["subscribe_refused"] += 1
                return
            if self._profile.shadow.behaviour != "off":
                await client.publish(f"{base}/shadow/get", b"{}", 1)
            if self._profile.jobs.takes:
                await client.publish(f"{base}/jobs/start-next", b"{}", 1)
        except MarramError:
            self._counts["unanswered"] += 1

    async def _talk(self, client: Client) -> None:
        use = self._profile.telemetry
        if not use.every_s:
            return
        await asyncio.sleep(use.every_s * self._rnd.random())  # not all at once
        while True:
            await self._tell(client)
            await asyncio.sleep(use.every_s)

    async def _tell(self, client: Client) -> None:
        use = self._profile.telemetry
        self._sent += 1
        body: JsonObject = {"thing": self.thing, "n": self._sent, "value": round(self._rnd.gauss(20, 2), 3)}
        text = codec.dumps(body)
        payload = codec.dumps({**body, "pad": "x" * max(0, use.size - len(text) - 9)})
        topic = use.topic.replace("{thing}", self.thing)
        try:
            if use.over == "https":
                host, port = self._hub.https
                url = f"https://{host}:{port}/topics/{topic}?qos={use.qos}"
                answer = await http.request("POST", url, body=payload, tls=self._hub.tls_https, timeout_s=30.0)
                reason = 0 if answer.status == 200 else answer.status
            else:
                reason = await client.publish(topic, payload, use.qos)
        except MarramError:
            self._counts["unanswered"] += 1
            return
        self._counts["refused" if reason >= 0x80 else "published"] += 1
        if self._rnd.random() < self._profile.line.cut:
            self._counts["cut"] += 1
            client.cut()

    # what comes

    def _heard(self, topic: str, payload: bytes) -> None:
        self._counts["received"] += 1
        try:
            body = codec.loads_object(payload, what="message")
        except Invalid:
            self._counts["not_json"] += 1
            return
        _, _, rest = topic.partition(f"$aws/things/{self.thing}/")
        if rest == "shadow/update/delta":
            self._start(self._follow(body.get("state")))
        elif rest == "shadow/get/accepted":
            state = body.get("state")
            if isinstance(state, dict) and state.get("delta"):
                self._start(self._follow(state["delta"]))
        elif rest in ("jobs/notify-next", "jobs/start-next/accepted"):
            execution = body.get("execution")
            if isinstance(execution, dict) and execution.get("jobId"):
                self._start(self._work(execution))

    async def _follow(self, delta: JsonValue) -> None:
        if not self._part.follows or not isinstance(delta, dict):
            return
        await asyncio.sleep(self._profile.shadow.after_s)
        if await self._say("shadow/update", {"state": {"reported": delta}}):
            self._counts["shadow_reports"] += 1

    async def _work(self, execution: JsonObject) -> None:
        """Once for each execution, however often it is announced; again after a report that did not arrive."""
        job = str(execution["jobId"])
        key = (job, str(execution.get("executionNumber")))
        if key in self._jobs_seen:
            return
        if len(self._jobs_seen) > JOBS_KEPT:
            self._jobs_seen.clear()
        self._jobs_seen.add(key)
        ends = self._part.job_ends
        if execution.get("status") != "IN_PROGRESS" and ends != "REJECTED":
            await self._say(f"jobs/{job}/update", {"status": "IN_PROGRESS"})
        if not ends:
            self._counts["jobs_silent"] += 1
            return
        await asyncio.sleep(self._profile.jobs.takes_s)
        if await self._say(f"jobs/{job}/update", {"status": ends}):
            self._counts[f"jobs_{ends.lower()}"] += 1
        else:
            self._jobs_seen.discard(key)

    async def _say(self, rest: str, body: JsonObject) -> bool:
        client = self._client
        if client is None:
            return False
        try:
            return await client.publish(f"$aws/things/{self.thing}/{rest}", codec.dumps(body), 1) < 0x80
        except MarramError:
            self._counts["unanswered"] += 1
            return False

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
