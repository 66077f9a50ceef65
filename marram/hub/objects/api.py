"""S3's operations. Members of a request that Marram does not honour are refused by name, never ignored."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from urllib.parse import quote, unquote

from marram.core.errors import Denied, Invalid, NotFound, Unsupported, VersionConflict
from marram.hub.objects.service import MAX_METADATA_BYTES, Listed, Objects
from marram.hub.objects.store import Stored
from marram.hub.slice import Call, Params, Result, anything, operation

_KEPT: Final = (
    "ContentType",
    "ContentEncoding",
    "ContentDisposition",
    "ContentLanguage",
    "CacheControl",
    "Expires",
    "Metadata",
)
# Statements about the transfer, which the door has checked, and values that mean what Marram does anyway.
_TRANSFER: Final = frozenset(
    {"Bucket", "Key", "Body", "ContentLength", "ContentMD5", "ChecksumAlgorithm", "ChecksumCRC32", "ChecksumCRC32C",
     "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256", "ChecksumType", "ChecksumMode", "ExpectedBucketOwner",
     "ExpectedSourceBucketOwner", "RequestPayer"}
)  # fmt: skip
_HARMLESS: Final[Mapping[str, frozenset[object]]] = {
    "ACL": frozenset({"private"}),
    "StorageClass": frozenset({"STANDARD"}),
    "ObjectOwnership": frozenset({"BucketOwnerEnforced"}),
    "OptionalObjectAttributes": frozenset(),
}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_MAX_PAGE: Final = 1000


def _bucket(call: Call, params: Params) -> str:
    return f"arn:aws:s3:::{params['Bucket']}"


def _object(call: Call, params: Params) -> str:
    return f"arn:aws:s3:::{params['Bucket']}/{params['Key']}"


def _only(call: Call, params: Params, *known: str) -> None:
    """Raises Unsupported for a member that is neither known to the operation nor harmless, Denied for another owner."""
    for name in ("ExpectedBucketOwner", "ExpectedSourceBucketOwner"):
        if params.get(name) not in (None, call.account):
            raise Denied(f"the bucket is owned by {call.account}, not by {name}")
    for name, value in params.items():
        if name in known or name in _TRANSFER:
            continue
        if name in _HARMLESS and value in _HARMLESS[name]:
            continue
        raise Unsupported(f"{name} is not supported here: leave it out")


def _not_internal(params: Params) -> None:
    """What slices keep in their buckets is theirs alone to change: the hub signs models that it finds there."""
    if str(params["Bucket"]).startswith("marram-"):
        raise Denied(f"the bucket {params['Bucket']} belongs to the hub: it can be read, not changed, by S3")


@operation("s3", "CreateBucket", resource=_bucket)
async def create_bucket(service: Objects, call: Call, params: Params) -> Result:
    _only(call, params, "CreateBucketConfiguration")
    where = params.get("CreateBucketConfiguration", {})
    if where.get("LocationConstraint") not in (None, call.region):
        raise Invalid(f"LocationConstraint must be {call.region}, the region of this hub")
    if where.keys() - {"LocationConstraint"}:
        raise Unsupported("CreateBucketConfiguration may only have LocationConstraint here")
    await service.create_bucket(params["Bucket"])
    return {"Location": f"/{params['Bucket']}"}


@operation("s3", "HeadBucket", resource=_bucket, action="s3:ListBucket")
async def head_bucket(service: Objects, call: Call, params: Params) -> Result:
    _only(call, params)
    await service.need_bucket(params["Bucket"])
    return {"BucketRegion": call.region}


@operation("s3", "DeleteBucket", resource=_bucket)
async def delete_bucket(service: Objects, call: Call, params: Params) -> Result:
    _not_internal(params)
    _only(call, params)
    await service.delete_bucket(params["Bucket"])
    return {}


@operation("s3", "GetBucketLocation", resource=_bucket)
async def get_bucket_location(service: Objects, call: Call, params: Params) -> Result:
    _only(call, params)
    await service.need_bucket(params["Bucket"])
    return {"LocationConstraint": call.region}


@operation("s3", "ListBuckets", resource=anything, action="s3:ListAllMyBuckets")
async def list_buckets(service: Objects, call: Call, params: Params) -> Result:
    _only(call, params, "Prefix", "MaxBuckets", "BucketRegion", "ContinuationToken")
    after = str(params.get("ContinuationToken") or "")
    prefix, limit = params.get("Prefix", ""), params.get("MaxBuckets", 10_000)
    found = [item for item in await service.buckets() if item[0].startswith(prefix) and item[0] > after]
    if params.get("BucketRegion") not in (None, call.region):
        found = []
    shown = found[:limit]
    return {
        "Buckets": [{"Name": name, "CreationDate": ms, "BucketRegion": call.region} for name, ms in shown],
        "Owner": {"ID": call.account},
        "ContinuationToken": shown[-1][0] if len(found) > limit else None,
        "Prefix": params.get("Prefix"),
    }


@operation("s3", "PutObject", resource=_object)
async def put_object(service: Objects, call: Call, params: Params) -> Result:
    _not_internal(params)
    _only(call, params, *_KEPT, "IfNoneMatch", "IfMatch")
    headers = _headers(params)
    checked = call.extra.get("body")
    source = params.get("Body", b"")
    stored = await service.put(params["Bucket"], params["Key"], source, headers=headers, check=_precondition(params))
    checksums: Mapping[str, str] = getattr(checked, "checksums", {})
    return {"ETag": f'"{stored.etag}"', **_checksum_members(checksums)}


def _checksum_members(checksums: Mapping[str, str]) -> dict[str, str]:
    out = {f"Checksum{name.upper()}": value for name, value in checksums.items()}
    if out:
        out["ChecksumType"] = "FULL_OBJECT"
    return out


def _precondition(params: Params) -> Callable[[Stored | None], None] | None:
    none_match, match = params.get("IfNoneMatch"), params.get("IfMatch")
    if none_match is None and match is None:
        return None
    if none_match not in (None, "*"):
        raise Unsupported('IfNoneMatch of a write may only be "*"')

    def check(before: Stored | None) -> None:
        if none_match is not None and before is not None:
            raise VersionConflict("At least one of the pre-conditions you specified did not hold: the object exists.")
        if match is not None:
            if before is None:
                raise NotFound("The specified key does not exist.")
            if match != "*" and before.etag != match.strip('"'):
                raise VersionConflict("At least one of the pre-conditions you specified did not hold: If-Match.")

    return check


@operation("s3", "GetObject", resource=_object)
async def get_object(service: Objects, call: Call, params: Params) -> Result:
    _only(call, params, "Range", *_CONDITIONS, *_OVERRIDES)
    stored = await service.stat(params["Bucket"], params["Key"])
    _check_conditions(params, stored)
    start, end, ranged = _range(params.get("Range"), stored)
    out = _describe(stored, params) | {"ContentLength": end - start, "Body": await service.open(stored, start, end)}
    if ranged:
        out["ContentRange"] = f"bytes {start}-{end - 1}/{stored.size}"
    return out


@operation("s3", "HeadObject", resource=_object, action="s3:GetObject")
async def head_object(service: Objects, call: Call, params: Params) -> Result:
    _only(call, params, "Range", *_CONDITIONS, *_OVERRIDES)
    stored = await service.stat(params["Bucket"], params["Key"])
    _check_conditions(params, stored)
    start, end, ranged = _range(params.get("Range"), stored)
    out = _describe(stored, params) | {"ContentLength": end - start}
    if ranged:
        out["ContentRange"] = f"bytes {start}-{end - 1}/{stored.size}"
    return out


_CONDITIONS: Final = ("IfMatch", "IfNoneMatch", "IfModifiedSince", "IfUnmodifiedSince")
_OVERRIDES: Final = (
    "ResponseCacheControl", "ResponseContentDisposition", "ResponseContentEncoding", "ResponseContentLanguage",
    "ResponseContentType", "ResponseExpires",
)  # fmt: skip


def _describe(stored: Stored, params: Params) -> dict[str, Any]:
    out: dict[str, Any] = {
        "AcceptRanges": "bytes",
        "ETag": f'"{stored.etag}"',
        "LastModified": stored.modified_ms // 1000 * 1000,
        "ContentType": "binary/octet-stream",
        **stored.headers,
    }
    for name in _OVERRIDES:
        if name in params:
            out[name.removeprefix("Response")] = params[name]
    return out


def _check_conditions(params: Params, stored: Stored) -> None:
    """RFC 9110, 13.2.2: the entity tags decide before the dates."""
    modified_ms = stored.modified_ms // 1000 * 1000
    if "IfMatch" in params:
        if not _tag_matches(params["IfMatch"], stored.etag):
            raise VersionConflict("At least one of the pre-conditions you specified did not hold: If-Match.")
    elif "IfUnmodifiedSince" in params and modified_ms > params["IfUnmodifiedSince"]:
        raise VersionConflict("At least one of the pre-conditions you specified did not hold: If-Unmodified-Since.")
    if "IfNoneMatch" in params:
        if _tag_matches(params["IfNoneMatch"], stored.etag):
            raise VersionConflict("not modified", kind="not_modified")
    elif "IfModifiedSince" in params and modified_ms <= params["IfModifiedSince"]:
        raise VersionConflict("not modified", kind="not_modified")


def _tag_matches(given: str, etag: str) -> bool:
    return given == "*" or any(tag.strip().removeprefix("W/").strip('"') == etag for tag in given.split(","))


def _range(text: str | None, stored: Stored) -> tuple[int, int, bool]:
    """(start, end exclusive, whether it is a part). Several ranges are answered with the whole object, as S3 does."""
    if text is None or "," in text:
        return 0, stored.size, False
    found = _RANGE.fullmatch(text.strip())
    if found is None or (not found[1] and not found[2]) or max(len(found[1]), len(found[2])) > 18:
        return 0, stored.size, False
    if not found[1]:
        start, end = max(0, stored.size - int(found[2])), stored.size
        satisfiable = int(found[2]) > 0 and stored.size > 0
    else:
        start = int(found[1])
        end = min(int(found[2]) + 1, stored.size) if found[2] else stored.size
        if found[2] and int(found[2]) < start:
            return 0, stored.size, False
        satisfiable = start < stored.size
    if not satisfiable:
        raise Invalid(f"The requested range is not satisfiable: the object has {stored.size} bytes.", kind="range")
    return start, end, True


@operation("s3", "CopyObject", resource=lambda call, params: _object(call, params), action="s3:PutObject")
async def copy_object(service: Objects, call: Call, params: Params) -> Result:
    _not_internal(params)
    copy_conditions = (
        "CopySourceIfMatch",
        "CopySourceIfNoneMatch",
        "CopySourceIfModifiedSince",
        "CopySourceIfUnmodifiedSince",
    )
    _only(
        call,
        params,
        "CopySource",
        "MetadataDirective",
        "TaggingDirective",
        *_KEPT,
        *copy_conditions,
        "IfNoneMatch",
        "IfMatch",
    )
    bucket, key = _copy_source(params["CopySource"])
    _may_read(call, bucket, key)
    source = await service.stat(bucket, key)
    _check_conditions(
        {name.removeprefix("CopySource"): params[name] for name in copy_conditions if name in params}, source
    )
    replaced = params.get("MetadataDirective", "COPY") == "REPLACE"
    if not replaced and (bucket, key) == (params["Bucket"], params["Key"]):
        raise Invalid("This copy request is illegal: an object is copied onto itself without changing its metadata.")
    made = await service.copy(
        source,
        params["Bucket"],
        params["Key"],
        headers=_headers(params) if replaced else None,
        check=_precondition(params),
    )
    return {"CopyObjectResult": {"ETag": f'"{made.etag}"', "LastModified": made.modified_ms}}


def _copy_source(text: str) -> tuple[str, str]:
    path, _, version = text.partition("?versionId=")
    if version:
        raise Unsupported("versionId is not supported here: buckets have no versions")
    bucket, _, key = unquote(path).removeprefix("/").partition("/")
    if not bucket or not key:
        raise Invalid("CopySource must be bucket/key")
    return bucket, key


def _may_read(call: Call, bucket: str, key: str) -> None:
    """The source of a copy is a second permission; the door decides it by what it put into the call."""
    allow = call.extra["authorise"]
    assert callable(allow)
    allow("s3:GetObject", f"arn:aws:s3:::{bucket}/{key}")


@operation("s3", "DeleteObject", resource=_object)
async def delete_object(service: Objects, call: Call, params: Params) -> Result:
    _not_internal(params)
    _only(call, params)
    await service.delete(params["Bucket"], [params["Key"]])
    return {}


@operation(
    "s3",
    "DeleteObjects",
    action="s3:DeleteObject",
    resource=lambda call, params: (
        [f"arn:aws:s3:::{params['Bucket']}/{item.get('Key', '')}" for item in params["Delete"].get("Objects", ())]
        or _bucket(call, params)
    ),
)
async def delete_objects(service: Objects, call: Call, params: Params) -> Result:
    _not_internal(params)
    _only(call, params, "Delete")
    wanted = params["Delete"]["Objects"]
    if len(wanted) > 1000:
        raise Invalid("at most 1,000 objects can be deleted at once", kind="malformed_xml")
    for item in wanted:
        if item.keys() - {"Key"}:
            raise Unsupported("Delete.Objects may only name keys: buckets have no versions here")
    keys = [item["Key"] for item in wanted]
    await service.delete(params["Bucket"], keys)
    return {"Deleted": [] if params["Delete"].get("Quiet") else [{"Key": key} for key in keys]}


@operation("s3", "ListObjectsV2", resource=_bucket, action="s3:ListBucket")
async def list_objects_v2(service: Objects, call: Call, params: Params) -> Result:
    _only(
        call, params, "Prefix", "Delimiter", "MaxKeys", "StartAfter", "ContinuationToken", "EncodingType", "FetchOwner"
    )
    limit = min(params.get("MaxKeys", _MAX_PAGE), _MAX_PAGE)
    after = params.get("ContinuationToken")
    start = str(after) if after is not None else params.get("StartAfter", "")
    found = await _list(service, params, start, limit)
    encode = _encoder(params)
    owner = {"Owner": {"ID": call.account}} if params.get("FetchOwner") else {}
    return {
        "Name": params["Bucket"],
        "Prefix": encode(params.get("Prefix", "")),
        "Delimiter": encode(params["Delimiter"]) if params.get("Delimiter") else None,
        "StartAfter": encode(params["StartAfter"]) if params.get("StartAfter") else None,
        "MaxKeys": params.get("MaxKeys", _MAX_PAGE),
        "KeyCount": len(found.objects) + len(found.prefixes),
        "IsTruncated": found.last is not None,
        "ContinuationToken": params.get("ContinuationToken"),
        "NextContinuationToken": found.last,
        "EncodingType": params.get("EncodingType"),
        "Contents": [_content(item, encode) | owner for item in found.objects],
        "CommonPrefixes": [{"Prefix": encode(prefix)} for prefix in found.prefixes],
    }


@operation("s3", "ListObjects", resource=_bucket, action="s3:ListBucket")
async def list_objects(service: Objects, call: Call, params: Params) -> Result:
    _only(call, params, "Prefix", "Delimiter", "MaxKeys", "Marker", "EncodingType")
    limit = min(params.get("MaxKeys", _MAX_PAGE), _MAX_PAGE)
    found = await _list(service, params, params.get("Marker", ""), limit)
    encode = _encoder(params)
    return {
        "Name": params["Bucket"],
        "Prefix": encode(params.get("Prefix", "")),
        "Delimiter": encode(params["Delimiter"]) if params.get("Delimiter") else None,
        "Marker": encode(params.get("Marker", "")),
        "MaxKeys": params.get("MaxKeys", _MAX_PAGE),
        "IsTruncated": found.last is not None,
        "NextMarker": encode(found.last) if found.last is not None and params.get("Delimiter") else None,
        "EncodingType": params.get("EncodingType"),
        "Contents": [_content(item, encode) | {"Owner": {"ID": call.account}} for item in found.objects],
        "CommonPrefixes": [{"Prefix": encode(prefix)} for prefix in found.prefixes],
    }


async def _list(service: Objects, params: Params, start: str, limit: int) -> Listed:
    if params.get("MaxKeys", 0) < 0:
        raise Invalid("MaxKeys must not be negative")
    if limit == 0:
        await service.need_bucket(params["Bucket"])
        return Listed([], [], None)
    return await service.listing(
        params["Bucket"],
        prefix=params.get("Prefix", ""),
        delimiter=params.get("Delimiter", ""),
        start_after=start,
        limit=limit,
    )


def _encoder(params: Params) -> Callable[[str], str]:
    # Keys may hold characters that XML has not; boto3 asks for this form and undoes it.
    return (lambda text: quote(text, safe="/-_.~*")) if params.get("EncodingType") == "url" else _xml_text


def _xml_text(text: str) -> str:
    if any(ord(char) < 32 and char not in "\t\n\r" for char in text):
        raise Invalid("a key in this listing cannot be written in XML: ask with EncodingType=url")
    return text


def _content(item: Stored, encode: Callable[[str], str]) -> dict[str, object]:
    return {
        "Key": encode(item.key), "LastModified": item.modified_ms, "ETag": f'"{item.etag}"', "Size": item.size,
        "StorageClass": "STANDARD",
    }  # fmt: skip


@operation("s3", "CreateMultipartUpload", resource=_object, action="s3:PutObject")
async def create_multipart_upload(service: Objects, call: Call, params: Params) -> Result:
    _not_internal(params)
    _only(call, params, *_KEPT)
    made = await service.create_upload(params["Bucket"], params["Key"], _headers(params))
    algorithm = {name: params[name] for name in ("ChecksumAlgorithm", "ChecksumType") if name in params}
    return {"Bucket": made.bucket, "Key": made.key, "UploadId": made.id, **algorithm}


@operation("s3", "UploadPart", resource=_object, action="s3:PutObject")
async def upload_part(service: Objects, call: Call, params: Params) -> Result:
    _not_internal(params)
    _only(call, params, "UploadId", "PartNumber")
    upload = await service.upload(params["UploadId"], params["Bucket"], params["Key"])
    part = await service.put_part(upload, params["PartNumber"], params.get("Body", b""))
    checksums: Mapping[str, str] = getattr(call.extra.get("body"), "checksums", {})
    out = _checksum_members(checksums)
    out.pop("ChecksumType", None)
    return {"ETag": f'"{part.etag}"', **out}


@operation("s3", "CompleteMultipartUpload", resource=_object, action="s3:PutObject")
async def complete_multipart_upload(service: Objects, call: Call, params: Params) -> Result:
    _not_internal(params)
    _only(call, params, "UploadId", "MultipartUpload", "IfNoneMatch", "IfMatch")
    for name in params:
        if name.startswith("Checksum") and name != "ChecksumType":
            raise Unsupported(
                f"{name} of a whole multipart object is not supported here: each part is verified by its own"
            )
    upload = await service.upload(params["UploadId"], params["Bucket"], params["Key"])
    wanted = [
        (_need(part, "PartNumber"), _need(part, "ETag")) for part in params.get("MultipartUpload", {}).get("Parts", ())
    ]
    stored = await service.complete(upload, wanted, check=_precondition(params))
    return {
        "Bucket": stored.bucket,
        "Key": stored.key,
        "ETag": f'"{stored.etag}"',
        "Location": f"http://{call.extra.get('host', '')}/{quote(stored.bucket)}/{quote(stored.key)}",
    }


def _need(part: Mapping[str, Any], name: str) -> Any:
    if name not in part:
        raise Invalid(f"a part lacks its {name}", kind="malformed_xml")
    return part[name]


@operation("s3", "AbortMultipartUpload", resource=_object)
async def abort_multipart_upload(service: Objects, call: Call, params: Params) -> Result:
    _not_internal(params)
    _only(call, params, "UploadId")
    await service.abort(await service.upload(params["UploadId"], params["Bucket"], params["Key"]))
    return {}


@operation("s3", "ListParts", resource=_object, action="s3:ListMultipartUploadParts")
async def list_parts(service: Objects, call: Call, params: Params) -> Result:
    _only(call, params, "UploadId", "MaxParts", "PartNumberMarker")
    upload = await service.upload(params["UploadId"], params["Bucket"], params["Key"])
    limit = max(1, min(params.get("MaxParts", _MAX_PAGE), _MAX_PAGE))
    marker = max(0, params.get("PartNumberMarker", 0))
    found = await service.parts(upload, marker, limit + 1)
    shown = found[:limit]
    return {
        "Bucket": upload.bucket,
        "Key": upload.key,
        "UploadId": upload.id,
        "PartNumberMarker": marker,
        "NextPartNumberMarker": shown[-1].number if len(found) > limit else None,
        "MaxParts": limit,
        "IsTruncated": len(found) > limit,
        "StorageClass": "STANDARD",
        "Parts": [
            {"PartNumber": part.number, "LastModified": part.modified_ms, "ETag": f'"{part.etag}"', "Size": part.size}
            for part in shown
        ],
    }


@operation("s3", "ListMultipartUploads", resource=_bucket, action="s3:ListBucketMultipartUploads")
async def list_multipart_uploads(service: Objects, call: Call, params: Params) -> Result:
    _only(call, params, "MaxUploads", "EncodingType")
    limit = max(1, min(params.get("MaxUploads", _MAX_PAGE), _MAX_PAGE))
    encode = _encoder(params)
    found = await service.uploads(params["Bucket"], limit)
    return {
        "Bucket": params["Bucket"],
        "MaxUploads": limit,
        "IsTruncated": False,
        "EncodingType": params.get("EncodingType"),
        "Uploads": [
            {"UploadId": item.id, "Key": encode(item.key), "Initiated": item.created_ms, "StorageClass": "STANDARD"}
            for item in found
        ],
    }


def _headers(params: Params) -> dict[str, object]:
    out = {name: params[name] for name in _KEPT if name in params}
    # "aws-chunked" is how the body travelled, not what it is.
    encodings = [part.strip() for part in str(out.get("ContentEncoding", "")).split(",")]
    kept = ",".join(part for part in encodings if part and part != "aws-chunked")
    if kept:
        out["ContentEncoding"] = kept
    else:
        out.pop("ContentEncoding", None)
    metadata = out.get("Metadata")
    if isinstance(metadata, dict):
        texts = cast("dict[str, str]", metadata)
        size = sum(len(key) + len(value.encode()) for key, value in texts.items())
        if size > MAX_METADATA_BYTES:
            raise Invalid(f"Your metadata has {size} bytes, over the limit of {MAX_METADATA_BYTES}")
    return out
