"""Packages of the distribution: installed with apt-get where that needs nobody's password."""

import asyncio
import os
import shutil
from collections.abc import Sequence

from polydev.errors import SetupProblem
from polydev.proc import run_tool

_SUDO_SECONDS = 10.0
_OPTIONS = ("install", "-y", "--no-install-recommends")


def install_line(packages: Sequence[str]) -> str:
    """What a person types to install them."""
    return f"sudo apt-get update && sudo apt-get {' '.join(_OPTIONS)} {' '.join(packages)}"


async def may_install() -> bool:
    """Whether apt-get is there and we are root, or sudo asks for no password."""
    if shutil.which("apt-get") is None:
        return False
    if os.geteuid() == 0:
        return True
    sudo = shutil.which("sudo")
    if sudo is None:
        return False
    return (await run_tool([sudo, "-n", "true"], timeout_seconds=_SUDO_SECONDS)).code == 0


async def install_packages(packages: Sequence[str]) -> None:
    """Installs them, apt-get's own words going to standard error. Raises SetupProblem.

    Takes as long as it takes: apt-get that is stopped half-way leaves work for its next call.
    """
    prefix = () if os.geteuid() == 0 else ("sudo", "-n")
    apt = (*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get")
    if await _run(*apt, *_OPTIONS, *packages) == 0:
        return
    # The package lists may be old, or not there yet.
    await _run(*apt, "update")
    code = await _run(*apt, *_OPTIONS, *packages)
    if code != 0:
        raise SetupProblem(
            f"apt-get could not install {', '.join(packages)} (exit code {code}).",
            remedy=f"Run it by hand: {install_line(packages)}",
            reason="apt_failed",
        )


async def _run(*argv: str) -> int:
    # Not a Process: its words are for the person who waits, and its environment is the person's
    # own (proxies), as if it had been typed.
    child = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL, stdout=2)
    return await child.wait()
