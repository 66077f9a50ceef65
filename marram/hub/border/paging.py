"""Page tokens: stateless, bound to the operation, refused when altered. base64(8-byte HMAC + JSON [operation, last key]).

Standard base64 and not the url-safe form: the model's Marker pattern is `[A-Za-z0-9+/]+={0,2}`.
"""

import base64
import binascii
import hmac

from marram.core import codec
from marram.core.codec import JsonValue
from marram.core.errors import Invalid


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

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:8]
