"""The functions of IoT SQL, one declaration each. Adding one: a function below with `@function`, rows in tests/vectors/sql.

A function gets the message and its evaluated arguments and returns a value or UNDEFINED; it never raises for a wrong type
(AWS: "functions called with invalid arguments return Undefined"). Source: AWS IoT developer guide, "Functions".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Final, Literal, TypeAlias

from marram.core.codec import JsonValue


class Undefined(Enum):
    """Not a value: what a missing field is. An enum, so that `is UNDEFINED` narrows the type."""

    UNDEFINED = "undefined"

    def __bool__(self) -> Literal[False]:
        return False


UNDEFINED: Final = Undefined.UNDEFINED

# What JSON has, decimals of up to 34 digits, and UNDEFINED.
Value: TypeAlias = "JsonValue | Decimal | Undefined"


@dataclass(slots=True)
class Message:
    """What a statement is evaluated over. `payload` is UNDEFINED when it is not JSON; `received_ms` is when the hub got it."""

    topic: str
    received_ms: int
    payload: "JsonValue | Undefined"


@dataclass(frozen=True, slots=True)
class Function:
    """A function under its name, with the number of arguments it takes."""

    name: str
    least: int
    most: int
    run: Callable[[Message, tuple[Value, ...]], Value]


_declared: Final[dict[str, Function]] = {}
FUNCTIONS: Final[Mapping[str, Function]] = _declared

Body: TypeAlias = Callable[[Message, tuple[Value, ...]], Value]


def function(name: str, least: int = 0, most: int | None = None) -> Callable[[Body], Body]:
    """Declare the function `name` with `least` to `most` arguments."""

    def declare(body: Body) -> Body:
        if name in _declared:
            raise RuntimeError(f"the SQL function {name} is declared twice")
        _declared[name] = Function(name, least, least if most is None else most, body)
        return body

    return declare


@function("topic", 0, 1)
def topic(message: Message, arguments: tuple[Value, ...]) -> Value:
    """The topic, or its level n counted from 1; UNDEFINED when there is no such level (AWS: topic(Decimal))."""
    if not arguments:
        return message.topic
    level = arguments[0]
    if isinstance(level, bool) or not isinstance(level, int | float | Decimal) or level != int(level) or level < 1:
        return UNDEFINED
    levels = message.topic.split("/")
    return levels[int(level) - 1] if level <= len(levels) else UNDEFINED


@function("timestamp")
def timestamp(message: Message, _arguments: tuple[Value, ...]) -> Value:
    """Unix milliseconds at which the hub received the message."""
    return message.received_ms


# Names of AWS's functions that are not here yet: "not supported" and "unknown" are different answers.
# fmt: off
AWS_NAMES: Final = frozenset((
    "abs", "accountid", "acos", "asin", "atan", "atan2", "aws_lambda", "bitand", "bitor", "bitxor", "bitnot",
    "cast", "ceil", "chr", "clientid", "concat", "cos", "cosh", "decode", "encode", "endswith", "exp", "floor",
    "get", "get_dynamodb", "get_mqtt_property", "get_or_default", "get_registry_data", "get_secret", "get_shadow",
    "get_thing_shadow", "get_user_properties", "hashCode", "indexof", "isNull", "isUndefined", "isnull", "length",
    "ln", "log", "lower", "lpad", "ltrim", "machinelearning_predict", "md2", "md5", "mod", "mqttVersion", "nanvl",
    "newuuid", "numbytes", "parse_time", "power", "principal", "rand", "regexp_matches", "regexp_replace",
    "regexp_substr", "remainder", "replace", "round", "rpad", "rtrim", "sha1", "sha224", "sha256", "sha384",
    "sha512", "sign", "sin", "sinh", "sourceip", "sqrt", "startswith", "substring", "tan", "tanh",
    "time_to_epoch", "traceid", "transform", "trim", "trunc", "upper", "array", "append", "avg", "count", "max",
    "min", "sum",
))
# fmt: on


def why_absent(name: str) -> str:
    """The sentence that says why `name` cannot be called."""
    have = ", ".join(f"{known}()" for known in sorted(FUNCTIONS))
    if name in AWS_NAMES:
        return f"the function {name}() is not supported here (there are {have})"
    lower = name.lower()
    if lower in FUNCTIONS:
        return f"unknown function {name}(); it is written {lower}()"
    return f"unknown function {name}() (there are {have})"
