"""The console's way to the hub: signed calls with the session of the person who looks. It holds no key of its own."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from marram.core import codec, sigv4
from marram.core.codec import JsonObject
from marram.core.errors import Denied, Invalid, Unauthenticated, Unavailable
from marram.kit import http
from marram.kit.clock import Clock

LIMIT_S: Final = 10.0
SIGNING: Final = {"greengrassv2": "greengrass", "marram": "marram", "sts": "sts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    credentials: sigv4.Credentials
    expires_ms: int


class Hub:
    def __init__(self, *, api: str, https: str, region: str, tls: ssl.SSLContext, clock: Clock) -> None:
        self._api, self._https, self._region, self._tls, self._clock = api, https, region, tls, clock

    async def open_session(self, token: str) -> Session:
        """Trade a one-time login token for a session. Raises Unauthenticated."""
        body = codec.dumps({"token": token})
        answer = await http.request(
            "POST", f"{self._https}/marram/session", headers={"content-type": "application/json"}, body=body,
            tls=self._tls, timeout_s=LIMIT_S,
        )  # fmt: skip
        if answer.status != 200:
            raise Unauthenticated("the login link is used up, too old or wrong: get a new one with `marram login`")
        got = codec.loads_object(answer.body)
        return Session(
            credentials=sigv4.Credentials(
                str(got["accessKeyId"]), str(got["secretAccessKey"]), str(got["sessionToken"])
            ),
            expires_ms=int(str(got["expiresMs"])),
        )

    async def greengrass(self, session: Session, path: str, query: Mapping[str, str] | None = None) -> JsonObject:
        return await self._call(session, "greengrassv2", "GET", f"/greengrass/v2/{path}", query or {}, b"")

    async def marram(self, session: Session, operation: str, request: JsonObject) -> JsonObject:
        return await self._call(session, "marram", "POST", f"/marram/{operation}", {}, codec.dumps(request))

    async def metrics(self) -> bytes:
        answer = await http.request("GET", f"{self._api}/metrics", headers={}, body=b"", tls=None, timeout_s=LIMIT_S)
        return answer.body

    async def _call(
        self, session: Session, service: str, method: str, path: str, query: Mapping[str, str], body: bytes
    ) -> JsonObject:
        pairs = sorted(query.items())
        headers = sigv4.sign(
            session.credentials,
            method=method,
            path=path,
            query=pairs,
            headers={"host": urlsplit(self._api).netloc, "content-type": "application/json"},
            body=body,
            region=self._region,
            service=SIGNING[service],
            now_ms=self._clock.wall_ms(),
        )
        text = "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in pairs)
        answer = await http.request(
            method,
            f"{self._api}{path}{'?' + text if text else ''}",
            headers=headers,
            body=body,
            tls=None,
            timeout_s=LIMIT_S,
        )
        if answer.status in (401, 403):
            raise Denied(_message(answer.body))
        if answer.status != 200:
            raise Unavailable(f"{path}: {answer.status} {_message(answer.body)}")
        return codec.loads_object(answer.body)


def _message(body: bytes) -> str:
    try:
        found = codec.loads_object(body)
    except Invalid:
        return "no reason given"
    return str(found.get("message", "no reason given"))
