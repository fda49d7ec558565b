"""Scripted CLIs that misbehave, as real processes: each gives the argv of one.

They need nothing but /bin/sh and the usual tools, so that they run inside every kind of sandbox.
Each that stays prints `ready` first: a fact that a test can wait for.
"""

MEBIBYTE = 2**20


def sh(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def echo() -> tuple[str, ...]:
    """A good one: says back each line, ends with its input."""
    return sh('while IFS= read -r line; do printf "%s\\n" "$line"; done')


def dies(code: int = 3, words: str = "cannot go on") -> tuple[str, ...]:
    return sh(f"echo '{words}' >&2; exit {code}")


def dies_by_signal() -> tuple[str, ...]:
    return sh("kill -9 $$")


def garbage() -> tuple[str, ...]:
    """Bytes that are no protocol, NUL and broken UTF-8 among them."""
    return sh("printf '\\000\\377\\376{{{\\n\\033[31mnot json\\n'; exit 0")


def huge_line(size_bytes: int = 100 * MEBIBYTE) -> tuple[str, ...]:
    """One line without an end, then waits."""
    return sh(f"head -c {size_bytes} /dev/zero | tr '\\0' x; exec sleep 600")


def hangs() -> tuple[str, ...]:
    """Says it is ready and then nothing, whatever happens to its input."""
    return sh("echo ready; exec sleep 600")


def ignores_sigterm() -> tuple[str, ...]:
    return sh("trap '' TERM INT HUP; echo ready; while :; do sleep 600; done")


def leaves_grandchildren() -> tuple[str, ...]:
    """Starts processes in sessions of their own, which hold its streams, and hangs."""
    return sh(
        "for i in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP; sleep 600 & exec sleep 600' & done;"
        " echo ready; exec sleep 600"
    )


def leaves_grandchildren_and_ends() -> tuple[str, ...]:
    return sh("setsid sleep 600 & echo ready; exit 0")


def noisy(size_bytes: int = 4 * MEBIBYTE) -> tuple[str, ...]:
    """Floods its error output, then says one line."""
    return sh(f"head -c {size_bytes} /dev/zero | tr '\\0' 'e' >&2; echo ' the end' >&2; echo done")


def slow(lines: int = 3, seconds: float = 0.2) -> tuple[str, ...]:
    return sh(f"for i in $(seq {lines}); do echo line $i; sleep {seconds}; done")


def deaf() -> tuple[str, ...]:
    """Never reads its input."""
    return hangs()


def closes_stdin() -> tuple[str, ...]:
    return sh("exec <&-; echo ready; exec sleep 600")
