"""Text of an IoT SQL statement -> tokens that know their place. What the language has and we have not is named here.

Source: AWS IoT developer guide, "AWS IoT SQL reference", "Literals". Keywords are case-insensitive, names are not.
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final, Literal

from marram.core.errors import Invalid

MAX_LENGTH: Final = 65_535  # characters of a statement; our choice

Kind = Literal["keyword", "name", "string", "number", "operator", "end"]

KEYWORDS: Final = frozenset({"SELECT", "FROM", "WHERE", "AS", "AND", "OR", "NOT", "TRUE", "FALSE", "NULL", "UNDEFINED"})
ABSENT_KEYWORDS: Final = {
    "CASE": "CASE expressions",
    "IN": "the IN operator",
    "LIKE": "the LIKE operator",
    "SET": "the SET clause",
    "VALUE": "SELECT VALUE",
    "BETWEEN": "the BETWEEN operator",
    "EXISTS": "EXISTS",
    "IS": "the IS operator",
    "JOIN": "JOIN",
    "GROUP": "GROUP BY",
    "ORDER": "ORDER BY",
    "HAVING": "HAVING",
    "LIMIT": "LIMIT",
    "UNION": "UNION",
    "DISTINCT": "DISTINCT",
}
ABSENT_SYMBOLS: Final = {
    "[": "arrays and indexes [...]",
    "]": "arrays and indexes [...]",
    "{": "object literals {...}",
    "}": "object literals {...}",
    '"': "double quotes (text stands in single quotes: 'text')",
    "`": "backquoted names",
    ";": "a second statement (;)",
    "|": "the operator ||",
    "&": "the operator &",
    "^": "the operator ^",
    "~": "the operator ~",
    "@": "variables (@)",
    "$": "the sign $ outside a string",
    "?": "the sign ?",
    ":": "the sign :",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Both counted from 1; a column is a character, not a byte."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line} column {self.column}"


class SqlError(Invalid):
    """A statement that is wrong or not supported here. `data` has line and column."""

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(f"SQL: {message} at {place}", kind="sql", line=place.line, column=place.column)


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is the keyword in capitals, the name, the string without quotes, or the operator; `written` is a keyword as it stands."""

    kind: Kind
    text: str
    place: Place
    number: int | Decimal = 0
    written: str = ""


_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[^\W\d]\w*)
      | (?P<string>'(?:[^']|'')*')
      | (?P<operator><>|!=|<=|>=|==|=>|\|\||[<>=+\-*/%(),.])
    """,
    re.VERBOSE,
)


def tokens(text: str) -> list[Token]:
    """The whole statement, closed by one token of kind "end". Raises SqlError."""
    if len(text) > MAX_LENGTH:
        raise SqlError(f"the statement has {len(text)} characters, over the limit of {MAX_LENGTH}", Place(1, 1))
    made: list[Token] = []
    at, line, line_start = 0, 1, 0
    while at < len(text):
        place = Place(line, at - line_start + 1)
        found = _TOKEN.match(text, at)
        if found is None:
            raise _unknown(text, at, place)
        kind, piece = found.lastgroup, found.group()
        if kind == "name":
            made.append(_word(piece, place))
        elif kind == "number":
            made.append(_number(piece, place))
            if found.end() < len(text) and (text[found.end()].isalnum() or text[found.end()] == "_"):
                raise SqlError(f"a name cannot start with a digit: {piece}{text[found.end()]}...", place)
        elif kind == "string":
            made.append(Token("string", piece[1:-1].replace("''", "'"), place))
        elif kind == "operator":
            if piece in {"==", "=>", "||"}:
                raise SqlError(f"the operator {piece} is not supported{'; use =' if piece == '==' else ''}", place)
            made.append(Token("operator", "<>" if piece == "!=" else piece, place))
        if "\n" in piece:
            line += piece.count("\n")
            line_start = at + piece.rindex("\n") + 1
        at = found.end()
    made.append(Token("end", "the end", Place(line, at - line_start + 1)))
    return made


def _word(piece: str, place: Place) -> Token:
    upper = piece.upper()
    if upper in KEYWORDS:
        return Token("keyword", upper, place, written=piece)
    return Token("name", piece, place)


def _number(piece: str, place: Place) -> Token:
    if piece.isdecimal() and len(piece) <= 34:
        return Token("number", piece, place, int(piece))
    try:
        value = Decimal(piece)
    except InvalidOperation as exc:  # an exponent beyond what decimal holds
        raise SqlError(f"{piece} is not a number that can be represented", place) from exc
    if len(value.as_tuple().digits) > 34 or abs(value.adjusted()) > 999:
        raise SqlError(f"{piece[:40]} has over 34 digits or a magnitude beyond 1E-999 to 9.99E999", place)
    return Token("number", piece, place, value)


def _unknown(text: str, at: int, place: Place) -> SqlError:
    sign = text[at]
    if sign == "'":
        return SqlError("a string that starts here is not closed by '", place)
    if sign == "!":
        return SqlError("the operator ! is not supported; use NOT or !=", place)
    what = ABSENT_SYMBOLS.get(sign)
    if what is not None:
        return SqlError(f"{what}: not supported", place)
    return SqlError(f"the character {sign!r} has no meaning", place)
