"""Looks at everything that polydev needs, and says what is missing and what mends it.

Changes nothing. Each part is looked at by itself: what is wrong with one never hides another.
A finding that is `ok` and yet has a problem is a warning.
"""

import asyncio
import os
import shutil
import stat
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

import httpx

from polydev import __version__
from polydev.config import Settings
from polydev.core.debian import install_line
from polydev.core.desktops import FIX as FIX_DESKTOP
from polydev.core.desktops import missing_packages
from polydev.core.installer import is_current, pinned_versions
from polydev.core.layout import Layout, in_use
from polydev.core.programs import BROWSER_PARTS, Programs, npm_platform
from polydev.errors import PolydevError
from polydev.proc import run_tool
from polydev.providers.registry import PROVIDERS
from polydev.sandboxes.probe import probe
from polydev.store.database import DATABASE_FILE, Database
from polydev.store.facts import VAULT_CHECK, Facts
from polydev.store.migrate import HEAD
from polydev.vault import KEY_FILE, Vault, load_keyring

FIX = "polydev doctor --fix"
_SPACE_BYTES = 500 * 2**20
_SPACE_TO_INSTALL_BYTES = 3 * 2**30
_SOON_SECONDS = 5.0
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    name: str
    ok: bool
    version: str = ""
    problem: str = ""
    remedy: str = ""


def failed(name: str, error: PolydevError, version: str = "") -> Finding:
    return Finding(name=name, ok=False, version=version, problem=error.message, remedy=error.remedy)


async def examine(settings: Settings, parts: Collection[str] = ()) -> list[Finding]:
    """What was found, in order; of all parts unless some are named."""
    examiner = _Examiner(settings)
    findings: list[Finding] = []
    for part, look in examiner.parts().items():
        if not parts or part in parts:
            try:
                findings += await look()
            except OSError as error:
                problem = f"It cannot be looked at: {error}."
                findings.append(Finding(name=part, ok=False, problem=problem))
    return findings


class _Examiner:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._layout = Layout.of(settings)
        self._programs = Programs(self._layout.programs)

    def parts(self) -> Mapping[str, Callable[[], Awaitable[list[Finding]]]]:
        return {
            "python": self._python,
            "sandbox": self._sandbox,
            "programs": self._clis,
            "data": self._data,
            "database": self._database,
            "gateway": self._gateway,
            "desktop": self._desktop,
        }

    async def _python(self) -> list[Finding]:
        version = ".".join(str(part) for part in sys.version_info[:3])
        new_enough = sys.version_info >= _OLDEST_PYTHON
        return [
            Finding(name="polydev", ok=True, version=__version__),
            Finding(
                name="python",
                ok=new_enough,
                version=version,
                problem="" if new_enough else "Python 3.11 or newer is needed.",
                remedy="" if new_enough else "Install it, and polydev with it.",
            ),
        ]

    async def _sandbox(self) -> list[Finding]:
        if self._settings.sandbox.kind == "none":
            return [
                Finding(
                    name="sandbox",
                    ok=True,
                    version="none",
                    problem="THE SANDBOX IS OFF: what the CLIs do is not confined, and may read "
                    "and change everything that this account may.",
                    remedy="Unset POLYDEV_SANDBOX__KIND to have bubblewrap again.",
                )
            ]
        found = await probe()
        return [
            Finding(
                name="bubblewrap",
                ok=found.ok,
                version=found.version,
                problem=found.message,
                remedy=found.remedy,
            )
        ]

    async def _desktop(self) -> list[Finding]:
        """Needed for one method of logging in, so that nothing is wrong without it."""
        missing = missing_packages()
        if not missing:
            return [Finding(name="desktop", ok=True, version="installed")]
        return [
            Finding(
                name="desktop",
                ok=True,
                version="not installed; only logins on a remote desktop need it",
                remedy=f"If you want it: {FIX_DESKTOP}, or {install_line(missing)}",
            )
        ]

    async def _clis(self) -> list[Finding]:
        pinned = pinned_versions()
        node = f"node-{npm_platform()}"
        found = [
            _installed(provider.name, self._programs.version(provider.program), wanted)
            for provider in PROVIDERS.values()
            if (wanted := pinned.get(provider.program.package))
        ]
        found.append(_installed("node", self._programs.node_version(), pinned.get(node, "")))
        found += [
            _installed(name, self._programs.browser_part_version(name), pinned[name])
            for name in BROWSER_PARTS
        ]
        if all(finding.ok for finding in found) and not is_current(self._layout.programs):
            problem = f"{self._layout.programs} was not installed by this version of polydev."
            found.append(Finding(name="lock", ok=True, problem=problem, remedy=FIX))
        missing = any(not finding.ok for finding in found)
        return [await _npm(needed=missing), *found]

    async def _data(self) -> list[Finding]:
        data = self._layout.data
        stands = next(path for path in (data, *data.parents) if path.exists())
        writable = os.access(stands, os.W_OK | os.X_OK) and stands.is_dir()
        mode = stat.S_IMODE(data.stat().st_mode) if data.exists() else 0o700
        problem = remedy = ""
        if not writable:
            problem = f"{stands} is not a directory that this account may write to."
            remedy = f"sudo chown $USER {stands}, or set POLYDEV_DATA to another directory."
        elif mode != 0o700:
            problem = f"{data} has mode {mode:04o}; others on this machine may look into it."
            remedy = f"chmod 700 {data}"
        free = shutil.disk_usage(stands).free
        needed = _SPACE_BYTES
        if not is_current(self._layout.programs):
            needed = _SPACE_TO_INSTALL_BYTES
        return [
            Finding(
                name="data directory",
                ok=not problem,
                version=str(data),
                problem=problem,
                remedy=remedy,
            ),
            Finding(
                name="disk space",
                ok=free >= needed,
                version=f"{free / 2**30:.1f} GiB free",
                problem="" if free >= needed else f"Less than {needed / 2**30:.1f} GiB is free.",
                remedy="" if free >= needed else f"Make room on the disk that holds {stands}.",
            ),
        ]

    async def _database(self) -> list[Finding]:
        """The database and the master key that opens what is in it."""
        elsewhere = bool(self._settings.store.url)
        if not elsewhere and not (self._layout.data / DATABASE_FILE).exists():
            later = "made at the first start"
            return [
                Finding(name="database", ok=True, version=later),
                Finding(name="master key", ok=True, version=self._key_origin() or later),
            ]
        try:
            async with Database.open_as_it_is(
                self._settings.store, self._settings.data
            ) as database:
                revision = await database.revision()
                known = revision in (HEAD, None)
                kind = "PostgreSQL" if database.is_postgresql else "SQLite"
                found = Finding(
                    name="database",
                    ok=True,
                    version=f"{kind}, schema {revision or 'none yet'}",
                    problem="" if known else f"This polydev has schema {HEAD}.",
                    remedy="" if known else "It is migrated at the next start, if it is older.",
                )
                check = await Facts(database).get(VAULT_CHECK) if revision else None
        except PolydevError as error:
            unknown = Finding(name="master key", ok=True, version="not tried")
            return [failed("database", error), unknown]
        return [found, self._key(check)]

    def _key(self, check: bytes | None) -> Finding:
        name = "master key"
        origin = self._key_origin()
        if check is None and not origin:
            return Finding(name=name, ok=True, version="made at the first start")
        try:
            keyring = load_keyring(self._settings.master_key, self._settings.data, may_create=False)
            if check is not None:
                Vault(keyring).verify(check)
        except PolydevError as error:
            return failed(name, error, origin)
        if not keyring.rotating:
            return Finding(name=name, ok=True, version=origin)
        return Finding(
            name=name,
            ok=True,
            version=origin,
            problem="A rotation was begun and is not finished.",
            remedy="polydev vault rotate",
        )

    def _key_origin(self) -> str:
        if self._settings.master_key is not None:
            return "POLYDEV_MASTER_KEY"
        file = self._settings.data / KEY_FILE
        return str(file) if file.exists() else ""

    async def _gateway(self) -> list[Finding]:
        running = in_use(self._layout)
        server = self._settings.server
        address = f"{server.host}:{server.port}"
        scheme = "http" if server.tls_certificate is None else "https"
        state = Finding(name="gateway", ok=True, version="running" if running else "not running")
        if server.port == 0 or await _is_free(server.host, server.port):
            return [state, Finding(name="port", ok=True, version=f"{address} is free")]
        if running and await _answers(f"{scheme}://{address}/healthz"):
            return [state, Finding(name="port", ok=True, version=f"{address}, the gateway's")]
        return [
            state,
            Finding(
                name="port",
                ok=False,
                version=address,
                problem=f"Something else listens on {address}, or it is not this machine's.",
                remedy="Stop it, or set POLYDEV_SERVER__PORT to another port.",
            ),
        ]


def _installed(name: str, version: str | None, wanted: str) -> Finding:
    if version == wanted:
        return Finding(name=name, ok=True, version=wanted)
    return Finding(
        name=name,
        ok=False,
        version=version or "",
        problem=f"Version {wanted} is not installed.",
        remedy=FIX,
    )


async def _npm(*, needed: bool) -> Finding:
    found = shutil.which("npm")
    if found is not None:
        answer = await run_tool([found, "--version"], timeout_seconds=30)
        if answer.code == 0 and answer.lines:
            return Finding(name="npm", ok=True, version=answer.lines[-1])
        problem = f"{found} does not work: {answer.stderr.strip()[-200:]}"
    else:
        problem = "It is not installed."
    if not needed:
        return Finding(name="npm", ok=True, version="not needed")
    return Finding(name="npm", ok=False, problem=problem, remedy=install_line(["npm"]))


async def _is_free(host: str, port: int) -> bool:
    try:
        server = await asyncio.start_server(lambda _, __: None, host, port, reuse_address=True)
    except OSError:
        return False
    server.close()
    await server.wait_closed()
    return True


async def _answers(url: str) -> bool:
    try:
        # Its certificate is for the name that others use; here it only matters whether it answers.
        async with httpx.AsyncClient(
            timeout=_SOON_SECONDS,
            trust_env=False,
            verify=False,  # noqa: S501
        ) as client:
            return (await client.get(url)).text == "ok\n"
    except httpx.HTTPError:
        return False
