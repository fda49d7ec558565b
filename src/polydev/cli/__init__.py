"""The `polydev` command.

Commands talk to the running gateway over its owner's socket, or, when none is running, start one
for as long as they take. A PolydevError is shown as its message and remedy, with exit code 1;
exit code 2 is a mistake in the command line.
"""

import sys

import structlog
from rich.console import Console

from polydev.cli.app import app
from polydev.errors import PolydevError


def main() -> None:
    """The entry point."""
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
    except Exception:
        # The outermost boundary: nobody is shown a traceback unless the log asks for it.
        structlog.get_logger().exception("polydev failed unexpectedly")
        sys.exit(70)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
