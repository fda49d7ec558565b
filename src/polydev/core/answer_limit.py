"""`stop` and `max_tokens`, held by us because not every CLI passes them on.

Text that may be the beginning of a stop sequence is held back until it is clear. Tokens are
estimated (four UTF-8 bytes each, the usual figure for English text) as no vendor's tokenizer is
at hand. Where a CLI passes `max_tokens` to its provider, that is exact, and nothing is estimated here.
"""

from polydev.events import EndReason

_BYTES_PER_TOKEN = 4


class AnswerLimit:
    """Feed it text; it gives the text that may be shown, and says when the answer is over."""

    def __init__(self, stop: tuple[str, ...] = (), max_tokens: int | None = None) -> None:
        self._stop = tuple(sequence for sequence in stop if sequence)
        self._bytes_left = None if max_tokens is None else max_tokens * _BYTES_PER_TOKEN
        self._held = ""
        self._shown_bytes = 0
        self.reached: EndReason | None = None
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """The part of the answer that is certain now; may be empty."""
        if self.reached:
            return ""
        self._held += text
        # The one that is complete first, as if the text had come character by character.
        found = [
            (position + len(stop), position, stop)
            for stop in self._stop
            if (position := self._held.find(stop)) >= 0
        ]
        if found:
            _, position, self.matched = min(found)
            shown, self._held = self._held[:position], ""
            self.reached = EndReason.STOP
            return self._within_length(shown)
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return self._within_length(shown)

    def rest(self) -> str:
        """What was held back, when the model ended by itself."""
        shown, self._held = self._held, ""
        return "" if self.reached else self._within_length(shown)

    @property
    def estimated_tokens(self) -> int:
        """Of the answer that was shown, by the same estimate."""
        return -(-self._shown_bytes // _BYTES_PER_TOKEN)

    def _within_length(self, text: str) -> str:
        text = self._cut(text)
        self._shown_bytes += len(text.encode(errors="replace"))
        return text

    def _cut(self, text: str) -> str:
        if self._bytes_left is None:
            return text
        encoded = text.encode(errors="replace")
        if len(encoded) > self._bytes_left:
            self.reached, self.matched = EndReason.LENGTH, None
            text = encoded[: self._bytes_left].decode(errors="ignore")
        self._bytes_left -= len(encoded)
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` could begin `stop`."""
    return next(
        (
            size
            for size in range(min(len(text), len(stop) - 1), 0, -1)
            if text.endswith(stop[:size])
        ),
        0,
    )
