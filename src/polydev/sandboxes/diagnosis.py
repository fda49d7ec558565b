"""Why this machine makes no bubblewrap sandbox, and the exact remedy.

Pure but for `read_kernel`: bwrap's words and what the kernel says of itself go in, a reason, one
sentence and the commands come out.
"""

from dataclasses import dataclass
from pathlib import Path

from polydev.errors import SandboxUnavailable

INSTALL = "Install it: sudo apt-get install -y bubblewrap (or: dnf install bubblewrap, pacman -S bubblewrap)."

APPARMOR_PROFILE = """\
abi <abi/4.0>,
include <tunables/global>

profile bwrap {bwrap} flags=(unconfined) {{
  userns,
  include if exists <local/bwrap>
}}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """What the kernel says; None where it has no such switch."""

    userns_clone: int | None = None
    max_user_namespaces: int | None = None
    apparmor_restricts: int | None = None
    container: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    reason: str
    message: str
    remedy: str

    def error(self) -> SandboxUnavailable:
        return SandboxUnavailable(self.message, remedy=self.remedy, reason=self.reason)


MISSING = Diagnosis(
    reason="bubblewrap_missing",
    message="bubblewrap (the program bwrap) is not installed.",
    remedy=INSTALL,
)


def too_old(version: str, needed: str) -> Diagnosis:
    return Diagnosis(
        reason="bubblewrap_too_old",
        message=f"bubblewrap {version} is too old; {needed} or newer is needed.",
        remedy="Upgrade the distribution's package, or the distribution.",
    )


def read_kernel(root: Path = Path("/")) -> Kernel:
    return Kernel(
        userns_clone=_number(root / "proc/sys/kernel/unprivileged_userns_clone"),
        max_user_namespaces=_number(root / "proc/sys/user/max_user_namespaces"),
        apparmor_restricts=_number(root / "proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        container=(root / ".dockerenv").exists() or (root / "run/.containerenv").exists(),
    )


def diagnose(words: str, kernel: Kernel, *, bwrap: str = "/usr/bin/bwrap") -> Diagnosis:
    """What stands behind bwrap's failure with these words."""
    said = _last_words(words)
    if kernel.max_user_namespaces == 0:
        return Diagnosis(
            reason="user_namespaces_disabled",
            message=f"The kernel allows no user namespaces (user.max_user_namespaces=0). {said}",
            remedy=_sysctl("user.max_user_namespaces=15000"),
        )
    if kernel.userns_clone == 0 and _about_permission(words):
        return Diagnosis(
            reason="user_namespaces_disabled",
            message="The kernel allows user namespaces to root only "
            f"(kernel.unprivileged_userns_clone=0). {said}",
            remedy=_sysctl("kernel.unprivileged_userns_clone=1"),
        )
    if _about_proc(words):
        return Diagnosis(
            reason="proc_masked",
            message=f"A fresh /proc may not be mounted: polydev runs in a container. {said}",
            remedy="Start the container with --security-opt systempaths=unconfined "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined, or run "
            "polydev on the host.",
        )
    if kernel.apparmor_restricts == 1 and _about_permission(words):
        return Diagnosis(
            reason="apparmor_restricts",
            message="AppArmor keeps bubblewrap from using user namespaces "
            f"(kernel.apparmor_restrict_unprivileged_userns=1). {said}",
            remedy=apparmor_remedy(bwrap),
        )
    if _about_permission(words) and "amespace" in words:
        return Diagnosis(
            reason="container_forbids" if kernel.container else "user_namespaces_refused",
            message=f"Creating a user namespace is not permitted here. {said}",
            remedy="In a container: start it with --security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined --security-opt systempaths=unconfined. "
            "Elsewhere: see which security module refuses it (journalctl -k).",
        )
    if "maxed out" in words or "No space left" in words:
        return Diagnosis(
            reason="namespaces_used_up",
            message=f"The limit of namespaces, or the disk space, is used up. {said}",
            remedy="Raise user.max_user_namespaces (and max_net_, max_pid_, max_mnt_namespaces), "
            "free disk space, or lower runs.concurrent.",
        )
    return Diagnosis(
        reason="bubblewrap_failed",
        message=f"bubblewrap could not make a sandbox. {said}",
        remedy="Run `polydev doctor`; if it finds nothing, report these words.",
    )


def apparmor_remedy(bwrap: str) -> str:
    return (
        "Give bubblewrap an AppArmor profile that allows it, then load it:\n"
        f"sudo tee /etc/apparmor.d/bwrap >/dev/null <<'EOF'\n{APPARMOR_PROFILE.format(bwrap=bwrap)}"
        "EOF\nsudo apparmor_parser -r /etc/apparmor.d/bwrap"
    )


def _sysctl(setting: str) -> str:
    return (
        f"Allow them: echo {setting} | sudo tee /etc/sysctl.d/90-polydev.conf && "
        "sudo sysctl --system"
    )


def _about_proc(words: str) -> bool:
    return "mount proc" in words or "/newroot/proc" in words


def _about_permission(words: str) -> bool:
    return any(part in words for part in ("ermission", "not permitted", "RTM_NEWADDR", "uid map"))


def _last_words(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return f"It said: {lines[-1][:300]}" if lines else "It said nothing."


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
