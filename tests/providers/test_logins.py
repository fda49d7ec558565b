"""Logging in, as far as it is pure: what is started, what its lines mean, what it may ask."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydev.errors import InvalidRequest, RunFailed
from polydev.models.egress import EgressMode, Purpose
from polydev.models.logins import LoginMethod, LoginTrouble
from polydev.providers.base import Provider
from polydev.providers.claude.login import PasteCode
from polydev.providers.codex.login import DeviceCode
from polydev.providers.lines import to_line
from polydev.providers.login import LoginOrder, LoginWay, plain
from polydev.providers.registry import PROVIDERS
from polydev.sandboxes.confinement import PLACE, file_under_home

WAYS = [(provider, way) for provider in PROVIDERS.values() for way in provider.login_ways]
LINK = b"https://claude.com/cai/oauth/authorize?code=true&client_id=made-up&state=made-up"


@pytest.mark.parametrize(
    ("provider", "way"), WAYS, ids=lambda one: getattr(one, "name", None) or one.method.value
)
class TestEveryWay:
    def test_starts_the_program_that_was_ordered(self, provider: Provider, way: LoginWay) -> None:
        program, node = PurePosixPath("/programs/cli"), PurePosixPath("/programs/node")
        launch = way.launch(LoginOrder(place=PLACE, program=program, node=node))
        assert str(program) in launch.argv[:2]
        assert launch.argv[0] in (str(program), str(node))
        assert launch.needs_port  # it speaks TLS, which ends at egress
        for name in launch.files:
            file_under_home(name)

    def test_may_ask_only_what_it_needs_and_is_given_no_token(
        self, provider: Provider, way: LoginWay
    ) -> None:
        policy = provider.policy(Purpose.LOGIN, "")
        assert policy.mode is EgressMode.WITNESS
        assert policy.rules
        assert not policy.added

    def test_says_something_of_a_command_that_ended(
        self, provider: Provider, way: LoginWay
    ) -> None:
        step = way.dialogue().ended(3, "something new")
        assert step.trouble is LoginTrouble.CLI_ENDED
        assert "something new" in step.message


def test_a_provider_names_each_method_once() -> None:
    for provider in PROVIDERS.values():
        methods = [way.method for way in provider.login_ways]
        assert len(methods) == len(set(methods))
        assert LoginMethod.API_KEY not in methods  # no command is run for it


class TestClaude:
    def test_its_link_is_shown_once_and_a_code_wanted(self) -> None:
        dialogue = PasteCode()
        assert not dialogue.receive("Opening browser to sign in…".encode()).link
        step = dialogue.receive(b"If the browser didn't open, visit: " + LINK)
        assert step.link == LINK.decode()
        assert step.wants_code
        assert not dialogue.receive(LINK).link

    @pytest.mark.parametrize(
        "code", ["made-up-code#made-up-state", "  made-up-code#made-up-state\n"]
    )
    def test_a_whole_code_is_handed_over(self, code: str) -> None:
        assert PasteCode().paste(code) == (b"made-up-code#made-up-state",)

    @pytest.mark.parametrize(
        "code",
        ["", "made-up-code", "#made-up-state", "a b#c d", "x" * 9000 + "#abcdefgh", "a\nb#c"],
    )
    def test_what_is_no_code_never_reaches_the_command(self, code: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            PasteCode().paste(code)
        assert caught.value.reason == "wrong_code"

    @pytest.mark.parametrize(
        ("words", "trouble"),
        [
            ("Couldn't log in: Request failed with status code 400", LoginTrouble.WRONG_CODE),
            ("Couldn't log in: connect ECONNREFUSED 127.0.0.1:8080", LoginTrouble.NO_NETWORK),
            ("Couldn't log in: Request failed with status code 503", LoginTrouble.NO_NETWORK),
        ],
    )
    def test_its_last_words_tell_why_it_failed(self, words: str, trouble: LoginTrouble) -> None:
        assert PasteCode().ended(1, words).trouble is trouble


class TestCodex:
    def test_a_code_and_where_to_type_it(self) -> None:
        result = {
            "verificationUrl": "https://auth.openai.com/codex/device",
            "userCode": "ABCD-EFGHI",
        }
        step = DeviceCode().receive(to_line({"id": 2, "result": result}))
        assert (step.link, step.user_code) == (result["verificationUrl"], "ABCD-EFGHI")

    def test_it_says_when_it_is_done(self) -> None:
        completed = {"method": "account/login/completed", "params": {"success": True}}
        assert DeviceCode().receive(to_line(completed)).done

    @pytest.mark.parametrize(
        ("message", "trouble"),
        [
            ({"id": 2, "error": {"message": "no route"}}, LoginTrouble.NO_NETWORK),
            ({"id": 2, "result": {"somethingNew": 1}}, LoginTrouble.NOT_UNDERSTOOD),
            (
                {"method": "account/login/completed", "params": {"success": False, "error": "no"}},
                LoginTrouble.DENIED,
            ),
        ],
    )
    def test_what_goes_wrong_is_told_apart(
        self, message: dict[str, object], trouble: LoginTrouble
    ) -> None:
        assert DeviceCode().receive(to_line(message)).trouble is trouble


@given(st.binary(max_size=300))
def test_no_line_breaks_a_dialogue(line: bytes) -> None:
    assert PasteCode().receive(line).trouble is None
    try:
        DeviceCode().receive(line)
    except RunFailed as error:
        assert error.reason == "unexpected_output"


def test_a_line_is_shown_without_a_terminals_escapes() -> None:
    assert plain(b"\x1b[2J\x1b[H\x1b]0;title\x07Visit\r\x1b[1m this\x1b[0m") == "Visit this"
