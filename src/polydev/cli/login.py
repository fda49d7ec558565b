"""A login in the terminal: the link (also as a QR code), the code, how it goes."""

import asyncio
import contextlib
import getpass
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import httpx
import segno
from rich.console import Console

from polydev.cli.client import OwnerError, answering, ask, raise_for

_PASTED = {
    "paste_code": "the code",
    "relayed_callback": "the address of the page that cannot be reached",
    "this_machine": "the address of the last page, if it cannot be reached,",
    "api_key": "the key",
}

console = Console(highlight=False, soft_wrap=True)


async def log_in(
    client: httpx.AsyncClient,
    provider: str,
    user: str | None,
    method: str | None,
    proxy: str | None = None,
) -> None:
    """From asking for it to "Successfully connected". Raises OwnerError when it comes to less.

    Leaving in the middle (Ctrl-C) cancels the login.
    """
    method = method or await _best(client, provider)
    body = {"provider": provider, "user": user, "method": method, "proxy": proxy}
    login = await ask(client, "POST", "/owner/logins", body)
    path, query = f"/owner/logins/{login['id']}", {"user": user} if user else {}
    what = (
        f"Running [bold]{login['command']}[/] in a place of its own. " if login["command"] else ""
    )
    console.print(f"{what}Ctrl-C cancels.")
    if login["method"] == "remote_desktop":
        console.print("The desktop is on the dashboard, under Logins: `polydev open`.")
    terminal = _Terminal(client, path, query)
    try:
        with answering():
            async with client.stream("GET", f"{path}/events", params=query) as stream:
                if stream.status_code != 200:
                    raise_for(stream.status_code, await stream.aread())
                async for line in stream.aiter_lines():
                    if line.startswith("data: "):
                        login = json.loads(line.removeprefix("data: "))
                        terminal.show(login)
    except BaseException:
        with contextlib.suppress(httpx.HTTPError):
            await client.delete(path, params=query)
        raise
    finally:
        terminal.close()
    if login["state"] != "connected":
        reason = f" ({login['reason']})" if login["reason"] else ""
        raise OwnerError(
            f"The login {login['state']}{reason}: {login['message']}",
            remedy=f"`polydev logins {login['id']}` shows its log.",
        )


async def _best(client: httpx.AsyncClient, provider: str) -> str | None:
    """The best method for whoever sits at this terminal; None leaves the choice to the gateway."""
    here = not os.environ.get("SSH_CONNECTION") and (
        sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    ways = await ask(client, "GET", f"/owner/logins/ways/{provider}")
    return next((way["method"] for way in ways if here or way["method"] != "this_machine"), None)


class _Terminal:
    def __init__(self, client: httpx.AsyncClient, path: str, query: dict[str, str]) -> None:
        self._client = client
        self._path = path
        self._query = query
        self._link = ""
        self._pasting: asyncio.Task[None] | None = None

    def show(self, login: dict[str, Any]) -> None:
        console.print(login["state"], style="dim", end=" ")
        console.print(login["message"], markup=False)
        if not login["link"] or login["link"] == self._link:
            return
        self._link = login["link"]
        console.print(f"\n  {self._link}\n", style="bold", markup=False)
        if sys.stdout.isatty():
            _show_qr(self._link)
        if login["user_code"]:
            console.print(f"  Code: {login['user_code']}\n", style="bold", markup=False)
        if login["method"] in _PASTED and self._pasting is None:
            is_secret = login["method"] == "api_key"
            self._pasting = asyncio.create_task(
                self._paste(_PASTED[login["method"]], is_secret=is_secret)
            )

    def close(self) -> None:
        if self._pasting is not None:
            self._pasting.cancel()

    async def _paste(self, what: str, *, is_secret: bool) -> None:
        console.print(f"Paste {what} here and press Enter:")
        while text := await _line_of_input(is_secret=is_secret):
            if not text.strip():
                continue
            try:
                body = {"text": text}
                await ask(self._client, "POST", f"{self._path}/answer", body, **self._query)
            except OwnerError as error:
                console.print(str(error), style="yellow", markup=False)


def _show_qr(link: str) -> None:
    """For a phone, where the terminal is wide enough for it."""
    code = segno.make(link, error="l")
    if code.symbol_size(border=2)[0] <= console.width:
        code.terminal(compact=True, border=2)


async def _line_of_input(*, is_secret: bool) -> str:
    """A line of standard input, empty at its end. In a thread, for it cannot be waited for else.

    is_secret: a terminal does not show what is typed.
    """
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        try:
            hidden = is_secret and sys.stdin.isatty()
            text = f"{getpass.getpass('')}\n" if hidden else sys.stdin.readline()
        except EOFError:
            text = ""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_set(line, text))

    threading.Thread(target=read, daemon=True).start()
    return await line


def _set(line: asyncio.Future[str], text: str) -> Callable[[], None]:
    return lambda: None if line.done() else line.set_result(text)
