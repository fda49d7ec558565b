"""Simple arithmetic found in a sentence and computed exactly.

Knows + - * / (also × · ÷ −), parentheses, signs, integers and decimals. A sentence counts as a
calculation when it says so ("calculate", "what is", …) or is nothing but the expression. Whatever
cannot be computed (a division by zero, an unbalanced parenthesis, a number beyond the bound)
gives None.
"""

import re
from fractions import Fraction

LONGEST_EXPRESSION = 2_000
_DEEPEST = 50
_DIGITS_AFTER_POINT = 10

_ASKED = re.compile(
    r"\b(?:calculate|compute|evaluate|solve|add up|multiply|what(?:['’]s| is| are)|how much is"
    r"|result of|value of|sum of|product of)\b",
    re.IGNORECASE,
)
_CANDIDATE = re.compile(r"[-+(]*[\s(]*[\d.][\d.\s()*/+\-]*[*/+\-][\d.\s()*/+\-]*")
_BARE = re.compile(r"[\d.\s()*/+\-]+[=?\s.]*")
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|[-+*/()])")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})


def find_result(text: str) -> str | None:
    """The result of the first computable expression that `text` asks for, as a plain number."""
    plain = text.translate(_SIGNS)
    if not _ASKED.search(plain) and not _BARE.fullmatch(plain.strip()):
        return None
    for match in _CANDIDATE.finditer(plain[: 100 * LONGEST_EXPRESSION]):
        value = evaluate(match[0].strip(" .\n\t"))
        if value is not None:
            return written(value)
    return None


def evaluate(expression: str) -> Fraction | None:
    """The exact value of an expression with at least one operator between numbers, or None."""
    if len(expression) > LONGEST_EXPRESSION:
        return None
    tokens = _tokens(expression)
    if tokens is None or sum(1 for token in tokens if token[0].isdigit() or token[0] == ".") < 2:
        return None
    try:
        return _Reader(tokens).whole()
    except (_NotArithmetic, ZeroDivisionError):
        return None


def written(value: Fraction) -> str:
    """A number as a person writes it: no exponent, no trailing zeros, ten decimals at most."""
    scale = 10**_DIGITS_AFTER_POINT
    scaled = round(value * scale)
    sign = "-" if scaled < 0 else ""
    whole, rest = divmod(abs(scaled), scale)
    if not rest:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{rest:0{_DIGITS_AFTER_POINT}d}".rstrip("0")


class _NotArithmetic(Exception):
    pass


def _tokens(expression: str) -> list[str] | None:
    tokens: list[str] = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            return None
        tokens.append(match[1])
        position = match.end()
    return tokens


class _Reader:
    """Recursive descent: sum → product → signed → number | ( sum )."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Fraction:
        value = self._sum()
        if self._peek():
            raise _NotArithmetic
        return value

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _sum(self) -> Fraction:
        value = self._product()
        while self._peek() in ("+", "-"):
            if self._take() == "+":
                value += self._product()
            else:
                value -= self._product()
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while self._peek() in ("*", "/"):
            if self._take() == "*":
                value *= self._signed()
            else:
                value /= self._signed()
        return value

    def _signed(self) -> Fraction:
        sign = 1
        while self._peek() in ("+", "-"):
            if self._take() == "-":
                sign = -sign
        return sign * self._number()

    def _number(self) -> Fraction:
        symbol = self._take()
        if symbol == "(":
            self._depth += 1
            if self._depth > _DEEPEST:
                raise _NotArithmetic
            value = self._sum()
            if self._take() != ")":
                raise _NotArithmetic
            self._depth -= 1
            return value
        if not symbol or not (symbol[0].isdigit() or symbol[0] == "."):
            raise _NotArithmetic
        return Fraction(symbol)
