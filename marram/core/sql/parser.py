"""Tokens -> the typed tree of a statement. The tree is the front half of rules; alarms and formulas use it too.

Not here: what a value is and does (evaluate), which functions there are (functions).
Precedence, low to high: OR, AND, NOT, comparison (one, never chained), + -, * / %, unary minus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias

from marram.core.sql import functions, lexer
from marram.core.sql.lexer import Place, SqlError, Token

MAX_DEPTH: Final = 64
MAX_ITEMS: Final = 1_000  # of a SELECT; our choice


@dataclass(frozen=True, slots=True)
class Literal:
    """`value` is None for NULL; UNDEFINED stands for itself."""

    value: bool | int | Decimal | str | functions.Undefined | None
    place: Place


@dataclass(frozen=True, slots=True)
class Path:
    """A field of the payload: ("state", "reported", "temp")."""

    parts: tuple[str, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Call:
    function: functions.Function
    arguments: "tuple[Node, ...]"
    place: Place


@dataclass(frozen=True, slots=True)
class Unary:
    """`operator` is NOT or -."""

    operator: str
    operand: "Node"
    place: Place


@dataclass(frozen=True, slots=True)
class Binary:
    """A comparison (= <> < <= > >=) or arithmetic (+ - * / %); `place` is the operator's."""

    operator: str
    left: "Node"
    right: "Node"
    place: Place


@dataclass(frozen=True, slots=True)
class Chain:
    """`a AND b AND c` as one node, so that a long list of conditions is not a deep tree."""

    operator: str
    operands: "tuple[Node, ...]"
    place: Place


Node: TypeAlias = Literal | Path | Call | Unary | Binary | Chain


@dataclass(frozen=True, slots=True)
class Item:
    """One column of the SELECT under its name in the result."""

    name: str
    node: Node


@dataclass(frozen=True, slots=True)
class Statement:
    """`star`: the payload's own fields come first, items override them. `topic_filter` is not checked here."""

    star: bool
    items: tuple[Item, ...]
    topic_filter: str
    filter_place: Place
    where: Node | None


def statement(text: str) -> Statement:
    """Parse `SELECT ... FROM '...' [WHERE ...]`. Raises SqlError with the place and the name of what is wrong."""
    return _Parser(lexer.tokens(text)).statement()


def expression(text: str) -> Node:
    """Parse one expression, as stands inside `${...}`. Raises SqlError."""
    parser = _Parser(lexer.tokens(text))
    node = parser.expression()
    parser.expect_end("after the expression")
    return node


_COMPARISONS: Final = frozenset({"=", "<>", "<", "<=", ">", ">="})
# operator -> how tightly it binds
_BINDING: Final = {"+": 5, "-": 5, "*": 6, "/": 6, "%": 6} | dict.fromkeys(_COMPARISONS, 4)


class _Parser:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def statement(self) -> Statement:
        self._keyword("SELECT", "a statement starts with SELECT")
        star, items = self._items()
        if self._token.kind == "end":
            # AWS allows it for rules that only Basic Ingest ($aws/rules/NAME) reaches.
            raise SqlError("a statement without FROM (Basic Ingest) is not supported", self._token.place)
        self._keyword("FROM", "FROM expected")
        source = self._next()
        if source.kind == "operator" and source.text == "(":
            raise SqlError("a nested query in FROM is not supported", source.place)
        if source.kind != "string":
            raise SqlError(f"FROM takes a topic filter in single quotes, not {_shown(source)}", source.place)
        where = None
        if self._stands("WHERE"):
            self._next()
            where = self.expression()
        self.expect_end("after the statement")
        return Statement(star=star, items=items, topic_filter=source.text, filter_place=source.place, where=where)

    def expression(self) -> Node:
        return self._or()

    def expect_end(self, where: str) -> None:
        token = self._token
        if token.kind == "end":
            return
        absent = _absent(token)
        if absent:
            raise SqlError(f"{absent} is not supported", token.place)
        raise SqlError(f"{_shown(token)} is not expected {where}", token.place)

    def _items(self) -> tuple[bool, tuple[Item, ...]]:
        star = False
        items: list[Item] = []
        names: set[str] = set()
        while True:
            token = self._token
            if token.kind == "operator" and token.text == "*":
                if star or items:
                    raise SqlError("* stands once, as the first column", token.place)
                star = True
                self._next()
                if self._stands("AS"):
                    raise SqlError("an alias of * is not supported", self._token.place)
            else:
                item = self._item()
                if item.name in names:
                    raise SqlError(
                        f"the name {item.name!r} appears twice in SELECT; give one of them another with AS", token.place
                    )
                names.add(item.name)
                items.append(item)
                if len(items) > MAX_ITEMS:
                    raise SqlError(f"more than {MAX_ITEMS} columns", token.place)
            if not self._stands(","):
                return star, tuple(items)
            self._next()

    def _item(self) -> Item:
        place = self._token.place
        node = self.expression()
        if self._stands("AS"):
            self._next()
            alias = self._next()
            if alias.kind not in {"name", "string"} or not alias.text:
                raise SqlError(f"AS takes a name, not {_shown(alias)}", alias.place)
            if self._stands("."):
                raise SqlError("an alias with dots (a nested result) is not supported", self._token.place)
            return Item(alias.text, node)
        match node:
            case Path(parts=parts):
                return Item(parts[-1], node)
            case Call(function=function):
                return Item(function.name, node)
            case _:
                raise SqlError("this column needs a name: AS name", place)

    def _or(self) -> Node:
        return self._chain("OR")

    def _chain(self, operator: str) -> Node:
        below = self._not if operator == "AND" else self._and
        first = below()
        operands = [first]
        place = self._token.place
        while self._stands(operator):
            self._next()
            operands.append(below())
        return first if len(operands) == 1 else Chain(operator, tuple(operands), place)

    def _and(self) -> Node:
        return self._chain("AND")

    def _not(self) -> Node:
        token = self._token
        if token.kind == "keyword" and token.text == "NOT":
            self._next()
            self._down(token.place)
            node = Unary("NOT", self._not(), token.place)
            self._depth -= 1
            return node
        return self._binary(4)

    def _binary(self, least: int) -> Node:
        left = self._unary()
        grown = 0
        while True:
            token = self._token
            binding = _BINDING.get(token.text, 0) if token.kind == "operator" else 0
            if binding < least:
                self._depth -= grown
                return left
            self._next()
            # A left-leaning run of operators is as deep as it is long.
            self._down(token.place)
            grown += 1
            right = self._binary(binding + 1)
            left = Binary(token.text, left, right, token.place)
            following = self._token
            if binding == 4 and following.kind == "operator" and following.text in _COMPARISONS:
                raise SqlError("a comparison cannot follow a comparison; join them with AND", following.place)

    def _unary(self) -> Node:
        token = self._token
        if token.kind == "operator" and token.text == "-":
            self._next()
            if self._token.kind == "number":
                number = self._next()
                return Literal(-number.number, token.place)
            self._down(token.place)
            node = Unary("-", self._unary(), token.place)
            self._depth -= 1
            return node
        return self._primary()

    def _primary(self) -> Node:
        token = self._next()
        match token.kind, token.text:
            case "number", _:
                return Literal(token.number, token.place)
            case "string", text:
                return Literal(text, token.place)
            case "keyword", "TRUE" | "FALSE":
                return Literal(token.text == "TRUE", token.place)
            case "keyword", "NULL":
                return Literal(None, token.place)
            case "keyword", "UNDEFINED":
                return Literal(functions.UNDEFINED, token.place)
            case "keyword", "SELECT":
                raise SqlError("a nested SELECT is not supported", token.place)
            case "operator", "(":
                if self._stands("SELECT"):
                    raise SqlError("a nested SELECT is not supported", self._token.place)
                self._down(token.place)
                node = self.expression()
                self._depth -= 1
                self._close(token, "this ( is not closed by )")
                return node
            case "operator", "*":
                raise SqlError("* stands only as the first column of SELECT", token.place)
            case "name", name:
                following = self._token
                if following.kind == "operator" and following.text == "(":
                    return self._call(token)
                absent = _absent(token)
                # CASE, LIKE... as plain field names stay usable where no expression of that kind can begin.
                if absent and (name.upper() == "CASE" or following.kind in {"name", "string", "number"}):
                    raise SqlError(f"{absent} is not supported", token.place)
                return self._path(token)
            case _:
                raise SqlError(f"a value is expected, not {_shown(token)}", token.place)

    def _path(self, first: Token) -> Path:
        parts = [first.text]
        while self._stands("."):
            self._next()
            part = self._next()
            if part.kind == "operator" and part.text == "*":
                raise SqlError("a field followed by .* is not supported", part.place)
            # After a dot a keyword is a field: {"from": {"value": 1}} is read as `x.from.value`.
            if part.kind not in {"name", "keyword"}:
                raise SqlError(f"a field name is expected after the dot, not {_shown(part)}", part.place)
            parts.append(part.text if part.kind == "name" else part.written)
            if len(parts) > MAX_DEPTH:
                raise SqlError(f"a path deeper than {MAX_DEPTH} fields", part.place)
        return Path(tuple(parts), first.place)

    def _call(self, name: Token) -> Call:
        function = functions.FUNCTIONS.get(name.text)
        if function is None:
            raise SqlError(functions.why_absent(name.text), name.place)
        opening = self._next()
        self._down(opening.place)
        arguments: list[Node] = []
        if not self._stands(")"):
            while True:
                arguments.append(self.expression())
                if not self._stands(","):
                    break
                self._next()
        self._depth -= 1
        self._close(opening, f"the call of {name.text}() is not closed by )")
        if not function.least <= len(arguments) <= function.most:
            wanted = str(function.least) if function.least == function.most else f"{function.least} to {function.most}"
            raise SqlError(f"{name.text}() takes {wanted} arguments, not {len(arguments)}", name.place)
        return Call(function, tuple(arguments), name.place)

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _stands(self, text: str) -> bool:
        """Whether the next token is the keyword or operator `text`."""
        token = self._tokens[self._at]
        return token.text == text and (token.kind == "operator" or token.kind == "keyword")

    def _next(self) -> Token:
        token = self._tokens[self._at]
        if token.kind != "end":
            self._at += 1
        return token

    def _keyword(self, text: str, message: str) -> None:
        token = self._next()
        if token.kind != "keyword" or token.text != text:
            absent = _absent(token)
            raise SqlError(f"{absent} is not supported" if absent else f"{message}, not {_shown(token)}", token.place)

    def _close(self, opening: Token, message: str) -> None:
        token = self._token
        if token.kind == "operator" and token.text == ")":
            self._next()
            return
        absent = _absent(token)
        raise SqlError(f"{absent} is not supported" if absent else message, token.place if absent else opening.place)

    def _down(self, place: Place) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SqlError(f"nested deeper than {MAX_DEPTH} levels", place)


def _absent(token: Token) -> str | None:
    return lexer.ABSENT_KEYWORDS.get(token.text.upper()) if token.kind == "name" else None


def _shown(token: Token) -> str:
    if token.kind == "end":
        return "the end of the statement"
    return f"the string '{token.text[:40]}'" if token.kind == "string" else token.text[:40]
