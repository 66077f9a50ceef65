"""The console's app without sockets: requests go in as ASGI scopes, and the hub is a fake that answers from a table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

import pytest

from marram.console.app import Console
from marram.console.client import Session
from marram.core import sigv4
from marram.core.errors import MarramError, Unauthenticated
from marram.kit.clock import FakeClock

MINUTE_MS = 60_000


@dataclass
class FakeHub:
    """What marram.console.client.Hub offers. An answer that is an error is raised."""

    clock: FakeClock
    tokens: set[str] = field(default_factory=lambda: {"good"})
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    async def open_session(self, token: str) -> Session:
        if token not in self.tokens:
            raise Unauthenticated("the login link is used up, too old or wrong: get a new one with `marram login`")
        self.tokens.remove(token)
        keys = sigv4.Credentials(f"key-of-{token}", "secret", "token")
        return Session(credentials=keys, expires_ms=self.clock.wall_ms() + 10 * MINUTE_MS)

    async def greengrass(self, session: Session, path: str, query: Mapping[str, str] | None = None) -> Any:
        return self._answer(path, dict(query or {}))

    async def marram(self, session: Session, operation: str, request: Mapping[str, Any]) -> Any:
        return self._answer(operation, dict(request))

    async def metrics(self) -> bytes:
        return b"marram_up 1\n"

    def _answer(self, what: str, request: dict[str, Any]) -> Any:
        self.asked.append((what, request))
        found = self.answers.get(what, {})
        if isinstance(found, MarramError):
            raise found
        return found


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Browser:
    """Keeps cookies, follows nothing."""

    app: Any
    host: str = "127.0.0.1:8080"
    cookies: dict[str, str] = field(default_factory=dict)

    async def __call__(self, method: str, target: str, **headers: str) -> Answer:
        path, _, query = target.partition("?")
        given = {"host": self.host} | {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies and "cookie" not in given:
            given["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 8080),
        }  # fmt: skip
        sent: list[dict[str, Any]] = []
        inbox = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            return inbox.pop(0) if len(inbox) > 1 else inbox[0]

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        raw = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
        for name, value in raw:
            if name == "set-cookie":
                self.cookies |= {key: morsel.value for key, morsel in SimpleCookie(value).items()}
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], dict(raw), body.decode())


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(wall_ms=1_750_000_000_000)


@pytest.fixture
def hub(clock: FakeClock) -> FakeHub:
    return FakeHub(clock)


@pytest.fixture
def browser(hub: FakeHub, clock: FakeClock) -> Browser:
    return Browser(Console(hub, clock).app())  # type: ignore[arg-type]


@pytest.fixture
async def signed_in(browser: Browser) -> Browser:
    assert (await browser("GET", "/login?token=good")).status == 303
    return browser
