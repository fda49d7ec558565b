"""Logging in to an ACP agent by its `authenticate` request.

Without a browser it prints a link between its messages and takes the page's code as a line, which
it echoes and repeats on its error output: nothing that it prints is kept as it is. With one it
listens on a port of its loopback and prints nothing. A code that is not taken is asked for once
more, with another link.
"""

import json
import re
from typing import Any

from polydev.errors import InvalidRequest
from polydev.models.logins import LoginTrouble
from polydev.providers.lines import fields, to_line
from polydev.providers.login import LoginStep, callback_of, is_link, pasted, plain, unspoken

_INITIALIZE, _AUTHENTICATE = 1, 2
_LINK = re.compile(r"https://[^\s\x1b]+[?&]redirect_uri=[^\s\x1b]+")
_MESSAGE = re.compile(r'\{"jsonrpc":.*\}')
_CODE = r"[A-Za-z0-9/._~-]{6,}"
_TROUBLES = (
    ("access_denied|denied", LoginTrouble.DENIED),
    ("state mismatch", LoginTrouble.WRONG_STATE),
    ("invalid_grant|with user code", LoginTrouble.WRONG_CODE),
)


def opening(method: str) -> tuple[bytes, ...]:
    """method: the agent's name of the way to log in."""
    version: dict[str, Any] = {"protocolVersion": 1, "clientCapabilities": {}}
    return (
        to_line({"jsonrpc": "2.0", "id": _INITIALIZE, "method": "initialize", "params": version}),
        to_line(
            {
                "jsonrpc": "2.0",
                "id": _AUTHENTICATE,
                "method": "authenticate",
                "params": {"methodId": method},
            }
        ),
    )


class AcpLogin:
    """See polydev.providers.login.LoginDialogue. title: the agent's name for people."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._links = 0

    def receive(self, line: bytes) -> LoginStep:
        words = plain(line)
        message = _MESSAGE.search(words)
        if message is not None:
            return self._answered(message[0])
        link = _LINK.search(words)
        if link is None:
            return LoginStep()
        self._links += 1
        again = "the code was not taken; another link was given"
        return LoginStep(
            link=link[0], wants_code=True, log=again if self._links > 1 else "a link was given"
        )

    def opened(self, link: str) -> LoginStep:
        callback = callback_of(link)
        if callback is None or not is_link(link):
            return LoginStep()
        return LoginStep(link=link, callback=callback, log="a link was opened")

    def paste(self, code: str) -> tuple[bytes, ...]:
        if code.strip().startswith("http"):
            raise InvalidRequest(
                "This is an address, not a code.",
                remedy="Paste the code that the page shows after you allowed the access.",
                reason="wrong_code",
            )
        return (pasted(code, _CODE, self._title).encode(),)

    def ended(self, exit_code: int, words: str) -> LoginStep:
        return unspoken(exit_code, "", self._title)

    def _answered(self, text: str) -> LoginStep:
        try:
            message = json.loads(text)
        except ValueError:
            return LoginStep()
        if message.get("id") != _AUTHENTICATE:
            return LoginStep()
        if "error" not in message:
            return LoginStep(done=True, log="the login is complete")
        words = str(fields(message, "error").get("message") or "it gave no reason")
        trouble = next(
            (trouble for pattern, trouble in _TROUBLES if re.search(pattern, words)),
            LoginTrouble.NO_NETWORK,
        )
        return LoginStep(
            trouble=trouble, message=f"{self._title} was not logged in: {words}", log=words
        )
