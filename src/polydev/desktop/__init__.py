"""A desktop with a terminal and a browser, for logins that a person's own browser cannot do.

launch.py says what is started in a sandbox, session.py speaks to it from outside, rfb.py looks at
its screen. Inside, `files/session` starts everything. Nothing of it listens but a unix socket that
speaks VNC.
"""

from polydev.desktop.launch import (
    COMMAND,
    POLICY,
    UPSTREAM_AUTHORITY,
    VNC_SOCKET,
    command_of,
    desktop_launch,
)
from polydev.desktop.session import Desktop, Fact

__all__ = [
    "COMMAND",
    "POLICY",
    "UPSTREAM_AUTHORITY",
    "VNC_SOCKET",
    "Desktop",
    "Fact",
    "command_of",
    "desktop_launch",
]
