"""Page tokens: stateless, bound to the operation, refused when altered. base64(8-byte HMAC + JSON [operation, last key]).

Standard base64 and not the url-safe form: the model's Marker pattern is `[A-Za-z0-9+/]+={0,2}`.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Any, Final

from marram.core import codec
from marram.core.codec import JsonValue
from marram.core.errors import Invalid

# Members that carry a position between pages: a slice sees its own last key, the wire a token that cannot be altered.
TOKENS_IN: Final = ("nextToken", "NextToken", "ContinuationToken", "marker", "Marker")
TOKENS_OUT: Final = (
    "nextToken", "NextToken", "NextContinuationToken", "nextMarker", "NextMarker", "ContinuationToken", "Marker",
)  # fmt: skip
_S3_PLAIN: Final = frozenset({"Marker", "NextMarker"})  # S3's first listing pages by object keys that clients make up


class Pages:
    def __init__(self, key: bytes) -> None:
        """key: 32 random bytes that live as long as tokens should (the hub's page-token key)."""
        self._key = key

    def token(self, operation: str, last: JsonValue) -> str:
        """The token for what follows `last`, the key of the last item of this page."""
        body = codec.dumps([operation, last])
        return base64.b64encode(self._mac(body) + body).decode()

    def last(self, operation: str, token: str | None) -> JsonValue:
        """The key to continue after; None at the first page. Raises Invalid for a token that this operation did not give."""
        if token is None:
            return None
        try:
            raw = base64.b64decode(token, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Invalid("the page token is not valid") from error
        if not hmac.compare_digest(raw[:8], self._mac(raw[8:])):
            raise Invalid("the page token is not valid")
        value = codec.loads(raw[8:])
        if not isinstance(value, list) or len(value) != 2 or value[0] != operation:
            raise Invalid("the page token is of another operation")
        return value[1]

    def open(self, service: str, operation: str, params: dict[str, Any]) -> dict[str, str]:
        """Puts the last keys in the place of the tokens; returns the tokens as they were given."""
        given: dict[str, str] = {}
        for name in TOKENS_IN:
            if name in params and not (service == "s3" and name in _S3_PLAIN):
                given[name] = params[name]
                params[name] = self.last(operation, params[name])
        return given

    def seal(self, service: str, operation: str, result: dict[str, Any], given: Mapping[str, str]) -> None:
        for name in TOKENS_OUT:
            if result.get(name) is None or (service == "s3" and name in _S3_PLAIN):
                continue
            # ListObjectsV2 repeats the token that it was given beside the next one.
            repeated = name in given and operation == "ListObjectsV2"
            result[name] = given[name] if repeated else self.token(operation, result[name])

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:8]
