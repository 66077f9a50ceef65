"""Build a disk that a power cut could leave, from the live folder and the shadow that crashfs.c keeps (its layout is told there).

Ways to lose power (`MODES`), the same op giving a different disk in each:
  keep    nothing is lost: kill -9, the page cache survives
  drop    only what was fsynced: bytes of files, names of directories
  names   all names are there, bytes only as fsynced: the empty file behind a rename that was not preceded by an fsync
  torn    seeded: for each directory the old or the new names; for each file the old bytes, the new ones, the new size with zeros,
          old up to a place and new from there or the other way round, or each 512-byte sector old or new
"""

import ctypes
import os
import random
import struct
from pathlib import Path

MODES = ("keep", "drop", "names", "torn")
SECTOR = 512

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _NOFOLLOW, _BASIC_AND_BTIME = -100, 0x100, 0xFFF


def build(root: Path, shadow: Path, target: Path, mode: str, seed: int = 0) -> None:
    """Write into `target`, which must not exist, the disk that is left of `root`. The program under test must stand still."""
    _Image(str(root), str(shadow), mode, seed).build(target)


class _Image:
    def __init__(self, root: str, shadow: str, mode: str, seed: int) -> None:
        self._shadow, self._mode, self._random = shadow, mode, random.Random(seed)
        self._live: dict[str, str] = {}  # key -> path
        for folder, _, names in os.walk(root):
            self._live[_key(folder)] = folder
            for name in names:
                path = f"{folder}/{name}"
                if not os.path.islink(path):
                    self._live[_key(path)] = path
        self._key_by_inode = {os.stat(f"{shadow}/ino/{key}").st_ino: key for key in os.listdir(f"{shadow}/ino")}

    def build(self, target: Path) -> None:
        self._folder(os.readlink(f"{self._shadow}/root")[2:], str(target))

    def _folder(self, key: str, target: str) -> None:
        os.makedirs(target)
        for name, (kind, what) in sorted(self._names(key).items()):
            path = f"{target}/{name}"
            if kind == "folder":
                self._folder(what, path)
            elif kind == "link":
                os.symlink(what, path)
            else:
                with open(path, "wb") as file:
                    file.write(self._content(what))
                if what in self._live:
                    os.chmod(path, os.stat(self._live[what]).st_mode & 0o7777)

    def _names(self, key: str) -> dict[str, tuple[str, str]]:
        durable: dict[str, tuple[str, str]] = {}
        live: dict[str, tuple[str, str]] = {}
        folder = f"{self._shadow}/dir/{key}"
        if os.path.isdir(folder):
            for name in os.listdir(folder):
                path = f"{folder}/{name}"
                if os.path.islink(path):
                    what = os.readlink(path)
                    durable[name] = ("folder" if what[0] == "D" else "link", what[2:])
                else:
                    durable[name] = ("file", self._key_by_inode[os.stat(path).st_ino])
        if key not in self._live or self._mode == "drop":
            return durable
        for entry in os.scandir(self._live[key]):
            if entry.is_symlink():
                live[entry.name] = ("link", os.readlink(entry.path))
            else:
                live[entry.name] = ("folder" if entry.is_dir() else "file", _key(entry.path))
        return self._random.choice([durable, live]) if self._mode == "torn" else live

    def _content(self, key: str) -> bytes:
        old = _read(f"{self._shadow}/ino/{key}")
        if self._mode in ("drop", "names") or key not in self._live:
            return old
        new = _read(self._live[key])
        return new if self._mode == "keep" or old == new else self._torn(old, new)

    def _torn(self, old: bytes, new: bytes) -> bytes:
        rnd = self._random
        choice = rnd.random()
        if choice < 0.2:
            return old
        if choice < 0.4:
            return new
        if choice < 0.6:  # the size has reached the disk, what was appended has not
            return old.ljust(len(new), b"\0")[: len(new)]
        if choice < 0.8:  # one side of a place was written, the other not: in either order
            padded = old.ljust(len(new), b"\0")
            places = [at for at in range(0, len(new), SECTOR) if new[at : at + SECTOR] != padded[at : at + SECTOR]]
            cut = rnd.choice(places or [0])
            if rnd.random() < 0.5:
                cut += SECTOR
            return padded[:cut] + new[cut:] if rnd.random() < 0.5 else new[:cut] + old[cut:]
        low, high = sorted((len(old), len(new)))
        size = rnd.choice([len(new), high, rnd.randint(low, high)])
        sides = old.ljust(size, b"\0"), new.ljust(size, b"\0")
        return b"".join(sides[rnd.random() < 0.5][at : at + SECTOR] for at in range(0, size, SECTOR))[:size]


def _key(path: str) -> str:
    """Inode and birth time: survives a rename, and is not used again."""
    buffer = ctypes.create_string_buffer(256)
    if _LIBC.statx(_AT_FDCWD, os.fsencode(path), _NOFOLLOW, _BASIC_AND_BTIME, buffer):
        raise OSError(ctypes.get_errno(), path)
    (inode,) = struct.unpack_from("Q", buffer, 32)
    seconds, nanoseconds = struct.unpack_from("qI", buffer, 80)
    return f"{inode}.{seconds}.{nanoseconds}"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
