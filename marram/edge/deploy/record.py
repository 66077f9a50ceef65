"""A deployment on record: its words and its row, as everybody may see them."""

from dataclasses import dataclass
from typing import Final

from marram.core.codec import JsonObject

QUEUED: Final = "QUEUED"
IN_PROGRESS: Final = "IN_PROGRESS"
SUCCEEDED: Final = "SUCCEEDED"
FAILED: Final = "FAILED"
CANCELED: Final = "CANCELED"
REJECTED: Final = "REJECTED"
TERMINAL: Final = frozenset({SUCCEEDED, FAILED, CANCELED, REJECTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One row. `detail`: {detailed-deployment-status, deployment-failure-cause, changes, ...} as far as it has come."""

    number: int
    id: str
    target: str
    source: str
    document: JsonObject
    phase: str
    status: str
    detail: JsonObject
    snapshot: JsonObject
    reported: bool
    created_ms: int
    updated_ms: int

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    def as_json(self) -> JsonObject:
        return {
            "id": self.id,
            "target": self.target,
            "status": self.status,
            "phase": self.phase,
            "detail": self.detail,
            "created_ms": self.created_ms,
            "updated_ms": self.updated_ms,
        }
