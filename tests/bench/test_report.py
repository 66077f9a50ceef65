"""The arithmetic of `make bench`: goals, what is missed, runs that stay, the page; goals.json and the committed page themselves; when
a job was given up."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import fleet_bench, report

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
MACHINE = {"cpu": "x", "cores": 2}


def run(figures: dict[str, Any], date: str = "2026-01-02") -> dict[str, Any]:
    return {"machine": MACHINE, "commit": "abc", "date": date, "seconds": 3, "figures": figures}


def test_names_of_nested_figures_are_dotted() -> None:
    assert report.flatten({"a": {"b": {"c": 1}, "d": "x"}, "e": 2.5}) == [("a.b.c", 1), ("a.d", "x"), ("e", 2.5)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (0.12345, "0.123"),
        (12.345, "12.3"),
        (1000.6, "1,001"),
        ("uvloop", "uvloop"),
        (True, "True"),
    ],
)
def test_figures_are_shown_with_three_digits_or_whole(value: object, text: str) -> None:
    assert report.shown(value) == text


@pytest.mark.parametrize(
    ("value", "goal", "verdict"),
    [
        pytest.param(1.0, ">= 1.0", "met", id="a floor, reached"),
        pytest.param(0.99, ">= 1.0", "missed", id="a floor, nearly"),
        pytest.param(0.6, ">= 1.0", "missed", id="at the hard minimum"),
        pytest.param(0.59, ">= 1.0", "under the hard minimum", id="under it"),
        pytest.param(1999, ">= 2,000", "missed", id="thousands"),
        pytest.param(6.0, "<= 6", "met", id="a ceiling, reached"),
        pytest.param(10.0, "<= 6", "missed", id="a ceiling, at the hard minimum"),
        pytest.param(10.1, "<= 6", "under the hard minimum", id="a ceiling, far over"),
        pytest.param(10_000, "10,000", "met", id="a number"),
        pytest.param(824, "10,000", "missed", id="another number"),
        pytest.param(25.0, ">= 100 (aim)", "missed", id="an aim has no hard minimum"),
        pytest.param(9.0, "<= 3 (aim)", "missed", id="nor has an aim to stay below"),
        pytest.param(3.0, "<= 3 (aim)", "met", id="an aim, reached"),
        pytest.param("uvloop", ">= 1", None, id="no number"),
        pytest.param(5, "", None, id="no goal"),
        pytest.param(float("nan"), ">= 1", "under the hard minimum", id="nothing was measured"),
    ],
)
def test_a_figure_is_judged_by_its_goal(value: object, goal: str, verdict: str | None) -> None:
    assert report.judge(value, goal) == verdict


@pytest.mark.parametrize("goal", ["about 3", ">3", "< 3", ">= -1", ">= 1.0x"])
def test_a_goal_that_cannot_be_read_is_refused(goal: str) -> None:
    with pytest.raises(ValueError, match="a goal is"):
        report.judge(1, goal)


def test_what_is_missed_and_what_has_no_figure() -> None:
    goals = {"a.x": ">= 2", "a.y": "<= 1", "a.z.deep": ">= 1", "b.x": ">= 1"}
    figures = {"x": 1.5, "y": 1}
    assert list(report.missed("a", figures, goals)) == [("a.x", 1.5, ">= 2", "missed")]
    assert report.unmet("a", figures, goals) == ["a.z.deep"]


def test_a_note_names_one_row_or_many() -> None:
    notes = "- `gateway.p99.*`: why.\n- `seglog.puts_1000.ratio`: why"
    assert report.noted("gateway.p99.qos0.ratio", notes)
    assert report.noted("seglog.puts_1000.ratio", notes)
    assert not report.noted("seglog.batch_100.ratio", notes)


def test_a_bench_that_did_not_run_keeps_its_last_figures() -> None:
    first = report.merged({}, {"a": run({"x": 1}), "b": run({"x": 2})}, {"big": run({"n": 1})})
    then = report.merged(first, {"a": run({"x": 9}, "2026-02-03")}, {})
    assert then["runs"]["a"]["figures"] == {"x": 9}
    assert (then["runs"]["b"], then["full"]) == (first["runs"]["b"], first["full"])
    assert report.merged({"format": 1, "figures": {"a": {}}}, {}, {}) == {"format": 2, "runs": {}, "full": {}}


def test_the_page_has_date_commit_goal_and_verdict_of_each_run() -> None:
    results = report.merged({}, {"a": run({"x": 1.5, "y": {"z": 3}})}, {"big": run({"n": 1_000_000})})
    page = report.render(results, {"a.x": ">= 2", "a.y.z": ">= 2", "a.w": "7"}, "## Notes\n")
    assert "## a\n\nCommit abc, 2026-01-02, 3 s; cpu x, cores 2.\n" in page
    assert "| x | 1.5 | >= 2 | **missed** |" in page
    assert "| y.z | 3 | >= 2 | met |" in page
    goals_first, _, _ = page.partition("## a\n")
    assert "| a: x | 1.5 | >= 2 | **missed** |" in goals_first and "| a: w | | 7 | not measured |" in goals_first
    assert "## big, large" in page and "| n | 1,000,000 | | |" in page
    assert page.endswith("## Notes\n")


def test_each_goal_can_be_read_and_is_of_a_bench_that_exists() -> None:
    goals = json.loads((HERE / "goals.json").read_text())
    benches = {path.stem.removesuffix("_bench") for path in HERE.glob("*_bench.py")}
    for row, goal in goals.items():
        assert row.partition(".")[0] in benches, row
        assert report.judge(1.0, goal) is not None, row


def test_the_page_is_the_figures() -> None:
    """docs/benchmarks.md is made of docs/benchmarks.json, goals.json and notes.md: none is edited alone."""
    results = json.loads((DOCS / "benchmarks.json").read_text())
    if results["format"] != 2:
        pytest.skip("the figures are of before; make bench writes them anew")
    goals, notes = json.loads((HERE / "goals.json").read_text()), (HERE / "notes.md").read_text()
    assert (DOCS / "benchmarks.md").read_text() == report.render(results, goals, notes)


def test_each_goal_that_is_missed_has_a_note() -> None:
    results = json.loads((DOCS / "benchmarks.json").read_text())
    if results["format"] != 2:
        pytest.skip("the figures are of before; make bench writes them anew")
    goals, notes = json.loads((HERE / "goals.json").read_text()), (HERE / "notes.md").read_text()
    silent = [
        row
        for kind in ("runs", "full")
        for name, made in results[kind].items()
        for row, *_ in report.missed(name, made["figures"], goals)
        if not report.noted(row, notes)
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("ends", "exactly"),
    [
        pytest.param("s" * 97 + "fff", True, id="with the third failure of a hundred"),
        pytest.param("s" * 97 + "fffs", False, id="one report late"),
        pytest.param("s" * 97 + "ff", False, id="one report early"),
        pytest.param("ff" + "s" * 48, True, id="with the least number of executions"),
        pytest.param("", False, id="before all"),
    ],
)
def test_a_job_is_given_up_with_the_report_that_reaches_the_threshold(ends: str, exactly: bool) -> None:
    assert fleet_bench.exactly(["failed" if end == "f" else "succeeded" for end in ends], minimum=50) is exactly
