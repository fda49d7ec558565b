"""`polydev vault`: the master key."""

import sys
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from polydev.cli.client import settings_and_logging
from polydev.config import Settings
from polydev.core.layout import Layout, locked
from polydev.core.rotation import Rotation, rotate
from polydev.errors import SetupProblem
from polydev.store import Store
from polydev.store.database import DATABASE_FILE
from polydev.vault import KEY_FILE, KeyRing, load_keyring

console = Console(highlight=False, soft_wrap=True)
told = Console(stderr=True, highlight=False, soft_wrap=True)
vault = typer.Typer(help="The master key that seals logins and texts.", no_args_is_help=True)

_WARNING = """\
[bold]This key opens everything that polydev keeps.[/]
Whoever has it and a copy of the database has every connected login and every kept text.
Whoever loses it, without master.key in the data directory, must connect every login anew:
nothing that is sealed can be opened without it.
Keep it where you keep passwords, apart from backups of the database."""


def register(app: typer.Typer) -> None:
    app.add_typer(vault, name="vault")


@vault.command("rotate")
def rotate_key() -> None:
    """Replace the master key and reseal everything; may be interrupted and run again."""
    settings = settings_and_logging()
    if not _exists(settings):
        raise SetupProblem(
            f"There is nothing to rotate in {settings.data} yet.",
            remedy="`polydev up` makes the first master key.",
        )
    result = uvloop.run(_rotate(settings))
    key = result.keyring.first.id.hex()
    continued = "finished the rotation that was begun" if result.continued else "rotated"
    console.print(f"{continued}: the master key is {key}, {result.resealed} values were resealed.")
    if result.keyring.file is None:
        console.print("Now remove all keys but the first from POLYDEV_MASTER_KEY.")
    else:
        console.print("An exported copy of the older key opens nothing any more: export this one.")


@vault.command("export-key")
def export_key(*, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Print the master key, as POLYDEV_MASTER_KEY takes it."""
    settings = settings_and_logging()
    keyring = _keyring(settings)
    told.print(_WARNING)
    if not yes and sys.stdin.isatty():
        typer.confirm("Print it?", abort=True, err=True)
    print(",".join(key.export().reveal() for key in keyring.keys))


async def _rotate(settings: Settings) -> Rotation:
    layout = Layout.of(settings)
    try:
        with locked(layout):
            async with Store.open(settings.store, settings.data) as store:
                return await rotate(settings, store, layout.spool)
    except SetupProblem as error:
        if error.reason != "data_directory_in_use":
            raise
        raise SetupProblem(
            f"A polydev works on {layout.data}, and would go on sealing with the old key.",
            remedy="Stop it first, then rotate, then start it again.",
            reason=error.reason,
        ) from error


def _keyring(settings: Settings) -> KeyRing:
    if (
        settings.master_key is None
        and not (settings.data / KEY_FILE).exists()
        and (not _exists(settings))
    ):
        raise SetupProblem(
            f"There is no master key in {settings.data} yet.",
            remedy="`polydev up` makes the first one.",
        )
    return load_keyring(settings.master_key, settings.data, may_create=False)


def _exists(settings: Settings) -> bool:
    return bool(settings.store.url) or (settings.data / DATABASE_FILE).exists()
