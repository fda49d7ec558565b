"""What every provider must do, whichever CLI is behind it."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pytest

from polydev.core.catalogue import resolve_model
from polydev.errors import CredentialUnreadable, RunFailed, UnknownModel
from polydev.events import EndReason, Outcome, RunFinished, RunStarted, TextDelta
from polydev.models.accounts import Credential
from polydev.models.egress import EgressMode, EgressPolicy, Purpose
from polydev.models.places import Launch
from polydev.providers.base import Provider
from polydev.providers.registry import PROVIDERS
from polydev.secret import Secret
from tests.providers.golden import Case, cases, replay
from tests.providers.samples import (
    RESETS_AT,
    SAMPLES,
    SENTINEL,
    credential_files,
    exchange,
    order,
    prompt,
    secrets_in,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OTHER_IDENTITY = "00000000-0000-4000-8000-000000000002"
PLATFORMS = ("linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64")
# What a golden folder of each provider has to end in, by the folder's name.
ENDS = {
    "answer": {EndReason.STOP},
    "history": {EndReason.STOP},
    "limit-reached": {EndReason.WINDOW_EXHAUSTED},
    "rate-limited": {EndReason.RATE_LIMITED},
    # Not every CLI tells it from an outage.
    "overloaded": {EndReason.RATE_LIMITED, EndReason.PROVIDER_ERROR},
    "server-error": {EndReason.PROVIDER_ERROR},
    "cut-off": {EndReason.PROVIDER_ERROR},
    "login-refused": {EndReason.NEEDS_LOGIN},
}
UNSAID_BY_REPEATERS = ("limit-reached", "rate-limited", "overloaded", "server-error", "cut-off")


@pytest.fixture(params=PROVIDERS.values(), ids=lambda provider: provider.name)
def provider(request: pytest.FixtureRequest) -> Provider:
    found: Provider = request.param
    return found


@pytest.fixture
def credential(provider: Provider) -> Credential:
    return provider.read_credential(credential_files(provider))


@pytest.fixture
def renewable(credential: Credential) -> Credential:
    if credential.kind != "oauth":
        pytest.skip("a key is not renewed")
    return credential


def everything(launch: Launch) -> str:
    """All that a process could see of its launch."""
    return "\n".join(
        (
            *launch.argv,
            *launch.environment.values(),
            *(content.reveal().decode() for content in launch.files.values()),
            *(line.decode() for line in launch.opening),
        )
    )


def admits(policy: EgressPolicy, method: str, host: str, path: str) -> bool:
    return any(
        (rule.method, rule.host) == (method, host) and re.fullmatch(rule.path, path)
        for rule in policy.rules
    )


class TestGolden:
    @pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
    def test_recorded_output_becomes_exactly_the_expected_events(self, case: Case):
        assert replay(case).as_dicts() == case.expected

    @pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
    def test_a_recording_ends_once_and_last(self, case: Case):
        events = replay(case).events
        assert [isinstance(event, RunFinished) for event in events].count(True) == 1
        assert isinstance(events[-1], RunFinished)
        assert events[-1].message or events[-1].outcome is Outcome.SUCCEEDED

    @pytest.mark.parametrize("name", ENDS)
    def test_each_provider_has_the_usual_ends_recorded(self, provider: Provider, name: str):
        if SAMPLES[provider.name].repeats and name in UNSAID_BY_REPEATERS:
            pytest.skip("its CLI would ask again by itself instead of saying this")
        (case,) = [case for case in cases(provider.name) if case.directory.name == name]
        replayed = replay(case)
        end = replayed.events[-1]
        assert isinstance(end, RunFinished)
        assert end.reason in ENDS[name]
        if name == "limit-reached":
            assert end.retry_at is not None or replayed.retry_after_seconds is not None

    def test_an_answer_starts_speaks_and_stops(self, provider: Provider):
        (case,) = [case for case in cases(provider.name) if case.directory.name == "answer"]
        events = replay(case).events
        assert isinstance(events[0], RunStarted)
        assert events[0].model
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "201"

    def test_a_process_that_ends_at_any_line_is_a_failure_of_the_cli(self, provider: Provider):
        (case,) = [case for case in cases(provider.name) if case.directory.name == "answer"]
        for count in range(len(case.stdout)):
            dialogue = provider.dialogue(case.prompt)
            dialogue.open()
            steps = [dialogue.receive(line) for line in case.stdout[:count]]
            if any(step.finished for step in steps):
                break
            end = dialogue.ended(3, "first words\nlast words\n")
            assert end.reason is EndReason.CLI_FAILED
            assert "3" in end.message
            assert "last words" in end.message
            assert dialogue.ended(0, "").message

    @pytest.mark.parametrize(
        "line", [b"", b"Segmentation fault", b"[1]", b'"text"', b"null", b"{}", b"\xff\xfe{", b"{"]
    )
    def test_a_line_that_no_such_cli_prints_is_refused(self, provider: Provider, line: bytes):
        dialogue = provider.dialogue(prompt(provider))
        dialogue.open()
        with pytest.raises(RunFailed) as caught:
            dialogue.receive(line)
        assert caught.value.provider == provider.name

    def test_what_is_sent_is_one_json_object_a_line(self, provider: Provider):
        text = "two\nlines, “quotes” and \u2028 separators"
        dialogue = provider.dialogue(prompt(provider, text))
        (case,) = [case for case in cases(provider.name) if case.directory.name == "answer"]
        sent = [*dialogue.open()]
        for line in case.stdout:
            step = dialogue.receive(line)
            sent += step.send
            if step.finished:
                break
        assert all(isinstance(json.loads(line), dict) and b"\n" not in line for line in sent)
        assert any(
            text in json.dumps(json.loads(line), ensure_ascii=False)
            or json.dumps(text)[1:-1] in json.dumps(json.loads(line))
            for line in sent
        )


class TestLaunch:
    def test_a_run_sees_the_sentinel_and_no_secret(
        self, provider: Provider, credential: Credential
    ):
        launch = provider.launch(order(provider, credential, Purpose.RUN))
        seen = everything(launch)
        assert SENTINEL.reveal() in seen
        tokens = secrets_in(credential.files)
        assert tokens
        assert not [token for token in tokens if token in seen]

    def test_the_program_is_the_one_that_was_ordered(
        self, provider: Provider, credential: Credential
    ):
        for purpose in (Purpose.RUN, Purpose.KEEPER):
            ordered = order(provider, credential, purpose)
            launch = provider.launch(ordered)
            first = ordered.node if provider.program.needs_node else ordered.program
            assert launch.argv[0] == str(first)
            assert str(ordered.program) in launch.argv

    def test_files_stay_under_home(self, provider: Provider, credential: Credential):
        for purpose in (Purpose.RUN, Purpose.KEEPER):
            for name in provider.launch(order(provider, credential, purpose)).files:
                path = PurePosixPath(name)
                assert not path.is_absolute()
                assert ".." not in path.parts

    def test_the_same_order_gives_the_same_launch(self, provider: Provider, credential: Credential):
        one, two = (provider.launch(order(provider, credential, Purpose.RUN)) for _ in range(2))
        assert everything(one) == everything(two)

    def test_ids_of_a_device_follow_the_connection(
        self, provider: Provider, credential: Credential
    ):
        other = order(provider, credential, Purpose.RUN, identity=OTHER_IDENTITY)
        first = order(provider, credential, Purpose.RUN)
        assert everything(provider.launch(other)) != everything(provider.launch(first))
        assert OTHER_IDENTITY not in everything(provider.launch(other))

    def test_the_keeper_is_given_what_it_refreshes_with(
        self, provider: Provider, renewable: Credential
    ):
        assert renewable.refresh_token
        launch = provider.launch(order(provider, renewable, Purpose.KEEPER))
        assert renewable.refresh_token.reveal() in everything(launch)
        assert all(b"\n" not in line for line in launch.opening)
        assert renewable.refresh_token.reveal() not in "".join(launch.argv)


class TestPolicy:
    def policies(self, provider: Provider) -> Iterator[EgressPolicy]:
        for purpose in (Purpose.RUN, Purpose.KEEPER):
            yield provider.policy(purpose, SAMPLES[provider.name].login)

    def test_rules_are_exact_and_well_formed(self, provider: Provider):
        for policy in self.policies(provider):
            for rule in policy.rules:
                assert rule.method.isupper()
                assert rule.host == rule.host.lower()
                assert ":" not in rule.host
                assert rule.path.startswith("/")
                assert ".*" not in rule.path
                re.compile(rule.path)

    def test_a_run_may_ask_for_an_answer_and_for_nothing_that_outlives_it(self, provider: Provider):
        sample = SAMPLES[provider.name]
        policy = provider.policy(Purpose.RUN, sample.login)
        assert policy.mode is not EgressMode.WITNESS
        assert admits(policy, "POST", sample.host, sample.path)
        assert not any(rule.sealed for rule in policy.rules)
        assert not policy.plain_host or policy.plain_host in {rule.host for rule in policy.rules}
        for path in (
            "/oauth/token",
            "/v1/oauth/token",
            "/token",
            "/api/oauth/claude_cli/create_api_key",
            "/api/organizations",
            "/backend-api/conversations",
            "/backend-api/accounts/check/v4",
            "/v1/files",
        ):
            for host in {rule.host for rule in policy.rules}:
                assert not admits(policy, "POST", host, path)
                assert not admits(policy, "GET", host, path)

    def test_the_keeper_reaches_a_sealed_token_endpoint_and_nothing_else(
        self, provider: Provider, credential: Credential
    ):
        policy = provider.policy(Purpose.KEEPER, credential.kind)
        assert policy.mode is EgressMode.WITNESS
        assert bool(policy.rules) == bool(credential.refresh_token)
        assert all(rule.sealed and rule.method == "POST" for rule in policy.rules)
        assert not policy.added

    def test_what_is_added_is_known_of_the_credential(
        self, provider: Provider, credential: Credential
    ):
        policy = provider.policy(Purpose.RUN, credential.kind)
        if policy.mode is EgressMode.INJECT:
            assert any("{access_token}" in header.value for header in policy.added)
        known = {"access_token", *credential.attributes}
        for header in policy.added:
            assert set(re.findall(r"\{(\w+)\}", header.value)) <= known


class TestCredential:
    def test_a_login_is_read_whole(self, provider: Provider, credential: Credential):
        assert credential.access_token
        assert credential.kind == SAMPLES[provider.name].login
        if credential.kind != "oauth":
            assert (credential.refresh_token, credential.expires_at) == (None, None)
            return
        assert credential.refresh_token
        assert credential.expires_at
        assert credential.expires_at.tzinfo is not None
        assert credential.expires_at > datetime.now(UTC)

    def test_what_is_kept_reads_the_same_again(self, provider: Provider, credential: Credential):
        assert provider.read_credential(credential.files) == credential

    def test_printing_one_shows_no_token(self, credential: Credential):
        shown = repr(credential)
        assert not [token for token in secrets_in(credential.files) if token in shown]

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b'{"tokens": {}}'])
    def test_a_file_without_a_login_says_what_to_do(self, provider: Provider, content: bytes):
        with pytest.raises(CredentialUnreadable) as caught:
            provider.read_credential({str(provider.credential_file): Secret(content)})
        assert provider.login_command in caught.value.remedy

    def test_a_missing_file_says_what_to_do(self, provider: Provider):
        with pytest.raises(CredentialUnreadable) as caught:
            provider.read_credential({})
        assert provider.login_command in caught.value.remedy

    def test_renewing_takes_the_new_tokens(self, provider: Provider, renewable: Credential):
        answer = {
            "access_token": "made-up-new-access-token",
            "refresh_token": "made-up-new-refresh-token",
            "expires_in": 3600,
        }
        new = provider.renew(renewable, Secret(json.dumps(answer).encode()), NOW)
        assert new.access_token == Secret("made-up-new-access-token")
        assert new.refresh_token == Secret("made-up-new-refresh-token")
        assert new.expires_at
        assert new.expires_at > NOW
        assert new.attributes == renewable.attributes
        assert new.account == renewable.account
        assert new.plan == renewable.plan

    def test_renewing_without_rotation_keeps_the_refresh_token(
        self, provider: Provider, renewable: Credential
    ):
        answer = Secret(b'{"access_token": "made-up-new-access-token", "expires_in": 60}')
        assert provider.renew(renewable, answer, NOW).refresh_token == renewable.refresh_token

    @pytest.mark.parametrize("answer", [b"", b"<html>", b"{}", b'{"access_token": ""}', b"[]"])
    def test_an_answer_without_a_token_renews_nothing(
        self, provider: Provider, renewable: Credential, answer: bytes
    ):
        with pytest.raises(CredentialUnreadable):
            provider.renew(renewable, Secret(answer), NOW)


class TestObservation:
    def test_an_answer_tells_its_windows(self, provider: Provider):
        sample = SAMPLES[provider.name]
        if not sample.kind:
            pytest.skip("its headers say nothing of windows")
        seen = provider.observe(exchange(provider, 200, sample.window_headers), NOW)
        (window,) = seen.windows
        assert (window.kind, window.used_fraction, window.source) == (sample.kind, 0.5, "header")
        assert window.resets_at == datetime.fromtimestamp(RESETS_AT, UTC)
        assert seen.trouble is None

    def test_a_bare_answer_tells_nothing(self, provider: Provider):
        seen = provider.observe(exchange(provider, 200), NOW)
        assert (seen.windows, seen.trouble, seen.retry_at) == ((), None, None)

    def test_headers_of_nonsense_are_no_windows_with_numbers(self, provider: Provider):
        headers = dict.fromkeys(SAMPLES[provider.name].window_headers, "soon")
        for window in provider.observe(exchange(provider, 200, headers), NOW).windows:
            assert (window.used_fraction, window.resets_at) == (None, None)

    def test_a_used_up_window_says_until_when(self, provider: Provider):
        headers = SAMPLES[provider.name].full_headers
        if not headers:
            pytest.skip("its headers say nothing of windows")
        seen = provider.observe(exchange(provider, 429, headers), NOW)
        assert seen.trouble is EndReason.WINDOW_EXHAUSTED
        assert seen.retry_at == datetime.fromtimestamp(RESETS_AT, UTC)

    @pytest.mark.parametrize("headers", [{}, {"retry-after": "7"}])
    def test_a_short_429_is_no_used_up_window(self, provider: Provider, headers: dict[str, str]):
        seen = provider.observe(exchange(provider, 429, headers), NOW)
        if not SAMPLES[provider.name].full_headers:
            assert seen.trouble is None
            return
        assert seen.trouble is EndReason.RATE_LIMITED
        assert seen.retry_at == NOW + timedelta(seconds=7 if headers else 10)

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refused_token_needs_a_login(self, provider: Provider, status: int):
        seen = provider.observe(exchange(provider, status), NOW)
        assert seen.trouble is EndReason.NEEDS_LOGIN

    def test_an_outage_is_the_providers(self, provider: Provider):
        seen = provider.observe(exchange(provider, 500), NOW)
        assert seen.trouble is EndReason.PROVIDER_ERROR

    def test_a_cli_that_would_ask_again_is_ended_instead(self, provider: Provider):
        def repeats(status: int, headers: dict[str, str] | None = None) -> EndReason | None:
            return provider.observe(exchange(provider, status, headers), NOW).repeats

        if not SAMPLES[provider.name].repeats:
            assert {repeats(status) for status in (200, 401, 429, 500, 503)} == {None}
            return
        assert (repeats(200), repeats(401), repeats(404)) == (None, None, None)
        assert repeats(503) is EndReason.PROVIDER_ERROR
        assert repeats(429, {"retry-after": "7"}) is EndReason.RATE_LIMITED
        assert repeats(429) is EndReason.WINDOW_EXHAUSTED
        rules = provider.policy(Purpose.RUN, SAMPLES[provider.name].login).rules
        assert any(rule.once for rule in rules)


class TestNames:
    def test_models_are_found_with_and_without_the_provider(self, provider: Provider):
        for name in provider.catalogue.names:
            for asked in (name, f"{provider.name}/{name}"):
                model = resolve_model(asked)
                assert (model.provider, model.name) == (provider.name, name)

    def test_the_bare_provider_means_its_default(self, provider: Provider):
        assert resolve_model(provider.name).name == provider.catalogue.default

    def test_aliases_lead_to_models(self, provider: Provider):
        for alias, name in provider.catalogue.aliases.items():
            assert name in provider.catalogue.names
            assert resolve_model(f"{provider.name}/{alias}").name == name

    def test_an_unknown_model_names_the_known(self, provider: Provider):
        with pytest.raises(UnknownModel) as caught:
            resolve_model(f"{provider.name}/no-such-model")
        assert provider.catalogue.default in caught.value.remedy

    def test_the_program_is_named_for_each_platform(self, provider: Provider):
        files = [provider.program.file_on(platform) for platform in PLATFORMS]
        assert not [file for file in files if "{" in str(file) or file.is_absolute()]
        if not provider.program.needs_node:
            assert len(set(files)) == len(PLATFORMS)
