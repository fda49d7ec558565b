"""`polydev connect`, `connections`, `check`, `proxy`, `disconnect` and `logins`."""

import asyncio
import base64
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any

import typer
from rich.console import Console

from polydev.cli.accounts import show
from polydev.cli.client import ask, with_owner
from polydev.cli.login import log_in
from polydev.core.home_files import arrivals
from polydev.errors import CredentialUnreadable, InvalidRequest
from polydev.models.accounts import Ownership
from polydev.models.logins import LoginMethod
from polydev.providers.base import Provider
from polydev.providers.registry import provider_named

console = Console(highlight=False, soft_wrap=True)

_FILE_LIMIT_BYTES = 2**20
_KEYCHAIN_SECONDS = 60
_WATCH_SECONDS = 600
_ADDRESS_NOTE = (
    "Some providers bind a login to the network address it was made from. "
    "One that is refused here should be made from this machine's address."
)


def register(app: typer.Typer) -> None:
    app.command()(connect)
    app.command("connections")(list_connections)
    app.command()(check)
    app.command()(proxy)
    app.command()(disconnect)
    app.command()(logins)


def connect(
    provider: Annotated[str, typer.Argument(help="claude, codex, gemini, …")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Take the login that the CLI itself made: its file, or the HOME that holds it.",
        ),
    ] = None,
    watch: Annotated[
        Path | None,
        typer.Option(
            help="Wait until the CLI's login is copied into this directory, and take that."
        ),
    ] = None,
    method: Annotated[
        LoginMethod | None, typer.Option(help="How to log in; the provider's best by default.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Whose; the first user's by default.")] = None,
    *,
    proxy: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Outbound proxy that its login, refreshes and runs leave by: http://, https:// "
            "or socks5://[USER:PASSWORD@]HOST:PORT, or a range of ports of which it gets one; "
            "`none` for none; `-` asks for it.",
        ),
    ] = None,
    take: Annotated[
        bool,
        typer.Option(
            "--take/--follow",
            help="take: polydev alone renews the login, as a server needs it; the CLI it came from "
            "must log in again. follow: that CLI renews it, and polydev rereads its file.",
        ),
    ] = False,
) -> None:
    """Connect a subscription: log in here, or with `--from` take the login of its own CLI."""
    kind = provider_named(provider)
    if watch is not None:
        if source is not None or method is not None:
            raise InvalidRequest("`--watch` goes with neither `--from` nor `--method`.")
        source, take = copied_in(kind, watch), True
    if source is None:
        if take:
            raise InvalidRequest("`--take` goes with `--from`: a login made here is polydev's own.")
        address = proxy_text(proxy)
        with_owner(lambda client: log_in(client, provider, user, method, address))
        return
    file, files = credential_files(kind, source)
    ownership = Ownership.TAKE if take else Ownership.FOLLOW
    if file is None and not take:
        raise InvalidRequest(
            "A login in the keychain cannot be followed.", remedy="Connect it with `--take`."
        )
    body = {
        "user": user,
        "provider": provider,
        "files": {path: base64.b64encode(content).decode() for path, content in files.items()},
        "ownership": ownership.value,
        "source": None if file is None else str(file),
        "proxy": proxy_text(proxy),
    }
    if take:
        console.print(f"[yellow]note[/] {_ADDRESS_NOTE}")
    console.print(f"Asking {kind.title} whether it knows this login …")
    result = with_owner(lambda client: ask(client, "POST", "/owner/connections", body))
    connection = result["connection"]
    account = connection["account"] or "account not named"
    plan = f", plan {connection['plan']}" if connection["plan"] else ""
    console.print(f"[green]connected[/] {kind.title}: {account}{plan} ({connection['id']})")
    if take:
        console.print(
            f"polydev alone renews this login from now on. The CLI that made it must log in again: "
            f"`{kind.login_command}`."
        )


def list_connections(
    *, everything: Annotated[bool, typer.Option("--all", help="Disconnected ones too.")] = False
) -> None:
    """Show connections and how they are."""
    rows = with_owner(lambda client: ask(client, "GET", "/owner/connections", all=everything))
    show(rows, "id", "user", "provider", "state", "account", "plan", "ownership", "expires_at")
    for row in rows:
        if row["proxy"]:
            console.print(f"{row['id']}: leaves {by(row)}")
        if row["reason"]:
            console.print(f"{row['id']}: {row['reason']}", markup=False)
        for window in row["windows"]:
            console.print(f"{row['id']}: {window_words(window)}")


def logins(
    login_id: Annotated[str | None, typer.Argument(help="Show the log of this one.")] = None,
    user: Annotated[str | None, typer.Option(help="Whose; the first user's by default.")] = None,
) -> None:
    """Show logins, or the log of one."""
    query = {"user": user} if user else {}
    if login_id is None:
        rows = with_owner(lambda client: ask(client, "GET", "/owner/logins", **query))
        show(rows, "id", "provider", "method", "state", "reason", "created_at", "message")
        return
    path = f"/owner/logins/{login_id}/log"
    for line in with_owner(lambda client: ask(client, "GET", path, **query)):
        console.print(f"[dim]{line['at']}[/] ", end="")
        console.print(line["text"], markup=False)


def window_words(window: dict[str, Any]) -> str:
    """A window as the provider last reported it, in a line."""
    used, resets = window["used_fraction"], window["resets_at"]
    words = window["kind"] + (": used in part" if used is None else f": {used:.0%} used")
    return words if resets is None else f"{words}, opens anew {resets}"


def check(connection_id: str) -> None:
    """Prove a connection by a live call."""
    result: dict[str, Any] = with_owner(
        lambda client: ask(client, "POST", f"/owner/connections/{connection_id}/check")
    )
    console.print(f"{result['connection']['state']}: {result['message']}", markup=False)
    if not result["ok"]:
        sys.exit(1)


def proxy(
    connection_id: str,
    address: Annotated[
        str, typer.Argument(help="As in `polydev connect --proxy`; `none`; `-` asks for it.")
    ],
) -> None:
    """Give a connection another outbound proxy, or none."""
    body = {"proxy": proxy_text(address)}
    path = f"/owner/connections/{connection_id}/proxy"
    connection = with_owner(lambda client: ask(client, "PUT", path, body))
    console.print(f"{connection_id} leaves {by(connection)}. `polydev check` tries it.")


def by(connection: dict[str, Any]) -> str:
    """What it leaves by, in words."""
    return f"by {connection['proxy']}" if connection["proxy"] else "directly"


def proxy_text(given: str | None) -> str | None:
    """`-` keeps a password out of the shell's history and the list of processes."""
    if given != "-":
        return given
    if sys.stdin.isatty():
        return str(typer.prompt("Proxy", hide_input=True))
    return sys.stdin.readline().strip()


def disconnect(connection_id: str) -> None:
    """End a connection and delete its credential."""
    with_owner(lambda client: ask(client, "DELETE", f"/owner/connections/{connection_id}"))
    console.print(f"{connection_id} is disconnected; its credential is deleted.")


def copied_in(kind: Provider, directory: Path) -> Path:
    """Waits for the CLI's credential file, under the name it has below HOME or by its own."""
    directory = directory.expanduser().absolute()
    if not directory.is_dir():
        raise InvalidRequest(f"{directory} is no directory.", remedy="Make it, for you alone.")
    names = (kind.credential_file, PurePosixPath(kind.credential_file.name))
    console.print(f"Copy {kind.title}'s {kind.credential_file} into {directory}. Ctrl-C ends it.")

    async def wait() -> Path:
        async with asyncio.timeout(_WATCH_SECONDS), aclosing(arrivals(directory, names)) as seen:
            async for name in seen:
                return directory / name
        raise AssertionError("a watch that is not cancelled never ends")

    try:
        return asyncio.run(wait())
    except TimeoutError:
        raise CredentialUnreadable(
            f"No login was copied into {directory} for {_WATCH_SECONDS // 60} minutes.",
            remedy="Start again when you have it.",
        ) from None


def credential_files(kind: Provider, source: Path) -> tuple[Path | None, dict[str, bytes]]:
    """The credential file (None: it came from the keychain) and what goes with it."""
    source = source.expanduser().absolute()
    file = source / kind.credential_file if source.is_dir() else source
    if source.is_dir() and not file.exists() and sys.platform == "darwin" and kind.keychain_item:
        return None, {str(kind.credential_file): _from_keychain(kind)}
    files = {str(kind.credential_file): _read(file, kind)}
    if PurePath(file).match(str(kind.credential_file)):
        home = file.parents[len(kind.credential_file.parts) - 1]
        for companion in kind.companion_files:
            if (home / companion).is_file():
                files[str(companion)] = _read(home / companion, kind)
    return file, files


def _read(file: Path, kind: Provider) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise CredentialUnreadable(
            f"{file} cannot be read: {error.strerror}.",
            remedy=f"Log in with `{kind.login_command}` first, then name the file with `--from`.",
        ) from error
    if len(content) > _FILE_LIMIT_BYTES:
        raise CredentialUnreadable(f"{file} is too large for a credential file.")
    return content


def _from_keychain(kind: Provider) -> bytes:
    """Raises CredentialUnreadable when the keychain does not give the item."""
    argv = ["/usr/bin/security", "find-generic-password", "-s", kind.keychain_item, "-w"]
    try:
        found = subprocess.run(argv, capture_output=True, check=False, timeout=_KEYCHAIN_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CredentialUnreadable("The keychain did not answer.") from error
    if found.returncode:
        raise CredentialUnreadable(
            f"The keychain has no item {kind.keychain_item!r}, or it was not given.",
            remedy=f"Log in with `{kind.login_command}` first, and allow the access.",
        )
    return found.stdout.strip()
