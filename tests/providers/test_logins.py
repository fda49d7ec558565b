"""Logging in, as far as it is pure: what is started, what its lines mean, what it may ask."""

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydev.errors import InvalidRequest, RunFailed
from polydev.models.egress import EgressMode, Purpose
from polydev.models.logins import LoginMethod, LoginTrouble
from polydev.providers.acp.login import AcpLogin
from polydev.providers.base import Provider
from polydev.providers.claude.login import ClaudeLogin
from polydev.providers.codex.login import CodexLogin
from polydev.providers.lines import to_line
from polydev.providers.login import InTerminal, KeyWay, LoginDialogue, LoginOrder, LoginWay, plain
from polydev.providers.registry import PROVIDERS
from polydev.sandboxes.confinement import PLACE, file_under_home
from polydev.secret import Secret

WAYS = [
    (provider, way)
    for provider in PROVIDERS.values()
    for way in provider.login_ways
    if isinstance(way, LoginWay)
]
KEYS = [
    (provider, way)
    for provider in PROVIDERS.values()
    for way in provider.login_ways
    if isinstance(way, KeyWay)
]
AUTHORIZE = "https://claude.com/cai/oauth/authorize?code=true&client_id=made-up&state=made-up"
LINK = AUTHORIZE.encode()
CALLBACK_LINK = AUTHORIZE + "&redirect_uri=http%3A%2F%2Flocalhost%3A40123%2Fcallback"


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
        if way.method is LoginMethod.REMOTE_DESKTOP:
            return  # what its browser may reach, nobody can list: see polydev.desktop.POLICY
        policy = provider.policy(Purpose.LOGIN, "")
        assert policy.mode is EgressMode.WITNESS
        assert policy.rules
        assert not policy.added

    def test_says_something_of_a_command_that_ended(
        self, provider: Provider, way: LoginWay
    ) -> None:
        step = way.dialogue().ended(3, "something new")
        assert step.trouble is LoginTrouble.CLI_ENDED
        assert step.message


ON_A_DESKTOP = [one for one in WAYS if one[1].method is LoginMethod.REMOTE_DESKTOP]


@pytest.mark.parametrize(
    ("provider", "way"), ON_A_DESKTOP, ids=lambda one: getattr(one, "name", "")
)
def test_on_a_desktop_a_cli_trusts_another_authority_only_for_a_stand_in(
    provider: Provider, way: LoginWay
) -> None:
    def variables(authority: PurePosixPath | None) -> str:
        program, node = PurePosixPath("/programs/cli"), PurePosixPath("/programs/node")
        order = LoginOrder(place=PLACE, program=program, node=node, authority=authority)
        return str(way.launch(order).environment)

    assert ".pem" not in variables(None)
    assert "/stand-in.pem" in variables(PurePosixPath("/stand-in.pem"))
    assert PLACE.egress_url in variables(None)


def test_what_a_desktop_opened_is_shown_only_if_it_is_a_link() -> None:
    dialogue = InTerminal("Claude")
    assert dialogue.opened(AUTHORIZE).link == AUTHORIZE
    for other in (
        "javascript:alert(1)",
        "http://plain.test/",
        "https://a b",
        "https://" + "x" * 5000,
    ):
        assert not dialogue.opened(other).link
    assert dialogue.ended(0, "").done
    with pytest.raises(InvalidRequest):
        dialogue.paste("made-up-code#made-up-state")


def test_a_provider_names_each_method_once() -> None:
    for provider in PROVIDERS.values():
        methods = [way.method for way in provider.login_ways]
        assert len(methods) == len(set(methods))


@pytest.mark.parametrize(
    ("provider", "way"), KEYS, ids=lambda one: getattr(one, "name", None) or one.method.value
)
def test_a_key_makes_the_file_that_the_provider_reads(provider: Provider, way: KeyWay) -> None:
    key = "made-up-key-0000000000000000"
    assert re.fullmatch(way.pattern, key)
    assert not re.fullmatch(way.pattern, "a key")
    credential = provider.read_credential(way.files(Secret(key)))
    assert credential.access_token == Secret(key)


class TestClaude:
    def test_its_printed_link_is_shown_once_and_a_code_wanted(self) -> None:
        dialogue = ClaudeLogin(by_callback=False)
        assert not dialogue.receive("Opening browser to sign in…".encode()).link
        step = dialogue.receive(b"If the browser didn't open, visit: " + LINK)
        assert step.link == AUTHORIZE
        assert step.wants_code
        assert not dialogue.receive(LINK).link
        assert not dialogue.opened(CALLBACK_LINK).link

    def test_by_callback_it_is_the_link_that_a_browser_is_opened_for(self) -> None:
        dialogue = ClaudeLogin(by_callback=True)
        assert not dialogue.receive(LINK).link
        step = dialogue.opened(CALLBACK_LINK)
        assert step.link == CALLBACK_LINK
        assert step.callback is not None
        assert (step.callback.port, step.callback.path) == (40123, "/callback")
        assert not dialogue.opened("https://example.org/").link

    @pytest.mark.parametrize(
        "code", ["made-up-code#made-up-state", "  made-up-code#made-up-state\n"]
    )
    def test_a_whole_code_is_handed_over(self, code: str) -> None:
        assert ClaudeLogin(by_callback=False).paste(code) == (b"made-up-code#made-up-state",)

    @pytest.mark.parametrize(
        "code",
        ["", "made-up-code", "#made-up-state", "a b#c d", "x" * 9000 + "#abcdefgh", "a\nb#c"],
    )
    def test_what_is_no_code_never_reaches_the_command(self, code: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            ClaudeLogin(by_callback=False).paste(code)
        assert caught.value.reason == "wrong_code"

    @pytest.mark.parametrize(
        ("words", "trouble"),
        [
            ("That code wasn't accepted. It may be incomplete.", LoginTrouble.WRONG_CODE),
            ("Request failed with status code 400", LoginTrouble.WRONG_CODE),
            ("No authorization code received", LoginTrouble.DENIED),
            ("Invalid state parameter", LoginTrouble.WRONG_STATE),
            ("connect ECONNREFUSED 127.0.0.1:8080", LoginTrouble.NO_NETWORK),
            ("Request failed with status code 503", LoginTrouble.NO_NETWORK),
            ("something new", LoginTrouble.CLI_ENDED),
        ],
    )
    def test_its_last_words_tell_why_it_failed(self, words: str, trouble: LoginTrouble) -> None:
        step = ClaudeLogin(by_callback=False).ended(1, f"Couldn't log in: {words}\n")
        assert step.trouble is trouble
        assert words in step.message

    def test_it_ends_well_without_a_word(self) -> None:
        assert ClaudeLogin(by_callback=True).ended(0, "").done


def completed(error: str) -> dict[str, object]:
    return {"method": "account/login/completed", "params": {"success": False, "error": error}}


class TestCodex:
    def test_a_link_and_where_it_leads_back(self) -> None:
        link = "https://auth.openai.com/oauth/authorize?state=s&redirect_uri=http%3A%2F%2F127.0.0.1"
        step = CodexLogin().receive(
            to_line({"id": 2, "result": {"authUrl": f"{link}%3A1455%2Fcb"}})
        )
        assert step.callback is not None
        assert (step.callback.port, step.callback.path) == (1455, "/cb")
        assert step.callback.after == ("/success",)

    def test_a_code_and_where_to_type_it(self) -> None:
        result = {
            "verificationUrl": "https://auth.openai.com/codex/device",
            "userCode": "ABCD-EFGHI",
        }
        step = CodexLogin().receive(to_line({"id": 2, "result": result}))
        assert (step.link, step.user_code) == (result["verificationUrl"], "ABCD-EFGHI")

    @pytest.mark.parametrize("link", ["javascript:alert(1)", "http://x.org/", "https://a b", 7])
    def test_only_a_page_under_tls_is_a_link(self, link: object) -> None:
        for result in (
            {"authUrl": f"{link}?state=s&redirect_uri=http://localhost:1/"},
            {"verificationUrl": link, "userCode": "ABCD"},
        ):
            step = CodexLogin().receive(to_line({"id": 2, "result": result}))
            assert step.trouble is LoginTrouble.NOT_UNDERSTOOD
            assert not step.link

    def test_it_says_when_it_is_done(self) -> None:
        completed = {"method": "account/login/completed", "params": {"success": True}}
        assert CodexLogin().receive(to_line(completed)).done

    @pytest.mark.parametrize(
        ("message", "trouble"),
        [
            ({"id": 2, "error": {"message": "no route"}}, LoginTrouble.NO_NETWORK),
            ({"id": 2, "error": {"message": "login is not enabled"}}, LoginTrouble.DENIED),
            ({"id": 2, "result": {"somethingNew": 1}}, LoginTrouble.NOT_UNDERSTOOD),
            (completed("device auth failed with status 400 Bad Request"), LoginTrouble.DENIED),
            (completed("Sign-in failed: The user denied the request."), LoginTrouble.DENIED),
            (completed("Token exchange failed: status 502"), LoginTrouble.NO_NETWORK),
            (completed("Token exchange failed: status 401"), LoginTrouble.WRONG_CODE),
        ],
    )
    def test_what_goes_wrong_is_told_apart(
        self, message: dict[str, object], trouble: LoginTrouble
    ) -> None:
        assert CodexLogin().receive(to_line(message)).trouble is trouble


class TestAcp:
    LINK = "https://accounts.google.com/o/oauth2/v2/auth?redirect_uri=https%3A%2F%2Fx.org&state=s"

    def test_a_link_among_a_terminals_escapes_is_found_and_a_second_is_another_try(self) -> None:
        dialogue = AcpLogin("Gemini")
        assert not dialogue.receive(b"\x1b[2J\x1b[HPlease visit the following URL:").link
        step = dialogue.receive(f"\x1b[0J{self.LINK}".encode())
        assert (step.link, step.wants_code) == (self.LINK, True)
        assert "not taken" in dialogue.receive(self.LINK.encode()).log

    def test_what_it_echoes_is_not_kept(self) -> None:
        step = AcpLogin("Gemini").receive(b"Enter the authorization code: \x1b[31Gmade-up-code")
        assert not step.log

    def test_its_end_may_follow_an_escape(self) -> None:
        line = b'\x1b[?1049l{"jsonrpc":"2.0","id":2,"result":{}}'
        assert AcpLogin("Gemini").receive(line).done

    @pytest.mark.parametrize(
        ("words", "trouble"),
        [
            ("Google OAuth error: access_denied. The user denied.", LoginTrouble.DENIED),
            ("OAuth state mismatch. Possible CSRF attack.", LoginTrouble.WRONG_STATE),
            ("Failed to exchange authorization code: invalid_grant", LoginTrouble.WRONG_CODE),
            ("Failed to authenticate with user code.", LoginTrouble.WRONG_CODE),
            ("getaddrinfo ENOTFOUND", LoginTrouble.NO_NETWORK),
        ],
    )
    def test_why_it_failed(self, words: str, trouble: LoginTrouble) -> None:
        error = {"code": -32000, "message": words}
        line = to_line({"jsonrpc": "2.0", "id": 2, "error": error})
        assert AcpLogin("Gemini").receive(line).trouble is trouble

    def test_an_address_is_no_code(self) -> None:
        with pytest.raises(InvalidRequest):
            AcpLogin("Gemini").paste("http://127.0.0.1:1/oauth2callback?code=made-up")


DIALOGUES: list[LoginDialogue] = [
    ClaudeLogin(by_callback=True),
    ClaudeLogin(by_callback=False),
    CodexLogin(),
    AcpLogin("Gemini"),
]


@given(st.binary(max_size=300))
def test_no_line_breaks_a_dialogue(line: bytes) -> None:
    for dialogue in DIALOGUES:
        try:
            assert dialogue.receive(line).trouble is None
        except RunFailed as error:
            assert error.reason == "unexpected_output"
        dialogue.opened(line.decode(errors="replace"))


def test_a_line_is_shown_without_a_terminals_escapes() -> None:
    assert plain(b"\x1b[2J\x1b[H\x1b]0;title\x07Visit\r\x1b[1m this\x1b[0m") == "Visit this"
