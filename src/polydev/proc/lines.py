"""Cuts a byte stream into lines, in bounded memory.

Pure. However the stream is chunked, the lines are the same. A line longer than the limit raises
LineTooLong, by when no more than the limit and one chunk was held; what was held is dropped and
the framer takes nothing more, because the rest of that line would look like a line of its own.
"""

from polydev.errors import RunFailed

DEFAULT_LINE_LIMIT_BYTES = 16 * 2**20


class LineTooLong(RunFailed):
    """A CLI printed a line beyond the limit; reason `line_too_long`."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The CLI printed a line of more than {limit_bytes} bytes.",
            remedy="It was stopped. Try again; if it repeats, report the CLI's version.",
            reason="line_too_long",
        )
        self.limit_bytes = limit_bytes


class LineFramer:
    """`feed` takes chunks and gives the lines that became complete, without their newline."""

    def __init__(self, limit_bytes: int = DEFAULT_LINE_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._begun = bytearray()
        self._failed = False

    @property
    def held_bytes(self) -> int:
        """Size of the line that is not complete yet."""
        return len(self._begun)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes. Raises LineTooLong, then and ever after."""
        if self._failed:
            raise LineTooLong(self._limit_bytes)
        first, *rest = chunk.split(b"\n")
        self._begun += first
        lines: list[bytes] = []
        for part in rest:
            lines.append(self._complete())
            self._begun += part
        self._check(len(self._begun))
        return lines

    def finish(self) -> list[bytes]:
        """The last line, when the stream ended without a newline after it."""
        return [self._complete()] if self._begun else []

    def _complete(self) -> bytes:
        self._check(len(self._begun))
        line = bytes(self._begun)
        self._begun = bytearray()
        return line

    def _check(self, size: int) -> None:
        if size > self._limit_bytes:
            self._failed = True
            self._begun = bytearray()
            raise LineTooLong(self._limit_bytes)
