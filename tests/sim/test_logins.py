"""Logins at every stand-in, over HTTP: the pages, the codes, the token endpoints, device codes."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest

from polydev.sim import Simulator
from polydev.sim.codes import MOST_KEPT, Application, Authorization, Codes, challenge_of
from polydev.sim.person import Person, PersonStopped, Seen

pytestmark = pytest.mark.anyio

ADA = "ada@example.org"
VERIFIER = "a-verifier-that-only-the-cli-knows-0123456789"
STATE = "a state/with&signs"


@dataclass(frozen=True)
class Vendor:
    provider: str
    page: str
    client_id: str
    listener: str
    manual: str
    token_host: str
    token_path: str
    scope: str

    def link(self, redirect_uri: str = "", **changed: str) -> str:
        asked = {
            "client_id": self.client_id,
            "response_type": "code",
            "redirect_uri": redirect_uri or self.listener,
            "scope": self.scope,
            "code_challenge": challenge_of(VERIFIER),
            "code_challenge_method": "S256",
            "state": STATE,
        }
        return f"{self.page}?{urlencode(asked | changed)}"


CLAUDE = Vendor(
    "claude",
    "https://claude.com/cai/oauth/authorize",
    "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
    "http://localhost:40001/callback",
    "https://platform.claude.com/oauth/code/callback",
    "platform.claude.com",
    "/v1/oauth/token",
    "org:create_api_key user:profile user:inference",
)
CODEX = Vendor(
    "codex",
    "https://auth.openai.com/oauth/authorize",
    "app_EMoamEEZ73f0CkXaXp7hrann",
    "http://127.0.0.1:1455/auth/callback",
    "",
    "auth.openai.com",
    "/oauth/token",
    "openid profile email offline_access",
)
GEMINI = Vendor(
    "gemini",
    "https://accounts.google.com/o/oauth2/v2/auth",
    "681255809395-oo8ft2oprdrnp9e3aqf6av3hmdib135j.apps.googleusercontent.com",
    "http://127.0.0.1:40001/oauth2callback",
    "https://codeassist.google.com/authcode",
    "oauth2.googleapis.com",
    "/token",
    "https://www.googleapis.com/auth/cloud-platform",
)
VENDORS = pytest.mark.parametrize("vendor", [CLAUDE, CODEX, GEMINI], ids=lambda one: one.provider)


@pytest.fixture
async def person(sim: Simulator) -> AsyncIterator[Person]:
    async with Person(sim.redirect, sim.ca) as somebody:
        yield somebody


async def trade(
    http: httpx.AsyncClient, vendor: Vendor, code: str, **changed: str
) -> httpx.Response:
    body = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": vendor.listener,
        "client_id": vendor.client_id,
        "code_verifier": VERIFIER,
    }
    if vendor is CLAUDE:
        body["state"] = STATE
    return await ask_token(http, vendor, body | changed)


async def ask_token(
    http: httpx.AsyncClient, vendor: Vendor, body: dict[str, str]
) -> httpx.Response:
    sent: dict[str, Any] = {"json": body} if vendor is CLAUDE else {"data": body}
    return await http.post(vendor.token_path, headers={"host": vendor.token_host}, **sent)


def reason(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return str(error if isinstance(error, str) else error["code"])


@VENDORS
async def test_a_login_gives_tokens_that_work_and_refresh(
    sim: Simulator, http: httpx.AsyncClient, person: Person, vendor: Vendor
) -> None:
    seen = await person.allow(vendor.link(), email=ADA)
    assert seen.url.startswith(f"{vendor.listener}?")
    assert seen.query["state"] == STATE
    traded = await trade(http, vendor, seen.query["code"])
    assert traded.status_code == 200
    tokens = traded.json()
    account = sim.world.authenticate(vendor.provider, tokens["access_token"])
    assert (account.name, account.email, account.counters["logins"]) == ("ada", ADA, 1)

    body = {
        "grant_type": "refresh_token",
        "refresh_token": tokens["refresh_token"],
        "client_id": vendor.client_id,
    }
    renewed = await ask_token(http, vendor, body)
    assert renewed.status_code == 200
    again = await ask_token(http, vendor, body)
    rotates = sim.world.vendors[vendor.provider].rotates_refresh_tokens
    assert (again.status_code >= 400) == rotates


@VENDORS
@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, False),
        ({"code_verifier": "another"}, True),
        ({"code_verifier": ""}, True),
        ({"redirect_uri": "http://localhost:1/callback"}, True),
        ({"client_id": "another"}, True),
        ({"code": "made-up-but-never-given"}, True),
    ],
    ids=["right", "verifier", "no_verifier", "redirect", "client", "code"],
)
async def test_a_code_is_for_who_asked_and_good_once(
    *,
    http: httpx.AsyncClient,
    person: Person,
    vendor: Vendor,
    changed: dict[str, str],
    refused: bool,
) -> None:
    code = (await person.allow(vendor.link(), email=ADA)).query["code"]
    first = await trade(http, vendor, **({"code": code} | changed))
    assert (first.status_code >= 400) == refused
    # A code that was tried is used up, except when it was not this one, or not by this client.
    second = await trade(http, vendor, code)
    never_tried = "code" in changed or ("client_id" in changed and vendor is GEMINI)
    assert (second.status_code >= 400) == (not never_tried)


@VENDORS
async def test_a_code_expires(
    sim: Simulator, http: httpx.AsyncClient, person: Person, vendor: Vendor
) -> None:
    sim.world.turn(None, {"login_code_lifetime_seconds": 0})
    code = (await person.allow(vendor.link(), email=ADA)).query["code"]
    refused = await trade(http, vendor, code)
    assert refused.status_code in (400, 401)
    assert reason(refused) in ("invalid_grant", "authorization_code_expired")


async def test_a_code_of_another_vendor_is_not_known(
    http: httpx.AsyncClient, person: Person
) -> None:
    code = (await person.allow(CODEX.link(), email=ADA)).query["code"]
    assert (await trade(http, CLAUDE, code)).status_code == 400
    assert (await trade(http, CODEX, code)).status_code == 200


async def test_anthropic_wants_the_state_again(http: httpx.AsyncClient, person: Person) -> None:
    code = (await person.allow(CLAUDE.link(), email=ADA)).query["code"]
    assert (await trade(http, CLAUDE, code, state="another")).status_code == 400


async def test_without_a_challenge_google_takes_no_verifier_and_others_refuse(
    http: httpx.AsyncClient, person: Person
) -> None:
    bare = {"code_challenge": "", "code_challenge_method": ""}
    code = (await person.allow(GEMINI.link(**bare), email=ADA)).query["code"]
    assert (await trade(http, GEMINI, code, code_verifier="")).status_code == 200
    for vendor in (CLAUDE, CODEX):
        with pytest.raises(PersonStopped, match="code_challenge"):
            await person.allow(vendor.link(**bare), email=ADA)


async def test_the_page_shows_the_code_to_paste(http: httpx.AsyncClient, person: Person) -> None:
    seen = await person.allow(CLAUDE.link(CLAUDE.manual), email=ADA)
    assert seen.title == "Authentication code for Claude (simulator)"
    code, _, state = seen.code.partition("#")
    assert state == STATE
    assert (await trade(http, CLAUDE, code, redirect_uri=CLAUDE.manual)).status_code == 200
    seen = await person.allow(GEMINI.link(GEMINI.manual), email=ADA)
    assert "#" not in seen.code
    assert (await trade(http, GEMINI, seen.code, redirect_uri=GEMINI.manual)).status_code == 200
    denied = await person.deny(CLAUDE.link(CLAUDE.manual))
    assert (denied.status, denied.code) == (400, "")
    assert "access_denied" in denied.text


@VENDORS
@pytest.mark.parametrize("email", ["", ADA], ids=["before_signing_in", "after"])
async def test_who_denies_is_sent_back_with_an_error(
    person: Person, vendor: Vendor, email: str
) -> None:
    seen = await person.deny(vendor.link(), email=email)
    assert seen.url.startswith(f"{vendor.listener}?")
    assert (seen.query["error"], seen.query["state"]) == ("access_denied", STATE)
    assert "code" not in seen.query


@VENDORS
async def test_the_provider_can_deny_whoever_allows(
    sim: Simulator, person: Person, vendor: Vendor
) -> None:
    sim.world.turn(None, {"login_denied": True})
    assert (await person.allow(vendor.link(), email=ADA)).query["error"] == "access_denied"


@VENDORS
@pytest.mark.parametrize(
    "changed",
    [
        {"client_id": "another"},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": "http://localhost:40001.evil.example/callback"},
        {"response_type": "token"},
        {"code_challenge_method": "plain"},
    ],
)
async def test_a_bad_request_is_answered_on_the_page(
    person: Person, vendor: Vendor, changed: dict[str, str]
) -> None:
    with pytest.raises(PersonStopped) as stopped:
        await person.allow(vendor.link(**changed), email=ADA)
    assert stopped.value.seen.status == 400
    assert urlsplit(stopped.value.seen.url).netloc == urlsplit(vendor.page).netloc


async def test_the_sign_in_refuses_what_is_wrong(sim: Simulator, person: Person) -> None:
    for email, password, words in (
        (ADA, "wrong", "Wrong e-mail or password"),
        (ADA, "", "Enter your password"),
        ("nobody", "x", "Enter your e-mail"),
    ):
        with pytest.raises(PersonStopped, match=words):
            await person.allow(CLAUDE.link(), email=email, password=password)
    assert "ada" not in sim.world.accounts


async def test_an_email_is_one_account_of_each_provider(sim: Simulator, person: Person) -> None:
    for vendor in (CLAUDE, CODEX, CLAUDE):
        await person.allow(vendor.link(), email=ADA)
    await person.allow(CLAUDE.link(), email="ADA@example.org")
    await person.allow(CLAUDE.link(), email="ada@example.net")
    await person.allow(CLAUDE.link(), email="claude-1@simulated.example")
    emails = {name: account.email for name, account in sim.world.accounts.items()}
    assert emails["ada"] == ADA
    assert emails["ada-codex"] == ADA
    assert emails["ada-claude"] == "ada@example.net"
    assert [name for name in emails if name.startswith("claude")] == ["claude-1"]


async def test_what_comes_from_outside_is_escaped(http: httpx.AsyncClient) -> None:
    bad = '"><script>alert(1)</script>'
    headers = {"host": "claude.com"}
    page = await http.get(
        CLAUDE.link(login_hint=bad).removeprefix("https://claude.com"), headers=headers
    )
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    assert "<title>Sign in to Claude (simulator)</title>" in page.text
    for path in ("/oauth/code/callback?error=", "/oauth/code/callback?state=s&code="):
        shown = await http.get(f"{path}{urlencode({'': bad})[1:]}", headers=headers)
        assert "<script>alert" not in shown.text


async def test_an_answer_is_given_once(http: httpx.AsyncClient) -> None:
    headers = {"host": "claude.com"}
    page = await http.get(CLAUDE.link().removeprefix("https://claude.com"), headers=headers)
    found = re.search(r'name="login" value="([^"]+)"', page.text)
    assert found
    login = found[1]

    async def post(path: str, **form: str) -> httpx.Response:
        return await http.post(f"/simulator/{path}", data={"login": login, **form}, headers=headers)

    too_early = await post("consent", answer="allow")
    assert (too_early.status_code, "Nobody has signed in" in too_early.text) == (400, True)
    assert (await post("sign-in", email=ADA, password="x")).status_code == 303
    assert (await post("consent", answer="allow")).status_code == 303
    again = await post("consent", answer="allow")
    assert (again.status_code, "answered already" in again.text) == (400, True)
    login = "another"
    assert (await post("consent", answer="allow")).status_code == 400


@VENDORS
async def test_the_sign_in_can_be_in_a_window_of_its_own(
    sim: Simulator, http: httpx.AsyncClient, person: Person, vendor: Vendor
) -> None:
    sim.world.turn(None, {"login_popup": True})
    link = urlsplit(vendor.link())
    page = await http.get(f"{link.path}?{link.query}", headers={"host": link.netloc})
    assert "window.open" in page.text
    assert "password" not in page.text.split("<footer>")[0]
    seen = await person.allow(vendor.link(), email=ADA)
    assert (await trade(http, vendor, seen.query["code"])).status_code == 200
    assert (await person.deny(vendor.link())).query["error"] == "access_denied"


async def test_pages_and_tokens_can_be_late(
    sim: Simulator, http: httpx.AsyncClient, person: Person
) -> None:
    clock = asyncio.get_running_loop().time
    sim.world.turn(None, {"login_page_seconds": 0.05, "login_token_seconds": 0.2})
    started = clock()
    code = (await person.allow(CLAUDE.link(), email=ADA)).query["code"]
    assert clock() - started > 4 * 0.05
    started = clock()
    assert (await trade(http, CLAUDE, code)).status_code == 200
    assert clock() - started > 0.2


async def test_the_console_gives_what_makes_an_api_key(
    http: httpx.AsyncClient, person: Person
) -> None:
    link = CLAUDE.link().replace("https://claude.com/cai/", "https://platform.claude.com/")
    tokens = (await trade(http, CLAUDE, (await person.allow(link, email=ADA)).query["code"])).json()
    assert tokens["scope"] == "org:create_api_key user:profile"
    subscription = (await person.allow(CLAUDE.link(), email=ADA)).query["code"]
    assert (await trade(http, CLAUDE, subscription)).json()[
        "scope"
    ] == "user:profile user:inference"


async def test_no_secret_of_a_login_is_recorded(
    sim: Simulator, http: httpx.AsyncClient, person: Person
) -> None:
    seen = await person.allow(CLAUDE.link(CLAUDE.manual), email=ADA, password="short")
    code = seen.code.partition("#")[0]
    await trade(http, CLAUDE, code, redirect_uri=CLAUDE.manual)
    kept = [(record.query, record.body) for record in sim.world.records.all()]
    assert code not in str(kept)
    assert VERIFIER not in str(kept)
    assert "short" not in str(kept)
    assert "ada/code#1" in str(kept)


# -- device codes ---------------------------------------------------------------------------------

DEVICE_PAGE = "https://auth.openai.com/codex/device"
ACCOUNTS = "/api/accounts/deviceauth"
OPENAI = {"host": "auth.openai.com"}


async def start(http: httpx.AsyncClient) -> dict[str, str]:
    asked = {"client_id": CODEX.client_id}
    answer = await http.post(f"{ACCOUNTS}/usercode", json=asked, headers=OPENAI)
    assert answer.status_code == 200
    started: dict[str, str] = answer.json()
    return started


async def poll(http: httpx.AsyncClient, started: dict[str, str]) -> httpx.Response:
    asked = {name: started[name] for name in ("device_auth_id", "user_code")}
    return await http.post(f"{ACCOUNTS}/token", json=asked, headers=OPENAI)


async def test_a_device_code_is_typed_and_collected_once(
    sim: Simulator, http: httpx.AsyncClient, person: Person
) -> None:
    sim.world.turn(None, {"device_poll_seconds": 7})
    started = await start(http)
    assert started["interval"] == "7"
    assert re.fullmatch(r"[A-Z]{4}-[A-Z]{5}", started["user_code"])
    assert (await poll(http, started)).status_code == 403
    typed = f" {started['user_code'].lower().replace('-', ' ')} "
    # Whoever typed it before without an answer does not matter.
    await http.post("/codex/device", data={"user_code": typed}, headers=OPENAI)
    seen = await person.allow_device(DEVICE_PAGE, typed, email=ADA)
    assert (seen.status, seen.text) == (200, "You are signed in. You may close this page.")
    collected = (await poll(http, started)).json()
    assert (await poll(http, started)).status_code == 400
    traded = await trade(
        http,
        CODEX,
        collected["authorization_code"],
        redirect_uri="https://auth.openai.com/deviceauth/callback",
        code_verifier=collected["code_verifier"],
    )
    token = traded.json()["access_token"]
    assert sim.world.authenticate("codex", token).email == ADA
    assert challenge_of(collected["code_verifier"]) == collected["code_challenge"]


@pytest.mark.parametrize("email", ["", ADA], ids=["before_signing_in", "after"])
async def test_a_denied_device_code_is_over(
    http: httpx.AsyncClient, person: Person, email: str
) -> None:
    started = await start(http)
    await person.deny_device(DEVICE_PAGE, started["user_code"], email=email)
    ended = await poll(http, started)
    assert (ended.status_code, reason(ended)) == (400, "access_denied")
    with pytest.raises(PersonStopped, match="used already"):
        await person.allow_device(DEVICE_PAGE, started["user_code"], email=ADA)


async def test_a_device_code_expires(
    sim: Simulator, http: httpx.AsyncClient, person: Person
) -> None:
    sim.world.turn(None, {"device_code_lifetime_seconds": 0})
    started = await start(http)
    ended = await poll(http, started)
    assert (ended.status_code, reason(ended)) == (400, "expired_token")
    with pytest.raises(PersonStopped, match="expired"):
        await person.allow_device(DEVICE_PAGE, started["user_code"], email=ADA)


async def test_a_device_code_that_nobody_has_is_refused(
    sim: Simulator, http: httpx.AsyncClient, person: Person
) -> None:
    with pytest.raises(PersonStopped, match="not known"):
        await person.allow_device(DEVICE_PAGE, "BCDF-GHJKL", email=ADA)
    started = await start(http)
    assert (await poll(http, started | {"user_code": "BCDF-GHJKL"})).status_code == 400
    sim.world.turn(None, {"device_login_disabled": True})
    asked = {"client_id": CODEX.client_id}
    refused = await http.post(f"{ACCOUNTS}/usercode", json=asked, headers=OPENAI)
    assert refused.status_code == 404


async def test_the_knobs_are_turned_over_http(http: httpx.AsyncClient, person: Person) -> None:
    turned = await http.put("/_sim/knobs", json={"login_denied": True})
    assert turned.json()["knobs"]["login_denied"] is True
    seen: Seen = await person.allow(CODEX.link(), email=ADA)
    assert seen.query["error"] == "access_denied"


async def test_the_oldest_go_when_there_are_too_many() -> None:
    codes = Codes()
    application = Application(provider="claude", title="Claude", name="x", client_id="x")
    opened = [
        codes.open(Authorization(application=application, redirect_uri="x"))
        for _ in range(MOST_KEPT + 1)
    ]
    assert codes.authorization(opened[0].id) is None
    assert codes.authorization(opened[1].id) is opened[1]
