"""Logging in to Claude: `claude auth login` prints a link and takes the page's code back."""

import re

from polydev.models.logins import LoginTrouble
from polydev.providers.login import LoginStep, pasted, plain, unspoken

_LINK = re.compile(r"https://\S+/oauth/authorize\?\S+")
_CODE = r"[A-Za-z0-9._~-]{6,}#[A-Za-z0-9._~-]{6,}"


class PasteCode:
    """See polydev.providers.login.LoginDialogue."""

    def __init__(self) -> None:
        self._shown = False

    def receive(self, line: bytes) -> LoginStep:
        words = plain(line)
        link = _LINK.search(words)
        if link and not self._shown:
            self._shown = True
            return LoginStep(link=link[0], wants_code=True, log="a link was given")
        return LoginStep(log="" if link else words)

    def paste(self, code: str) -> tuple[bytes, ...]:
        return (pasted(code, _CODE, "Claude").encode(),)

    def ended(self, exit_code: int, words: str) -> LoginStep:
        said = words.strip()[-300:]
        if exit_code == 0:
            return LoginStep(done=True, log=said)
        if re.search(r"status code 4\d\d", said):
            return LoginStep(
                trouble=LoginTrouble.WRONG_CODE,
                message="Claude did not take the code. It may be too old, or used already.",
                log=said,
            )
        if re.search(r"ECONN|ENOTFOUND|ETIMEDOUT|status code 5\d\d", said):
            return LoginStep(
                trouble=LoginTrouble.NO_NETWORK,
                message="Claude could not be reached to exchange the code.",
                log=said,
            )
        return unspoken(exit_code, words, "Claude")
