"""What a login's remote desktop shows."""

from enum import StrEnum


class Window(StrEnum):
    TERMINAL = "terminal"
    BROWSER = "browser"
