"""Logging in to Codex through `codex app-server`: by a device code, or by the browser.

The browser's way listens on a fixed port of the loopback, where the CLI leads the browser on to a
page of its own with the id token in its address: that address is for nobody's log.
"""

import re
from typing import Any

from polydev import __version__
from polydev.errors import InvalidRequest
from polydev.models.logins import LoginTrouble
from polydev.providers.lines import fields, from_line, to_line
from polydev.providers.login import LoginStep, callback_of, is_link, unspoken

_INITIALIZE, _LOGIN = 1, 2
_DEVICE_REFUSED = "device auth failed with status 400"
_SUCCESS_PAGE = "/success"
_TROUBLES = (
    (r"status 5\d\d", LoginTrouble.NO_NETWORK),
    ("denied|status 400", LoginTrouble.DENIED),
    ("[Ss]tate", LoginTrouble.WRONG_STATE),
    ("Token exchange", LoginTrouble.WRONG_CODE),
    ("not enabled", LoginTrouble.DENIED),
)


def opening(kind: str) -> tuple[bytes, ...]:
    """kind: `chatgpt` or `chatgptDeviceCode`."""
    client = {"clientInfo": {"name": "polydev", "version": __version__}}
    return (
        to_line({"id": _INITIALIZE, "method": "initialize", "params": client}),
        to_line({"method": "initialized"}),
        to_line({"id": _LOGIN, "method": "account/login/start", "params": {"type": kind}}),
    )


class CodexLogin:
    """See polydev.providers.login.LoginDialogue."""

    def receive(self, line: bytes) -> LoginStep:
        message = from_line(line, "codex")
        if message.get("id") == _LOGIN and "method" not in message:
            return _started(message)
        if message.get("method") == "account/login/completed":
            params = fields(message, "params")
            if params.get("success"):
                return LoginStep(done=True, log="the login is complete")
            return _failed(str(params.get("error") or "it gave no reason"))
        return LoginStep()

    def opened(self, link: str) -> LoginStep:
        return LoginStep()

    def paste(self, code: str) -> tuple[bytes, ...]:
        raise InvalidRequest(
            "This login takes no code here.",
            remedy="Type the code that is shown on the provider's page.",
        )

    def ended(self, exit_code: int, words: str) -> LoginStep:
        return unspoken(exit_code, words, "Codex")


def _started(message: dict[str, Any]) -> LoginStep:
    if "error" in message:
        return _failed(str(fields(message, "error").get("message") or "it gave no reason"))
    result = fields(message, "result")
    code, page = result.get("userCode"), result.get("verificationUrl")
    if isinstance(page, str) and is_link(page) and isinstance(code, str):
        return LoginStep(link=page, user_code=code, log="a code was given")
    link = result.get("authUrl")
    is_good = isinstance(link, str) and is_link(link)
    callback = callback_of(str(link), _SUCCESS_PAGE) if is_good else None
    if callback is not None:
        return LoginStep(link=str(link), callback=callback, log="a link was given")
    return LoginStep(
        trouble=LoginTrouble.NOT_UNDERSTOOD,
        message="Codex answered with neither a code nor a link.",
        log=f"account/login/start answered with {sorted(result)}",
    )


def _failed(words: str) -> LoginStep:
    trouble = next(
        (trouble for pattern, trouble in _TROUBLES if re.search(pattern, words)),
        LoginTrouble.NO_NETWORK,
    )
    said = "the code was denied, or is too old" if _DEVICE_REFUSED in words else words
    return LoginStep(trouble=trouble, message=f"Codex was not logged in: {said}.", log=words)
