"""A person logs in on a remote desktop, in the page: by mouse, by keyboard, by pasting."""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.async_api import expect
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import InvalidStatus

from polydev.core.desktops import missing_packages
from polydev.sim import Simulator
from tests.e2e.conftest import House
from tests.e2e.processes import all_gone
from tests.web.conftest import View, Views, signed_in

pytestmark = [pytest.mark.anyio, pytest.mark.real, pytest.mark.slow]

LONG = 90_000
WIDTH, HEIGHT = 1920, 1080
# Where the simulator's sign-in page has them, in the browser at full size.
EMAIL, PASSWORD, CONTINUE = (960, 388), (960, 475), (805, 536)


_LIT = """([least, most]) => {
  const canvas = document.querySelector("#screen canvas");
  const points = canvas.getContext("2d").getImageData(0, 400, canvas.width, 500).data;
  let lit = 0;
  for (let at = 2; at < points.length; at += 16) lit += points[at] > 120;
  return least <= lit && lit < most;
}"""


@pytest.fixture(autouse=True)
def installed() -> None:
    if missing := missing_packages():
        pytest.fail(f"not installed: {', '.join(missing)}; run `make setup`")


@pytest.fixture
def popup(sim: Simulator) -> Iterator[Simulator]:
    sim.world.turn(None, {"login_popup": True})
    yield sim
    sim.world.turn(None, {"login_popup": None})


@dataclass
class Desktop:
    """The remote desktop as the page shows it."""

    seen: View
    sim: Simulator
    since: int

    async def asked(self, path: str, method: str = "GET") -> None:
        """Waits until the browser over there asked the provider for this."""
        try:
            await self.sim.world.records.arrived(
                lambda records: any(
                    (record.method, path in record.path) == (method, True)
                    for record in records
                    if record.number > self.since
                ),
                90,
            )
        except TimeoutError:
            await self.seen.page.get_by_text("What happened, step by step").click()
            await self.seen.shot("never-asked")
            raise

    async def still(self, name: str) -> None:
        """Waits until nothing on the screen changes any more; keeps a picture of the page."""
        async with asyncio.timeout(60):
            before = ""
            while (now := await self._picture()) != before:
                before = now
                await asyncio.sleep(0.7)
        await self.seen.shot(name)

    async def shows(self, lit: range) -> None:
        """Waits until about so many points in the middle of the screen are bright."""
        await self.seen.page.wait_for_function(_LIT, arg=[lit.start, lit.stop], timeout=LONG)
        # Reading the screen is the test's doing, and Chromium's advice about it is for the page.
        self.seen.troubles[:] = [one for one in self.seen.troubles if "getImageData" not in one]

    async def click(self, at: tuple[int, int]) -> None:
        box = await self.seen.page.locator("#screen canvas").bounding_box()
        assert box is not None
        x, y = at[0] * box["width"] / WIDTH, at[1] * box["height"] / HEIGHT
        await self.seen.page.mouse.click(box["x"] + x, box["y"] + y)

    async def type(self, text: str) -> None:
        await self.seen.page.keyboard.type(text, delay=20)

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.seen.page.keyboard.press(key)

    async def paste(self, text: str) -> None:
        await self.seen.page.locator("#remote-paste").fill(text)
        await self.seen.page.locator("#remote-hand-over").click()
        await expect(self.seen.page.locator("#remote-paste")).to_have_value("")

    async def _picture(self) -> str:
        data = await self.seen.page.evaluate(
            "document.querySelector('#screen canvas').toDataURL('image/png')"
        )
        return hashlib.sha256(data.encode()).hexdigest()


async def desktop_of(seen: View, sim: Simulator, provider: str) -> Desktop:
    since = sim.world.records.total
    await seen.open(f"/connect/{provider}")
    await seen.page.locator("#start-remote_desktop").click()
    await seen.page.locator("#desktop[data-connected]").wait_for(timeout=LONG)
    return Desktop(seen, sim, since)


AUTHORIZE = {
    "claude": "/oauth/authorize",
    "codex": "/oauth/authorize",
    "gemini": "/o/oauth2/v2/auth",
}


@pytest.mark.parametrize("at", AUTHORIZE)
async def test_by_mouse_keyboard_and_pasting(house: House, sim: Simulator, view: Views, at: str):
    person = await house.person(f"web-desktop-{at}")
    email = f"desktop@{at}.example"
    before = house.gateway.processes()
    async with view(house.gateway, person) as seen:
        desktop = await desktop_of(seen, sim, at)
        if at == "gemini":  # its CLI asks twice before it opens the browser
            for name, lit in (("which-login", range(3000, 10**6)), ("may-open", range(300, 3000))):
                await desktop.shows(lit)
                await desktop.still(name)
                await desktop.press("Enter")
        await seen.page.locator("#link").wait_for(timeout=LONG)
        await desktop.asked(AUTHORIZE[at])
        await desktop.still("sign-in")
        await desktop.click(EMAIL)
        await desktop.still("field")  # what is typed before the browser took the click is lost
        await desktop.type(email)
        await desktop.click(PASSWORD)
        await desktop.still("e-mail")
        await desktop.paste("made up")
        await desktop.still("typed")
        await desktop.click(CONTINUE)
        await desktop.asked("/simulator/sign-in", "POST")
        await desktop.still("consent")
        await desktop.press("Tab", "Enter")
        await seen.page.get_by_role("heading", name="Successfully connected").wait_for(timeout=LONG)
        await expect(seen.page.locator("#login")).to_contain_text(email)
        await expect(seen.page.locator("#desktop")).to_be_hidden()
        await seen.shot("connected")
    await all_gone(house.gateway.processes() - before, within=20)


async def test_its_windows_and_a_popup(house: House, popup: Simulator, view: Views):
    person = await house.person("web-desktop-popup")
    async with view(house.gateway, person) as seen:
        desktop = await desktop_of(seen, popup, "claude")
        await desktop.asked("/oauth/authorize")
        await desktop.still("company")
        await seen.page.locator("#front-terminal").click()
        await desktop.still("terminal")
        await seen.page.locator("#front-browser").click()
        await desktop.still("browser")
        await desktop.click((960, 200))
        await desktop.press("Tab", "Enter")
        await desktop.asked("/simulator/sign-in")
        await desktop.still("popup")
        await desktop.press("Tab")
        await desktop.type("popup@claude.example")
        await desktop.press("Tab")
        await desktop.type("made up")
        await desktop.press("Enter")
        await desktop.asked("/simulator/sign-in", "POST")
        await desktop.still("consent")
        await desktop.press("Tab", "Enter")
        await seen.page.get_by_role("heading", name="Successfully connected").wait_for(timeout=LONG)


async def test_nobody_else_sees_the_screen(house: House, sim: Simulator, view: Views):
    ada, bob = await house.person("web-desktop-ada"), await house.person("web-desktop-bob")
    url = house.gateway.url
    async with view(house.gateway, ada) as seen, signed_in(house.gateway, bob.name) as his:
        await desktop_of(seen, sim, "claude")
        path = f"{seen.page.url.removeprefix(url)}/screen"
        address = f"ws{url.removeprefix('http')}{path}"
        hers = {one["name"]: one["value"] for one in await seen.context.cookies()}
        for cookies, origin, status in (
            ({}, url, 401),
            (hers, "http://example.org", 403),
            (hers, None, 403),
            (dict(his.http.cookies), url, 404),
        ):
            headers = {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
            with pytest.raises(InvalidStatus) as refused:
                await open_socket(address, origin=origin, additional_headers=headers)  # type: ignore[arg-type]
            assert refused.value.response.status_code == status
        await seen.page.locator("#cancel").click()
        await seen.page.locator("#confirm-yes").click()
        await expect(seen.page.get_by_role("alert")).to_contain_text("was cancelled", timeout=LONG)
