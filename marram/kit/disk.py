"""Files that must survive a power cut: the one door to the disk, with named failpoints behind it.

Pattern throughout: temp file, write, fsync, rename, fsync of the directory. Source: POSIX rename(2), fsync(2); "All File
Systems Are Not Created Equal", OSDI 2014. Records of the journal have their own writer in marram.kit.seglog.
"""

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Final

from marram.core.errors import Corrupt, Invalid, MarramError, NotFound, Unavailable

FAILPOINTS_VARIABLE: Final = "MARRAM_FAILPOINTS"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class DiskFull(Unavailable):
    """No space, no quota or a read-only file system. Nothing was changed; free space and try again."""

    code = "MRM-1001"


def failure(exc: OSError, path: Path | str) -> MarramError:
    """The exception of ours that says what `exc` means for the caller."""
    if exc.errno in _FULL:
        return DiskFull(f"disk full or not writable: {path}: {exc.strerror}", path=str(path))
    if exc.errno == errno.ENOENT:
        return NotFound(f"no such file: {path}", path=str(path))
    if exc.errno == errno.EIO:
        return Corrupt(f"input/output error on {path}", path=str(path))
    return Unavailable(f"{path}: {exc.strerror}", path=str(path))


@contextlib.contextmanager
def errors_of(path: Path | str) -> Generator[None]:
    """Turn OSError about `path` into ours."""
    try:
        yield
    except OSError as exc:
        raise failure(exc, path) from exc


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data`: after a cut it is the old file or the new one, whole. Durable when this returns."""
    temporary = path.with_name(f".{path.name}.tmp")
    with errors_of(path):
        # New, never what lies there: a link would lead elsewhere, and who has the file open would read what is written.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            handle = os.open(temporary, flags, mode)
        except FileExistsError:  # of a life that was cut short, or somebody's
            temporary.unlink()
            handle = os.open(temporary, flags, mode)
        try:
            os.fchmod(handle, mode)
            write_all(handle, data)
            failpoint("disk.write_atomic.before_fsync")
            os.fsync(handle)
        except BaseException:
            os.close(handle)
            temporary.unlink(missing_ok=True)
            raise
        os.close(handle)
        failpoint("disk.write_atomic.before_rename")
        os.rename(temporary, path)
        fsync_dir(path.parent)


def write_all(handle: int, data: bytes | memoryview) -> None:
    """write(2) may write less than asked; this does not."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def fsync_dir(path: Path) -> None:
    """Make the names in `path` durable."""
    with errors_of(path):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_dirs(path: Path, *, mode: int = 0o700) -> None:
    """Create `path` and what is missing above it, each name durable."""
    if path.is_dir():
        return
    make_dirs(path.parent, mode=mode)
    with errors_of(path):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=mode)
        fsync_dir(path.parent)


def switch(link: Path, target: Path | str) -> None:
    """Point the symbolic link `link` at `target` in one step: a reader, or a boot after a cut, sees old or new."""
    temporary = link.with_name(f".{link.name}.tmp")
    with errors_of(link):
        temporary.unlink(missing_ok=True)
        os.symlink(target, temporary)
        failpoint("disk.switch.before_rename")
        os.rename(temporary, link)
        fsync_dir(link.parent)


def rename(source: Path, target: Path) -> None:
    """Move a file or folder within one file system, durably. The content must have been synced before."""
    with errors_of(target):
        os.rename(source, target)
        fsync_dir(target.parent)
        if source.parent != target.parent:
            fsync_dir(source.parent)


def remove(path: Path) -> None:
    """Delete a file, durably; one that is not there is fine."""
    with errors_of(path):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            fsync_dir(path.parent)


def remove_tree(path: Path) -> None:
    """Delete a folder and all in it; one that is not there is fine. Not atomic: use on what nothing refers to."""
    with errors_of(path):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
        if path.parent.is_dir():
            fsync_dir(path.parent)


def read(path: Path, *, limit: int = 16 << 20) -> bytes:
    """The whole file. Raises NotFound, or Invalid when it is larger than `limit` bytes."""
    with errors_of(path), path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Invalid(f"{path} is larger than {limit} bytes", path=str(path), limit=limit)
    return data


def free_share(path: Path) -> tuple[int, float]:
    """(bytes free for us, share of the file system that is)."""
    with errors_of(path):
        stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize, stat.f_bavail / max(1, stat.f_blocks)


class Failpoints:
    """Named places where a test makes the program die or the disk fail. Nothing is armed unless the variable is set.

    Text: `name=action[@n]`, comma separated; action is `kill` or an errno name such as `ENOSPC`; n is the visit at
    which it strikes (default the first), and every later one for an errno.
    """

    def __init__(self, text: str) -> None:
        self._armed: dict[str, tuple[str, int]] = {}
        self._visits: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            name, _, action = part.partition("=")
            action, _, at = action.partition("@")
            if not action or (action != "kill" and not hasattr(errno, action)) or (at and not at.isdecimal()):
                raise Invalid(f"{FAILPOINTS_VARIABLE}: {part!r} is not name=kill|ERRNO[@n]")
            self._armed[name] = (action, int(at or 1))

    def visit(self, name: str) -> None:
        armed = self._armed.get(name)
        if armed is None:
            return
        action, at = armed
        count = self._visits[name] = self._visits.get(name, 0) + 1
        if action == "kill":
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
        elif count >= at:
            number: int = getattr(errno, action)
            raise OSError(number, os.strerror(number))


def _nothing(_name: str) -> None:
    return None


def make_failpoint(environ: Mapping[str, str]) -> Callable[[str], None]:
    text = environ.get(FAILPOINTS_VARIABLE, "")
    return Failpoints(text).visit if text else _nothing


failpoint: Callable[[str], None] = make_failpoint(os.environ)
