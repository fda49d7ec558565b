"""What CLIs make at their first start in an empty home, made once and given to every run.

Each run has a fresh home, so a CLI that sets up databases at its first start would do so every
time, before it answers. They are made once for an installed version, in a sandbox of its own
without a login, a prompt or the network, and are the same for everybody. Where that fails, runs
are slower and nothing else.
"""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import replace

import structlog

from polydev.core.programs import Programs
from polydev.errors import PolydevError, RunFailed
from polydev.models.places import Launch, Place
from polydev.proc import Process
from polydev.providers.base import FirstStart, Provider
from polydev.sandboxes.abc import Sandboxes
from polydev.sandboxes.confinement import file_under_home
from polydev.secret import Secret

log = structlog.get_logger()

_SECONDS = 30.0
_MOST_BYTES = 2**23
_NOWHERE = "http://127.0.0.1:9"  # for where the sandbox keeps nobody from the network
_FILE = b"file "
# The CLI ends with its input. Then comes what it made: a line with the path, and its content.
_SCRIPT = """\
"$@" </dev/null >/dev/null 2>&1
cd "$HOME" && for file in $KEEPS; do [ -f "$file" ] && echo "file $file" && base64 <"$file"; done
"""

Files = Mapping[str, Secret[bytes]]


class FirstStarts:
    def __init__(self, programs: Programs, sandboxes: Sandboxes) -> None:
        self._programs = programs
        self._sandboxes = sandboxes
        self._made: dict[str, tuple[str | None, Files]] = {}  # with the version that made them
        self._making: dict[str, asyncio.Task[None]] = {}

    def add_to(self, launch: Launch, provider: Provider) -> Launch:
        """The launch with what the first start made; not yet, while that is being made."""
        if provider.first_start is None:
            return launch
        version, files = self._made.get(provider.name, (None, {}))
        if version != self._programs.version(provider.program):
            self.make(provider)
            return launch
        return replace(launch, files={**files, **launch.files})

    def make(self, provider: Provider) -> None:
        """Begins to, unless it is under way, or there is nothing to make."""
        version = self._programs.version(provider.program)
        if provider.first_start and version and provider.name not in self._making:
            task = asyncio.create_task(self._make(provider, provider.first_start, version))
            self._making[provider.name] = task
            task.add_done_callback(lambda _: self._making.pop(provider.name))

    async def close(self) -> None:
        making = list(self._making.values())
        for task in making:
            task.cancel()
        if making:
            await asyncio.wait(making)

    async def _make(self, provider: Provider, start: FirstStart, version: str) -> None:
        files: Files = {}
        try:
            async with asyncio.timeout(_SECONDS):
                files = await self._made_by(provider, start)
        except (PolydevError, TimeoutError) as error:
            log.warning("a CLI's first start failed", provider=provider.name, problem=str(error))
        except Exception:
            # The task's outermost boundary: without it every run would try anew.
            log.exception("a CLI's first start failed unexpectedly", provider=provider.name)
        self._made[provider.name] = (version, files)

    async def _made_by(self, provider: Provider, start: FirstStart) -> Files:
        def launch(place: Place) -> Launch:
            program = str(self._programs.inside(provider.program, place))
            node = (str(self._programs.node(place)),) if provider.program.needs_node else ()
            return Launch(
                argv=("/bin/sh", "-c", _SCRIPT, "sh", *node, program, *start.arguments),
                environment={"KEEPS": " ".join(start.keeps), "HTTPS_PROXY": _NOWHERE},
            )

        async with await self._sandboxes.open(launch) as sandbox:
            return await read_files(await sandbox.start())


async def read_files(process: Process) -> Files:
    """Files as the script prints them. Raises RunFailed for anything else, or too much."""
    found: dict[str, list[bytes]] = {}
    parts: list[bytes] | None = None
    size = 0
    async for line in process.lines():
        size += len(line)
        if size > _MOST_BYTES:
            raise RunFailed("It made more than is kept.")
        if line.startswith(_FILE):
            parts = found.setdefault(line.removeprefix(_FILE).decode(), [])
        elif parts is not None:
            parts.append(line)
    try:
        return {
            str(file_under_home(path)): Secret(base64.b64decode(b"".join(parts), validate=True))
            for path, parts in found.items()
        }
    except ValueError as error:
        raise RunFailed("What it made cannot be read.") from error
