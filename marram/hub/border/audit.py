"""What the API door tells of administrative acts: which operations are acts, and the port that a slice fills.

An act is every operation that changes something and is not of the data plane: what devices and programs do all day (publishing,
shadows, objects, job executions) is in metrics and logs. Not here: what is kept of it (hub/audit).
"""

from collections.abc import Sequence
from typing import Final, Protocol

from marram.hub.slice import Act, Call, Operation

OK: Final = "OK"
# Verbs that only look, or try something out.
LOOKS: Final = (
    "Get", "List", "Describe", "Search", "Head", "Test", "Validate", "Verify", "Explain", "Try", "Query", "Latest", "Simulate",
    "DryRun",
)  # fmt: skip
ALWAYS: Final = (
    frozenset(  # whatever they are called, and of whichever plane: who got credentials, who put a device out
        {("sts", "GetSessionToken"), ("iot-data", "DeleteConnection")}
    )
)
DATA_PLANE: Final = frozenset({"iot-data", "iot-jobs-data"})
POINTS: Final = "timeseries/Write"
OBJECTS: Final = ("Object", "Part", "MultipartUpload")  # of s3; its buckets are an administrator's


class Auditor(Protocol):
    async def record(self, call: Call, operation: Act, resources: Sequence[str], outcome: str) -> None:
        """One act, after it has ended. `outcome`: OK, or the code of the error that the caller was answered with.

        `resources`: the ARNs that its permission was asked on; empty when it failed before that (a member that is missing).
        A failure here is logged, and the caller is answered all the same: what was done is done.
        """
        ...


class NoAuditor:
    """Until a slice keeps an audit log."""

    async def record(self, call: Call, operation: Act, resources: Sequence[str], outcome: str) -> None:
        return None


def is_act(operation: Operation) -> bool:
    """Whether an administrator's log has a line for it."""
    name = operation.name.rpartition("/")[2]
    if (operation.service, operation.name) in ALWAYS:
        return True
    if operation.service in DATA_PLANE or operation.name == POINTS or name.startswith(LOOKS):
        return False
    return operation.service != "s3" or not any(word in name for word in OBJECTS)
