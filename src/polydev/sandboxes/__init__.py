"""Isolated places for CLIs. abc.py is the contract; `sandboxes_for` gives the configured kind."""

from pathlib import Path

from polydev.config import SandboxSettings
from polydev.sandboxes.abc import LaunchFor, Sandbox, Sandboxes
from polydev.sandboxes.bubblewrap import Bubblewrap
from polydev.sandboxes.none import Unprotected
from polydev.sandboxes.probe import Probe, probe

__all__ = [
    "Bubblewrap",
    "LaunchFor",
    "Probe",
    "Sandbox",
    "Sandboxes",
    "Unprotected",
    "probe",
    "sandboxes_for",
]


def sandboxes_for(
    settings: SandboxSettings, *, directory: Path, programs: Path, authority: Path
) -> Sandboxes:
    """The kind that the settings name.

    directory: holds one directory per open sandbox; programs: holds node_modules; authority: the
    PEM file of the certificate authority that ends TLS at egress.
    """
    kind = Bubblewrap if settings.kind == "bubblewrap" else Unprotected
    return kind(directory=directory, programs=programs, authority=authority)
