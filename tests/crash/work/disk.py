"""Workload: replace a file and switch a link, ever higher versions; print each that is done. argv: variant, folder."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from marram.kit import disk


def version(number: int) -> bytes:
    return f"version {number}\n".encode() * (number * 97 % 200 + 1)


def in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def no_fsync(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    os.rename(temporary, path)
    disk.fsync_dir(path.parent)


def no_folder_fsync(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)


def unlink_first(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    disk.fsync_dir(link.parent)


Write, Switch = Callable[[Path, bytes], None], Callable[[Path, Path], None]
VARIANTS: dict[str, tuple[Write, Switch]] = {
    "good": (disk.write_atomic, disk.switch),
    "in-place": (in_place, disk.switch),
    "no-fsync": (no_fsync, disk.switch),
    "no-folder-fsync": (no_folder_fsync, disk.switch),
    "unlink-first": (disk.write_atomic, unlink_first),
}


def run(write: Write, switch: Switch, root: Path) -> None:
    for number in range(8):
        write(root / "file", version(number))
        print(f"file {number}", flush=True)
        folder = root / "versions" / str(number)
        disk.make_dirs(folder)
        disk.write_atomic(folder / "content", version(number))
        switch(root / "current", Path("versions") / str(number))
        print(f"link {number}", flush=True)


if __name__ == "__main__":
    run(*VARIANTS[sys.argv[1]], Path(sys.argv[2]))
