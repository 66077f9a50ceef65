"""The runner of documents finds what is wrong in them."""

from pathlib import Path
from types import ModuleType

import pytest

TICKS = "```"


def document(folder: Path, *parts: str) -> Path:
    made = folder / "text.md"
    made.write_text("\n".join(parts).replace("~~~", TICKS) + "\n")
    return made


def test_commands_share_a_shell_a_folder_and_the_files_of_the_document(runner: ModuleType, tmp_path: Path) -> None:
    text = document(
        tmp_path,
        "<!-- file: sub/hello.py -->\n~~~python\nprint('hello')\n~~~",
        "not run:\n~~~console\n$ false\n~~~",
        "<!-- run -->\n~~~console\n$ export WORD=there\n$ cat > more <<'END'\n$WORD\nEND\nnot compared\n~~~",
        '<!-- run: compare -->\n~~~console\n$ python sub/hello.py\nhello\n$ echo "$WORD $(cat more)"\nthere $W...\n~~~',
        "<!-- run: compare -->\n~~~console\n$ printf 'a\\nb\\nc\\n'\na\n...\n$ echo one \\\n  two\none two\n~~~",
    )
    assert runner.run(text, tmp_path) == 6


@pytest.mark.parametrize(
    ("part", "words"),
    [
        pytest.param("<!-- run -->\n~~~console\n$ true\n$ exit_with_this() { return 3; }; exit_with_this\n~~~", "exit code 3", id="code"),
        pytest.param("<!-- run: compare -->\n~~~console\n$ echo a\nb\n~~~", "the document says", id="output"),
        pytest.param("<!-- run -->\nno block\n", "no fenced block", id="mark without block"),
        pytest.param("<!-- run -->\n~~~console\n$ exit 1\n~~~", "the shell ended", id="the shell ends"),
    ],
)  # fmt: skip
def test_what_is_not_so_is_told_with_its_place(runner: ModuleType, tmp_path: Path, part: str, words: str) -> None:
    with pytest.raises(runner.DocumentFailed, match=r"text\.md|the shell ended") as failed:
        runner.run(document(tmp_path, part), tmp_path)
    assert words in str(failed.value)


def test_background_commands_end_with_the_document(runner: ModuleType, tmp_path: Path) -> None:
    with runner.Shell(tmp_path) as shell:
        assert shell.type("sleep 600 &") == (0, "")
        pid = shell.background[0][0]
        assert runner._alive(pid)
    assert not runner._alive(pid)


def test_a_file_grows_and_another_page_comes_first(runner: ModuleType, tmp_path: Path) -> None:
    document(tmp_path, "<!-- file: told.txt -->\n~~~\none\n~~~").rename(tmp_path / "start.md")
    text = document(
        tmp_path,
        "<!-- after: start.md -->",
        "<!-- more: told.txt -->\n~~~\ntwo\n~~~",
        "<!-- run: compare -->\n~~~console\n$ cat told.txt\none\ntwo\n~~~",
    )
    assert runner.run(text, tmp_path) == 1


def test_a_command_that_does_not_end_is_told_with_what_ran_beside_it(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "COMMAND_S", 0.3)
    text = document(tmp_path, "<!-- run -->\n~~~console\n$ sh -c 'echo beside; exec sleep 600' &\n$ wait %1\n~~~")
    with pytest.raises(runner.DocumentFailed, match=r"did not end within 0.3 s: wait %1(.|\n)*beside"):
        runner.run(text, tmp_path)
