"""Files that are replaced: what lies in the way of the temporary one. What survives a power cut is in tests/crash/test_disk.py."""

import os
import stat
from pathlib import Path

from marram.kit import disk


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    (tmp_path / ".file.tmp").symlink_to(victim)
    disk.write_atomic(tmp_path / "file", b"secret")
    assert victim.read_bytes() == b"kept"
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"secret"


def test_who_holds_the_temporary_file_open_reads_nothing(tmp_path: Path) -> None:
    with (tmp_path / ".file.tmp").open("w+b") as planted:
        os.fchmod(planted.fileno(), 0o666)
        disk.write_atomic(tmp_path / "file", b"secret")
        assert planted.read() == b""
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
