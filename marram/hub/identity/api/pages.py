"""One page of a list. A service reads one item more than is shown; a page token is the last key shown, which the border seals."""

from typing import Final

from marram.core.errors import Invalid
from marram.hub.identity.model import Page
from marram.hub.listing import cut as cut
from marram.hub.slice import Params

PAGE: Final = 25


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
