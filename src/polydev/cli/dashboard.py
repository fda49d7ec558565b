"""`polydev open`."""

import os
import sys
import webbrowser
from typing import Annotated

import typer

from polydev.cli.client import ask, settings_and_logging, with_owner
from polydev.core.layout import Layout, in_use
from polydev.errors import SetupProblem


def register(app: typer.Typer) -> None:
    app.command("open")(open_dashboard)


def open_dashboard(
    user: Annotated[
        str | None, typer.Option(help="Who signs in; the first user by default.")
    ] = None,
    *,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the link; open no browser.")
    ] = False,
) -> None:
    """Sign a browser in to the dashboard, by a link that works once, within a minute."""
    if not in_use(Layout.of(settings_and_logging())):
        raise SetupProblem("No gateway is running.", remedy="Start one: `polydev up`.")
    link = with_owner(lambda client: ask(client, "POST", "/owner/sign-in-links", {"user": user}))
    print(link["url"])
    if not only_print and _has_display():
        webbrowser.open(link["url"])


def _has_display() -> bool:
    """Without one, `webbrowser` may take the terminal for a browser in it."""
    return sys.platform == "darwin" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
