"""Archives from outside: nothing leaves the folder, nothing grows beyond its bound."""

import io
import stat
import zipfile
from pathlib import Path

import pytest

from marram.core.errors import Invalid, LimitExceeded, MarramError
from marram.edge.deploy import unzip


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    return made


def archive(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, data in entries:
            made.writestr(name, data)
    return path


def extract(source: Path, target: Path, max_bytes: int = 10_000, max_files: int = 10) -> None:
    unzip.extract(source, target, max_bytes=max_bytes, max_files=max_files, executable=False)


def test_files_folders_and_the_executable_bit(tmp_path: Path) -> None:
    source = archive(
        tmp_path / "a.zip",
        ("d/x.txt", b"x"),
        (entry("run.sh", stat.S_IFREG | 0o755), b"#!"),
        (entry("e/", stat.S_IFDIR), b""),
    )
    extract(source, tmp_path / "out")
    assert (tmp_path / "out/d/x.txt").read_bytes() == b"x"
    assert (tmp_path / "out/run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out/d/x.txt").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "out/e").is_dir()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        pytest.param([("../x", b"")], "leads out", id="climbs"),
        pytest.param([("a/../../x", b"")], "leads out", id="climbs inside"),
        pytest.param([("/etc/x", b"")], "leads out", id="absolute"),
        pytest.param([("a\\..\\x", b"")], "leads out", id="backslash"),
        pytest.param([("C:/x", b"")], "leads out", id="drive"),
        pytest.param([("a\nb", b"")], "leads out", id="control character"),
        pytest.param([(entry("link", stat.S_IFLNK | 0o777), b"/etc/passwd")], "neither file nor folder", id="link"),
        pytest.param([(entry("dev", stat.S_IFCHR | 0o600), b"")], "neither file nor folder", id="device"),
        pytest.param([("a", b"1"), ("A", b"2")], "two entries", id="same name in another case"),
        pytest.param([("a", b"1"), ("a/b", b"2")], "a file and a folder", id="folder where a file is"),
        pytest.param([("a/b", b"1"), ("a", b"2")], "a file and a folder", id="file where a folder is"),
        pytest.param([("x" * 256, b"")], "leads out", id="long part"),
        pytest.param([(str(number), b"") for number in range(11)], "entries are over", id="many"),
        pytest.param([("a", b"x" * 10_001)], "more than the limit", id="large"),
        pytest.param([("a", b"x" * 6000), ("b", b"x" * 6000)], "more than the limit", id="large together"),
    ],
)
def test_refused(tmp_path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]], words: str) -> None:
    source = archive(tmp_path / "a.zip", *entries, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises((Invalid, LimitExceeded), match=words):
        extract(source, tmp_path / "in" / "out")
    outside = {path for path in tmp_path.rglob("*") if path.is_file() and tmp_path / "in" not in path.parents}
    assert outside == {source}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_header_that_lies_about_the_size_does_not_help(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a", b"\0" * 5_000_000)
    raw = bytearray(data.getvalue())
    at = raw.index(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    raw[at : at + 4] = (10).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(MarramError):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()) <= 10_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(Invalid, match="deflate is supported"):
        extract(archive(tmp_path / "a.zip", ("a", b"x" * 100), compression=method), tmp_path / "out")


def test_a_damaged_stream_is_no_archive(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zip", ("a", b"hello world " * 100), compression=zipfile.ZIP_DEFLATED)
    raw = bytearray(source.read_bytes())
    at = raw.index(b"PK\x03\x04") + 31
    raw[at : at + 6] = b"\xff" * 6
    source.write_bytes(raw)
    with pytest.raises(Invalid, match="not a ZIP"):
        extract(source, tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(Invalid, match="not a ZIP"):
        extract(tmp_path / "a.zip", tmp_path / "out")
