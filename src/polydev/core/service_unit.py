"""The systemd unit of `polydev up`. Pure.

Hardened as far as bubblewrap allows: it makes namespaces of its own and mounts a fresh /proc,
which the kernel refuses where parts of /proc are covered. So nothing here restricts namespaces,
host names (each sandbox has its own) or mounts anything over /proc (ProtectKernelTunables,
ProtectKernelLogs, ProcSubset, …), and Node writes code that it executes, so that stays allowed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

NAME = "polydev.service"

_BOTH = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
UMask=0077
LimitCORE=0
"""
_SYSTEM = """\
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ReadWritePaths={data}
PrivateTmp=yes
ProtectClock=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceUnit:
    """argv: what starts polydev.

    data: the data directory; it exists when the service starts.
    account: whom a system unit runs as; empty for a user's own unit.
    """

    argv: tuple[str, ...]
    data: str
    account: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        lines = [
            "[Unit]",
            "Description=polydev: AI subscriptions as an API of your own",
            "After=network-online.target",
            "Wants=network-online.target",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStart={' '.join(_quoted(part, command=True) for part in self.argv)}",
            *(
                f"Environment={_quoted(f'{name}={value}')}"
                for name, value in sorted(self.environment.items())
            ),
            *([f"User={self.account}"] if self.account else []),
            "# What it prints for people, an API key at its first start among it, is no log.",
            "StandardOutput=null",
            "StandardError=journal",
            "Restart=on-failure",
            "RestartSec=1",
            "# Not mixed: that kills what outlives the gateway at once, and egress does in order to",
            "# keep a refreshed login. It ignores SIGTERM and ends by itself.",
            "KillMode=control-group",
            "# A refresh (45 s), what runs still store (10 s) and egress (18 s) may follow each other.",
            "TimeoutStopSec=90",
            *_BOTH.splitlines(),
            *(_SYSTEM.format(data=_quoted(self.data)).splitlines() if self.account else []),
            "",
            "[Install]",
            f"WantedBy={'multi-user.target' if self.account else 'default.target'}",
            "",
        ]
        return "\n".join(lines)


def _quoted(text: str, *, command: bool = False) -> str:
    """As systemd reads it back: quoted, its specifiers (and, in a command, variables) escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped.replace("$", "$$") if command else escaped}"'
