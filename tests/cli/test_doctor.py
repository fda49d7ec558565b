"""`polydev doctor` as it is typed."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest


def doctor(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "polydev", "doctor", *arguments],
        env={**os.environ, "POLYDEV_DATA": str(data), "POLYDEV_SERVER__PORT": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_json_is_a_list_of_findings(tmp_path: Path) -> None:
    answer = doctor("--json", "python", "data", "database", "gateway", data=tmp_path / "data")
    assert answer.returncode == 0, answer.stderr
    findings = json.loads(answer.stdout)
    assert {"polydev", "python", "data directory", "port"} <= {f["name"] for f in findings}
    assert all(set(f) == {"name", "ok", "version", "problem", "remedy"} for f in findings)


def test_the_exit_code_tells_and_fix_mends(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    wrong = doctor("data", data=data)
    assert wrong.returncode == 1
    assert f"chmod 700 {data}" in wrong.stdout
    mended = doctor("--fix", "data", data=data)
    assert mended.returncode == 0, mended.stdout
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_an_unknown_part_is_named(tmp_path: Path) -> None:
    answer = doctor("kitchen", data=tmp_path / "data")
    assert answer.returncode == 1
    assert "kitchen" in answer.stderr
    assert "database" in answer.stderr


@pytest.mark.real
def test_after_setup_nothing_is_missing(tmp_path: Path) -> None:
    """With the CLIs of this installation."""
    from polydev.config import load_settings
    from polydev.core.layout import Layout

    programs = Layout.of(load_settings()).programs
    os.environ["POLYDEV_PROGRAMS"] = str(programs)
    answer = doctor("--json", "programs", "sandbox", data=tmp_path / "data")
    assert answer.returncode == 0, answer.stdout
