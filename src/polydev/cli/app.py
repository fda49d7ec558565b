"""The commands' tree. A command's module is imported when it is asked for, and no other."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from polydev import __version__

# In the order of `polydev --help`.
_MODULES = {
    "up": "server",
    "sim": "server",
    "open": "dashboard",
    "run": "prompt",
    "connect": "connections",
    "connections": "connections",
    "check": "connections",
    "proxy": "connections",
    "disconnect": "connections",
    "logins": "connections",
    "users": "accounts",
    "keys": "accounts",
    "vault": "vault",
    "doctor": "doctor",
    "service": "service",
    "demo": "demo",
    "bench": "bench",
}


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return [*_MODULES, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = _MODULES.get(cmd_name)
        if name is None:
            return super().get_command(ctx, cmd_name)
        loaded = _typer()
        import_module(f"polydev.cli.{name}").register(loaded)
        return get_group(loaded).get_command(ctx, cmd_name)


def _typer() -> typer.Typer:
    return typer.Typer(
        name="polydev",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


app = _typer()


@app.callback(cls=_Commands)
def polydev() -> None:
    """The AI subscriptions you already pay for, as an API of your own."""


@app.command()
def version() -> None:
    """Print polydev's version."""
    print(__version__)
