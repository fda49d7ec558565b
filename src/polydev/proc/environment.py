"""What of the environment is ever passed on: allowlists, never a copy.

Our own environment may hold the master key, proxies, tokens and paths of the person who started
us. A host tool (bwrap, setpriv, node for a version check) gets where programs are and nothing
else; what runs in a sandbox gets constants.
"""

import os
from pathlib import PurePosixPath

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FOR_NPM = frozenset(
    {
        "home",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "node_extra_ca_certs",
        "ssl_cert_file",
        "ssl_cert_dir",
        "tmpdir",
        "xdg_cache_home",
        "xdg_config_home",
    }
)
_CONSTANTS = {"LANG": "C.UTF-8", "TZ": "UTC"}


def host_environment() -> dict[str, str]:
    """For tools of the host that polydev starts for itself."""
    return {"PATH": os.environ.get("PATH") or _DEFAULT_PATH, **_CONSTANTS}


def npm_environment() -> dict[str, str]:
    """For npm: besides where programs are, how the person who started us reaches a registry."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.lower() in _FOR_NPM or name.lower().startswith("npm_config_")
    }
    return {**passed, **host_environment()}


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
