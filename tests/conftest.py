"""What all tests share: the event loop, and which of them are left out of `make check`."""

import re
from pathlib import Path
from typing import Any

import pytest
import uvloop

_ROOT = Path(__file__).parent
# They start real sandboxes or the vendors' CLIs, a process or more for each test.
_REAL = ("e2e", "sandboxes")
# Where a test runs over several of a kind, the quick half of the tests has those that most use:
# SQLite, and of the ways through egress the unix socket and CONNECT.
_OTHERS_OF_A_KIND = {"postgresql", "tcp", "witness", "tunnel"}
_OF_POSTGRESQL = {"postgres_url", "postgres_cluster"}


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The gateway's own event loop. One for all: what lives for the session lives on it."""
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(_ROOT).parts[0]
        if folder in _REAL:
            item.add_marker(pytest.mark.real)
        is_other = bool(_OTHERS_OF_A_KIND & set(re.split(r"\W+", item.name)))
        if folder == "cli" or is_other or _OF_POSTGRESQL & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
