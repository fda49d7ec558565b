"""The rotation of the master key: all or nothing is lost, wherever it is interrupted."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polydev.config import Settings
from polydev.core import rotation
from polydev.core.answers import SPOOL_KEY
from polydev.core.layout import Layout, locked
from polydev.core.opened_vault import opened_vault
from polydev.core.rotation import Rotation, rotate
from polydev.egress.spool import read_spool, seal_answer, write_spool
from polydev.errors import StoreProblem, VaultProblem
from polydev.models.seals import credential_context, events_context, request_context
from polydev.sealing import KEY_BYTES
from polydev.store import EventBatch, Store
from polydev.store.sealed import SealedValues
from polydev.vault import KEY_FILE, Vault, load_keyring
from tests.store.conftest import connection_of, run_on

pytestmark = pytest.mark.anyio

VALUES = 2 * 4 + 1  # per connection its credential, a request and two batches; the check value
LINES = 44  # a key's base64


class Killed(BaseException):
    """Nothing that the source catches."""


class Dies:
    """Counts the steps of a rotation, and dies at one of them: before it or after it."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.steps = 0

    def step(self) -> None:
        if self.steps == self.at:
            raise Killed
        self.steps += 1

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.step()
            result = function(*arguments, **named)
            self.step()
            return result

        return call

    def around_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any, **named: Any) -> Any:
            self.step()
            result = await function(*arguments, **named)
            self.step()
            return result

        return call


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("POLYDEV_")]:
        monkeypatch.delenv(name)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    return Settings(data=data)


async def fill(settings: Settings, *, connections: int = 2) -> None:
    """Everything that there is to be resealed, the spool included."""
    spool = Layout.of(settings).spool
    spool.mkdir(mode=0o700)
    async with Store.open(settings.store, settings.data) as store:
        vault = await opened_vault(settings, store)
        user = await store.users.add("ada")
        for number in range(connections):
            connection = connection_of(user)
            await store.connections.add(
                connection, vault.seal(b"made-up login", credential_context(connection))
            )
            run = run_on(connection)
            await store.runs.add(run, vault.seal(b"request", request_context(run)))
            await store.runs.append_events(
                [
                    EventBatch(
                        run_id=run.id,
                        first_number=first,
                        last_number=first,
                        sealed=vault.seal(b"event", events_context(run, first)),
                    )
                    for first in (1, 2)
                ]
            )
            answer = seal_answer(
                vault.derive(*SPOOL_KEY),
                binding_id=f"bnd_{number}",
                connection_id=connection.id,
                status=200,
                body=b"made-up answer",
            )
            write_spool(spool, f"bnd_{number}", answer)


async def everything(settings: Settings) -> list[bytes]:
    """All that was kept, opened with the keys that are held now."""
    async with Store.open(settings.store, settings.data) as store:
        vault = await opened_vault(settings, store)
        found = [
            vault.open(value.sealed, value.context).reveal() async for value in store.sealed.every()
        ]
    for path in sorted(Layout.of(settings).spool.glob("*.sealed")):
        for key in vault.derive_all(*SPOOL_KEY):
            with contextlib.suppress(VaultProblem):
                found.append(read_spool(path, key).body.reveal())
                break
    return sorted(found)


async def rotated(settings: Settings) -> Rotation:
    layout = Layout.of(settings)
    with locked(layout):
        async with Store.open(settings.store, settings.data) as store:
            return await rotate(settings, store, layout.spool)


def key_text(settings: Settings) -> str:
    return (settings.data / KEY_FILE).read_text()


def instrument(monkeypatch: pytest.MonkeyPatch, at: int | None) -> Dies:
    dies = Dies(at)
    for name in ("add_key", "reseal_spool", "drop_old_keys"):
        monkeypatch.setattr(rotation, name, dies.around(getattr(rotation, name)))
    monkeypatch.setattr(SealedValues, "replace", dies.around_async(SealedValues.replace))
    return dies


async def test_everything_opens_with_the_new_key_alone(settings: Settings) -> None:
    await fill(settings)
    before, old = await everything(settings), key_text(settings)
    result = await rotated(settings)
    assert (result.resealed, result.continued) == (VALUES + 2, False)
    assert key_text(settings) != old
    assert len(key_text(settings)) == len(old) == LINES + 1
    assert await everything(settings) == before
    (settings.data / KEY_FILE).write_text(old)
    with pytest.raises(VaultProblem, match="not the one"):
        await everything(settings)


@pytest.mark.slow
async def test_it_may_die_at_any_step(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(settings)
    before = await everything(settings)
    with monkeypatch.context() as patch:
        steps = instrument(patch, None)
        await rotated(settings)
    assert steps.steps == 2 * (VALUES + 2 + 2)  # around each value, each answer, and two of keys
    for at in range(steps.steps):
        old = key_text(settings)
        with monkeypatch.context() as patch:
            instrument(patch, at)
            with pytest.raises(Killed):
                await rotated(settings)
        assert await everything(settings) == before, f"after dying at step {at}"
        finished = at == steps.steps - 1
        assert finished == (len(key_text(settings)) == LINES + 1 and key_text(settings) != old)
        result = await rotated(settings)
        assert result.continued == (0 < at < steps.steps - 1)
        assert await everything(settings) == before
        assert len(key_text(settings)) == LINES + 1
        assert old.strip() not in key_text(settings)


@pytest.mark.slow
async def test_a_kill_loses_nothing(settings: Settings) -> None:
    await fill(settings, connections=60)
    before, old = await everything(settings), key_text(settings)
    environment = {**os.environ, "POLYDEV_DATA": str(settings.data)}
    command = [sys.executable, "-m", "polydev", "vault", "rotate"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while len(key_text(settings)) == len(old):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert len(key_text(settings)) == 2 * len(old)
    assert await everything(settings) == before
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "finished the rotation" in done.stdout
    assert old.strip() not in key_text(settings)
    assert await everything(settings) == before


@pytest.mark.slow
async def test_a_running_gateway_is_to_be_stopped_first(settings: Settings) -> None:
    await fill(settings)
    old = key_text(settings)
    with locked(Layout.of(settings)):
        refused = subprocess.run(
            [sys.executable, "-m", "polydev", "vault", "rotate"],
            env={**os.environ, "POLYDEV_DATA": str(settings.data)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert refused.returncode == 1
    assert "Stop it first" in refused.stderr
    assert key_text(settings) == old


async def test_keys_from_the_environment_reseal_and_are_left_to_their_owner(
    settings: Settings,
) -> None:
    await fill(settings)
    before, old = await everything(settings), key_text(settings).strip()
    new = "bmV3IG1hc3RlciBrZXksIG1hZGUgdXAgZm9yIHRlc3Q="
    both = Settings(data=settings.data, master_key=f"{new},{old}")
    assert (await rotated(both)).resealed == VALUES + 2
    assert await everything(Settings(data=settings.data, master_key=new)) == before
    assert key_text(settings).strip() == old


async def test_a_value_that_does_not_open_keeps_both_keys(settings: Settings) -> None:
    await fill(settings)
    async with Store.open(settings.store, settings.data) as store:
        values = [value async for value in store.sealed.every()]
        assert await store.sealed.replace(values[0], values[0].sealed[:-1])
    with pytest.raises(VaultProblem, match=f"credential {values[0].key[0]}"):
        await rotated(settings)
    assert load_keyring(None, settings.data).rotating


async def test_an_answer_that_no_key_opens_keeps_both_keys(settings: Settings) -> None:
    await fill(settings)
    stranger = Vault(load_keyring(None, settings.data.parent)).derive(*SPOOL_KEY)
    assert len(stranger) == KEY_BYTES
    sealed = seal_answer(
        stranger, binding_id="bnd_x", connection_id="con_x", status=200, body=b"{}"
    )
    path = write_spool(Layout.of(settings).spool, "bnd_x", sealed)
    with pytest.raises(VaultProblem, match="bnd_x"):
        await rotated(settings)
    assert load_keyring(None, settings.data).rotating
    path.unlink()
    assert (await rotated(settings)).continued


async def test_it_gives_up_when_another_gateway_goes_on_sealing_with_the_old_key(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(settings)

    async def lost(self: SealedValues, value: object, sealed: bytes) -> bool:
        return False

    monkeypatch.setattr(SealedValues, "replace", lost)
    with pytest.raises(StoreProblem, match="another gateway"):
        await rotated(settings)
    assert load_keyring(None, settings.data).rotating
