"""Errors of ours as each AWS service names them. The one table; slices never choose a code.

Candidates stand in the order of preference: the first that the called operation declares in its model is taken, else the
first that the service's model knows, else the first. The status is the model's; the table's where the model has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from marram.core.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    Denied,
    Invalid,
    LimitExceeded,
    MarramError,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unsupported,
    VersionConflict,
)
from marram.hub.border.plans import Plan, PlannedOperation
from marram.kit.disk import DiskFull


@dataclass(frozen=True, slots=True)
class Fault:
    code: str
    status: int


Candidates = tuple[str, ...]
Key = tuple[type[MarramError], str]

_IOT: Final[Mapping[Key, Candidates]] = {
    (Invalid, ""): ("InvalidRequestException", "ValidationException"),
    (Invalid, "sql"): ("SqlParseException", "InvalidRequestException"),
    (Invalid, "policy"): ("MalformedPolicyException", "InvalidRequestException"),
    (Invalid, "certificate"): ("CertificateValidationException", "InvalidRequestException"),
    (Invalid, "registration_code"): ("RegistrationCodeValidationException", "InvalidRequestException"),
    (Invalid, "query"): ("InvalidQueryException", "InvalidRequestException"),
    (Invalid, "aggregation"): ("InvalidAggregationException", "InvalidRequestException"),
    (Denied, ""): ("AccessDeniedException",),
    (NotFound, ""): ("ResourceNotFoundException",),
    (NotFound, "rule"): ("UnauthorizedException", "ResourceNotFoundException"),
    (AlreadyExists, ""): ("ResourceAlreadyExistsException", "ConflictException", "InvalidRequestException"),
    (VersionConflict, ""): ("VersionConflictException", "ConflictException"),
    (Conflict, ""): ("DeleteConflictException", "ConflictException", "InvalidStateTransitionException", "InvalidRequestException"),
    (Conflict, "index"): ("IndexNotReadyException", "InvalidRequestException"),
    (Conflict, "certificate_state"): ("CertificateStateException", "InvalidRequestException"),
    (Conflict, "certificate"): ("CertificateConflictException", "InvalidRequestException"),
    (Conflict, "resource"): ("ConflictingResourceUpdateException", "InvalidRequestException"),
    (LimitExceeded, ""): ("LimitExceededException", "InvalidRequestException"),
    (LimitExceeded, "versions"): ("VersionsLimitExceededException", "LimitExceededException"),
    (LimitExceeded, "rate"): ("ThrottlingException",),
    (Unavailable, ""): ("ServiceUnavailableException",),
}  # fmt: skip
_IOT_DATA: Final[Mapping[Key, Candidates]] = {
    (Invalid, ""): ("InvalidRequestException",),
    (Invalid, "encoding"): ("UnsupportedDocumentEncodingException", "InvalidRequestException"),
    (Denied, ""): ("ForbiddenException",),
    (NotFound, ""): ("ResourceNotFoundException",),
    (AlreadyExists, ""): ("ConflictException",),
    (VersionConflict, ""): ("ConflictException",),
    (Conflict, ""): ("ConflictException",),
    (LimitExceeded, ""): ("RequestEntityTooLargeException", "InvalidRequestException"),
    (LimitExceeded, "rate"): ("ThrottlingException",),
    (Unavailable, "timeout"): ("GatewayTimeoutException", "ServiceUnavailableException"),
    (Unavailable, ""): ("ServiceUnavailableException",),
}
_JOBS_DATA: Final[Mapping[Key, Candidates]] = {
    (Invalid, ""): ("InvalidRequestException",),
    (Denied, ""): ("ForbiddenException",),  # in no model; as its sister iot-data, on the same endpoint
    (NotFound, ""): ("ResourceNotFoundException",),
    (VersionConflict, ""): ("InvalidStateTransitionException", "InvalidRequestException"),
    (Conflict, ""): ("InvalidStateTransitionException", "InvalidRequestException"),
    (Conflict, "terminal"): ("TerminalStateException", "InvalidRequestException"),
    (LimitExceeded, ""): ("ThrottlingException",),
    (Unavailable, ""): ("ServiceUnavailableException",),
}
_GREENGRASS: Final[Mapping[Key, Candidates]] = {
    (Invalid, ""): ("ValidationException",),
    (Denied, ""): ("AccessDeniedException",),
    (NotFound, ""): ("ResourceNotFoundException",),
    (AlreadyExists, ""): ("ConflictException",),
    (VersionConflict, ""): ("ConflictException",),
    (Conflict, ""): ("ConflictException",),
    (LimitExceeded, ""): ("ServiceQuotaExceededException",),
    (LimitExceeded, "rate"): ("ThrottlingException",),
    (Unavailable, ""): ("InternalServerException",),
}
_S3: Final[Mapping[Key, Candidates]] = {
    (Invalid, ""): ("InvalidArgument",),
    (Invalid, "bucket_name"): ("InvalidBucketName",),
    (Invalid, "key_length"): ("KeyTooLongError",),
    (Invalid, "malformed_xml"): ("MalformedXML",),
    (Invalid, "range"): ("InvalidRange",),
    (Invalid, "part"): ("InvalidPart",),
    (Invalid, "part_order"): ("InvalidPartOrder",),
    (Invalid, "part_size"): ("EntityTooSmall",),
    (Invalid, "digest"): ("BadDigest",),
    (Invalid, "incomplete_body"): ("IncompleteBody",),
    (Denied, ""): ("AccessDenied",),
    (NotFound, ""): ("NoSuchKey",),
    (NotFound, "bucket"): ("NoSuchBucket",),
    (NotFound, "upload"): ("NoSuchUpload",),
    (AlreadyExists, ""): ("BucketAlreadyOwnedByYou",),
    (Conflict, ""): ("OperationAborted",),
    (Conflict, "bucket_not_empty"): ("BucketNotEmpty",),
    (VersionConflict, ""): ("PreconditionFailed",),
    (LimitExceeded, ""): ("EntityTooLarge",),
    (LimitExceeded, "rate"): ("SlowDown",),
    (Unavailable, ""): ("ServiceUnavailable",),
}
_IAM: Final[Mapping[Key, Candidates]] = {
    (Invalid, ""): ("ValidationError",),
    (Invalid, "input"): ("InvalidInputException", "ValidationError"),
    (Invalid, "policy"): ("MalformedPolicyDocumentException",),
    (Denied, ""): ("AccessDenied",),
    (NotFound, ""): ("NoSuchEntityException",),
    (AlreadyExists, ""): ("EntityAlreadyExistsException",),
    (VersionConflict, ""): ("ConcurrentModificationException",),
    (Conflict, ""): ("DeleteConflictException", "UnmodifiableEntityException", "InvalidInputException"),
    (Conflict, "unmodifiable"): ("UnmodifiableEntityException", "InvalidInputException"),
    (LimitExceeded, ""): ("LimitExceededException",),
    (LimitExceeded, "rate"): ("Throttling",),
    (Unavailable, ""): ("ServiceUnavailable",),
}
_STS: Final[Mapping[Key, Candidates]] = {
    (Invalid, ""): ("ValidationError",),
    (Invalid, "policy"): ("MalformedPolicyDocumentException", "ValidationError"),
    (Denied, ""): ("AccessDenied",),
    (NotFound, ""): ("ValidationError",),
    (LimitExceeded, ""): ("ValidationError",),
    (LimitExceeded, "rate"): ("Throttling",),
    (Unavailable, ""): ("ServiceUnavailable",),
}
_SAGEMAKER: Final[Mapping[Key, Candidates]] = {
    (Invalid, ""): ("ValidationException",),
    (Denied, ""): ("AccessDeniedException",),
    (NotFound, ""): (
        "ValidationException",
    ),  # whatever the model declares: observed of DescribeTrainingJob (boto3 issue 2808)
    (AlreadyExists, ""): ("ResourceInUse", "ValidationException"),
    (VersionConflict, ""): ("ConflictException",),
    (Conflict, ""): ("ConflictException", "ResourceInUse", "ValidationException"),
    (LimitExceeded, ""): ("ResourceLimitExceeded",),
    (LimitExceeded, "rate"): ("ThrottlingException",),
    (Unavailable, ""): ("ServiceUnavailable",),
}
_MARRAM: Final[Mapping[Key, Candidates]] = {
    (Invalid, ""): ("InvalidRequestException",),
    (Denied, ""): ("AccessDeniedException",),
    (NotFound, ""): ("ResourceNotFoundException",),
    (AlreadyExists, ""): ("ResourceAlreadyExistsException",),
    (VersionConflict, ""): ("VersionConflictException",),
    (Conflict, ""): ("ConflictException",),
    (LimitExceeded, ""): ("LimitExceededException",),
    (LimitExceeded, "rate"): ("ThrottlingException",),
    (Unavailable, ""): ("ServiceUnavailableException",),
}
FAULTS: Final[Mapping[str, Mapping[Key, Candidates]]] = {
    "iot": _IOT, "iot-data": _IOT_DATA, "iot-jobs-data": _JOBS_DATA, "greengrassv2": _GREENGRASS, "s3": _S3, "sts": _STS,
    "iam": _IAM, "sagemaker": _SAGEMAKER, "marram": _MARRAM,
}  # fmt: skip

# Who asks is not known: the same in all services but for these names.
_QUERY: Final[Mapping[str, str]] = {
    "unknown_key": "InvalidClientTokenId", "token": "InvalidClientTokenId", "token_expired": "ExpiredToken",
    "expired": "SignatureDoesNotMatch", "incomplete": "IncompleteSignature", "missing": "MissingAuthenticationToken",
}  # fmt: skip
_UNAUTHENTICATED: Final[Mapping[str, Mapping[str, str]]] = {
    "s3": {"unknown_key": "InvalidAccessKeyId", "token": "InvalidToken", "clock": "RequestTimeTooSkewed",
           "token_expired": "ExpiredToken", "expired": "AccessDenied", "incomplete": "AuthorizationHeaderMalformed",
           "missing": "AccessDenied", "unsigned_header": "AccessDenied"},
    "sts": _QUERY,
    "iam": _QUERY,
    # Observed of both endpoints of IoT (aws-sdk-js issue 1704, aws-sdk-ruby issues 1052 and 1064, ex_aws issue 701).
    "iot-data": {"": "ForbiddenException"},
    "iot-jobs-data": {"": "ForbiddenException"},
    "": {"unknown_key": "UnrecognizedClientException", "token": "UnrecognizedClientException",
         "token_expired": "ExpiredTokenException", "expired": "ExpiredTokenException",
         "incomplete": "IncompleteSignatureException", "missing": "MissingAuthenticationTokenException",
         "": "InvalidSignatureException"},
}  # fmt: skip

# Statuses of codes that no model states.
_STATUS: Final[Mapping[str, int]] = {
    "AccessDenied": 403, "AccessDeniedException": 403, "InvalidArgument": 400, "InvalidRange": 416, "NoSuchKey": 404,
    "NoSuchBucket": 404, "NoSuchUpload": 404, "BucketNotEmpty": 409, "BucketAlreadyOwnedByYou": 409, "OperationAborted": 409,
    "PreconditionFailed": 412, "NotModified": 304, "EntityTooLarge": 413, "SlowDown": 503, "ServiceUnavailable": 503,
    "ServiceUnavailableException": 503, "InternalServerException": 500, "ConflictException": 409,
    "ForbiddenException": 403, "AuthorizationHeaderMalformed": 400, "IncompleteSignature": 400, "IncompleteSignatureException": 400,
    "ThrottlingException": 429, "s3 ExpiredToken": 400, "s3 InvalidToken": 400,
}  # fmt: skip

INTERNAL: Final[Mapping[str, str]] = {
    "s3": "InternalError", "sts": "InternalFailure", "iam": "InternalFailure", "greengrassv2": "InternalServerException",
    "sagemaker": "InternalFailure",
}  # fmt: skip


def fault(plan: Plan, error: BaseException, operation: PlannedOperation | None = None) -> Fault:
    """The nearest declared fault for `error`, walking up its classes; INTERNAL when there is none."""
    service = plan.service
    if isinstance(error, Unsupported):
        return Fault("NotImplementedException", 501)
    if isinstance(error, Unauthenticated):
        names = _UNAUTHENTICATED.get(service, _UNAUTHENTICATED[""])
        code = names.get(str(error.data.get("reason", ""))) or names.get("", "SignatureDoesNotMatch")
        return Fault(code, _STATUS.get(f"{service} {code}") or _STATUS.get(code, 403))
    if isinstance(error, MarramError) and not isinstance(error, Corrupt):
        kind = str(error.data.get("kind", ""))
        table = FAULTS[service]
        for cls in type(error).__mro__:
            candidates = table.get((cls, kind)) or table.get((cls, ""))
            if candidates:
                chosen = _choose(plan, candidates, operation)
                # No AWS service runs out of disk. A status of its own, which SDKs do not retry: trying again does not help.
                return Fault(chosen.code, 507) if isinstance(error, DiskFull) else chosen
    return Fault(INTERNAL.get(service, "InternalFailureException"), 500)


def _choose(plan: Plan, candidates: Candidates, operation: PlannedOperation | None) -> Fault:
    declared = operation.errors if operation is not None else ()
    code = next((name for name in candidates if name in declared), None)
    if code is None:
        code = next((name for name in candidates if plan.error_status(name) is not None), candidates[0])
    status = plan.error_status(code)
    code = plan.error_code(code)
    if plan.protocol == "json":
        stated = status is not None and "httpStatusCode" in plan.shapes[code]["error"]
        assumed = _STATUS.get(code, 400)  # this protocol says 400 to all faults of the caller
        return Fault(code, cast(int, status) if stated else assumed if assumed >= 500 else 400)
    # The shapes of S3's errors mostly state no status.
    if status is None or plan.service == "s3":
        return Fault(code, _STATUS.get(code, 400))
    return Fault(code, status)


def message(error: BaseException) -> str:
    """What the caller reads. Faults of ours say nothing but where to look: the log has the traceback."""
    if isinstance(error, MarramError) and not isinstance(error, Corrupt):
        return error.message
    return "The hub failed to answer this request; its log names the reason under the request id."
