"""A pytest plugin for long runs: a failure is printed when it happens, not only at the end that a crash may take away."""

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        print(f"\n{report.when} FAILED {report.nodeid}\n{report.longreprtext[-3000:]}", flush=True)
