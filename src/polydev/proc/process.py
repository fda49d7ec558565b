"""A child process that is always reaped.

`Process.start` puts the child into a session and process group of its own, with real pipes. From
then on: what is sent is bounded in time, what it prints is read ahead by at most 256 KiB and cut
into lines of a limited size, its error output is always drained and only its tail kept. When the
child ends, what is left of its process group is killed and its streams end soon after, even if
something that left the group still holds them.

Waiting for lines and for the end is bounded by the caller; whoever starts a Process calls `stop`,
which goes down a ladder and leaves nothing: close stdin, wait, SIGTERM to the group, wait, SIGKILL
to the group, reap. `stop` may be called at any time, repeatedly, and by several at once; being
cancelled does not keep it from finishing.

Fails with ProgramMissing (not installed, not executable), ProcessEnded (it does not read any
more), LineTooLong, or RunFailed with reason `stdin_stalled` or `spawn_failed`.
"""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from polydev.errors import ProgramMissing, RunFailed
from polydev.proc.finishing import to_the_end
from polydev.proc.lines import DEFAULT_LINE_LIMIT_BYTES
from polydev.proc.pipes import Input, Lines, Tail

log = structlog.get_logger()

_NO_PROGRAM = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOEXEC)
# After SIGKILL only a process stuck in the kernel is still there.
_REAP_SECONDS = 10.0


class ProcessEnded(RunFailed):
    """The process ended, or closed its standard input; reason `cli_ended`."""

    def __init__(self, program: str) -> None:
        super().__init__(
            f"{program} ended before it had read what was sent to it.",
            remedy="Its error output tells why; `polydev doctor` checks the installation.",
            reason="cli_ended",
        )


class _Child:
    """The spawned program itself: knows its end, signals its group, reaps it.

    Not the event loop's own subprocess support: uvloop's passes every inheritable descriptor of
    ours on to the child, copies of its streams included, and asyncio's makes stdin a socket.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._streams: tuple[Lines | Tail, ...] = ()
        if hasattr(os, "pidfd_open"):
            descriptor = os.pidfd_open(popen.pid)
            asyncio.get_running_loop().add_reader(descriptor, self._ended, descriptor)
        else:
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._watch, args=(loop,), daemon=True).start()

    def end_with(self, *streams: Lines | Tail) -> None:
        """Streams that are to end when the program does."""
        self._streams = streams
        if self.code.done():
            self._close_streams()

    def signal_group(self, number: signal.Signals) -> None:
        # Before it is reaped its process id, and so its group's, cannot mean another.
        if not self.code.done():
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                return  # nothing is left in the group, or only what changed its user

    def _ended(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._reap()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """For systems without pidfd."""
        self._popen.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._reap)

    def _reap(self) -> None:
        self.signal_group(signal.SIGKILL)
        self.code.set_result(self._popen.wait())
        self._close_streams()

    def _close_streams(self) -> None:
        for stream in self._streams:
            stream.close_when_quiet()


class Process:
    """A running child. Made by `start` only."""

    def __init__(
        self, *, program: str, child: _Child, stdin: Input, stdout: Lines, stderr: Tail
    ) -> None:
        self.program = program
        self.pid = child.pid
        self._child = child
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._stopping: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path | None = None,
        pass_fds: Sequence[int] = (),
        line_limit_bytes: int = DEFAULT_LINE_LIMIT_BYTES,
        name: str = "",
    ) -> "Process":
        """Starts `argv`; `environment` is all that it gets. A cancelled start leaves nothing.

        `name` is what messages call it, when argv[0] only leads to it.
        """
        program = name or Path(argv[0]).name
        spawning = asyncio.ensure_future(
            _spawn(
                program=program,
                argv=argv,
                environment=environment,
                directory=directory,
                pass_fds=pass_fds,
                line_limit_bytes=line_limit_bytes,
            )
        )
        try:
            return await to_the_end(spawning)
        except asyncio.CancelledError:
            if spawning.done() and not spawning.cancelled() and spawning.exception() is None:
                await to_the_end(spawning.result().stop(0))
            raise

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._child.code.result() if self._child.code.done() else None

    async def send(self, lines: Iterable[bytes], *, timeout_seconds: float = 30.0) -> None:
        """Writes lines, adding their newlines.

        Raises ProcessEnded when nobody reads any more, RunFailed with reason `stdin_stalled` when
        the child does not read for `timeout_seconds`.
        """
        data = b"".join(line + b"\n" for line in lines)
        if not data:
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                taken = await self._stdin.write(data)
        except TimeoutError:
            raise RunFailed(
                f"{self.program} did not read its input for {timeout_seconds:g} seconds.",
                remedy="It was stopped. Try again; if it repeats, report the CLI's version.",
                reason="stdin_stalled",
            ) from None
        if not taken:
            raise ProcessEnded(self.program)

    def lines(self) -> AsyncIterator[bytes]:
        """The lines of its standard output; ends with the stream. Raises LineTooLong.

        One reader at a time; the caller bounds how long it waits for the next line.
        """
        return self._stdout.read()

    def stderr_tail(self) -> str:
        """The last 16 KiB of its error output, tokens masked."""
        return self._stderr.text()

    def close_stdin(self) -> None:
        """The child sees the end of its input. Nothing can be sent afterwards."""
        self._stdin.close()

    async def wait(self) -> int:
        """The exit code, once it ended and its error output is read; the caller bounds the wait."""
        code = await asyncio.shield(self._child.code)
        await self._stderr.ended.wait()
        return code

    async def stop(self, grace_seconds: float = 2.0) -> None:
        """Down the ladder; returns when the process is reaped and its pipes are closed.

        Takes at most twice `grace_seconds`, unless the kernel holds the process. A second call
        waits for the first one's end.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._descend(grace_seconds))
        await to_the_end(self._stopping)

    async def _descend(self, grace_seconds: float) -> None:
        try:
            self._stdin.close()
            if await self._ends_within(grace_seconds):
                return
            self._child.signal_group(signal.SIGTERM)
            if await self._ends_within(grace_seconds):
                return
            self._child.signal_group(signal.SIGKILL)
            if not await self._ends_within(_REAP_SECONDS):
                log.error("a killed process does not end", program=self.program, pid=self.pid)
        finally:
            self._child.signal_group(signal.SIGKILL)
            self._stdin.abort()
            self._stdout.close()
            self._stderr.close()
        await self._streams_closed()

    async def _ends_within(self, seconds: float) -> bool:
        await asyncio.wait([self._child.code], timeout=max(seconds, 0))
        return self._child.code.done()

    async def _streams_closed(self) -> None:
        await self._stdout.ended.wait()
        await self._stderr.ended.wait()


async def _spawn(
    *,
    program: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    directory: Path | None,
    pass_fds: Sequence[int],
    line_limit_bytes: int,
) -> Process:
    loop = asyncio.get_running_loop()
    try:
        popen = subprocess.Popen(  # noqa: ASYNC220 - returns once the program is executed
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            cwd=directory,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(program, error) from error
    child = _Child(popen)
    stdin, stdout, stderr = Input(), Lines(line_limit_bytes), Tail()
    try:
        await loop.connect_write_pipe(lambda: stdin, popen.stdin)
        await loop.connect_read_pipe(lambda: stdout, popen.stdout)
        await loop.connect_read_pipe(lambda: stderr, popen.stderr)
    except BaseException:
        child.signal_group(signal.SIGKILL)
        raise
    child.end_with(stdout, stderr)
    return Process(program=program, child=child, stdin=stdin, stdout=stdout, stderr=stderr)


def _not_started(program: str, error: OSError) -> Exception:
    if error.errno in _NO_PROGRAM:
        return ProgramMissing(
            f"{program} is not installed, or may not be executed.",
            remedy="Run `polydev doctor --fix`.",
        )
    return RunFailed(
        f"{program} could not be started: {error.strerror or error}.",
        remedy="The machine is out of processes, memory or file descriptors; lower "
        "runs.concurrent or raise the limit.",
        reason="spawn_failed",
    )
