"""`polydev users` and `polydev keys`."""

from typing import Annotated, Any

import typer
from rich.console import Console

from polydev.cli.client import ask, with_owner

console = Console(highlight=False)
users = typer.Typer(help="The people of this installation.", no_args_is_help=True)
keys = typer.Typer(help="API keys.", no_args_is_help=True)

UserOption = Annotated[str | None, typer.Option(help="Whose; the first user's by default.")]


def register(app: typer.Typer) -> None:
    app.add_typer(users, name="users")
    app.add_typer(keys, name="keys")


@users.command("list")
def list_users() -> None:
    """Show all users."""
    rows = with_owner(lambda client: ask(client, "GET", "/owner/users"))
    show(rows, "id", "name", "state", "created_at")


@users.command("add")
def add_user(name: str) -> None:
    """Add a user. They get keys with `polydev keys create --user NAME`."""
    user = with_owner(lambda client: ask(client, "POST", "/owner/users", {"name": name}))
    console.print(f"{user['name']} ({user['id']}) was added.")


@users.command("disable")
def disable_user(name: str) -> None:
    """Refuse all of a user's keys from now on."""
    user = with_owner(lambda client: ask(client, "POST", f"/owner/users/{name}/disable"))
    console.print(f"{user['name']} is disabled.")


@keys.command("list")
def list_keys(user: UserOption = None) -> None:
    """Show a user's keys; the keys themselves are not kept."""
    query = {"user": user} if user else {}
    rows = with_owner(lambda client: ask(client, "GET", "/owner/keys", **query))
    show(rows, "id", "name", "prefix", "requests_per_minute", "concurrent_runs", "revoked_at")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for.")] = "",
    user: UserOption = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    concurrent_runs: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Create a key and print it: only its hash is kept, so it is shown now or never."""
    body = {
        "user": user,
        "name": name,
        "requests_per_minute": requests_per_minute,
        "concurrent_runs": concurrent_runs,
    }
    key = with_owner(lambda client: ask(client, "POST", "/owner/keys", body))
    print(key["key"])


@keys.command("revoke")
def revoke_key(key_id: str) -> None:
    """Refuse a key from now on."""
    key = with_owner(lambda client: ask(client, "POST", f"/owner/keys/{key_id}/revoke"))
    console.print(f"{key['prefix']}… is revoked.")


def show(rows: list[dict[str, Any]], *columns: str) -> None:
    """A table of some fields, whole however narrow the terminal is: ids are there to be copied."""
    table = [[column.replace("_", " ") for column in columns]]
    table += [["" if row[name] is None else str(row[name]) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(map(str.ljust, line, widths)).rstrip())
