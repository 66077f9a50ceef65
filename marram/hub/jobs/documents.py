"""Job documents: where they come from, and the URLs that are put in for a device.

A placeholder `${aws:iot:s3-presigned-url:https://s3.<region>.amazonaws.com/<bucket>/<key>}` (or `-v2`, with the key in URL
encoding) becomes a signed URL of this hub's objects each time the document is handed out. Each time, too, the job's role
must still allow it; else the placeholder stays as it is, which no device can use.
Source: AWS IoT Developer Guide, "Managing jobs".
"""

import re
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from marram.core import codec
from marram.core.codec import JsonValue
from marram.core.errors import Denied, Invalid, NotFound
from marram.hub.jobs import settings, store
from marram.kit.db import Tx
from marram.kit.log import logger

log = logger(__name__)

MAX_CHARACTERS: Final = 32_768
MAX_PLACEHOLDERS: Final = 100
MARK: Final = b"${aws:iot:"
_PLACEHOLDER: Final = re.compile(r"\$\{aws:iot:s3-presigned-url(-v2)?:([^}]*)\}")
_ANY: Final = re.compile(r"\$\{aws:iot:([^:}]*)")
_PATH_STYLE: Final = re.compile(r"s3[.-](?:[a-z0-9-]+\.)?amazonaws\.com(?:\.cn)?|s3\.amazonaws\.com")
_HOST_STYLE: Final = re.compile(r"([a-z0-9.-]+)\.s3[.-](?:[a-z0-9-]+\.)?amazonaws\.com(?:\.cn)?")


class Store(Protocol):
    """The objects of this hub. `fetch` raises NotFound."""

    async def get(self, bucket: str, key: str, *, max_bytes: int = ...) -> bytes: ...


class Signer(Protocol):
    """Signs a URL for a device when the role may read the object. Raises Invalid or Denied when it may not."""

    def check(self, role: str, bucket: str, key: str) -> None: ...
    def url(self, role: str, bucket: str, key: str, expires_s: int) -> str: ...


class NoSigner:
    """Where there are no objects."""

    def check(self, role: str, bucket: str, key: str) -> None:
        raise Invalid("presigned URLs need the objects of this hub, which do not run here")

    def url(self, role: str, bucket: str, key: str, expires_s: int) -> str:
        raise Invalid("presigned URLs need the objects of this hub, which do not run here")


class Documents:
    """`endpoint`: the API's URL, which counts as an S3 address too."""

    def __init__(self, objects: Store | None, signer: Signer) -> None:
        self._objects, self._signer = objects, signer

    async def fetch(self, source: str) -> bytes:
        """The document at an S3 URL. Raises NotFound, Invalid."""
        bucket, key = place(source)
        if self._objects is None:
            raise Invalid("documentSource needs the objects of this hub, which do not run here")
        return await self._objects.get(bucket, key, max_bytes=4 * MAX_CHARACTERS)

    def check(self, text: bytes, role: str) -> bytes:
        """A document that may be sent: a JSON object with placeholders that `role` may read. Raises Invalid, Denied."""
        if len(text) > 4 * MAX_CHARACTERS or len(text.decode("utf-8", "replace")) > MAX_CHARACTERS:
            raise Invalid(f"the job document has more than {MAX_CHARACTERS} characters", limit=MAX_CHARACTERS)
        value = codec.loads_object(text, what="the job document")
        if MARK in text:
            found = _strings(value)
            marks = [match for string in found for match in _PLACEHOLDER.finditer(string)]
            for string in found:
                for kind in _ANY.findall(_PLACEHOLDER.sub("", string)):
                    raise Invalid(
                        f"the job document has a placeholder ${{aws:iot:{kind[:40]}...}} that is not known here"
                    )
            if marks and not role:
                raise Invalid("the job document has presigned-URL placeholders: presignedUrlConfig.roleArn is needed")
            if len(marks) > MAX_PLACEHOLDERS:
                raise Invalid(f"the job document has {len(marks)} placeholders; at most {MAX_PLACEHOLDERS} are allowed")
            for match in marks:
                self._signer.check(role, *_named(match))
        return text

    def delivered(self, tx: Tx, job_id: str) -> bytes:
        """The document as a device gets it now: JSON text."""
        text = store.document(tx, job_id)
        if MARK not in text:
            return text
        job = store.job(tx, job_id)
        wanted = settings.read(job.config if job is not None else "{}")

        def url(match: "re.Match[str]") -> str:
            try:
                return self._signer.url(wanted.role, *_named(match), wanted.url_s)
            except (Denied, Invalid, NotFound) as error:
                log.warning("jobs.url_refused", job=job_id, why=error.message)
                return match[0]

        return codec.dumps(_replaced(codec.loads(text), url))


def place(url: str) -> tuple[str, str]:
    """(bucket, key) of an S3 URL: path style, host style, or `s3://bucket/key`. Raises Invalid."""
    return _place(url, decoded=True)


def _named(match: "re.Match[str]") -> tuple[str, str]:
    return _place(match[2], decoded=match[1] is not None)


def _place(url: str, *, decoded: bool) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise Invalid(f"{url[:200]!r} is not a URL") from error
    path = parts.path.lstrip("/")
    if parts.scheme == "s3":
        bucket, key = host, path
    elif parts.scheme in ("https", "http") and (styled := _HOST_STYLE.fullmatch(host)):
        bucket, key = styled[1], path
    elif parts.scheme in ("https", "http") and (_PATH_STYLE.fullmatch(host) or _is_local(host)):
        bucket, _, key = path.partition("/")
    else:
        raise Invalid(f"{url[:200]!r} is not the URL of an S3 object")
    if not bucket or not key or parts.query:
        raise Invalid(f"{url[:200]!r} does not name a bucket and a key")
    return bucket, unquote(key) if decoded else key


def _is_local(host: str) -> bool:
    """The hub's own API, by which its objects are reached as well."""
    return host in ("localhost", "127.0.0.1", "::1")


def _strings(value: JsonValue) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    return []


def _replaced(value: JsonValue, url: "Replace") -> JsonValue:
    if isinstance(value, str):
        return _PLACEHOLDER.sub(url, value)
    if isinstance(value, list):
        return [_replaced(item, url) for item in value]
    if isinstance(value, dict):
        return {key: _replaced(item, url) for key, item in value.items()}
    return value


class Replace(Protocol):
    def __call__(self, match: "re.Match[str]", /) -> str: ...
