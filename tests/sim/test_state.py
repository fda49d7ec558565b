"""Tokens, windows and knobs behave as the providers' own."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from polydev.sim.app import VENDORS
from polydev.sim.state import RefreshRejected, TokenRejected, World

ROTATING = [vendor.provider for vendor in VENDORS if vendor.rotates_refresh_tokens]
ALL = [vendor.provider for vendor in VENDORS]


@pytest.fixture
def world() -> World:
    return World(VENDORS)


@pytest.mark.parametrize("provider", ALL)
def test_a_token_is_good_for_its_own_provider_only(world: World, provider: str) -> None:
    account = world.create_account(provider)
    pair = world.log_in(account)
    assert world.authenticate(provider, pair.access.value) is account
    for other in ALL:
        if other != provider:
            with pytest.raises(TokenRejected, match="unknown"):
                world.authenticate(other, pair.access.value)
    with pytest.raises(TokenRejected, match="unknown"):
        world.authenticate(provider, pair.refresh.value)


@pytest.mark.parametrize("provider", ROTATING)
def test_a_refresh_rotates_and_a_reused_token_revokes_the_family(
    world: World, provider: str
) -> None:
    account = world.create_account(provider)
    bystander = world.log_in(account)
    first = world.log_in(account)
    second = world.refresh(provider, first.refresh.value)
    assert second.refresh.value != first.refresh.value
    world.authenticate(provider, second.access.value)
    with pytest.raises(RefreshRejected) as refused:
        world.refresh(provider, first.refresh.value)
    assert refused.value.reason == "reused"
    with pytest.raises(TokenRejected, match="revoked"):
        world.authenticate(provider, second.access.value)
    with pytest.raises(RefreshRejected) as also:
        world.refresh(provider, second.refresh.value)
    assert also.value.reason == "revoked"
    world.authenticate(provider, bystander.access.value)
    assert account.counters["refreshes"] == 1
    assert account.counters["refreshes_refused"] == 2


@pytest.mark.parametrize("provider", [name for name in ALL if name not in ROTATING])
def test_where_the_vendor_does_not_rotate_a_refresh_token_stays_good(
    world: World, provider: str
) -> None:
    account = world.create_account(provider)
    first = world.log_in(account)
    assert world.refresh(provider, first.refresh.value).refresh.value == first.refresh.value
    assert world.refresh(provider, first.refresh.value).access.value != first.access.value


@pytest.mark.parametrize("provider", ALL)
def test_expiry_and_revocation_are_told_apart(world: World, provider: str) -> None:
    account = world.create_account(provider)
    over = world.log_in(account, lifetime_seconds=-1)
    with pytest.raises(TokenRejected, match="expired"):
        world.authenticate(provider, over.access.value)
    pair = world.log_in(account)
    world.expire_tokens(account)
    with pytest.raises(TokenRejected, match="expired"):
        world.authenticate(provider, pair.access.value)
    renewed = world.refresh(provider, pair.refresh.value)
    world.authenticate(provider, renewed.access.value)
    world.revoke(account)
    with pytest.raises(TokenRejected, match="revoked"):
        world.authenticate(provider, renewed.access.value)
    with pytest.raises(RefreshRejected, match="revoked"):
        world.refresh(provider, renewed.refresh.value)


def test_a_denied_refresh_leaves_the_token_unused(world: World) -> None:
    account = world.create_account("claude")
    pair = world.log_in(account)
    world.turn(account, {"refresh_denied": True})
    with pytest.raises(RefreshRejected, match="denied"):
        world.refresh("claude", pair.refresh.value)
    world.turn(account, {"refresh_denied": None})
    assert world.refresh("claude", pair.refresh.value).serial > pair.serial


def test_knobs_of_an_account_go_over_the_defaults(world: World) -> None:
    one, other = world.create_account("claude"), world.create_account("claude")
    world.turn(None, {"pace_seconds": 0.5})
    world.turn(one, {"pace_seconds": 0, "overloaded": True})
    assert world.knobs(one).pace_seconds == 0
    assert world.knobs(other).pace_seconds == 0.5
    assert not world.knobs(other).overloaded
    world.turn(one, {"pace_seconds": None})
    assert world.knobs(one).pace_seconds == 0.5
    with pytest.raises(ValidationError):
        world.turn(one, {"overloaded": False, "no_such_knob": 1})
    assert world.knobs(one).overloaded


def test_a_limit_has_a_reset_that_stays_where_it_is(world: World) -> None:
    account = world.create_account("codex")
    assert world.exhausted(account) is None
    world.turn(account, {"limit_reached": True, "limit_resets_in_seconds": 900})
    window = world.exhausted(account)
    assert window is not None
    assert 890 < (window.resets_at - datetime.now(UTC)).total_seconds() <= 900
    again = world.exhausted(account)
    assert again is not None
    assert again.resets_at == window.resets_at
    assert window.used_fraction == 1.0
    world.turn(account, {"limit_reached": None})
    assert world.exhausted(account) is None
    assert window.used_fraction == 0.0


def test_a_window_starts_anew_when_its_time_is_over(world: World) -> None:
    account = world.create_account("claude")
    window = next(iter(account.windows.values()))
    window.used_fraction, window.resets_at = 1.0, datetime.now(UTC)
    assert world.exhausted(account) is None
    world.use_windows(account)
    assert 0 < window.used_fraction < 0.01
    assert window.resets_at > datetime.now(UTC)


def test_an_account_name_is_taken_once(world: World) -> None:
    world.create_account("claude", "ada")
    with pytest.raises(ValueError, match="ada"):
        world.create_account("codex", "ada")


def test_records_are_bounded_and_hold_no_token() -> None:
    world = World(VENDORS, requests_kept=3)
    account = world.create_account("claude")
    pair = world.log_in(account)
    for number in range(5):
        world.records.add(
            method="POST",
            host="api.anthropic.com",
            path=f"/{number}",
            headers=[
                ("authorization", f"Bearer {pair.access.value}"),
                ("x-api-key", "some-key-of-nobody"),
                ("content-type", "application/json"),
            ],
            body=f'{{"refresh_token": "{pair.refresh.value}", "code": "madeup-authorization-code", '
            f'"nested": [{{"x": "{pair.access.value}"}}]}}'.encode(),
        )
    kept = world.records.all()
    assert [record.path for record in kept] == ["/2", "/3", "/4"]
    assert world.records.total == 5
    shown = repr(kept)
    assert pair.access.value not in shown
    assert pair.refresh.value not in shown
    assert "some-key-of-nobody" not in shown
    assert "madeup-authorization-code" not in shown
    assert kept[0].headers["authorization"] == f"Bearer {pair.access.label}"
    assert kept[0].body["refresh_token"] == pair.refresh.label
    assert kept[0].account == account.name
