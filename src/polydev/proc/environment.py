"""What of the environment is ever passed on: two allowlists, never a copy.

Our own environment may hold the master key, proxies, tokens and paths of the person who started
us. A host tool (bwrap, setpriv, node for a version check) gets where programs are and nothing
else; what runs in a sandbox gets constants.
"""

import os
from pathlib import PurePosixPath

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CONSTANTS = {"LANG": "C.UTF-8", "TZ": "UTC"}


def host_environment() -> dict[str, str]:
    """For tools of the host that polydev starts for itself."""
    return {"PATH": os.environ.get("PATH") or _DEFAULT_PATH, **_CONSTANTS}


def child_environment(
    home: PurePosixPath, path: str = "/usr/local/bin:/usr/bin:/bin"
) -> dict[str, str]:
    """For a CLI, before its launch adds its own variables."""
    return {
        "HOME": str(home),
        "LOGNAME": "user",
        "PATH": path,
        "SHELL": "/bin/sh",
        "USER": "user",
        **_CONSTANTS,
    }
