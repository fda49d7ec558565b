"""`polydev demo`, whole, with the CLIs of this installation."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polydev.config import load_settings
from polydev.core.layout import Layout
from polydev.providers.registry import PROVIDERS

pytestmark = pytest.mark.real

_SECONDS = 120


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The CLIs are this installation's; all else that a demo makes goes under tmp_path."""
    (tmp_path / "tmp").mkdir()
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("POLYDEV_")},
        "POLYDEV_PROGRAMS": str(Layout.of(load_settings()).programs),
        "POLYDEV_DATA": str(tmp_path / "data"),
        "TMPDIR": str(tmp_path / "tmp"),
    }


@pytest.fixture
def marked(environment: dict[str, str]) -> Iterator[None]:
    """Fails when a process that the demo started is left: they have its directory for temporary
    files in their environment or arguments.
    """
    yield
    needle = environment["TMPDIR"].encode()
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if needle in words and int(process.name) != os.getpid():
            left.append(words[:200])
    assert not left


@pytest.mark.usefixtures("marked")
def test_every_cli_answers_on_both_surfaces(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "polydev", "demo"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"(?m)^(\w+) .* (OpenAI|Anthropic) +201 +\d+ ms", done.stdout)
    titles = {provider.title.split()[0] for provider in PROVIDERS.values()}
    assert set(rows) == {
        (title, surface) for title in titles for surface in ("OpenAI", "Anthropic")
    }
    assert not list((tmp_path / "tmp").iterdir())
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_leaves_nothing(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "polydev", "demo"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Asking:")
        assert list((tmp_path / "tmp").iterdir())
        process.send_signal(number)
        assert process.wait(_SECONDS) == 128 + number
    assert not list((tmp_path / "tmp").iterdir())
