"""Whether bubblewrap works on this machine, found out by making a sandbox; for `polydev doctor`."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from polydev.errors import PolydevError
from polydev.models.places import Launch
from polydev.sandboxes.bubblewrap import Bubblewrap, find_bubblewrap
from polydev.sandboxes.diagnosis import diagnose, read_kernel

_TRIAL = Launch(argv=("/usr/bin/true",), needs_port=True)
_TRIAL_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """ok, or the reason (a stable word), what happened, and the exact remedy."""

    ok: bool
    version: str = ""
    reason: str = ""
    message: str = ""
    remedy: str = ""


async def probe() -> Probe:
    """Makes one sandbox, with everything that a run uses, and ends it. Raises nothing of ours."""
    version = ""
    try:
        _, numbers = await find_bubblewrap()
        version = ".".join(str(number) for number in numbers)
        with tempfile.TemporaryDirectory(prefix="polydev-probe-") as name:
            await _try(Path(name))
    except TimeoutError:
        return Probe(
            ok=False,
            version=version,
            reason="sandbox_late",
            message=f"A sandbox did not end within {_TRIAL_SECONDS:g} seconds.",
            remedy="The machine is overloaded; try again.",
        )
    except PolydevError as error:
        return Probe(
            ok=False,
            version=version,
            reason=error.reason,
            message=error.message,
            remedy=error.remedy,
        )
    return Probe(ok=True, version=version)


async def _try(directory: Path) -> None:
    programs, authority = directory / "programs", directory / "authority.pem"
    programs.mkdir()
    authority.touch()
    kind = Bubblewrap(directory=directory / "sandboxes", programs=programs, authority=authority)
    async with kind as sandboxes, await sandboxes.open(lambda _: _TRIAL) as sandbox:
        process = await sandbox.start()
        async with asyncio.timeout(_TRIAL_SECONDS):
            code = await process.wait()
        if code != 0:
            raise diagnose(process.stderr_tail(), read_kernel()).error()
