import pytest

from tests.crash.sweep import FULL


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A full sweep looks at every operation, and takes minutes."""
    for item in items:
        if FULL and "tests/crash" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(1800))
