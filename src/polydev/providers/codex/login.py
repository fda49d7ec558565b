"""Logging in to Codex: a device code, asked for through `codex app-server`."""

from typing import Any

from polydev import __version__
from polydev.errors import InvalidRequest
from polydev.models.logins import LoginTrouble
from polydev.providers.lines import fields, from_line, to_line
from polydev.providers.login import LoginStep, unspoken

_INITIALIZE, _LOGIN = 1, 2

OPENING = (
    to_line(
        {
            "id": _INITIALIZE,
            "method": "initialize",
            "params": {"clientInfo": {"name": "polydev", "version": __version__}},
        }
    ),
    to_line({"method": "initialized"}),
    to_line(
        {
            "id": _LOGIN,
            "method": "account/login/start",
            "params": {"type": "chatgptDeviceCode"},
        }
    ),
)


class DeviceCode:
    """See polydev.providers.login.LoginDialogue."""

    def receive(self, line: bytes) -> LoginStep:
        message = from_line(line, "codex")
        if message.get("id") == _LOGIN and "method" not in message:
            return _started(message)
        if message.get("method") == "account/login/completed":
            return _completed(fields(message, "params"))
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
        words = str(fields(message, "error").get("message") or "no reason")
        return LoginStep(
            trouble=LoginTrouble.NO_NETWORK, message=f"Codex gave no code: {words}", log=words
        )
    result = fields(message, "result")
    link, code = result.get("verificationUrl"), result.get("userCode")
    if not isinstance(link, str) or not isinstance(code, str):
        return LoginStep(
            trouble=LoginTrouble.NOT_UNDERSTOOD,
            message="Codex answered without a code.",
            log=f"account/login/start answered with {sorted(result)}",
        )
    return LoginStep(link=link, user_code=code, log="a code was given")


def _completed(params: dict[str, Any]) -> LoginStep:
    if params.get("success"):
        return LoginStep(done=True, log="the login is complete")
    words = str(params.get("error") or "no reason")
    return LoginStep(
        trouble=LoginTrouble.DENIED, message=f"Codex was not logged in: {words}", log=words
    )
