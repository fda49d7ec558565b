"""A person clicks Connect, logs in at the provider's own pages, and sees that it worked."""

import asyncio
from collections.abc import Iterator

import pytest
from playwright.async_api import Page, Route, expect

from polydev.sim import Simulator
from tests.e2e.conftest import House
from tests.web.conftest import PHONE, View, Views

pytestmark = [pytest.mark.anyio, pytest.mark.real]

TITLES = {"claude": "Claude", "codex": "Codex", "gemini": "Gemini"}
WAYS = [
    ("claude", "this_machine"),
    ("claude", "paste_code"),
    ("claude", "relayed_callback"),
    ("codex", "this_machine"),
    ("codex", "device_code"),
    ("codex", "relayed_callback"),
    ("gemini", "this_machine"),
    ("gemini", "paste_code"),
    ("gemini", "relayed_callback"),
]
LONG = 60_000


@pytest.fixture
def knobs(sim: Simulator) -> Iterator[Simulator]:
    """What a test turns for logins is turned back after it."""
    sim.world.turn(None, {"device_poll_seconds": 1})
    yield sim
    sim.world.turn(
        None, {"device_poll_seconds": None, "login_popup": None, "login_token_seconds": None}
    )


async def begin(seen: View, provider: str, method: str) -> Page:
    """From the dashboard to the provider's page."""
    await seen.open("/connections")
    await seen.page.get_by_role("link", name=f"Connect {TITLES[provider]}").click()
    await expect(seen.page).to_have_title(f"Connect {TITLES[provider]} · polydev")
    await seen.shot("methods")
    await seen.page.locator(f"#start-{method}").click()
    await seen.page.locator("#link").wait_for(timeout=LONG)
    await seen.shot("waiting")
    async with seen.context.expect_page() as opened:
        await seen.page.locator("#link").click()
    return await opened.value


async def sign_in(seen: View, page: Page, email: str, *, allow: bool = True) -> None:
    """What a person does at the provider's pages."""
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill("made up")
    await page.get_by_role("button", name="Continue").click()
    await page.get_by_text("would like to use").wait_for()
    await page.get_by_role("button", name="Allow" if allow else "Deny").click()


async def finish(seen: View, page: Page, provider: str, method: str, email: str) -> None:
    mine = seen.page
    if method == "device_code":
        code = await mine.locator(".code code").inner_text()
        await page.get_by_label("The code that your device shows").fill(code)
        await page.get_by_role("button", name="Continue").click()
    if method == "relayed_callback":
        # Where no CLI listens: as on another computer.
        async with page.expect_request(lambda request: "code=" in request.url) as led:
            await sign_in(seen, page, email)
        address = (await led.value).url
        await mine.locator("#pasted").fill(address)
        await mine.locator("#hand-over").click()
        return
    await sign_in(seen, page, email)
    if method == "paste_code":
        await mine.locator("#pasted").fill(await page.locator("#code").inner_text())
        await mine.locator("#hand-over").click()


@pytest.mark.parametrize("way", WAYS, ids="-".join)
async def test_every_method_in_a_browser(
    house: House, knobs: Simulator, view: Views, way: tuple[str, str]
):
    provider, method = way
    person = await house.person(f"web-{provider}-{method}")
    email = f"{method}@{provider}.example"
    async with view(house.gateway, person, ignore_https_errors=True) as seen:
        page = await begin(seen, provider, method)
        await finish(seen, page, provider, method, email)
        done = seen.page.get_by_role("heading", name="Successfully connected")
        await done.wait_for(timeout=LONG)
        await expect(seen.page.locator("#login")).to_contain_text(email)
        await expect(seen.page.locator("#login")).to_contain_text("/v1/chat/completions")
        await expect(seen.page.locator(".progress li[data-state=done]")).to_have_count(6)
        await seen.shot("connected")
        await seen.page.get_by_role("link", name="Connections", exact=True).last.click()
        card = seen.page.get_by_role("article", name=TITLES[provider])
        await expect(card.get_by_text("active", exact=True)).to_be_visible()
        await expect(card).to_contain_text(email)


@pytest.mark.parametrize("keyed", [("gemini", "Gemini"), ("qwen", "Qwen")], ids=lambda one: one[0])
async def test_a_key(house: House, sim: Simulator, view: Views, keyed: tuple[str, str]):
    provider, title = keyed
    person = await house.person(f"web-key-{provider}")
    key = sim.world.give_api_key(sim.world.create_account(provider)).value
    async with view(house.gateway, person) as seen:
        await seen.open(f"/connect/{provider}")
        await seen.page.locator("#start-api_key").click()
        await seen.page.locator("#pasted").fill(key)
        await seen.shot("key")
        await seen.page.locator("#hand-over").click()
        await seen.page.get_by_role("heading", name="Successfully connected").wait_for(timeout=LONG)
        await expect(seen.page.locator("body")).not_to_contain_text(key)
        await seen.open("/connections")
        await expect(seen.page.get_by_role("article", name=title)).to_contain_text("active")


async def test_a_popup_and_a_phone(house: House, knobs: Simulator, view: Views):
    knobs.world.turn(None, {"login_popup": True})
    person = await house.person("web-popup")
    async with view(
        house.gateway, person, ignore_https_errors=True, viewport=PHONE, color_scheme="dark"
    ) as seen:
        page = await begin(seen, "claude", "paste_code")
        await seen.fits()
        async with page.expect_popup() as opened:
            await page.get_by_role("link", name="Sign in with your company").click()
        popup = await opened.value
        await popup.get_by_label("E-mail").fill("popup@claude.example")
        await popup.get_by_label("Password").fill("made up")
        await popup.get_by_role("button", name="Continue").click()
        await page.get_by_role("button", name="Allow").click()
        await seen.page.locator("#pasted").fill(await page.locator("#code").inner_text())
        await seen.page.locator("#hand-over").click()
        await seen.page.get_by_role("heading", name="Successfully connected").wait_for(timeout=LONG)
        await seen.fits()
        await seen.shot("connected")


async def test_denied_then_tried_again(house: House, knobs: Simulator, view: Views):
    person = await house.person("web-denied")
    async with view(house.gateway, person, ignore_https_errors=True) as seen:
        page = await begin(seen, "codex", "device_code")
        code = await seen.page.locator(".code code").inner_text()
        await page.get_by_label("The code that your device shows").fill(code)
        await page.get_by_role("button", name="Continue").click()
        await sign_in(seen, page, "denied@codex.example", allow=False)
        alert = seen.page.get_by_role("alert")
        await expect(alert).to_contain_text("The login failed.", timeout=LONG)
        await seen.page.get_by_text("What happened, step by step").click()
        await seen.shot("denied")
        await seen.page.locator("#again").click()
        await seen.page.locator("#link").wait_for(timeout=LONG)
        await seen.page.locator("#cancel").click()
        await seen.shot("really")
        await seen.page.locator("#confirm-yes").click()
        await expect(alert).to_contain_text("was cancelled", timeout=LONG)
        await seen.open("/logins")
        await expect(seen.page.get_by_role("row")).to_have_count(3)
        await seen.shot("logins")


async def test_two_tabs_and_a_closed_one_show_the_same_login(
    house: House, knobs: Simulator, view: Views
):
    person = await house.person("web-tabs")
    async with view(house.gateway, person, ignore_https_errors=True) as seen:
        await begin(seen, "codex", "device_code")
        code = await seen.page.locator(".code code").inner_text()
        other = await seen.context.new_page()
        await other.goto(f"{house.gateway.url}/connect/codex")
        assert other.url == seen.page.url  # the live one
        await expect(other.locator(".code code")).to_have_text(code)
        await seen.page.close()
        await other.locator("#cancel").click()
        await other.locator("#confirm-yes").click()
        await expect(other.get_by_role("alert")).to_contain_text("was cancelled", timeout=LONG)


async def test_what_is_being_typed_stays_while_the_page_follows(
    house: House, knobs: Simulator, view: Views
):
    person = await house.person("web-typing")
    async with view(house.gateway, person, ignore_https_errors=True) as seen:
        await begin(seen, "claude", "paste_code")
        typed = asyncio.Event()

        async def late(route: Route) -> None:
            await typed.wait()
            await route.continue_()

        await seen.page.route("**/state", late)
        async with seen.page.expect_response(lambda answer: answer.url.endswith("/state")):
            await seen.page.goto(seen.page.url)
            await seen.page.locator("#pasted").fill("half a co")
            typed.set()
        await expect(seen.page.locator("#pasted")).to_have_value("half a co")
        await seen.page.locator("#cancel").click()
        await seen.page.locator("#confirm-yes").click()
        await expect(seen.page.get_by_role("alert")).to_contain_text("was cancelled", timeout=LONG)


async def test_wrong_things_are_said_in_the_page(house: House, knobs: Simulator, view: Views):
    person = await house.person("web-wrong")
    async with view(house.gateway, person, ignore_https_errors=True) as seen:
        await begin(seen, "claude", "paste_code")
        await seen.page.locator("#pasted").fill("this is no code")
        await seen.page.locator("#hand-over").click()
        await expect(seen.page.locator("#notice")).to_contain_text("not a code")
        await seen.shot("no-code")
        await seen.page.locator("#pasted").fill("made-up-code-of-nobody#made-up-state")
        await seen.page.locator("#hand-over").click()
        await expect(seen.page.get_by_role("alert")).to_contain_text("failed", timeout=LONG)
        await seen.shot("refused")
        seen.troubles[:] = [one for one in seen.troubles if "400" not in one]


async def test_another_persons_login_is_not_found(house: House, knobs: Simulator, view: Views):
    ada, bob = await house.person("web-ada"), await house.person("web-bob")
    async with (
        view(house.gateway, ada, ignore_https_errors=True) as hers,
        view(house.gateway, bob, ignore_https_errors=True) as his,
    ):
        await begin(hers, "codex", "device_code")
        answer = await his.page.goto(hers.page.url)
        assert answer is not None
        assert answer.status == 404
        his.troubles.clear()
        await hers.page.locator("#cancel").click()
        await hers.page.locator("#confirm-yes").click()
        await expect(hers.page.get_by_role("alert")).to_contain_text("was cancelled", timeout=LONG)
