"""How an operation is declared, and what it is given."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, TypeAlias

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import (
    Conflict,
    Denied,
    Invalid,
    LimitExceeded,
    MarramError,
    NotFound,
    Unavailable,
    Unsupported,
    VersionConflict,
)
from marram.edge.ipc import model
from marram.edge.ipc.ports import Core
from marram.kit.registry import Declared


class Stream(Protocol):
    """The events of one call. Sending on a closed stream does nothing."""

    def send(self, body: bytes) -> None:
        """One event, a JSON body of the operation's stream shape. Dropped and counted when the subscriber does not read."""
        ...

    def on_close(self, done: Callable[[], None]) -> None: ...


class Call(Protocol):
    """One request. `component` is who asks, by the token it connected with."""

    component: str
    operation: str

    def stream(self) -> Stream:
        """Events may be sent at once; they leave after the response."""
        ...


Answer: TypeAlias = JsonObject
Handler: TypeAlias = Callable[[Core, Call, model.Request], Answer | Awaitable[Answer]]

HANDLERS: Final[Declared[Handler]] = Declared("IPC operation")
FAULTS: dict[str, dict[type[MarramError], str]] = {}

DEFAULT_FAULTS: Final[Mapping[type[MarramError], str]] = {
    Denied: "UnauthorizedError",
    Invalid: "InvalidArgumentsError",
    LimitExceeded: "InvalidArgumentsError",
    NotFound: "ResourceNotFoundError",
    Conflict: "ConflictError",
    VersionConflict: "ConflictError",
    Unavailable: "ServiceError",
    Unsupported: "ServiceError",
    MarramError: "ServiceError",
}


def ipc(name: str, *, faults: Mapping[type[MarramError], str] | None = None) -> Callable[[Handler], Handler]:
    """Declare the function that serves operation `name`; `faults` are its own names for some errors."""
    if name not in model.OPERATIONS:
        raise RuntimeError(f"{name} is not an operation of the model")

    def declare(handler: Handler) -> Handler:
        HANDLERS.add(name, handler)
        FAULTS[name] = dict(faults or {})
        return handler

    return declare


def fault(operation: str, error: BaseException) -> tuple[str, JsonObject]:
    """(shape, body) of the error that a client sees."""
    own = FAULTS.get(operation, {})
    name, message = "ServiceError", "internal error, see the log of the nucleus"
    if isinstance(error, MarramError):
        message = error.message
        for cls in type(error).__mro__:
            if found := own.get(cls) or DEFAULT_FAULTS.get(cls):
                name = found
                break
    extra: dict[str, str] = {}
    if name == "ResourceNotFoundError" and isinstance(error, MarramError):
        extra = {
            "resourceType": str(error.data.get("resource_type", "")),
            "resourceName": str(error.data.get("resource_name", "")),
        }
    return model.PREFIX + name, model.error_body(name, message, **extra)


def need(port: object | None, operation: str, what: str) -> None:
    """Raises Unsupported when the core runs without `what`."""
    if port is None:
        raise Unsupported(f"{operation.removeprefix(model.PREFIX)} is not available: this core runs without {what}")


def document(value: object) -> JsonValue:
    """A member that the model calls a document, as JSON."""
    return value  # type: ignore[return-value]  # it came from the JSON reader and is unchanged


def event(body: JsonObject) -> bytes:
    return codec.dumps(body)
