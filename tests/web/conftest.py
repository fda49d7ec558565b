"""Gateways with a dashboard, and browsers before it: Debian's Chromium, driven by Playwright.

Every page is watched: a script's error or a broken security policy fails the test that met it.
"""

import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from polydev.core.programs import BROWSER_PARTS
from polydev.sim import Simulator
from tests.e2e.conftest import (
    House,
    house,
    open_house,
    programs,
    scripted_programs,
    sim,
)
from tests.e2e.gateway import ANSWER_SECONDS, Gateway, Person

__all__ = ["house", "programs", "scripted_programs", "sim"]

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
ABSENT = "absent"  # for a header that is not sent
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1200, "height": 800}


@pytest.fixture(scope="session")
def programs_with_htmx(scripted_programs: Path, programs: Path) -> Path:
    """The scripted CLI's directory, with what the dashboard needs of npm's."""
    for name in BROWSER_PARTS:
        part = programs / "node_modules" / name
        if not part.exists():
            pytest.fail(f"{name} is not installed in {programs}: run `make setup`")
        link = scripted_programs / "node_modules" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(part)
    return scripted_programs


@pytest.fixture(scope="session")
async def scripted_house(
    sim: Simulator, programs_with_htmx: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """With the scripted CLI, which does what its prompt says."""
    async with open_house(
        tmp_path_factory.mktemp("web") / "data", sim, programs_with_htmx
    ) as house:
        yield house


async def link_for(gateway: Gateway, user: str | None = None) -> str:
    """A link that signs a browser in."""
    answer = await gateway.owner("POST", "/owner/sign-in-links", {"user": user})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["url"])


@dataclass
class Client:
    """A browser as far as HTTP goes: cookies, and what browsers say of themselves."""

    http: httpx.AsyncClient
    gateway: Gateway

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=_names(headers))

    async def post(
        self, path: str, fields: Mapping[str, str] | None = None, **headers: Any
    ) -> httpx.Response:
        """With its origin and token, unless `headers` has others."""
        said = {"origin": self.gateway.url, "x-csrf-token": await self.csrf(), **_names(headers)}
        said = {name: value for name, value in said.items() if value != ABSENT}
        return await self.http.post(path, data=fields or {}, headers=said)

    async def csrf(self) -> str:
        page = (await self.http.get("/runs")).text
        found = re.search(r'name="csrf" value="(\w+)"', page)
        return found[1] if found else ""


def _names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@contextlib.asynccontextmanager
async def signed_in(gateway: Gateway, user: str | None) -> AsyncIterator[Client]:
    """A client with the cookie of this user."""
    async with httpx.AsyncClient(
        base_url=gateway.url, timeout=ANSWER_SECONDS, headers={"accept": "text/html"}
    ) as http:
        answer = await http.get(await link_for(gateway, user))
        assert answer.status_code == 303, answer.text
        yield Client(http, gateway)


@dataclass
class View:
    """A signed-in page. `troubles` gathers what went wrong in it."""

    page: Page
    context: BrowserContext
    gateway: Gateway
    name: str
    troubles: list[str] = field(default_factory=list)
    _shots: int = 0

    async def open(self, path: str) -> None:
        """Returns when the page is there and follows what changes."""
        await self.page.goto(f"{self.gateway.url}{path}")
        await self.page.wait_for_selector("body[data-following]")

    async def shot(self, what: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self._shots += 1
        await self.page.screenshot(
            path=SCREENSHOTS / f"{self.name}-{self._shots:02}-{what}.png", full_page=True
        )

    async def fits(self) -> None:
        """That nothing is wider than the window."""
        wide = await self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, f"{self.page.url} is {wide} px too wide"


class Views(Protocol):
    def __call__(
        self, gateway: Gateway, person: Person | None, **options: Any
    ) -> AbstractAsyncContextManager[View]: ...


@pytest.fixture(scope="session")
async def browser(anyio_backend: object, sim: Simulator) -> AsyncIterator[Browser]:
    """To it every name is the simulator's, but for this machine's own."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("chromium is not installed: run `make setup`")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable,
            args=[
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
                f"--host-resolver-rules=MAP * {sim.redirect},EXCLUDE localhost,EXCLUDE 127.0.0.1",
            ],
        )
        yield browser
        await browser.close()


@pytest.fixture
def view(browser: Browser, request: pytest.FixtureRequest) -> Views:
    """Opens a browser window that is signed in as a person, and watches it."""
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")

    @contextlib.asynccontextmanager
    async def opened(
        gateway: Gateway, person: Person | None, **options: Any
    ) -> AsyncIterator[View]:
        options = {"viewport": DESK, "timezone_id": "Asia/Kolkata", "locale": "en-GB", **options}
        context = await browser.new_context(**options)
        context.set_default_timeout(ANSWER_SECONDS * 1000)
        expect.set_options(timeout=ANSWER_SECONDS * 1000)
        page = await context.new_page()
        view = View(page, context, gateway, name)
        page.on("pageerror", lambda error: view.troubles.append(f"error: {error}"))
        page.on(
            "console",
            lambda line: (
                view.troubles.append(f"{line.type}: {line.text}")
                if line.type in ("error", "warning")
                else None
            ),
        )
        await page.goto(await link_for(gateway, person.name if person else None))
        await page.wait_for_selector("body[data-following]")
        yield view
        await context.close()
        assert view.troubles == []

    return opened
