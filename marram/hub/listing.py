"""One page of a list: keyset pagination with the border's tokens. Nothing is counted, nothing is skipped.

A service reads `limit + 1` items after the last key; `page` cuts the spare one off and makes the token of the next page.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from marram.core.codec import JsonValue

T = TypeVar("T")


class Paging(Protocol):
    """Made by the border: stateless tokens bound to the operation."""

    def token(self, operation: str, last: JsonValue) -> JsonValue: ...

    def last(self, operation: str, token: JsonValue) -> JsonValue:
        """Raises Invalid for a token that this operation did not give."""
        ...


def page(
    paging: Paging, operation: str, items: Sequence[T], limit: int, key: Callable[[T], JsonValue]
) -> tuple[Sequence[T], JsonValue]:
    """(items of this page, token of the next one or None)."""
    if len(items) <= limit:
        return items, None
    return items[:limit], paging.token(operation, key(items[limit - 1]))


class AsIs:
    """For behind the border, which seals every token itself: a slice's last key passes through."""

    def token(self, operation: str, last: JsonValue) -> JsonValue:
        return last

    def last(self, operation: str, token: JsonValue) -> JsonValue:
        return token
