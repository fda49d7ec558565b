"""What all tests share: which of them are left out of `make check`."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent
# They start real sandboxes or the vendors' CLIs, a process or more for each test.
_REAL = ("e2e", "sandboxes")
# Where a test runs over two of a kind, the quick half of the tests has the one that most use.
_SECOND_OF_TWO = {"postgresql", "asyncio"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(_ROOT).parts[0]
        if folder in _REAL:
            item.add_marker(pytest.mark.real)
        if folder == "cli" or _SECOND_OF_TWO & set(re.split(r"\W+", item.name)):
            item.add_marker(pytest.mark.slow)
