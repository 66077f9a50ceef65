"""Deployments that come as jobs: the namespace `aws-gg-deployment` of this thing's jobs.

One at a time, as the jobs service hands them out: `$next` is asked for at each connection and announced in between. What became of
the deployment is reported to its job; until the hub has accepted that, it is asked again. A job that vanishes while its deployment is
under way was cancelled, and the deployment is cancelled too. Source: observed, nucleus lite 2.6.0 (reference greengrass 1.5).
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from marram.core import codec
from marram.core import jobs as machine
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import AlreadyExists, Conflict, Invalid, MarramError, NotFound, Unavailable
from marram.edge.pubsub.hub import Message
from marram.kit.clock import Entropy
from marram.kit.log import logger

log = logger(__name__)

NAMESPACE: Final = "namespace-aws-gg-deployment"
ANSWER_S: Final = 10.0
MAX_DETAIL: Final = 1024  # characters of one value of statusDetails, as AWS has it
STATUS: Final[Mapping[str, str]] = {
    "SUCCEEDED": "SUCCEEDED",
    "FAILED": "FAILED",
    "REJECTED": "REJECTED",
    "CANCELED": "FAILED",
}
SOURCE: Final = "job:"


class Link(Protocol):
    async def send(self, topic: str, payload: bytes) -> None: ...
    async def subscribe(self, filter: str, qos: int, deliver: Callable[[Message], None]) -> Callable[[], None]: ...
    def watch(self, changed: Callable[[bool], None]) -> Callable[[], None]: ...


class Deployments(Protocol):
    """What takes the documents. `submit` raises AlreadyExists for a deployment that it knows, Invalid for a bad document."""

    async def submit(self, value: JsonObject, source: str) -> str: ...
    async def cancel(self, deployment_id: str) -> None: ...


class Jobs:
    """`run` until cancelled. `report` may be called at any time; the deployment engine calls it again until it succeeds."""

    def __init__(self, link: Link, deployments: Deployments, *, thing: str, entropy: Entropy) -> None:
        self._link = link
        self._deployments = deployments
        self._prefix = f"$aws/things/{thing}/jobs/"
        self._thing = thing
        self._entropy = entropy
        self._inbox: asyncio.Queue[JsonObject] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[JsonObject]] = {}
        self._active: tuple[str, str] | None = None  # job, deployment
        self._reported = ""  # the last job whose end was sent

    async def run(self) -> None:
        cancels = [
            await self._link.subscribe(self._prefix + tail, 1, self._receive)
            for tail in (
                f"notify-next-{NAMESPACE}",
                f"$next/{NAMESPACE}/get/+",
                f"+/{NAMESPACE}/update/+",
            )
        ]
        connected, lost = asyncio.Event(), asyncio.Event()

        def changed(up: bool) -> None:
            (connected if up else lost).set()
            (lost if up else connected).clear()

        cancels.append(self._link.watch(changed))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._ask_when(connected, lost), name="jobs-ask")
                while True:
                    execution = await self._inbox.get()
                    try:
                        await self._next(execution)
                    except MarramError as exc:
                        log.warning("jobs.not_taken", why=exc.message)
        finally:
            for cancel in cancels:
                cancel()

    async def report(self, job: str, status: str, details: Mapping[str, str]) -> None:
        """Set the job's end. Raises Unavailable until the hub has answered; a job that is gone needs no report."""
        request: JsonObject = {
            "status": STATUS[status],
            "statusDetails": {key: _detail(value) for key, value in details.items() if value},
        }
        self._reported = job
        try:
            await self._update(job, request)
        except (NotFound, Conflict) as exc:
            log.info("jobs.report_not_wanted", job=job, why=exc.message)
        if self._active is not None and self._active[0] == job:
            self._active = None

    # inside

    async def _ask_when(self, connected: asyncio.Event, lost: asyncio.Event) -> None:
        while True:
            await connected.wait()
            request: JsonObject = {"jobId": "$next", "thingName": self._thing, "includeJobDocument": True}
            try:
                body = await self._request(f"{self._prefix}$next/{NAMESPACE}/get", request)
            except (Unavailable, TimeoutError):
                await asyncio.sleep(1.0 if connected.is_set() else 0)
                continue
            except MarramError as exc:
                log.warning("jobs.get_refused", why=exc.message)
            else:
                execution = body.get("execution")
                self._inbox.put_nowait(execution if isinstance(execution, dict) else {})
            await lost.wait()

    async def _next(self, execution: JsonObject) -> None:
        job = execution.get("jobId")
        if self._active is not None and self._active[0] != job:
            gone, deployment = self._active
            self._active = None
        else:
            gone, deployment = "", ""
        if gone and gone != self._reported:  # its own report may have moved the hub on before it was answered
            log.info("jobs.cancelled_by_hub", job=gone, deployment=deployment)
            with contextlib.suppress(NotFound, Conflict):  # it has ended; its report is on the way
                await self._deployments.cancel(deployment)
        if not isinstance(job, str):
            return
        document = execution.get("jobDocument")
        if isinstance(document, str):
            document = codec.loads(document)
        if self._active is not None:
            return
        try:
            if not isinstance(document, dict):
                raise Invalid("the job has no document")
            deployment = await self._deployments.submit(document, SOURCE + job)
        except AlreadyExists:
            # Known from before a restart or a lost connection: it runs, or its report is being repeated.
            if isinstance(document, dict):
                self._active = (job, str(document.get("deploymentId", "")))
            return
        except MarramError as exc:
            log.warning("jobs.rejected", job=job, why=exc.message)
            detail = {"detailed-deployment-status": "REJECTED", "deployment-failure-cause": exc.message}
            await self._update(job, {"status": "REJECTED", "statusDetails": dict(detail)})
            return
        self._active = (job, deployment)
        log.info("jobs.accepted", job=job, deployment=deployment)
        with contextlib.suppress(Conflict, NotFound, Unavailable):  # a job may go from QUEUED to its end
            await self._update(job, {"status": "IN_PROGRESS"})

    async def _update(self, job: str, request: JsonObject) -> None:
        try:
            await self._request(f"{self._prefix}{job}/{NAMESPACE}/update", request)
        except TimeoutError as exc:
            raise Unavailable(f"the hub did not answer the update of job {job}") from exc

    async def _request(self, topic: str, request: JsonObject) -> JsonObject:
        token = self._entropy.bytes(8).hex()
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._answers[token] = answer
        try:
            await self._link.send(topic, codec.dumps({**request, "clientToken": token}))
            async with asyncio.timeout(ANSWER_S):
                return await answer
        finally:
            self._answers.pop(token, None)

    def _receive(self, message: Message) -> None:
        try:
            body = codec.loads_object(message.payload or b"{}", what="job message")
        except Invalid as exc:
            log.warning("jobs.bad_message", topic=message.topic, why=exc.message)
            return
        if message.topic.endswith(f"notify-next-{NAMESPACE}"):
            execution = body.get("execution")
            self._inbox.put_nowait(execution if isinstance(execution, dict) else {})
            return
        token = body.get("clientToken")
        answer = self._answers.get(token) if isinstance(token, str) else None
        if answer is None or answer.done():
            return
        if message.topic.endswith("/accepted"):
            answer.set_result(body)
        else:
            answer.set_exception(_refusal(body.get("code"), str(body.get("message", "refused"))))


def job_of(source: str) -> str | None:
    """The job of a deployment's `source`."""
    return source.removeprefix(SOURCE) if source.startswith(SOURCE) else None


def _refusal(code: JsonValue, text: str) -> MarramError:
    match code:
        case "ResourceNotFound":
            return NotFound(text)
        case "InvalidStateTransition" | "VersionMismatch" | "TerminalStateReached":
            return Conflict(text)
        case "RequestThrottled" | "InternalError":
            return Unavailable(text)
        case _:
            return Invalid(text)


def _detail(text: str) -> str:
    """As a hub takes it: not too long, and no line ends or other control characters in it."""
    text = text[:MAX_DETAIL]
    return "".join(" " if machine.has_control(char) else char for char in text) if machine.has_control(text) else text
