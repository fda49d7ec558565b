"""People log in through polydev: every method of the real CLIs, and what goes wrong on the way."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from polydev.sim import Simulator
from polydev.sim.control import credential_of
from polydev.sim.person import Person as AtThePages
from polydev.sim.person import Seen
from tests.e2e.conftest import House, NewGateway
from tests.e2e.gateway import MARKER, Gateway, Person
from tests.e2e.processes import all_gone

pytestmark = [pytest.mark.anyio, pytest.mark.real]

QUESTION = f"{MARKER}: calculate 3*67 and respond with just the number"
LONG = 60


@pytest.fixture
async def pages(sim: Simulator) -> AsyncIterator[AtThePages]:
    async with AtThePages(sim.redirect, sim.ca) as person:
        yield person


@pytest.fixture
def quick(sim: Simulator) -> Any:
    """What a test turns for logins is turned back after it."""
    sim.world.turn(None, {"device_poll_seconds": 1})
    yield sim
    sim.world.turn(None, {"device_poll_seconds": None})


class Login:
    """One login of a person, as the owner's socket shows it."""

    def __init__(self, gateway: Gateway, user: str, record: dict[str, Any]) -> None:
        self.gateway = gateway
        self.user = user
        self.record = record
        self.path = f"/owner/logins/{record['id']}"

    @classmethod
    async def start(cls, gateway: Gateway, user: str, provider: str, method: str) -> "Login":
        body = {"user": user, "provider": provider, "method": method}
        answer = await gateway.owner("POST", "/owner/logins", body)
        assert answer.status_code == 201, answer.text
        return cls(gateway, user, answer.json())

    async def until(self, *states: str) -> dict[str, Any]:
        """The record, once it is in one of these states (or over)."""
        final = ("connected", "expired", "cancelled", "failed")
        async with asyncio.timeout(LONG), self.gateway.owners_client() as client:
            path = f"{self.path}/events"
            async with client.stream("GET", path, params={"user": self.user}) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data: "):
                        self.record = json.loads(line.removeprefix("data: "))
                        if self.record["state"] in (*states, *final):
                            break
        assert self.record["state"] in states, (self.record, await self.log())
        return self.record

    async def answer(self, text: str) -> httpx.Response:
        body = {"text": text}
        return await self.gateway.owner("POST", f"{self.path}/answer", body, user=self.user)

    async def cancel(self) -> dict[str, Any]:
        answer = await self.gateway.owner("DELETE", self.path, user=self.user)
        record: dict[str, Any] = answer.json()
        return record

    async def log(self) -> str:
        lines = (await self.gateway.owner("GET", f"{self.path}/log", user=self.user)).json()
        return "\n".join(line["text"] for line in lines)


async def approve(pages: AtThePages, login: Login, email: str) -> Seen:
    """What a person does in their browser with what the login shows."""
    record = await login.until("waiting_for_user")
    if record["user_code"]:
        return await pages.allow_device(record["link"], record["user_code"], email=email)
    return await pages.allow(record["link"], email=email)


async def hand_back(pages: AtThePages, login: Login, seen: Seen) -> None:
    match login.record["method"]:
        case "this_machine":
            await pages.call_back(seen)
        case "paste_code":
            assert (await login.answer(seen.code)).status_code == 200
        case "relayed_callback":
            assert (await login.answer(seen.url)).status_code == 200


async def answered(person: Person, provider: str) -> None:
    answer = await person.openai().chat.completions.create(
        model=provider, messages=[{"role": "user", "content": QUESTION}]
    )
    assert answer.choices[0].message.content == "201"


# In a browser every method of each is in tests/web; here are those of the terminal and of scripts.
METHODS = [("claude", "paste_code"), ("codex", "this_machine"), ("gemini", "relayed_callback")]


@pytest.mark.parametrize("way", METHODS, ids="-".join)
async def test_every_method_connects_and_leaves_only_its_log(
    house: House, quick: Simulator, pages: AtThePages, way: tuple[str, str]
):
    provider, method = way
    person = await house.person(f"{method}-{provider}")
    before = house.gateway.processes()
    login = await Login.start(house.gateway, person.name, provider, method)
    email = f"{method}@{provider}.example"
    seen = await approve(pages, login, email)
    await hand_back(pages, login, seen)
    record = await login.until("connected")
    assert email in record["message"]
    assert (record["link"], record["user_code"]) == ("", "")
    connection = await house.gateway.connection(record["connection_id"])
    assert (connection["state"], connection["ownership"]) == ("active", "take")
    assert connection["account"] == email
    await answered(person, provider)
    await all_gone(house.gateway.processes() - before, within=20)
    assert not list((house.gateway.data / "sandboxes").iterdir())
    log = await login.log()
    assert "waiting_for_user" in log
    for secret in (seen.code, seen.query.get("code", ""), seen.query.get("state", "")):
        assert not secret or secret not in log


async def test_a_key_connects(house: House, sim: Simulator):
    person = await house.person("key-gemini")
    account = sim.world.create_account("gemini")
    key = sim.world.give_api_key(account).value
    login = await Login.start(house.gateway, person.name, "gemini", "api_key")
    await login.until("waiting_for_user")
    assert (await login.answer("two words")).status_code == 400
    assert (await login.answer(key)).status_code == 200
    await login.until("connected")
    await answered(person, "gemini")


async def test_a_wrong_key_is_not_kept(house: House):
    person = await house.person("wrong-key")
    login = await Login.start(house.gateway, person.name, "gemini", "api_key")
    await login.until("waiting_for_user")
    await login.answer("made-up-key-that-nobody-gave-out")
    record = await login.until("failed")
    assert record["reason"] == "denied"
    assert await connections_of(house.gateway, person) == []


async def connections_of(gateway: Gateway, person: Person) -> list[dict[str, Any]]:
    everything = (await gateway.owner("GET", "/owner/connections")).json()
    return [connection for connection in everything if connection["user"] == person.name]


@pytest.mark.parametrize(
    "refused",
    [
        ("claude", "paste_code", "wrong_code"),
        ("gemini", "paste_code", "wrong_code"),
        ("codex", "device_code", "denied"),
    ],
    ids="-".join,
)
async def test_a_refusal_is_said_and_nothing_is_stored(
    house: House, quick: Simulator, pages: AtThePages, refused: tuple[str, str, str]
):
    provider, method, reason = refused
    person = await house.person(f"refused-{provider}")
    login = await Login.start(house.gateway, person.name, provider, method)
    record = await login.until("waiting_for_user")
    if method == "device_code":
        await pages.deny_device(record["link"], record["user_code"])
    else:
        wrong = "made-up-code-of-nobody" + ("#made-up-state" if provider == "claude" else "")
        assert (await login.answer("no code at all")).status_code == 400
        assert (await login.answer(wrong)).status_code == 200
        if provider == "gemini":  # it asks once more, with another link
            await next_link(login, record["link"])
            assert (await login.answer(wrong)).status_code == 200
    record = await login.until("failed")
    assert record["reason"] == reason, record
    assert await connections_of(house.gateway, person) == []
    again = await login.answer("made-up-code-of-nobody#made-up-state")
    assert again.status_code == 409


async def next_link(login: Login, old: str) -> None:
    async with asyncio.timeout(LONG):
        while (await login.until("waiting_for_user"))["link"] == old:
            await asyncio.sleep(0.05)


async def test_a_callback_of_another_login_is_refused_and_costs_nothing(
    house: House, quick: Simulator, pages: AtThePages
):
    person = await house.person("states")
    login = await Login.start(house.gateway, person.name, "claude", "relayed_callback")
    seen = await approve(pages, login, "states@claude.example")
    for address, reason in (
        (seen.url.replace(seen.query["state"], "another-state"), "wrong_state"),
        (seen.url.replace("/callback", "/elsewhere"), "wrong_address"),
        (seen.url.replace("http://localhost", "http://example.org"), "wrong_address"),
    ):
        answer = await login.answer(address)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, reason)
    assert (await login.answer(seen.url)).status_code == 200
    assert (await login.answer(seen.url)).status_code == 409  # over, or taken already
    await login.until("connected")


async def test_asking_again_gives_the_live_login_and_another_method_ends_it(
    house: House, quick: Simulator
):
    person = await house.person("again")
    first = await Login.start(house.gateway, person.name, "codex", "device_code")
    second = await Login.start(house.gateway, person.name, "codex", "device_code")
    assert second.record["id"] == first.record["id"]
    other = await Login.start(house.gateway, person.name, "codex", "relayed_callback")
    assert other.record["id"] != first.record["id"]
    await first.until("cancelled")
    assert (await other.cancel())["state"] == "cancelled"


async def test_it_ends_when_it_is_cancelled_or_its_time_is_over(
    sim: Simulator, programs: Path, new_gateway: NewGateway
):
    gateway: Gateway = await new_gateway(programs, POLYDEV_LOGINS__SECONDS="3")
    ada = await gateway.person("ada")
    idle = gateway.processes()
    login = await Login.start(gateway, ada.name, "claude", "paste_code")
    await login.until("waiting_for_user")
    of_the_login = gateway.processes() - idle
    assert of_the_login
    record = await login.until("expired")
    assert record["finished_at"] is not None
    await all_gone(of_the_login, within=20)
    login = await Login.start(gateway, ada.name, "claude", "paste_code")
    await login.until("waiting_for_user")
    of_the_login = gateway.processes() - idle
    assert (await login.cancel())["state"] == "cancelled"
    await all_gone(of_the_login, within=20)
    assert not list((gateway.data / "sandboxes").iterdir())
    await ada.close()


async def test_a_killed_gateways_logins_are_ended_by_the_next(
    sim: Simulator, programs: Path, new_gateway: NewGateway
):
    gateway: Gateway = await new_gateway(programs)
    ada = await gateway.person("ada")
    login = await Login.start(gateway, ada.name, "codex", "device_code")
    await login.until("waiting_for_user")
    everything = gateway.processes()
    await gateway.kill()
    await gateway.start()
    await all_gone(everything, within=20)
    record = await login.until("failed")
    assert record["reason"] == "gateway_stopped"
    assert "waiting_for_user" in await login.log()
    another = await Login.start(gateway, ada.name, "codex", "device_code")
    assert another.record["id"] != record["id"]
    await ada.close()


async def test_another_persons_login_is_not_found(house: House, quick: Simulator):
    ada, bob = await house.person("ada-logs-in"), await house.person("bob-looks")
    login = await Login.start(house.gateway, ada.name, "codex", "device_code")
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/log"), ("GET", "/events")):
        answer = await house.gateway.owner(method, login.path + path, user=bob.name)
        assert answer.status_code == 404
    assert (await login.cancel())["state"] == "cancelled"


async def test_from_the_terminal(house: House, quick: Simulator, pages: AtThePages):
    person = await house.person("terminal")
    typed = asyncio.create_task(
        house.gateway.command("connect", "codex", "--user", person.name, "--method", "device_code")
    )
    login = Login(house.gateway, person.name, await live_login(house.gateway, person))
    await approve(pages, login, "terminal@codex.example")
    said = await typed
    assert said.code == 0, said.errors
    assert "Successfully connected Codex: terminal@codex.example" in said.output
    shown = await house.gateway.command("logins", "--user", person.name)
    assert "connected" in shown.output


async def test_a_login_that_is_copied_in_is_taken(house: House, sim: Simulator, tmp_path: Path):
    person = await house.person("copied")
    account = sim.world.create_account("codex")
    waiting = asyncio.create_task(
        house.gateway.command("connect", "codex", "--user", person.name, "--watch", str(tmp_path))
    )
    content = credential_of(sim.world, account, None)
    (tmp_path / "auth.json").write_text(content[:40])  # it may come in pieces
    (tmp_path / "auth.json").write_text(content)
    said = await waiting
    assert said.code == 0, said.errors
    (connection,) = await connections_of(house.gateway, person)
    assert (connection["state"], connection["ownership"]) == ("active", "take")


async def live_login(gateway: Gateway, person: Person) -> dict[str, Any]:
    async with asyncio.timeout(LONG):
        while True:
            logins = (await gateway.owner("GET", "/owner/logins", user=person.name)).json()
            if logins:
                record: dict[str, Any] = logins[0]
                return record
            await asyncio.sleep(0.05)


async def test_many_at_once(house: House, quick: Simulator, pages: AtThePages):
    people = [await house.person(f"crowd-{number}") for number in range(20)]
    logins = await asyncio.gather(
        *(Login.start(house.gateway, one.name, "codex", "device_code") for one in people)
    )
    for number, login in enumerate(logins):
        await approve(pages, login, f"crowd-{number}@codex.example")
    for login in logins:
        await login.until("connected")
