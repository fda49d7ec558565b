"""A value that never shows itself.

Everything that opens a door (tokens, keys, credential files) travels as a `Secret`. Its `repr`,
`str` and format are masked, it cannot be pickled, and equality is constant-time. The one way to
the value is `reveal()`, which makes every use easy to find and to review.
"""

import hmac
import re
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T", str, bytes)

MASK = "********"

# What tokens of the providers and of polydev look like when they stray into free text.
_TOKEN_SHAPES = re.compile(
    r"""
      \b(?:sk|pk|rt|at)[-_][A-Za-z0-9_-]{12,}      # vendor keys: sk-ant-…, sk-proj-…, rt_…
    | \bpolydev_[A-Za-z0-9]{16,}                    # our own API keys
    | \bya29\.[A-Za-z0-9._-]{8,}                    # Google access tokens
    | \b1//[A-Za-z0-9_-]{12,}                       # Google refresh tokens
    | \bAIza[A-Za-z0-9_-]{20,}                      # Google API keys
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?   # JSON web tokens
    | (?<=[Bb]earer\ )[A-Za-z0-9._~+/=-]{6,}
    | (?<=://)[^\s/@:]*:[^\s/@]+(?=@)              # user and password of an address
    """,
    re.VERBOSE,
)


class Secret(Generic[T]):
    """Holds one str or bytes value; shows `********` wherever it is printed."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value: T = value

    def reveal(self) -> T:
        """The value itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_as_bytes(self._value), _as_bytes(other._value))

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not serialised; reveal() it where it is needed")


def mask_tokens(text: str) -> str:
    """`text` with everything that has the shape of a token replaced by the mask.

    The last line of defence for words that come from outside (a CLI's error output); our own
    code never puts a secret into text in the first place.
    """
    return _TOKEN_SHAPES.sub(MASK, text)


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
