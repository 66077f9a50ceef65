"""Unpack an untrusted ZIP below one folder: bounded, no way out, nothing but plain files and folders.

Refused: absolute or climbing names, backslashes, links and devices, names that differ in case only, a file where another entry
needs a folder, encryption, compression other than deflate, more files or bytes than allowed (counted while unpacking, whatever
the headers say).
"""

import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from marram.core.errors import Invalid, LimitExceeded
from marram.kit import disk

CHUNK = 1 << 18
MAX_NAME = 1024
MAX_PART = 255


def extract(archive: Path, folder: Path, *, max_bytes: int, max_files: int, executable: bool) -> None:
    """`folder` must be new or empty. Files are synced; on an error it is for the caller to remove it. Blocking."""
    try:
        with zipfile.ZipFile(archive) as zipped, disk.errors_of(folder):
            entries = zipped.infolist()
            if len(entries) > max_files:
                raise LimitExceeded(f"{archive.name}: {len(entries)} entries are over the limit of {max_files}")
            folder.mkdir(parents=True, exist_ok=True)
            seen: set[str] = set()
            left = max_bytes
            for entry in entries:
                left = _entry(zipped, entry, folder, seen, left, archive.name, executable)
            disk.fsync_dir(folder)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as exc:
        raise Invalid(f"{archive.name}: not a ZIP we can read: {exc}") from exc


def _entry(
    zipped: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    folder: Path,
    seen: set[str],
    left: int,
    name: str,
    executable: bool,
) -> int:
    path = _safe(entry, name)
    if path is None:
        return left
    low = str(path).lower()
    if low in seen:
        raise Invalid(f"{name}: two entries {entry.filename!r}")
    seen.add(low)
    target = folder / path
    mode = 0o755 if executable or (entry.external_attr >> 16) & 0o111 else 0o644
    try:
        if entry.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            return left
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except (FileExistsError, NotADirectoryError) as exc:
        raise Invalid(f"{name}: {entry.filename!r} is a file and a folder") from exc
    with os.fdopen(handle, "wb") as writer, zipped.open(entry) as reader:
        os.fchmod(handle, mode)
        while block := reader.read(CHUNK):
            left -= len(block)
            if left < 0:
                raise LimitExceeded(f"{name}: unpacks to more than the limit")
            writer.write(block)
        writer.flush()
        os.fsync(handle)
    return left


def _safe(entry: zipfile.ZipInfo, archive: str) -> Path | None:
    text = entry.filename
    path = PurePosixPath(text)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.flag_bits & 1:
        raise Invalid(f"{archive}: {text!r} is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Invalid(f"{archive}: {text!r} is compressed by method {entry.compress_type}; deflate is supported")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Invalid(f"{archive}: {text!r} is neither file nor folder")
    bad = len(text) > MAX_NAME or any(len(os.fsencode(part)) > MAX_PART for part in path.parts)
    bad = bad or path.is_absolute() or ".." in path.parts or "\\" in text
    if bad or any(ord(char) < 32 for char in text) or ":" in (path.parts or ("",))[0]:
        raise Invalid(f"{archive}: the name {text[:100]!r} leads out of the folder or is not portable")
    return Path(*path.parts) if path.parts else None
