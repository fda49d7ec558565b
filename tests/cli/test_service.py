"""`polydev service`: the unit, and what is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from polydev.core.service_unit import ServiceUnit

# Each would keep bubblewrap from making its sandboxes.
FORBIDDEN = (
    "RestrictNamespaces",
    "ProtectKernelTunables",
    "ProtectKernelLogs",
    "ProtectHostname",
    "ProtectProc",
    "ProcSubset",
    "MemoryDenyWriteExecute",
    "PrivateUsers",
)


def service(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "polydev", "service", *arguments],
        env={**os.environ, "POLYDEV_DATA": str(data), "XDG_CONFIG_HOME": str(data / "config")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kind", ["--user", "--system"])
def test_systemd_understands_the_unit(kind: str, tmp_path: Path) -> None:
    printed = service("install", kind, "--print", data=tmp_path / "100% my data")
    assert printed.returncode == 0, printed.stderr
    assert not (tmp_path / "100% my data").exists()
    assert "NoNewPrivileges=yes" in printed.stdout
    assert "StandardOutput=null" in printed.stdout
    assert "KillMode=control-group" in printed.stdout
    assert not any(word in printed.stdout for word in FORBIDDEN)
    assert ("User=" in printed.stdout) == (kind == "--system")
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    unit = tmp_path / "polydev.service"
    unit.write_text(printed.stdout)
    judged = subprocess.run(
        [analyze, "verify", "--man=no", kind, str(unit)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert "polydev.service:" not in judged.stderr


def test_what_systemd_would_expand_is_escaped() -> None:
    unit = ServiceUnit(
        argv=("/opt/a b/50%/$x/py", "up"), data="/d", environment={"POLYDEV_DATA": '/50%/"x"'}
    )
    lines = unit.text().splitlines()
    assert 'ExecStart="/opt/a b/50%%/$$x/py" "up"' in lines
    assert r'Environment="POLYDEV_DATA=/50%%/\"x\""' in lines


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs here")
@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_without_systemd_it_says_so_and_changes_nothing(command: str, tmp_path: Path) -> None:
    refused = service(command, data=tmp_path / "data")
    assert refused.returncode == 1
    assert "not started by systemd" in refused.stderr
    assert not (tmp_path / "data").exists()


def test_an_account_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    refused = service(
        "install", "--system", "--print", "--account", "nobody-by-this-name", data=tmp_path
    )
    assert refused.returncode == 1
    assert "no account" in refused.stderr
