"""The bundle as a ZIP: files, manifest, signature. Equal content gives equal bytes (fixed times, fixed order)."""

import io
import zipfile
from collections.abc import Callable, Mapping

from marram.core import bundle
from marram.core.errors import Invalid

EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a ZIP can hold


def pack(manifest: bundle.Manifest, files: Mapping[str, bytes], sign: Callable[[bytes], bytes]) -> bytes:
    """`files` must be those of the manifest; `sign` gives the Ed25519 signature (64 bytes) of the manifest's bytes."""
    if set(files) != set(manifest.files):
        raise Invalid("the files are not those of the manifest")
    for name, data in files.items():
        bundle.check(manifest, name, data)
    encoded = bundle.encode(manifest)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in ((bundle.MANIFEST, encoded), (bundle.SIGNATURE, sign(encoded)), *sorted(files.items())):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()
