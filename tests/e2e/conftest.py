"""A simulator, gateways against it, and people with subscriptions.

One gateway serves most tests, for starting one takes a second; what a test turns at the simulator
is turned back after it. Tests that kill a gateway have their own.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from polydev.config import default_data_directory
from polydev.core.programs import Programs
from polydev.providers.registry import PROVIDERS
from polydev.sim import Account, Simulator
from polydev.sim.control import credential_of
from polydev.sim.records import Record
from tests.e2e import scripted
from tests.e2e.gateway import Gateway, Person, assert_silent, simulated

NewGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture(scope="session")
def programs() -> Path:
    """Where the vendors' CLIs are installed."""
    named = os.environ.get("POLYDEV_PROGRAMS")
    return Path(named) if named else default_data_directory() / "programs"


@pytest.fixture(scope="session")
def scripted_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of programs whose only CLI is the scripted one, in claude's place."""
    return scripted.install(tmp_path_factory.mktemp("scripted"))


@pytest.fixture(scope="session")
async def sim(
    anyio_backend: object, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Simulator]:
    async with Simulator(tmp_path_factory.mktemp("sim")) as simulator:
        yield simulator


def secrets_of(sim: Simulator) -> dict[str, str]:
    """Every token that the simulator gave out."""
    return {token.label: value for value, token in sim.world._tokens.items()}


@dataclass
class House:
    """A gateway that many tests share, and who lives there."""

    gateway: Gateway
    sim: Simulator
    people: dict[str, Person] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)

    async def person(self, name: str, provider: str | None = None, **limits: int) -> Person:
        """Someone, made at first, connected to a subscription of their own."""
        key = f"{name}-{provider}" if provider else name
        if key not in self.people:
            self.people[key] = await self.gateway.person(key, **limits)
        person = self.people[key]
        if provider and key not in self.accounts:
            # A name of its own each time: connecting may have failed before.
            account = self.sim.world.create_account(provider)
            credential = credential_of(self.sim.world, account, None)
            await self.gateway.connected(person, provider, credential.encode())
            self.accounts[key] = account
        return person

    def check(self) -> None:
        keys = {f"key of {person.name}": person.key for person in self.people.values()}
        keys["the first key"] = self.gateway.first_key
        assert_silent(self.gateway, {**secrets_of(self.sim), **keys})


@contextlib.asynccontextmanager
async def open_house(
    data: Path, sim: Simulator, programs: Path, **settings: str
) -> AsyncIterator[House]:
    async with Gateway(
        data, {**simulated(sim), "POLYDEV_PROGRAMS": str(programs), **settings}
    ) as gateway:
        house = House(gateway, sim)
        yield house
        house.check()


@pytest.fixture(scope="session")
async def house(
    sim: Simulator, programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """With the real CLIs."""
    async with open_house(tmp_path_factory.mktemp("gw") / "data", sim, programs) as house:
        yield house


@pytest.fixture(scope="session")
async def scripted_house(
    sim: Simulator, scripted_programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """With the scripted CLI, which does what its prompt says."""
    async with open_house(tmp_path_factory.mktemp("sc") / "data", sim, scripted_programs) as house:
        yield house


@dataclass
class Subscription:
    """A person with a real CLI's subscription, and what the simulator sees of it."""

    provider: str
    person: Person
    account: Account
    sim: Simulator
    first_record: int

    def turn(self, **knobs: Any) -> None:
        self.sim.world.turn(self.account, knobs)

    def asked(self) -> list[Record]:
        """What the provider was asked in this test."""
        return self.sim.world.records.all(after=self.first_record, account=self.account.name)

    def prompts(self) -> list[Record]:
        """Those of it that ask a model."""
        return [record for record in self.asked() if is_prompt(record)]


def is_prompt(record: Record) -> bool:
    """Whether a request asks a model, for every provider."""
    if not isinstance(record.body, dict):
        return False
    if record.method == "FRAME":
        return record.body.get("generate") is not False
    ends = ("/v1/messages", "/codex/responses", "/v1/chat/completions", ":streamGenerateContent")
    return record.method == "POST" and record.path.endswith(ends)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "providers(*names): which providers a test runs with")


def _of_each_kind() -> list[str]:
    """A provider for each implementation: what several share need not be run for all of them."""
    first: dict[type, str] = {}
    for name, provider in PROVIDERS.items():
        first.setdefault(type(provider), name)
    return list(first.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`provider` stands for one of each kind, or for those that a test's marker names."""
    if "provider" in metafunc.fixturenames:
        chosen = metafunc.definition.get_closest_marker("providers")
        names = chosen.args if chosen else _of_each_kind()
        metafunc.parametrize("provider", names, indirect=True)


@pytest.fixture
def provider(request: pytest.FixtureRequest, programs: Path) -> str:
    """A provider whose CLI is installed."""
    name = str(request.param)
    program = PROVIDERS[name].program
    if Programs(programs).version(program) is None:
        pytest.fail(f"{program.package} is not installed in {programs}: run `make setup`")
    return name


@pytest.fixture
async def subscription(house: House, provider: str) -> AsyncIterator[Subscription]:
    """Of a person who has one for this provider, with everything at the simulator as it began."""
    person = await house.person("ada", provider)
    account = house.accounts[f"ada-{provider}"]
    yield Subscription(provider, person, account, house.sim, house.sim.world.records.total)
    account.overrides.clear()
    house.sim.world.exhausted(account)  # gives back what `limit_reached` took
    await person.close()


@pytest.fixture
async def new_gateway(sim: Simulator, tmp_path: Path) -> AsyncIterator[NewGateway]:
    """Makes gateways for one test alone; they end with it."""
    async with contextlib.AsyncExitStack() as stack:
        made: list[Gateway] = []

        async def make(programs: Path, **settings: str) -> Gateway:
            gateway = Gateway(
                tmp_path / f"d{len(made)}",
                {**simulated(sim), "POLYDEV_PROGRAMS": str(programs), **settings},
            )
            made.append(gateway)
            return await stack.enter_async_context(gateway)

        yield make
    for gateway in made:
        secrets = {**secrets_of(sim), "the first key": gateway.first_key}
        assert_silent(gateway, {name: value for name, value in secrets.items() if value})
