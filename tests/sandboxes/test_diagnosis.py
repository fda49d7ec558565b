import os
from pathlib import Path

import pytest

from polydev.errors import SandboxUnavailable
from polydev.sandboxes import probe
from polydev.sandboxes.bubblewrap import find_bubblewrap
from polydev.sandboxes.diagnosis import Kernel, diagnose, read_kernel

NO_PERMISSION = (
    "bwrap: No permissions to creating new namespace, likely because the kernel does not allow"
    " non-privileged user namespaces. On e.g. debian this can be enabled with 'sysctl"
    " kernel.unprivileged_userns_clone=1'."
)


@pytest.mark.parametrize(
    ("words", "kernel", "reason", "remedy"),
    [
        (NO_PERMISSION, Kernel(userns_clone=0), "user_namespaces_disabled", "userns_clone=1"),
        (
            "bwrap: Creating new namespace failed, maxed out number of namespaces",
            Kernel(max_user_namespaces=0),
            "user_namespaces_disabled",
            "max_user_namespaces=15000",
        ),
        (
            "bwrap: setting up uid map: Permission denied",
            Kernel(apparmor_restricts=1),
            "apparmor_restricts",
            "apparmor_parser -r",
        ),
        (
            "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
            Kernel(apparmor_restricts=1),
            "apparmor_restricts",
            "profile bwrap /opt/bwrap flags=(unconfined) {\n  userns,",
        ),
        (
            "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
            Kernel(container=True),
            "proc_masked",
            "systempaths=unconfined",
        ),
        (
            "bwrap: Creating new namespace failed: Operation not permitted",
            Kernel(container=True),
            "container_forbids",
            "seccomp=unconfined",
        ),
        (NO_PERMISSION, Kernel(), "user_namespaces_refused", "journalctl -k"),
        (
            "bwrap: Creating new namespace failed: No space left on device",
            Kernel(max_user_namespaces=100),
            "namespaces_used_up",
            "runs.concurrent",
        ),
        ("bwrap: Something else", Kernel(), "bubblewrap_failed", "doctor"),
        ("", Kernel(), "bubblewrap_failed", "doctor"),
    ],
)
def test_each_cause_has_its_reason_and_remedy(words, kernel, reason, remedy):
    found = diagnose(words, kernel, bwrap="/opt/bwrap")
    assert found.reason == reason
    assert remedy in found.remedy
    error = found.error()
    assert isinstance(error, SandboxUnavailable)
    assert (error.reason, error.remedy) == (found.reason, found.remedy)
    if words:
        assert words.split()[-1] in found.message


def test_the_kernels_switches_are_read(tmp_path):
    assert read_kernel(tmp_path) == Kernel()
    for name, value in (
        ("kernel/unprivileged_userns_clone", "0\n"),
        ("user/max_user_namespaces", "77\n"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1\n"),
    ):
        path = tmp_path / "proc/sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    (tmp_path / ".dockerenv").touch()
    assert read_kernel(tmp_path) == Kernel(
        userns_clone=0, max_user_namespaces=77, apparmor_restricts=1, container=True
    )


@pytest.mark.anyio
async def test_this_machine_can():
    found = await probe()
    assert found.ok, found
    assert found.version.count(".") == 2


def _fake_bwrap(directory: Path, script: str) -> None:
    bwrap = directory / "bwrap"
    bwrap.write_text(f"#!/bin/sh\n{script}\n")
    bwrap.chmod(0o755)


@pytest.mark.anyio
async def test_a_missing_or_old_one_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = await probe()
    assert (missing.ok, missing.reason) == (False, "bubblewrap_missing")
    assert "apt-get install -y bubblewrap" in missing.remedy

    _fake_bwrap(tmp_path, "echo bubblewrap 0.3.3")
    old = await probe()
    assert (old.ok, old.reason) == (False, "bubblewrap_too_old")
    assert "0.3.3" in old.message
    assert "0.5.0" in old.message

    _fake_bwrap(tmp_path, "echo nonsense")
    with pytest.raises(SandboxUnavailable):
        await find_bubblewrap()


@pytest.mark.anyio
async def test_one_that_is_not_permitted_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = "bwrap: Creating new namespace failed: Operation not permitted"
    _fake_bwrap(
        tmp_path,
        f'[ "$1" = --version ] && echo bubblewrap 0.9.0 || {{ echo "{words}" >&2; exit 1; }}',
    )
    found = await probe()
    assert not found.ok
    assert found.version == "0.9.0"
    assert words in found.message
    assert "seccomp=unconfined" in found.remedy
