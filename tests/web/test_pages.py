"""The dashboard in a real browser: every page, followed by facts and never reloaded."""

import asyncio
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Route, expect

from polydev.sim import Simulator
from polydev.sim.control import credential_of
from tests.e2e.conftest import House, NewGateway
from tests.e2e.conftest import new_gateway as new_gateway
from tests.e2e.events import submit
from tests.e2e.gateway import MARKER
from tests.egress.proxying import LittleProxy
from tests.web.conftest import PHONE, View, Views

pytestmark = [pytest.mark.anyio, pytest.mark.real]

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"
QUESTION = "calculate 3*67 and respond with just the number"


def drip(*pieces: str, seconds: float = 0.1) -> str:
    return json.dumps({"do": "drip", "pieces": pieces, "seconds": seconds})


HANG = json.dumps({"do": "hang"})


async def active_text(page: Page) -> str:
    """What the keyboard is at."""
    return str(await page.evaluate("document.activeElement.textContent.trim()"))


async def tab_to(page: Page, aim: Locator) -> None:
    """Reaches something by the keyboard alone, and sees that it shows."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await aim.evaluate("element => element === document.activeElement"):
            outline = await aim.evaluate("element => getComputedStyle(element).outlineStyle")
            assert outline != "none", f"{aim} shows no focus"
            return
    raise AssertionError(f"Tab does not reach {aim}")


async def test_a_connection_is_checked_needs_a_login_and_is_disconnected(house: House, view: Views):
    person = await house.person("wanda", "claude")
    account = house.accounts["wanda-claude"]
    async with view(house.gateway, person) as seen:
        page = seen.page
        card = page.get_by_role("article", name="Claude")
        await expect(card.get_by_text("active", exact=True)).to_be_visible()
        await page.get_by_role("button", name="Check").click()
        await expect(page.locator("#notice")).to_contain_text("It answered.")
        await expect(card.get_by_role("meter").first).to_be_visible()
        await expect(card.get_by_text("% used").first).to_be_visible()
        reset = card.locator(".windows time[data-show=clock]").first
        assert "GMT+5:30" in str(await reset.get_attribute("title"))
        await seen.shot("checked")

        house.sim.world.turn(account, {"tokens_rejected": True})
        await page.get_by_role("button", name="Check").click()
        again = page.get_by_role("link", name="Log in again")
        await expect(again).to_have_attribute("href", re.compile(r"^/connect/claude\?renews=con_"))
        await expect(card.get_by_text("needs a login")).to_be_visible()
        await seen.shot("needs-login")
        house.sim.world.turn(account, {"tokens_rejected": None})

        await card.get_by_role("button", name="Disconnect").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("Disconnect Claude")
        await seen.shot("question")
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(card).to_be_visible()
        await card.get_by_role("button", name="Disconnect").click()
        await dialog.get_by_role("button", name="Disconnect").click()
        await expect(page.locator("#notice")).to_contain_text("is disconnected")
        await expect(card).to_have_count(0)
        await expect(page.get_by_text("Nothing is connected yet")).to_be_visible()
        await expect(page.get_by_role("link", name="Connect Claude")).to_be_visible()
        await seen.shot("disconnected")


async def test_a_model_is_tried(house: House, view: Views):
    person = await house.person("xaver", "claude")
    async with view(house.gateway, person) as seen:
        await seen.open("/try")
        page = seen.page
        await page.get_by_label("Prompt").fill(QUESTION)
        await page.get_by_label("Prompt").press("Control+Enter")
        await expect(page.locator("#state")).to_have_text("succeeded")
        await expect(page.locator("#answer")).to_have_text("201")
        assert re.fullmatch(r"\d+ ms|[\d.]+ s", await page.locator("#first").inner_text())
        assert int(await page.locator("#out").inner_text()) > 0
        await seen.shot("answered")
        await page.get_by_role("link", name="its events").click()
        await expect(page.locator("#events")).to_contain_text("run.finished")
        await expect(page.locator("#answer")).to_have_text("201")
        await expect(page.get_by_text(QUESTION)).to_be_visible()
        await seen.shot("its-run")


async def test_models_come_and_go_with_their_connections(scripted_house: House, view: Views):
    person = await scripted_house.person("paul")
    async with view(scripted_house.gateway, person) as seen:
        await seen.open("/try")
        page = seen.page
        await page.get_by_label("Prompt").fill("half a thought")
        await expect(page.get_by_text("No connection is active.")).to_be_visible()
        await seen.shot("nothing-to-ask")
        account = scripted_house.sim.world.create_account("claude")
        credential = credential_of(scripted_house.sim.world, account, None).encode()
        record = await scripted_house.gateway.connected(person, "claude", credential)
        models = page.get_by_label("Model")
        await expect(models).to_be_visible()
        other = await models.locator("option").last.get_attribute("value")
        await models.select_option(other)
        await scripted_house.gateway.owner("POST", f"/owner/connections/{record['id']}/check")
        await page.get_by_role("button", name="Ask").click()
        await expect(page.locator("#answer")).to_contain_text("half a thought")
        await expect(models).to_have_value(str(other))
        await scripted_house.gateway.owner("DELETE", f"/owner/connections/{record['id']}")
        await expect(page.get_by_text("No connection is active.")).to_be_visible()


async def test_an_answer_streams_is_only_text_and_is_cancelled(scripted_house: House, view: Views):
    person = await scripted_house.person("yann", "claude")
    async with view(scripted_house.gateway, person) as seen:
        await seen.open("/try")
        page = seen.page
        await page.get_by_label("Prompt").fill(drip("one ", HOSTILE, *["."] * 600))
        await page.get_by_role("button", name="Ask").click()
        await expect(page.locator("#answer")).to_contain_text(f"one {HOSTILE}")
        await expect(page.locator("#answer *")).to_have_count(0)
        await expect(page.locator("#state")).to_have_text(re.compile("asked|answering"))
        await seen.shot("streaming")
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.locator("#state")).to_have_text("cancelled")
        await expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
        await expect(page.get_by_role("button", name="Ask")).to_be_enabled()
        await seen.shot("cancelled")
        await page.get_by_label("Prompt").fill(json.dumps({"do": "die", "code": 7}))
        await page.get_by_role("button", name="Ask").click()
        await expect(page.locator("#state")).to_have_text("failed")
        await expect(page.get_by_role("alert")).to_contain_text("exit code 7")
        await seen.shot("failed")


async def test_runs_are_followed_without_a_reload(scripted_house: House, view: Views):
    person = await scripted_house.person("zoe", "claude")
    http = person.http()
    async with view(scripted_house.gateway, person) as seen:
        page = seen.page
        await seen.open("/runs")
        await page.evaluate("window.sameDocument = true")
        for state, prompt in (
            ("succeeded", MARKER),
            ("failed", json.dumps({"do": "die", "code": 3})),
            ("running", HANG),
        ):
            run = await submit(http, model="claude", prompt=prompt)
            row = page.get_by_role("row").filter(has=page.locator(f"#{run}"))
            await expect(row.get_by_text(state, exact=True)).to_be_visible()
        await seen.shot("running")
        assert (await http.delete(f"/v1/runs/{run}")).status_code == 200
        await expect(row.get_by_text("cancelled", exact=True)).to_be_visible()
        assert await page.evaluate("window.sameDocument")

        # What changes while the mouse is pressed takes no click away.
        pressed = asyncio.Event()

        async def late(route: Route) -> None:
            await pressed.wait()
            await route.continue_()

        await page.route("**/runs/list", late)
        async with page.expect_response("**/runs/list"):
            old, run = run, await submit(http, model="claude", prompt=drip(HOSTILE, *["."] * 600))
            await page.locator(f"#{old}").hover()
            await page.mouse.down()
            pressed.set()
        await page.mouse.up()
        await page.wait_for_url(f"**/runs/{old}")
        await seen.open("/runs")

        await page.locator(f"#{run}").click()
        await page.wait_for_url(f"**/runs/{run}")
        await expect(page.locator("#events")).to_contain_text(HOSTILE)
        await expect(page.locator("#events img, #answer *, #asked img")).to_have_count(0)
        await expect(page.locator("#run")).to_contain_text("running")
        first = page.locator("#run .facts div").filter(has_text="First token")
        await expect(first).to_contain_text(re.compile(r"\d (ms|s)"))
        await seen.shot("one-run")
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.locator("#run").get_by_text("cancelled").first).to_be_visible()
        await expect(page.locator("#events")).to_contain_text("run.finished")
        await expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
        await seen.shot("cancelled")


async def test_a_connections_proxy_is_shown_without_its_login(
    scripted_house: House, sim: Simulator, view: Views
):
    person = await scripted_house.person("via")
    credential = credential_of(sim.world, sim.world.create_account("claude"), None)
    host, _, port = sim.redirect.rpartition(":")
    login = ("made-up-user", "made-up-password")
    async with (
        LittleProxy("http", login=login, target=(host, int(port))) as proxy,
        view(scripted_house.gateway, person) as seen,
    ):
        answer = await scripted_house.gateway.connect(
            person, "claude", credential.encode(), proxy=proxy.address
        )
        assert answer.status_code == 201, answer.text
        await seen.open("/connections")
        card = seen.page.get_by_role("article", name="Claude")
        await expect(card).to_contain_text(f"http://127.0.0.1:{proxy.port}")
        for secret in login:
            await expect(seen.page.locator("body")).not_to_contain_text(secret)
        await seen.shot("proxy")


async def test_a_key_is_made_used_and_revoked(scripted_house: House, view: Views):
    person = await scripted_house.person("vera", "claude")
    async with view(
        scripted_house.gateway, person, permissions=["clipboard-read", "clipboard-write"]
    ) as seen:
        page = seen.page
        await seen.open("/keys")
        await page.get_by_label("What a new key is for").fill("<b>editor</b>")
        await page.get_by_role("button", name="Create a key").click()
        created = page.get_by_role("region", name="The new key")
        await expect(created).to_contain_text("never shown again")
        await created.get_by_role("button", name="Copy the new key").click()
        await expect(created.get_by_role("button")).to_have_text("Copied")
        key = str(await page.evaluate("navigator.clipboard.readText()"))
        assert key.startswith("polydev_")
        await seen.shot("created")
        row = page.get_by_role("row").filter(has_text="<b>editor</b>")
        await expect(row.get_by_text("active")).to_be_visible()
        person.key, first = key, person.key
        assert (await person.http().get("/v1/models")).status_code == 200
        person.key = first
        await page.get_by_role("button", name="Copy the curl line").click()
        assert "/v1/chat/completions" in await page.evaluate("navigator.clipboard.readText()")

        await row.get_by_role("button", name="Revoke").click()
        await page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        await expect(row.get_by_text("revoked", exact=True)).to_be_visible()
        await expect(page.locator("#notice")).to_contain_text("is revoked")
        await seen.shot("revoked")
        await page.get_by_role("button", name="Dismiss").click()
        await expect(page.locator("#notice")).to_be_empty()

        await seen.open("/keys")
        assert key not in await page.content()


async def test_a_key_made_elsewhere_appears(scripted_house: House, view: Views):
    person = await scripted_house.person("uma")
    async with view(scripted_house.gateway, person) as seen:
        await seen.open("/keys")
        await seen.page.get_by_role("row").first.wait_for()
        rows = await seen.page.get_by_role("row").count()
        await scripted_house.gateway.key(person.name)
        await expect(seen.page.get_by_role("row")).to_have_count(rows + 1)


async def test_everything_is_reached_by_the_keyboard(scripted_house: House, view: Views):
    person = await scripted_house.person("kim", "claude")
    async with view(scripted_house.gateway, person) as seen:
        page = seen.page
        await page.keyboard.press("Tab")
        assert await active_text(page) == "Skip to the content"
        await seen.shot("skip-link")
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        await tab_to(page, page.get_by_role("button", name="Check"))
        await page.keyboard.press("Enter")
        await expect(page.locator("#notice")).to_contain_text("It answered.")
        await seen.open("/connections")
        await tab_to(page, page.get_by_role("link", name="Keys"))
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/keys")
        await page.wait_for_selector("body[data-following]")
        await tab_to(page, page.get_by_label("What a new key is for"))
        await page.keyboard.type("by keyboard")
        await page.keyboard.press("Enter")
        row = page.get_by_role("row").filter(has_text="by keyboard")
        await expect(row.get_by_text("active")).to_be_visible()
        await tab_to(page, row.get_by_role("button", name="Revoke"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert await active_text(page) == "Keep it"
        await page.keyboard.press("Tab")
        await seen.shot("dialog")
        await page.keyboard.press("Enter")
        await expect(row.get_by_text("revoked", exact=True)).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desk", "phone"])
async def test_every_page_fits(scripted_house: House, view: Views, scheme: str, device: str):
    person = await scripted_house.person("kim", "claude")
    http = person.http()
    run = await submit(http, model="claude", prompt=f"{MARKER} {'long' * 60} " + "word " * 40)
    look: dict[str, Any] = {"color_scheme": scheme}
    if device == "phone":
        look |= {"viewport": PHONE, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    async with view(scripted_house.gateway, person, **look) as seen:
        for path in ("/connections", "/runs", f"/runs/{run}", "/keys", "/try"):
            await seen.open(path)
            if "run_" in path:
                await expect(seen.page.locator("#events")).to_contain_text("run.finished")
            await seen.fits()
            await seen.shot(path.split("/")[1] + ("-one" if "run_" in path else ""))


async def test_who_is_signed_out_elsewhere_is_told(scripted_house: House, view: Views):
    person = await scripted_house.person("tom")
    async with view(scripted_house.gateway, person) as seen:
        there = await seen.context.new_page()
        await there.goto(f"{scripted_house.gateway.url}/keys")
        await there.get_by_role("button", name="Sign out").click()
        await expect(there.get_by_text("You are not signed in.")).to_be_visible()
        await expect(seen.page.get_by_text("You are not signed in.")).to_be_visible()
        await expect(seen.page.get_by_text("polydev open", exact=True)).to_be_visible()
        await seen.shot("signed-out")
        _forget(seen, "401")


async def test_what_does_not_exist_is_said_in_a_page(scripted_house: House, view: Views):
    async with view(scripted_house.gateway, None) as seen:
        for path in ("/nothing/here", "/runs/run_none"):
            await seen.open(path)
            await expect(seen.page.get_by_role("heading")).to_contain_text("There is no")
            await seen.shot("missing")
        await seen.page.get_by_role("link", name="To the start").click()
        await seen.page.wait_for_url("**/connections")
        _forget(seen, "404")


async def test_an_error_of_a_change_is_said_where_it_was_asked(scripted_house: House, view: Views):
    person = await scripted_house.person("sue")
    async with view(scripted_house.gateway, person) as seen:
        page = seen.page
        await seen.open("/keys")
        name = page.get_by_label("What a new key is for")
        await name.evaluate("element => { element.removeAttribute('maxlength'); }")
        await name.fill("x" * 65)
        await page.get_by_role("button", name="Create a key").click()
        await expect(page.locator("#notice")).to_contain_text("up to 64 printable characters")
        await expect(page.locator("#created")).to_be_empty()
        _forget(seen, "400")


async def test_a_page_outlives_the_gateway(
    new_gateway: NewGateway, programs_with_htmx: Path, sim: Simulator, view: Views
):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gateway = await new_gateway(programs_with_htmx, POLYDEV_SERVER__PORT=str(port))
    async with view(gateway, None) as seen:
        page = seen.page
        await seen.open("/keys")
        rows = await page.get_by_role("row").count()
        began = asyncio.get_running_loop().time()
        assert await gateway.stop() == 0
        assert asyncio.get_running_loop().time() - began < 4, "an open page holds the gateway up"
        await expect(page.locator("#offline")).to_be_visible()
        await seen.shot("offline")
        await gateway.start()
        await expect(page.locator("#offline")).to_be_hidden()
        await gateway.key("owner")
        await expect(page.get_by_role("row")).to_have_count(rows + 1)
        _forget(seen, "ERR_|502|Failed to fetch")


def _forget(seen: View, expected: str) -> None:
    """Browsers name every answer that is an error; these were meant."""
    seen.troubles[:] = [line for line in seen.troubles if not re.search(expected, line)]
