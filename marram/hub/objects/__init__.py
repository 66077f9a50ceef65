"""Objects in buckets, as S3 has them: bytes in the blob store, names in the database. Keys are data, paths are digests."""

from marram.hub.slice import Slice

SLICE = Slice(name="objects", package="marram.hub.objects", needs=("identity",))
