"""What all tests share: which of them are left out of `make check`."""

from pathlib import Path

import pytest

_ROOT = Path(__file__).parent
# They start real sandboxes or the vendors' CLIs, a process or more for each test.
_REAL = ("e2e", "sandboxes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(_ROOT).parts[0]
        if folder in _REAL:
            item.add_marker(pytest.mark.real)
        if "postgres_url" in getattr(item, "fixturenames", ()) or "[postgresql" in item.name:
            item.add_marker(pytest.mark.slow)
