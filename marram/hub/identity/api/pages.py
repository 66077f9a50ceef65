"""One page of a list. A service reads one item more than is shown; a page token is the last key shown, which the border seals."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from marram.core.codec import JsonValue
from marram.core.errors import Invalid
from marram.hub.identity.model import Page
from marram.hub.slice import Params

T = TypeVar("T")

PAGE: Final = 25


def cut(items: Sequence[T], limit: int, key: Callable[[T], JsonValue]) -> tuple[Sequence[T], JsonValue]:
    """(items of this page, the last key when there are more)."""
    return (items, None) if len(items) <= limit else (items[:limit], key(items[limit - 1]))


def limit(params: Params, member: str = "pageSize") -> int:
    return int(params.get(member) or PAGE)


def text(last: object) -> str:
    return last if isinstance(last, str) else ""


def by_age(params: Params) -> Page:
    """The page asked for of a list in order of creation. The direction is in the token: it cannot turn half way."""
    shown = limit(params)
    match params.get("marker"):
        case None:
            return Page(limit=shown + 1, ascending=bool(params.get("ascendingOrder")))
        case [int(created_ms), str(key), bool(ascending)]:
            return Page(after=(created_ms, key), limit=shown + 1, ascending=ascending)
        case _:
            raise Invalid("the page token is not valid")
