"""The declared routes outside the AWS APIs, by method and path. Not here: who may call them (chain.py)."""

from collections.abc import Iterable

from marram.hub.border import plans
from marram.hub.slice import Route


class RawRoutes:
    def __init__(self, routes: Iterable[Route]) -> None:
        self.all = list(routes)
        self._table: dict[tuple[str, int], list[tuple[tuple[str, ...], Route]]] = {}
        for route in self.all:
            parts = tuple(route.template[1:].split("/"))
            self._table.setdefault((route.method, len(parts)), []).append((parts, route))
        for group in self._table.values():
            group.sort(key=lambda item: sum(part.startswith("{") for part in item[0]))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        parts = path[1:].split("/")
        for template, route in self._table.get((method, len(parts)), ()):
            if all((wanted[:1] == "{" and got) or wanted == got for wanted, got in zip(template, parts, strict=True)):
                pairs = zip(template, parts, strict=True)
                return route, {wanted[1:-1]: plans.decode(got) for wanted, got in pairs if wanted[:1] == "{"}
        return None
