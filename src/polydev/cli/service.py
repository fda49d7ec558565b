"""`polydev service`: starts with the machine, under systemd."""

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from polydev.cli.client import ask, settings_and_logging, with_owner
from polydev.config import Settings
from polydev.core.service_unit import NAME, ServiceUnit
from polydev.errors import SetupProblem
from polydev.proc import host_environment

console = Console(highlight=False, soft_wrap=True)
service = typer.Typer(help="Start with the machine, under systemd.", no_args_is_help=True)

# Longer than the unit may take to stop.
_SYSTEMCTL_SECONDS = 120
_FIRST_KEY_SECONDS = 120
_BOOTED = Path("/run/systemd/system")

SystemOption = Annotated[
    bool,
    typer.Option("--system/--user", help="Of the whole machine (needs root), or of this account."),
]


def register(app: typer.Typer) -> None:
    app.add_typer(service, name="service")


@service.command("install")
def install(
    *,
    system: SystemOption = False,
    account: Annotated[
        str | None, typer.Option(help="With --system: whom it runs as; who called sudo if unset.")
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the unit and change nothing.")
    ] = False,
) -> None:
    """Write a hardened unit for `polydev up`, enable it and start it."""
    settings = settings_and_logging()
    unit = _unit(settings, system=system, account=account)
    if only_print:
        print(unit.text(), end="")
        return
    _require_systemd(system=system)
    # The first key, which `up` would print to where a service's output goes: nowhere.
    if system:
        _make_data(Path(unit.data), unit.account)
        _first_key_as(unit)
    else:
        first_key()
    path = _path(system=system)
    _write(path, unit.text())
    _systemctl("daemon-reload", system=system)
    _systemctl("enable", "--now", NAME, system=system)
    console.print(f"{path} is installed and started. Its log: {_journal(system=system)}")
    if system:
        console.print(f"Another API key: sudo -u {unit.account} {sys.argv[0]} keys create")
    else:
        console.print("To have it run while you are not logged in: loginctl enable-linger")


@service.command("first-key", hidden=True)
def first_key() -> None:
    """Make the first API key, unless there is one, and print it."""
    key = with_owner(lambda client: ask(client, "POST", "/owner/keys/first"))["key"]
    if key is not None:
        console.print(f"Your first API key, shown only now: [bold]{key}[/]")


@service.command("uninstall")
def uninstall(*, system: SystemOption = False) -> None:
    """Stop the service and remove its unit; the data directory stays."""
    _require_systemd(system=system)
    path = _path(system=system)
    if not path.exists():
        raise SetupProblem(
            f"{path} does not exist: the service is not installed.",
            remedy="For the other kind give --system or --user.",
        )
    _systemctl("disable", "--now", NAME, system=system)
    try:
        path.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error
    _systemctl("daemon-reload", system=system)
    console.print(f"{path} is removed; {settings_and_logging().data} stays.")


def _unit(settings: Settings, *, system: bool, account: str | None) -> ServiceUnit:
    argv = (sys.executable, "-m", "polydev", "up")
    data = settings.data.absolute()
    given = {"POLYDEV_DATA": str(data)} if "POLYDEV_DATA" in os.environ else {}
    if not system:
        if account is not None:
            raise SetupProblem(
                "A user's own unit runs as that user.",
                remedy="Leave out --account, or add --system.",
            )
        return ServiceUnit(argv=argv, data=str(data), environment=given)
    name = account or os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    try:
        home = Path(pwd.getpwnam(name).pw_dir)
    except KeyError:
        raise SetupProblem(
            f"There is no account {name!r} on this machine.",
            remedy="Name one with --account, or make it: sudo useradd --system --create-home "
            f"{name}",
        ) from None
    if not given:
        data = home / ".local" / "share" / "polydev"
    return ServiceUnit(
        argv=argv,
        data=str(data),
        account=name,
        environment={"POLYDEV_DATA": str(data)},
    )


def _require_systemd(*, system: bool) -> None:
    unit = "`polydev service install --print` shows the unit"
    if not _BOOTED.is_dir():
        raise SetupProblem(
            "This machine was not started by systemd.",
            remedy=f"Have its own service manager run `polydev up`; {unit}.",
            reason="no_systemd",
        )
    if system and os.geteuid() != 0:
        raise SetupProblem(
            "Only root may install a system unit.",
            remedy="Use sudo, or leave out --system to have a unit of your own account.",
            reason="not_root",
        )


def _path(*, system: bool) -> Path:
    if system:
        return Path("/etc/systemd/system") / NAME
    base = os.environ.get("XDG_CONFIG_HOME") or ""
    config = Path(base) if base.startswith("/") else Path.home() / ".config"
    return config / "systemd" / "user" / NAME


def _make_data(data: Path, account: str) -> None:
    """The unit may write to it alone, so it must be there, and its account's."""
    if data.exists():
        return
    try:
        owner = pwd.getpwnam(account)
        for path in reversed([data, *data.parents]):
            if not path.exists():
                path.mkdir(mode=0o700)
                os.chown(path, owner.pw_uid, owner.pw_gid)
    except OSError as error:
        raise _unwritable(data, error) from error


def _first_key_as(unit: ServiceUnit) -> None:
    """What root makes in the data directory would not be the service's to use."""
    try:
        account = pwd.getpwnam(unit.account)
        done = subprocess.run(
            [*unit.argv[:-1], "service", "first-key"],
            stdin=subprocess.DEVNULL,
            cwd="/",
            env={**host_environment(), "HOME": account.pw_dir, **unit.environment},
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            timeout=_FIRST_KEY_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupProblem(f"polydev cannot be run as {unit.account}: {error}.") from error
    if done.returncode:
        raise SetupProblem(
            f"polydev does not work as {unit.account}; its own words are above.",
            remedy="Mend that, then install again. Nothing was installed.",
        )


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{NAME}.", dir=path.parent)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _systemctl(*arguments: str, system: bool) -> None:
    argv = ["systemctl", *([] if system else ["--user"]), *arguments]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SYSTEMCTL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupProblem(f"`{' '.join(argv)}` failed: {error}.") from error
    if done.returncode:
        raise SetupProblem(
            f"`{' '.join(argv)}` failed: {done.stderr.strip() or f'exit code {done.returncode}'}.",
            remedy=f"Its log may tell why: {_journal(system=system)}",
            reason="systemctl_failed",
        )


def _journal(*, system: bool) -> str:
    return f"journalctl {'' if system else '--user '}-u polydev"


def _unwritable(path: Path, error: OSError) -> SetupProblem:
    return SetupProblem(
        f"{path} cannot be changed: {error.strerror or error}.",
        remedy="Give this account access to its directory.",
    )
