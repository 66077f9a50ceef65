"""Every command: a help that ends with an example, exit code 2 for wrong usage, and a plain word for what is not there yet."""

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator

import pytest

from marram.cli import main as cli


def commands() -> Iterator[tuple[str, ...]]:
    """Every noun and verb, as words."""
    for noun in cli.nouns():
        importlib.import_module(f"marram.cli.{noun.replace('-', '_')}")
        parser = argparse.ArgumentParser(prog=noun)
        cli.COMMANDS[noun][1](parser)
        yield from walk((noun,), parser)


def walk(words: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator[tuple[str, ...]]:
    yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from walk((*words, name), inner)


COMMANDS = [(), *commands()]
IDS = [" ".join(words) or "marram" for words in COMMANDS]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = cli.main(words)
    except SystemExit as leave:
        code = int(str(leave.code))
    out = capsys.readouterr()
    return code, out.out, out.err


def test_every_command_file_is_a_noun_with_the_name_of_its_file() -> None:
    assert set(cli.nouns()) == set(cli.COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=IDS)
def test_help_ends_with_an_example_of_that_command(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, *words, "--help")
    assert code == 0
    last = text.rstrip().splitlines()[-1]
    assert last.startswith("example: ") and " ".join(("marram", *words)) in last


@pytest.mark.parametrize("words", COMMANDS, ids=IDS)
def test_the_example_is_taken_by_the_parser(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example that the program itself refuses is worse than none. Nothing is run: only parsed."""
    _, text, _ = run(capsys, *words, "--help")
    example = text.rstrip().splitlines()[-1].removeprefix("example: ")
    if found := re.search(r"\$\((.*)\)", example):  # eval "$(marram hub env ...)"
        example = found[1]
    taken = []

    def take(self: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
        parsed, rest = argparse.ArgumentParser.parse_known_args(self, words)
        assert not rest
        taken.append(parsed)
        return argparse.Namespace(run=lambda _: 0)

    monkeypatch.setattr(cli._Parser, "parse_args", take)
    given = [re.sub(r"^(VERSION|NUMBER)$", "1", word) for word in shlex.split(example)[1:]]
    code, _, err = run(capsys, *given)
    assert code == 0, err
    assert len(taken) == 1


@pytest.mark.parametrize("words", COMMANDS, ids=IDS)
def test_an_unknown_option_is_wrong_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *words, "--no-such-option")
    assert (code, out) == (2, "")
    assert err.startswith("marram: ") and "--help" in err and len(err.splitlines()) == 1


def test_an_unknown_noun_names_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "hob", "up")
    assert code == 2 and "'hob'" in err and "hub" in err


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("edge join --thing a --root var/a", id="join without a hub"),
        pytest.param("edge join --thing a --root var/a --hub-json h --token t", id="join by two ways"),
        pytest.param("edge deploy --root var/a", id="deploy nothing"),
        pytest.param("edge deploy --merge com.example.A --root var/a", id="merge without a version"),
        pytest.param("edge deploy --configuration [] --root var/a", id="configuration that is no object"),
        pytest.param("edge up --ports 8883 --root var/a", id="ports"),
        pytest.param("hub up --data var/hub --ports 1", id="ports of a hub"),
        pytest.param("model show meter x --data var/hub", id="a version that is no number"),
    ],
)
def test_words_that_do_not_fit_together_are_wrong_usage(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *words.split())
    assert code == 2 and err.startswith("marram: ")


@pytest.mark.parametrize(
    "words", ["destination allow https://example.org/ --data var/hub", "edge sql SELECT --root var/edge"]
)
def test_what_is_not_there_yet_says_so_by_name(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *words.split())
    assert (code, out) == (1, "")
    assert " ".join(words.split()[:2]) in err and "not there yet" in err


def test_a_folder_without_a_hub_is_not_found_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    code, _, err = run(capsys, "hub", "status", "--data", f"{tmp_path}/none")
    assert code == cli.NOT_FOUND and "MRM-1007" in err and "marram hub up" in err


def test_a_root_without_a_core_says_how_to_start_one(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    code, _, err = run(capsys, "edge", "status", "--root", f"{tmp_path}/none")
    assert code == 1 and "MRM-4002" in err and "marram edge up" in err
