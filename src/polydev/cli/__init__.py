"""The `polydev` command.

Commands talk to the running gateway over its owner's socket, or, when none is running, start one
for as long as they take. A PolydevError is shown as its message and remedy, with exit code 1;
exit code 2 is a mistake in the command line.
"""

import sys
import traceback
from pathlib import PurePath

import structlog
from rich.console import Console

from polydev.cli.app import app
from polydev.config import LogSettings
from polydev.errors import PolydevError
from polydev.logs import set_up_logging


def main() -> None:
    """The entry point."""
    # A command sets it up anew from its settings; until then, too, nothing shows what it holds.
    set_up_logging(LogSettings(level="warning"))
    try:
        app()
    except PolydevError as error:
        console = Console(stderr=True, highlight=False)
        console.print(f"[bold red]error[/] {_plain(error.message)}", soft_wrap=True)
        if error.remedy:
            console.print(f"[dim]{_plain(error.remedy)}[/]", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # The outermost boundary: a mistake of ours is told in one line, the rest is for the log.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{PurePath(place.filename).name}:{place.lineno}"
        structlog.get_logger().debug("unexpected failure", exc_info=True)
        Console(stderr=True, highlight=False).print(
            f"[bold red]error[/] polydev made a mistake ({type(error).__name__} at {where}).\n"
            "[dim]Please report it; POLYDEV_LOG__LEVEL=debug shows where it came from.[/]",
            soft_wrap=True,
        )
        sys.exit(70)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
