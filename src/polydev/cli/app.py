"""The commands' tree; each group of them lives in a module of its own."""

import typer

from polydev.cli import accounts, bench, connections, demo, doctor, prompt, server, service, vault

app = typer.Typer(
    name="polydev",
    help="The AI subscriptions you already pay for, as an API of your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for module in (server, prompt, connections, accounts, vault, doctor, service, demo, bench):
    module.register(app)
