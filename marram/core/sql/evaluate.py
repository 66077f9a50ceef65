"""The tree of a statement -> closures, and what its operators do to values: Undefined, conversions, 34-digit decimals.

Types: Int is int, Decimal is float (as JSON gives it) or decimal.Decimal (as arithmetic gives it), Undefined is UNDEFINED.
Decimals leave as the nearest double, because that is what JSON readers keep. Source: AWS IoT developer guide, "Operators",
"Data types"; where it is silent the comment says "our choice".
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, DecimalException, Overflow
from typing import Final, TypeAlias

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.sql import parser
from marram.core.sql.functions import UNDEFINED, Message, Value
from marram.core.sql.parser import Binary, Call, Chain, Literal, Node, Path, Statement, Unary

V2015: Final = "2015-10-08"
V2016: Final = "2016-03-23"
VERSIONS: Final = (V2015, V2016)

_DIGITS: Final = Context(prec=34, Emin=-999, Emax=999, traps=[Overflow])
_INT_LIMIT: Final = 10**34
_NUMERAL: Final = re.compile(r"-?\d{1,400}(\.\d{1,400})?([eE]-?\d{1,4})?", re.ASCII)  # AWS: what a string converts from

Expression: TypeAlias = Callable[[Message], Value]
Number: TypeAlias = int | Decimal


@dataclass(frozen=True, slots=True)
class Select:
    """A compiled statement. `reads_payload` False means that it works on payloads that are not JSON."""

    topic_filter: str
    where: Callable[[Message], bool]
    star: bool
    items: tuple[tuple[str, Expression], ...]
    reads_payload: bool

    @property
    def whole(self) -> bool:
        """`SELECT *` alone: the payload goes on as it came, byte for byte."""
        return self.star and not self.items

    def row(self, message: Message) -> JsonValue:
        """The result. Columns that are UNDEFINED are left out; with `*` a payload that is no object gives the columns only."""
        payload = message.payload
        if self.star and not self.items:
            return None if payload is UNDEFINED else payload
        made: JsonObject = dict(payload) if self.star and isinstance(payload, dict) else {}
        for name, run in self.items:
            value = run(message)
            if value is not UNDEFINED:
                made[name] = plain(value)
        return made


def compile_statement(statement: Statement, version: str = V2016) -> Select:
    whole_is_int = version == V2016
    reads = statement.where is not None and _reads(statement.where)
    reads = reads or any(_reads(item.node) for item in statement.items) or (statement.star and bool(statement.items))
    return Select(
        topic_filter=statement.topic_filter,
        where=_condition(statement.where, whole_is_int),
        star=statement.star,
        items=tuple((item.name, compile_expression(item.node, whole_is_int=whole_is_int)) for item in statement.items),
        reads_payload=reads,
    )


def compile_expression(node: Node, *, whole_is_int: bool = True) -> Expression:
    """`whole_is_int`: SQL version 2016-03-23 computes with 10.0 as the Int 10, 2015-10-08 as a Decimal."""
    match node:
        case Literal(value=value):
            return _constant(value)
        case Path(parts=parts):
            return _field(parts[0]) if len(parts) == 1 else _path(parts)
        case Call(function=function, arguments=arguments):
            compiled = tuple(compile_expression(argument, whole_is_int=whole_is_int) for argument in arguments)
            run = function.run
            if not compiled:
                return lambda message: run(message, ())
            return lambda message: run(message, tuple([argument(message) for argument in compiled]))
        case Unary(operator="NOT", operand=operand):
            return _not(compile_expression(operand, whole_is_int=whole_is_int))
        case Unary(operand=operand):
            return _binary(
                _subtract, _constant(0), compile_expression(operand, whole_is_int=whole_is_int), whole_is_int
            )
        case Chain(operator=operator, operands=operands):
            compiled = tuple(compile_expression(operand, whole_is_int=whole_is_int) for operand in operands)
            return _all(compiled) if operator == "AND" else _any(compiled)
        case Binary(operator=operator, left=left, right=right):
            a, b = (
                compile_expression(left, whole_is_int=whole_is_int),
                compile_expression(right, whole_is_int=whole_is_int),
            )
            if operator in _ARITHMETIC:
                return _binary(_ARITHMETIC[operator], a, b, whole_is_int)
            return _COMPARE[operator](a, b)


def reads_payload(node: Node) -> bool:
    """Whether the value of the expression can depend on the payload."""
    return _reads(node)


def compile_text(text: str, *, whole_is_int: bool = True) -> Expression:
    return compile_expression(parser.expression(text), whole_is_int=whole_is_int)


def plain(value: Value) -> JsonValue:
    """As JSON has it. A Decimal becomes an int when it is whole and fits, else the nearest double."""
    if isinstance(value, Decimal):
        if value == value.to_integral_value() and abs(value) < _INT_LIMIT:
            return int(value)
        return float(value)
    assert value is not UNDEFINED
    return value


def to_text(value: Value) -> str | None:
    """Conversion to String (AWS, "Conversions"); None where AWS says Undefined."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)
        case Decimal():
            return to_text(plain(value))
        case list() | dict():
            return codec.dumps(value).decode()
        case _:
            return None


def to_bool(value: Value) -> bool | None:
    """Booleans, and strings that say true or false in any case; None for all else."""
    if value is True or value is False:
        return value
    if isinstance(value, str):
        lower = value.lower()
        if lower == "true":
            return True
        if lower == "false":
            return False
    return None


def to_number(value: Value) -> Number | None:
    """Int or Decimal; None for what does not convert (booleans too: AWS wants cast())."""
    if type(value) is int:
        return value
    if isinstance(value, float):
        return _finite(Decimal(repr(value)))
    if isinstance(value, Decimal):
        return value
    if isinstance(value, str) and _NUMERAL.fullmatch(value):
        try:
            return _finite(_DIGITS.create_decimal(value))
        except DecimalException:
            return None
    return None


def _finite(value: Decimal) -> Decimal | None:
    return value if value.is_finite() else None


def _reads(node: Node) -> bool:
    match node:
        case Path():
            return True
        case Call(arguments=nodes) | Chain(operands=nodes):
            return any(_reads(below) for below in nodes)
        case Unary(operand=operand):
            return _reads(operand)
        case Binary(left=left, right=right):
            return _reads(left) or _reads(right)
        case Literal():
            return False


def _condition(node: Node | None, whole_is_int: bool) -> Callable[[Message], bool]:
    if node is None:
        return lambda _message: True
    run = compile_expression(node, whole_is_int=whole_is_int)
    # Only the Boolean true lets a message through: Undefined, "true" and 1 do not (our choice for the latter two).
    return lambda message: run(message) is True


def _constant(value: Value) -> Expression:
    if isinstance(value, Decimal) and len(value.as_tuple().digits) <= 15 and abs(value.adjusted()) < 300:
        # Exactly as many digits as a double keeps: compares with payloads' doubles without a conversion.
        value = float(value)
    return lambda _message: value


def _field(name: str) -> Expression:
    def field(message: Message) -> Value:
        payload = message.payload
        if type(payload) is dict:
            return payload.get(name, UNDEFINED)
        return UNDEFINED

    return field


def _path(parts: tuple[str, ...]) -> Expression:
    def path(message: Message) -> Value:
        value: JsonValue = message.payload  # type: ignore[assignment]  # UNDEFINED fails the first isinstance
        for part in parts:
            if not isinstance(value, dict) or part not in value:
                return UNDEFINED
            value = value[part]
        return value

    return path


def _not(operand: Expression) -> Expression:
    def negation(message: Message) -> Value:
        value = to_bool(operand(message))
        return UNDEFINED if value is None else not value

    return negation


def _all(operands: tuple[Expression, ...]) -> Expression:
    # AWS: any operand that is neither Boolean nor "true"/"false" makes the whole Undefined, whatever the others are.
    def conjunction(message: Message) -> Value:
        result = True
        for operand in operands:
            value = operand(message)
            if value is True:
                continue
            truth = to_bool(value)
            if truth is None:
                return UNDEFINED
            result = result and truth
        return result

    return conjunction


def _any(operands: tuple[Expression, ...]) -> Expression:
    def disjunction(message: Message) -> Value:
        result = False
        for operand in operands:
            truth = to_bool(operand(message))
            if truth is None:
                return UNDEFINED
            result = result or truth
        return result

    return disjunction


def _ordered(left: Value, right: Value) -> tuple[Number, Number] | None:
    a, b = to_number(left), to_number(right)
    return None if a is None or b is None else (a, b)


def _greater(left: Expression, right: Expression) -> Expression:
    def greater(message: Message) -> Value:
        a, b = left(message), right(message)
        if (type(a) is int or type(a) is float) and (type(b) is int or type(b) is float):
            return a > b
        pair = _ordered(a, b)
        return UNDEFINED if pair is None else pair[0] > pair[1]

    return greater


def _greater_equal(left: Expression, right: Expression) -> Expression:
    def greater_equal(message: Message) -> Value:
        a, b = left(message), right(message)
        if (type(a) is int or type(a) is float) and (type(b) is int or type(b) is float):
            return a >= b
        pair = _ordered(a, b)
        return UNDEFINED if pair is None else pair[0] >= pair[1]

    return greater_equal


def _less(left: Expression, right: Expression) -> Expression:
    return _greater(right, left)


def _less_equal(left: Expression, right: Expression) -> Expression:
    return _greater_equal(right, left)


def _same(a: Value, b: Value) -> bool:
    """Equality of two defined values. Int and Decimal are one kind; true is not 1; the order of keys does not count."""
    if type(a) is bool or type(b) is bool:
        return a is b
    if isinstance(a, int | float | Decimal) and isinstance(b, int | float | Decimal):
        # 0.1 in a payload equals 0.1 in the statement, though one is a double and the other is not.
        first, second = to_number(a), to_number(b)
        return first is not None and first == second
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    return type(a) is type(b) and a == b


def _equal(left: Expression, right: Expression) -> Expression:
    def equal(message: Message) -> Value:
        a, b = left(message), right(message)
        if a is UNDEFINED or b is UNDEFINED:
            return UNDEFINED
        if type(a) is str and type(b) is str:
            return a == b
        return _same(a, b)

    return equal


def _not_equal(left: Expression, right: Expression) -> Expression:
    def not_equal(message: Message) -> Value:
        a, b = left(message), right(message)
        if a is UNDEFINED or b is UNDEFINED:
            return UNDEFINED
        return not _same(a, b)

    return not_equal


_COMPARE: Final[Mapping[str, Callable[[Expression, Expression], Expression]]] = {
    "=": _equal,
    "<>": _not_equal,
    "<": _less,
    "<=": _less_equal,
    ">": _greater,
    ">=": _greater_equal,
}

Arithmetic: TypeAlias = Callable[[Value, Value, bool], Value]


def _binary(work: Arithmetic, left: Expression, right: Expression, whole_is_int: bool) -> Expression:
    return lambda message: work(left(message), right(message), whole_is_int)


def _pair(left: Value, right: Value, whole_is_int: bool) -> tuple[Number, Number] | None:
    """Both as numbers: Ints stay Ints only when neither came from a string (AWS: then the result is a Decimal)."""
    a, b = to_number(left), to_number(right)
    if a is None or b is None:
        return None
    if isinstance(left, str) or isinstance(right, str):
        return Decimal(a), Decimal(b)
    if whole_is_int:
        return _whole(a), _whole(b)
    return a, b


def _whole(value: Number) -> Number:
    if isinstance(value, Decimal) and abs(value) < _INT_LIMIT and value == value.to_integral_value():
        return int(value)
    return value


def _bounded(value: int) -> Value:
    """Ints have 34 digits; beyond that the result is a Decimal rounded to them (our choice)."""
    if -_INT_LIMIT < value < _INT_LIMIT:
        return value
    try:
        return _DIGITS.create_decimal(value)
    except DecimalException:
        return UNDEFINED


def _decimal(work: Callable[[Decimal, Decimal], Decimal], a: Number, b: Number) -> Value:
    try:
        made = _finite(work(Decimal(a), Decimal(b)))
    except DecimalException:
        return UNDEFINED
    return UNDEFINED if made is None else made


def _add(left: Value, right: Value, whole_is_int: bool) -> Value:
    if isinstance(left, str) or isinstance(right, str):
        a, b = to_text(left), to_text(right)
        return UNDEFINED if a is None or b is None else a + b
    pair = _pair(left, right, whole_is_int)
    if pair is None:
        return UNDEFINED
    if isinstance(pair[0], int) and isinstance(pair[1], int):
        return _bounded(pair[0] + pair[1])
    return _decimal(_DIGITS.add, *pair)


def _subtract(left: Value, right: Value, whole_is_int: bool) -> Value:
    pair = _pair(left, right, whole_is_int)
    if pair is None:
        return UNDEFINED
    if isinstance(pair[0], int) and isinstance(pair[1], int):
        return _bounded(pair[0] - pair[1])
    return _decimal(_DIGITS.subtract, *pair)


def _multiply(left: Value, right: Value, whole_is_int: bool) -> Value:
    pair = _pair(left, right, whole_is_int)
    if pair is None:
        return UNDEFINED
    if isinstance(pair[0], int) and isinstance(pair[1], int):
        return _bounded(pair[0] * pair[1])
    return _decimal(_DIGITS.multiply, *pair)


def _divide(left: Value, right: Value, whole_is_int: bool) -> Value:
    pair = _pair(left, right, whole_is_int)
    if pair is None or pair[1] == 0:
        return UNDEFINED
    a, b = pair
    if isinstance(a, int) and isinstance(b, int):
        quotient = abs(a) // abs(b)  # toward zero, as the JVM divides
        return _bounded(quotient if (a < 0) == (b < 0) else -quotient)
    return _decimal(_DIGITS.divide, a, b)


def _remainder(left: Value, right: Value, whole_is_int: bool) -> Value:
    pair = _pair(left, right, whole_is_int)
    if pair is None or pair[1] == 0:
        return UNDEFINED
    a, b = pair
    if isinstance(a, int) and isinstance(b, int):
        rest = abs(a) % abs(b)  # the sign of the left operand, as the JVM has it
        return _bounded(-rest if a < 0 else rest)
    return _decimal(_DIGITS.remainder, a, b)


_ARITHMETIC: Final[Mapping[str, Arithmetic]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "%": _remainder,
}
