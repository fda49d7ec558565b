"""Logging in to Claude: `claude auth login`.

It prints a link whose page shows a code to paste, and at the same time listens on a port of its
loopback; the link that leads there it gives only to the browser that it opens. Both are good until
one of them is used. How a login ends it says on its error output.
"""

import re

from polydev.models.logins import LoginTrouble
from polydev.providers.login import LoginStep, callback_of, pasted, plain, unspoken

_LINK = re.compile(r"https://\S+/oauth/authorize\?\S+")
_CODE = r"[A-Za-z0-9._~-]{6,}#[A-Za-z0-9._~-]{6,}"
_ENDS = (
    ("code wasn't accepted|status code 4", LoginTrouble.WRONG_CODE),
    ("No authorization code received", LoginTrouble.DENIED),
    ("Invalid state", LoginTrouble.WRONG_STATE),
    (r"ECONN|ENOTFOUND|ETIMEDOUT|status code 5", LoginTrouble.NO_NETWORK),
)


class ClaudeLogin:
    """See polydev.providers.login.LoginDialogue. by_callback: the link that is not printed."""

    def __init__(self, *, by_callback: bool) -> None:
        self._by_callback = by_callback
        self._shown = False

    def receive(self, line: bytes) -> LoginStep:
        words = plain(line)
        link = _LINK.search(words)
        if link is None:
            return LoginStep(done="Login successful" in words, log=words)
        if self._by_callback or self._shown:
            return LoginStep()
        self._shown = True
        return LoginStep(link=link[0], wants_code=True, log="a link was given")

    def opened(self, link: str) -> LoginStep:
        callback = callback_of(link)
        if not self._by_callback or callback is None or not _LINK.fullmatch(link):
            return LoginStep()
        return LoginStep(link=link, callback=callback, log="a link was opened")

    def paste(self, code: str) -> tuple[bytes, ...]:
        return (pasted(code, _CODE, "Claude").encode(),)

    def ended(self, exit_code: int, words: str) -> LoginStep:
        said = words.strip()[-300:].removeprefix("Couldn't log in: ")
        if exit_code == 0:
            return LoginStep(done=True, log=said)
        for pattern, trouble in _ENDS:
            if re.search(pattern, said):
                return LoginStep(
                    trouble=trouble, message=f"Claude was not logged in: {said}", log=said
                )
        return unspoken(exit_code, words, "Claude")
