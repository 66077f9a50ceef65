"""The HTTPS side of the link: recipes, artifacts, groups and client devices, with the core's certificate.

Paths and bodies as unmodified nuclei use them (observed, nucleus lite 2.6.0); `clientDevices` is Marram's. An artifact comes by a
presigned URL, which is fetched without the client certificate and continued where it broke off.
"""

import base64
import binascii
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from marram.core import arn, codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Denied, Invalid, LimitExceeded, MarramError, NotFound, Unavailable
from marram.edge.link.ledger import Ledger
from marram.kit import http

MAX_ANSWER: Final = 4 << 20
TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Where the hub is and who we are. `host` and `port` of its https door."""

    host: str
    port: int
    thing: str
    region: str
    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientDevice:
    """A device that may use the local broker: its certificates by SHA-256 of the DER, in hex."""

    thing: str
    certificates: Sequence[str] = ()


class DataPlane:
    """`own` is the TLS context with the core's certificate and the pinned root, asked for each time; `pinned` the root alone."""

    def __init__(
        self, hub: Hub, ledger: Ledger, *, own: Callable[[], ssl.SSLContext], pinned: Callable[[], ssl.SSLContext]
    ) -> None:
        self._hub = hub
        self._ledger = ledger
        self._own = own
        self._pinned = pinned
        self._arns: dict[tuple[str, str], str] = {}

    async def candidate(
        self, name: str, requirements: Mapping[str, str], platform: Mapping[str, str], present: str | None
    ) -> JsonObject | None:
        """The recipe of the best version, None when the hub has none that fits."""
        wanted: JsonObject = {"componentName": name, "versionRequirements": dict(requirements)}
        if present is not None:
            wanted["componentVersion"] = present
        request: JsonObject = {
            "componentCandidates": [wanted],
            "platform": {"name": platform.get("os", "linux"), "attributes": dict(platform)},
        }
        try:
            body = await self._call("POST", "/greengrass/v2/resolveComponentCandidates", request)
        except NotFound:
            return None
        resolved = body.get("resolvedComponentVersions")
        if not isinstance(resolved, list) or not resolved or not isinstance(resolved[0], dict):
            return None
        found = resolved[0]
        recipe = _recipe(found.get("recipe"))
        if isinstance(found.get("arn"), str):
            self._arns[str(found.get("componentName")), str(found.get("componentVersion"))] = str(found["arn"])
        return recipe

    async def artifact(self, component: str, version: str, uri: str, path: Path, limit: int) -> None:
        """Write the artifact to `path`, going on from a part that is there. Raises NotFound, Unavailable, LimitExceeded."""
        scheme, _, name = uri.partition(":")
        name = name.lstrip("/")
        if scheme == "s3":
            name = uri.rpartition("/")[2]  # a hub that keeps it has made it `greengrass:` in the recipe it serves
        elif scheme != "greengrass":
            raise NotFound(f"{component} {version}: artifact {uri} is not of a scheme that this core fetches")
        full = self._arns.get((component, version)) or arn.build(
            "greengrass", self._hub.region, self._hub.account, f"components:{component}:versions:{version}"
        )
        body = await self._call(
            "GET", f"/greengrass/v2/components/{quote(full, safe='')}/artifacts/{quote(name, safe='')}"
        )
        url = body.get("preSignedUrl")
        if not isinstance(url, str):
            raise Invalid(f"{component} {version}: the hub gave no URL for artifact {name}")
        place = urlsplit(url)
        tls = self._pinned() if place.scheme == "https" and place.hostname == self._hub.host else None
        await http.download(url, path, limit=limit, tls=tls, meter=self._ledger.meter("artifacts"))

    async def groups(self) -> Sequence[str] | None:
        """`thinggroup/NAME` of each; None when the hub cannot be asked."""
        try:
            body = await self._call("GET", f"/greengrass/v2/coreDevices/{quote(self._hub.thing, safe='')}/thingGroups")
        except (Unavailable, Denied):
            return None
        return [f"thinggroup/{name}" for name in _names(body.get("thingGroups"), "thingGroupName")]

    async def client_devices(self) -> list[ClientDevice]:
        """Raises Unavailable, or NotFound from a hub that does not serve it (AWS)."""
        body = await self._call("GET", f"/greengrass/v2/coreDevices/{quote(self._hub.thing, safe='')}/clientDevices")
        listed = body.get("clientDevices")
        devices: list[ClientDevice] = []
        for each in listed if isinstance(listed, list) else ():
            if isinstance(each, dict) and isinstance(each.get("thingName"), str):
                known = each.get("certificates") or each.get("certificateIds")
                devices.append(
                    ClientDevice(
                        thing=str(each["thingName"]),
                        certificates=[_certificate_id(item) for item in known] if isinstance(known, list) else [],
                    )
                )
        return devices

    async def _call(self, method: str, path: str, body: JsonObject | None = None) -> JsonObject:
        answer = await http.request(
            method,
            f"https://{self._hub.host}:{self._hub.port}{path}",
            headers={"content-type": "application/json"} if body is not None else {},
            body=codec.dumps(body) if body is not None else b"",
            tls=self._own(),
            timeout_s=TIMEOUT_S,
            max_bytes=MAX_ANSWER,
            meter=self._ledger.meter("dataplane"),
        )
        if answer.status == 200:
            return codec.loads_object(answer.body, what=path)
        raise _refusal(answer.status, answer.body, path)


def _refusal(status: int, body: bytes, path: str) -> MarramError:
    try:
        parsed = codec.loads_object(body)
        why = str(parsed.get("message") or parsed.get("Message") or "")
    except Invalid:
        why = ""
    text = f"{path.partition('?')[0]}: {why or f'status {status}'}"
    match status:
        case 404:
            return NotFound(text)
        case 401 | 403:
            return Denied(text)
        case 400:
            return Invalid(text)
        case 413 | 429:
            return LimitExceeded(text)
        case _:
            return Unavailable(text, status=status)


def _recipe(value: JsonValue) -> JsonObject:
    if not isinstance(value, str):
        raise Invalid("the hub resolved a component without a recipe")
    try:
        return codec.loads_object(base64.b64decode(value, validate=True), what="recipe")
    except binascii.Error as exc:
        raise Invalid("the recipe is not base64") from exc


def _certificate_id(item: JsonValue) -> str:
    text = str(item.get("certificateId", "")) if isinstance(item, dict) else str(item)
    return text.rpartition("/")[2]  # an ARN ends in it


def _names(value: JsonValue, key: str) -> list[str]:
    return (
        [str(each[key]) for each in value if isinstance(each, dict) and key in each] if isinstance(value, list) else []
    )
