"""The exceptions of Marram, named for what the caller can do about them.

They carry data, never wire codes: each border owns the table that turns a class into AWS's name and status.
A leaf class that a person meets at a terminal sets `code` to its MRM number (docs/errors.md lists them).
"""

from typing import ClassVar


class MarramError(Exception):
    """Root of the hierarchy. `data` holds what the message names, so that a border can render it in its own form."""

    code: ClassVar[str] = ""

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class Invalid(MarramError):
    """The request is wrong: change it. Also every refusal of untrusted bytes."""


class Denied(MarramError):
    """The principal is known and may not. Names action and resource where that is no secret."""


class Unauthenticated(Denied):
    """It is not known who asks: wrong key, wrong signature, unknown or revoked certificate."""


class NotFound(MarramError):
    """The named thing does not exist."""


class AlreadyExists(MarramError):
    """The name is taken, by something that differs from what was asked for."""


class VersionConflict(MarramError):
    """The caller's expected version is not the stored one: read again."""


class Conflict(MarramError):
    """The present state does not allow it: still attached, still active, already finished."""


class LimitExceeded(MarramError):
    """A size, count or rate limit; `data` names the limit."""


class Unavailable(MarramError):
    """Not now: try again later. Nothing was done."""


class Unsupported(MarramError):
    """Known, and not supported here; the message names it and, where there is one, the alternative."""


class Corrupt(MarramError):
    """Stored data are not what was written. Stop and tell a person: guessing would lose more."""
