"""The console: one read-only status page, its JSON twin, login by one-time link. Starlette; every request is checked here.

Sessions live in memory under a random cookie id: a restart of the console asks for a new link. Not here: any decision of
who may see what (the hub's), any credential that outlives the session.
"""

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from marram.console import status
from marram.console.client import Hub, Session
from marram.core.errors import Denied, MarramError, Unauthenticated
from marram.kit.clock import Clock
from marram.kit.log import logger

log = logger(__name__)
HERE: Final = Path(__file__).parent
COOKIE: Final = "marram-session"
MAX_SESSIONS: Final = 1000
HEADERS: Final = {
    "content-security-policy": "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Console:
    def __init__(self, hub: Hub, clock: Clock) -> None:
        self._hub, self._clock = hub, clock
        self._sessions: dict[str, Session] = {}
        self._pages = Environment(loader=FileSystemLoader(HERE / "pages"), autoescape=select_autoescape(default=True))
        names = cast("dict[str, Any]", self._pages.globals)
        names |= {
            "share": status.share,
            "figure": status.figure,
            "points": status.points,
            "value_of": status.value_of,
        }

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/status.json", self.twin),
                Route("/login", self.login),
                Route("/logout", self.logout, methods=["POST"]),
                Route("/health", self.health),
                Route("/metrics", self._signed_in(self.metrics)),
                Mount("/static", StaticFiles(directory=HERE / "static")),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=_harden)],
            exception_handlers={MarramError: _failed},
        )

    async def page(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return HTMLResponse(self._pages.get_template("login.html").render(), status_code=401)
        found = await status.collect(self._hub, session)
        return HTMLResponse(self._pages.get_template("status.html").render(status=found))

    async def twin(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return JSONResponse({"message": "log in first: marram login"}, status_code=401)
        return JSONResponse(await status.collect(self._hub, session))

    async def login(self, request: Request) -> Response:
        """The one-time link: its token is traded for a session, and gone from the address bar with the redirect."""
        try:
            session = await self._hub.open_session(request.query_params.get("token", ""))
        except Unauthenticated as error:
            page = self._pages.get_template("login.html").render(error=error.message)
            return HTMLResponse(page, status_code=401)
        self._drop_old()
        cookie = secrets.token_urlsafe(32)
        self._sessions[cookie] = session
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", path="/")
        return answer

    async def logout(self, request: Request) -> Response:
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)
        return RedirectResponse("/", status_code=303)

    async def health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(self, _request: Request) -> Response:
        return PlainTextResponse(await self._hub.metrics(), media_type="text/plain; version=0.0.4")

    def _signed_in(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            if self._session(request) is None:
                raise HTTPException(401, "log in first: marram login")
            return await endpoint(request)

        return guarded

    def _session(self, request: Request) -> Session | None:
        found = self._sessions.get(request.cookies.get(COOKIE, ""))
        if found is not None and found.expires_ms <= self._clock.wall_ms():
            self._sessions.pop(request.cookies[COOKIE])
            return None
        return found

    def _drop_old(self) -> None:
        now_ms = self._clock.wall_ms()
        for cookie in [cookie for cookie, session in self._sessions.items() if session.expires_ms <= now_ms]:
            del self._sessions[cookie]
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]


async def _harden(request: Request, call_next: RequestResponseEndpoint) -> Response:
    # A page of another site must not read ours by a name that resolves here (DNS rebinding).
    host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
    if host not in {"127.0.0.1", "localhost", "[::1]"}:
        return PlainTextResponse("this console answers on loopback only", status_code=421)
    if request.method not in {"GET", "HEAD"}:
        origin = request.headers.get("origin", "")
        if origin and origin.partition("://")[2] != request.headers.get("host"):
            return PlainTextResponse("refused: the request comes from another site", status_code=403)
    answer = await call_next(request)
    for name, value in HEADERS.items():
        answer.headers[name] = value
    return answer


async def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, MarramError)
    log.warning("console.failed", why=error.message)
    return JSONResponse({"message": error.message}, status_code=403 if isinstance(error, Denied) else 502)
