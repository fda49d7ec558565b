import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from polydev.sim import Simulator


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(tmp_path / "sim") as simulator:
        yield simulator


@pytest.fixture
def trust(sim: Simulator) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(sim.ca))


@pytest.fixture
async def http(sim: Simulator, trust: ssl.SSLContext) -> AsyncIterator[httpx.AsyncClient]:
    """A client that trusts the simulator; it asks for localhost unless a Host header says more."""
    async with httpx.AsyncClient(
        base_url=f"https://localhost:{sim.port}", verify=trust, trust_env=False, timeout=10
    ) as client:
        yield client
