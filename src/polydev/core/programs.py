"""Where what comes from npm is installed, the vendors' CLIs first, and what is missing.

They live under one directory with its own `node_modules`, installed from the lock file that comes
with polydev, so that every machine runs the versions that polydev was tested with.
"""

import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from polydev.errors import ProgramMissing
from polydev.models.places import Place
from polydev.providers.base import Program

HTMX, NOVNC = "htmx.org", "@novnc/novnc"
# What the dashboard has of others: npm package → the file that shows that it is there.
BROWSER_PARTS = {HTMX: "dist/htmx.min.js", NOVNC: "core/rfb.js"}
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def npm_platform() -> str:
    """The machine in npm's words: `linux-x64`, `darwin-arm64`, …"""
    machine = platform.machine().lower()
    return f"{sys.platform}-{_MACHINES.get(machine, machine)}"


@dataclass(frozen=True, slots=True)
class Programs:
    """root: the directory that holds `node_modules`."""

    root: Path

    def file(self, program: Program) -> Path:
        """The executable on this machine, installed or not."""
        return self.root / _path(program)

    def require(self, program: Program) -> None:
        """Raises ProgramMissing when the CLI is not installed."""
        if not (self.file(program)).exists():
            raise ProgramMissing(
                f"{program.package} is not installed.",
                remedy="Run `polydev doctor --fix`, which installs it.",
            )

    def inside(self, program: Program, place: Place) -> PurePosixPath:
        """The executable as a sandbox shows it."""
        return place.programs / _path(program)

    def node(self, place: Place) -> PurePosixPath:
        """The Node that comes with the CLIs, as a sandbox shows it."""
        return place.programs / _node() / "bin/node"

    def version(self, program: Program) -> str | None:
        """The installed version; None when it is not installed."""
        return self._version(PurePosixPath("node_modules", program.package), self.file(program))

    def node_version(self) -> str | None:
        """The installed Node's; None when it is not installed."""
        return self._version(_node(), self.root / _node() / "bin/node")

    def browser_part(self, package: str) -> Path:
        """The file of one of BROWSER_PARTS, installed or not."""
        return self.root / "node_modules" / package / BROWSER_PARTS[package]

    def browser_part_version(self, package: str) -> str | None:
        """The installed version; None when it is not installed."""
        return self._version(PurePosixPath("node_modules", package), self.browser_part(package))

    def _version(self, package: PurePosixPath, file: Path) -> str | None:
        if not file.exists():
            return None
        try:
            return str(json.loads((self.root / package / "package.json").read_bytes())["version"])
        except (OSError, ValueError, KeyError):
            return None


def _path(program: Program) -> PurePosixPath:
    return PurePosixPath("node_modules") / program.file_on(npm_platform())


def _node() -> PurePosixPath:
    return PurePosixPath("node_modules", f"node-{npm_platform()}")
