"""What `polydev doctor` finds, on installations that are as they should be and that are not."""

import os
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from polydev.config import SandboxSettings, ServerSettings, Settings
from polydev.core.doctor import Finding, examine
from polydev.core.layout import Layout, locked
from polydev.core.opened_vault import opened_vault
from polydev.store import Store
from polydev.store.database import DATABASE_FILE
from polydev.vault import KEY_FILE, add_key, load_keyring

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("POLYDEV_")]:
        monkeypatch.delenv(name)
    return Settings(data=tmp_path / "data", server=ServerSettings(port=0))


async def made(settings: Settings) -> None:
    """As the first start leaves it."""
    with locked(Layout.of(settings)):
        async with Store.open(settings.store, settings.data) as store:
            await opened_vault(settings, store)


async def look(settings: Settings, *parts: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in await examine(settings, parts)}


async def test_before_the_first_start_nothing_is_wrong_and_nothing_is_made(
    settings: Settings,
) -> None:
    found = await look(settings, "python", "data", "database", "gateway")
    assert all(finding.ok and not finding.problem for finding in found.values())
    assert found["database"].version == found["master key"].version == "made at the first start"
    assert not settings.data.exists()


async def test_after_it_the_database_opens_with_the_key(settings: Settings) -> None:
    await made(settings)
    found = await look(settings, "data", "database", "gateway")
    assert all(finding.ok and not finding.problem for finding in found.values())
    assert found["database"].version.startswith("SQLite, schema r")
    assert found["master key"].version == str(settings.data / KEY_FILE)


@pytest.mark.parametrize("lost", [True, False])
async def test_a_key_that_does_not_open_the_database_is_found(
    settings: Settings, tmp_path: Path, *, lost: bool
) -> None:
    await made(settings)
    (settings.data / KEY_FILE).unlink()
    if not lost:
        load_keyring(None, settings.data)
    found = await look(settings, "database")
    assert found["database"].ok
    assert not found["master key"].ok
    assert "restore" in found["master key"].remedy.lower()


async def test_a_rotation_that_was_interrupted_is_a_warning(settings: Settings) -> None:
    await made(settings)
    add_key(load_keyring(None, settings.data))
    found = (await look(settings, "database"))["master key"]
    assert found.ok
    assert found.remedy == "polydev vault rotate"


async def test_a_damaged_database_is_found_and_left_alone(settings: Settings) -> None:
    await made(settings)
    file = settings.data / DATABASE_FILE
    file.write_bytes(b"not a database, by far" * 100)
    found = await look(settings, "database")
    assert not found["database"].ok
    assert file.read_bytes().startswith(b"not a database")


async def test_another_schema_is_told_and_not_migrated(settings: Settings) -> None:
    await made(settings)
    with sqlite3.connect(settings.data / DATABASE_FILE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
    connection.close()
    for _ in range(2):
        assert "r9999" in (await look(settings, "database"))["database"].version


async def test_a_data_directory_that_others_may_read_is_found(settings: Settings) -> None:
    await made(settings)
    settings.data.chmod(0o755)
    found = (await look(settings, "data"))["data directory"]
    assert not found.ok
    assert found.remedy == f"chmod 700 {settings.data}"


async def test_a_port_that_something_else_uses_is_found(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        taken = settings.model_copy(update={"server": ServerSettings(port=port)})
        found = (await look(taken, "gateway"))["port"]
    assert not found.ok
    assert "POLYDEV_SERVER__PORT" in found.remedy


async def test_a_running_gateway_is_told(settings: Settings) -> None:
    await made(settings)
    assert (await look(settings, "gateway"))["gateway"].version == "not running"
    with locked(Layout.of(settings)):
        assert (await look(settings, "gateway"))["gateway"].version == "running"


async def test_no_sandbox_is_loud(settings: Settings) -> None:
    open_house = settings.model_copy(update={"sandbox": SandboxSettings(kind="none")})
    (found,) = (await look(open_house, "sandbox")).values()
    assert found.ok
    assert "THE SANDBOX IS OFF" in found.problem


async def test_missing_clis_and_npm_are_named_with_what_installs_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = await look(settings, "programs")
    assert not found["claude"].ok
    assert found["claude"].remedy == "polydev doctor --fix"
    assert not found["node"].ok
    assert not found["npm"].ok
    assert "apt-get install" in found["npm"].remedy


async def test_a_missing_bubblewrap_is_found(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shutil.which("bwrap"), "run `make setup`"
    monkeypatch.setenv("PATH", "/nowhere")
    (found,) = (await look(settings, "sandbox")).values()
    assert not found.ok
    assert "apt-get install -y bubblewrap" in found.remedy
