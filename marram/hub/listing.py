"""One page of a list: keyset pagination. Nothing is counted, nothing is skipped.

A service reads `limit + 1` items after the last key; a page token is the last key that was shown, which the border seals.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from marram.core.codec import JsonValue

T = TypeVar("T")


def cut(items: Sequence[T], limit: int, key: Callable[[T], JsonValue]) -> tuple[Sequence[T], JsonValue]:
    """(items of this page, the last key when there are more)."""
    return (items, None) if len(items) <= limit else (items[:limit], key(items[limit - 1]))
