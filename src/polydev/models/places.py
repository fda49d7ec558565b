"""What is started inside a sandbox, and how that place looks to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from polydev.secret import Secret

# Under HOME: what a CLI asked to have opened in a browser, one address a line.
LINKS_FILE = PurePosixPath(".polydev/links")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The inside of a sandbox, as a provider's launch refers to it.

    The same for every bubblewrap sandbox, so that what a CLI says about its surroundings is the
    same bytes in every run and prompts stay cacheable.

    programs: the directory that holds `node_modules` with the CLIs.
    egress_socket: a unix socket that speaks HTTP to egress.
    egress_port: the port on 127.0.0.1 that does the same (and takes CONNECT).
    authority: PEM file of the certificate authority that ends TLS at egress.
    """

    home: PurePosixPath
    workspace: PurePosixPath
    programs: PurePosixPath
    egress_socket: PurePosixPath
    egress_port: int
    authority: PurePosixPath

    @property
    def egress_url(self) -> str:
        return f"http://127.0.0.1:{self.egress_port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What to start: the answer of a provider, carried out by a sandbox.

    argv: absolute paths as the place shows them; no shell.
    environment: added to the sandbox's own few variables; nothing of the host's comes along.
    files: path under HOME → content; written with mode 0600 before the process starts.
    executable: those of them that are programs, with mode 0700.
    etc: path under /etc → content, read-only and the same for all, where a place has its own /etc.
    desktop: a graphical session is started: the place shows what such reads of the system.
    needs_port: whether the loopback port is used; the unix socket always exists.
    opening: lines to send at once, before any of a dialogue's: what needs to know the place, and
        whatever runs without a dialogue (the keeper).
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Secret[bytes]] = field(default_factory=dict)
    executable: frozenset[str] = frozenset()
    etc: Mapping[str, bytes] = field(default_factory=dict)
    desktop: bool = False
    needs_port: bool = False
    opening: tuple[bytes, ...] = ()
