"""What holds for agents that speak ACP, beside the suite that every provider passes."""

import json
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest

from polydev.errors import CredentialUnreadable
from polydev.events import EndReason, RunFinished, TextDelta, UsageReported
from polydev.models.egress import Purpose
from polydev.models.runs import Image, Prompt, Text, Turn
from polydev.providers.acp import GEMINI, QWEN, AcpProvider
from polydev.providers.acp.agent import Agent
from polydev.providers.acp.failures import judge, span_seconds
from polydev.providers.acp.turns import guarded, past_turns, system_text
from polydev.providers.base import Dialogue, Step
from polydev.secret import Secret
from tests.providers.samples import SENTINEL, order

JOINER = "\N{WORD JOINER}"
AGENTS = pytest.mark.parametrize("agent", [GEMINI, QWEN], ids=lambda agent: agent.name)


def turn(role: Any, *texts: str) -> Turn:
    return Turn(role=role, parts=tuple(Text(text=text) for text in texts))


def prompt(*turns: Turn, system: str = "You are terse.") -> Prompt:
    return Prompt(model="gemini-2.5-pro", system=system, turns=turns)


def message(**fields: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **fields}).encode()


def chunk(text: str, kind: str = "agent_message_chunk", **update: Any) -> bytes:
    update |= {"sessionUpdate": kind, "content": {"type": "text", "text": text}}
    return message(method="session/update", params={"sessionId": "s", "update": update})


def opened(agent: Agent, asked: Prompt, session: str = "s", **result: Any) -> tuple[Dialogue, Step]:
    dialogue = AcpProvider(agent).dialogue(asked)
    dialogue.open()
    return dialogue, dialogue.receive(message(id=f"session {session}", result=result))


def texts(step: Step) -> list[str]:
    return [event.text for event in step.events if isinstance(event, TextDelta)]


class TestDialogue:
    @AGENTS
    @pytest.mark.parametrize("answered", [{"sessionId": "theirs"}, {}])
    def test_the_question_goes_into_the_session_that_was_opened(
        self, agent: Agent, answered: dict[str, str]
    ):
        _, step = opened(agent, prompt(turn("user", "hello")), "ours", **answered)
        (line,) = step.send
        asked = json.loads(line)
        assert asked["method"] == "session/prompt"
        assert asked["params"]["sessionId"] == answered.get("sessionId", "ours")
        assert asked["params"]["prompt"] == [{"type": "text", "text": "hello"}]

    def test_another_model_than_the_one_asked_for_does_not_answer(self):
        _, step = opened(
            GEMINI, prompt(turn("user", "a")), models={"currentModelId": "auto-gemini-2.5"}
        )
        (end,) = step.events
        assert isinstance(end, RunFinished)
        assert end.reason is EndReason.INVALID_REQUEST
        assert "not offered gemini-2.5-pro" in end.message
        assert step.send == ()

    def test_what_the_agent_repeats_of_the_past_is_no_answer(self):
        asked = prompt(turn("user", "a"), turn("assistant", "Yes."), turn("user", "b"))
        dialogue, _ = opened(GEMINI, asked)
        dialogue.receive(chunk("a", "user_message_chunk"))
        assert texts(dialogue.receive(chunk("Yes."))) == []
        # The new answer happens to be the old one again.
        assert texts(dialogue.receive(chunk("Yes."))) == ["Yes."]

    def test_an_answer_shows_although_nothing_was_repeated(self):
        asked = prompt(turn("user", "a"), turn("assistant", "Yes."), turn("user", "b"))
        dialogue, _ = opened(GEMINI, asked)
        assert texts(dialogue.receive(chunk("No."))) == ["No."]

    @AGENTS
    @pytest.mark.parametrize(
        ("method", "key"),
        [
            ("session/request_permission", "result"),
            ("fs/read_text_file", "error"),
            ("fs/write_text_file", "error"),
            ("terminal/create", "error"),
            ("made/up", "error"),
        ],
    )
    def test_what_the_agent_asks_of_its_client_is_refused(
        self, agent: Agent, method: str, key: str
    ):
        dialogue, _ = opened(agent, prompt(turn("user", "hello")))
        (line,) = dialogue.receive(message(id=7, method=method, params={})).send
        answer = json.loads(line)
        assert answer["id"] == 7
        if key == "result":
            assert answer["result"] == {"outcome": {"outcome": "cancelled"}}
        else:
            assert answer["error"]["code"] == -32601

    @pytest.mark.parametrize(
        ("stop", "reason"),
        [
            ("end_turn", EndReason.STOP),
            ("max_tokens", EndReason.LENGTH),
            ("refusal", EndReason.REFUSAL),
            ("cancelled", EndReason.CANCELLED),
        ],
    )
    def test_each_stop_reason_has_its_meaning(self, stop: str, reason: EndReason):
        dialogue, _ = opened(GEMINI, prompt(turn("user", "hello")))
        end = dialogue.receive(message(id="prompt", result={"stopReason": stop})).events[-1]
        assert isinstance(end, RunFinished)
        assert end.reason is reason

    def test_tokens_of_several_requests_add_up(self):
        dialogue, _ = opened(QWEN, prompt(turn("user", "hello")))
        usage = {"inputTokens": 5, "outputTokens": 3, "thoughtTokens": 1, "cachedReadTokens": 2}
        for times in (1, 2):
            (event,) = dialogue.receive(chunk("", _meta={"usage": usage})).events
            assert event == UsageReported(
                input_tokens=5 * times,
                output_tokens=3 * times,
                cached_input_tokens=2 * times,
                reasoning_tokens=times,
            )

    def test_usage_of_the_protocol_itself_is_read(self):
        dialogue, _ = opened(QWEN, prompt(turn("user", "hello")))
        result = {"stopReason": "end_turn", "usage": {"inputTokens": 5, "outputTokens": 3}}
        usage, _ = dialogue.receive(message(id="prompt", result=result)).events
        assert usage == UsageReported(input_tokens=5, output_tokens=3)


class TestFailures:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("Your quota will reset after 1h2m3s.", 3723),
            ("Your quota will reset after 2d1h.", 176400),
            ("reset after 45m", 2700),
            ("Please retry in 2.500s.", 2.5),
            ("Please try again in 7s.", 7),
            ("reset after a while", None),
            ("retry in 250ms", None),
            ("", None),
        ],
    )
    def test_spans_are_read(self, text: str, seconds: float | None):
        assert span_seconds(text) == seconds

    @pytest.mark.parametrize(
        ("agent", "error", "reason", "seconds"),
        [
            (
                GEMINI,
                {"code": 429, "message": "exhausted your capacity … reset after 1h0m0s.\n\nTip"},
                EndReason.WINDOW_EXHAUSTED,
                3600,
            ),
            (
                GEMINI,
                {"code": 429, "message": "You have exhausted your daily quota on this model."},
                EndReason.WINDOW_EXHAUSTED,
                None,
            ),
            (GEMINI, {"code": 429, "message": "No capacity."}, EndReason.RATE_LIMITED, 10),
            (GEMINI, {"code": 401, "message": "no"}, EndReason.NEEDS_LOGIN, None),
            (GEMINI, {"code": -32000, "message": "no"}, EndReason.NEEDS_LOGIN, None),
            (GEMINI, {"code": 503, "message": "retry in 2s"}, EndReason.PROVIDER_ERROR, None),
            (
                GEMINI,
                {"code": 500, "message": "models/made-up is not found."},
                EndReason.INVALID_REQUEST,
                None,
            ),
            (
                GEMINI,
                {"code": 400, "message": '{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}'},
                EndReason.NEEDS_LOGIN,
                None,
            ),
            (GEMINI, {"code": 400, "message": "bad"}, EndReason.INVALID_REQUEST, None),
            (
                QWEN,
                {"code": -32603, "message": "Internal error", "data": {"details": "404 none"}},
                EndReason.INVALID_REQUEST,
                None,
            ),
            (QWEN, {"code": -32603, "message": "Internal error"}, EndReason.CLI_FAILED, None),
            (QWEN, {}, EndReason.CLI_FAILED, None),
        ],
    )
    def test_errors_mean_what_they_mean(
        self, agent: Agent, error: dict[str, Any], reason: EndReason, seconds: float | None
    ):
        failure = judge(agent, error)
        assert (failure.reason, failure.retry_after_seconds) == (reason, seconds)
        assert failure.message

    def test_a_person_reads_words_and_no_json(self):
        text = json.dumps({"error": {"code": 401, "message": "Expected a token."}})
        assert judge(GEMINI, {"code": 401, "message": text}).message == "Expected a token."


class TestTurns:
    @pytest.mark.parametrize("text", ["/help me", "  /help", "\ufeff$x", "/"])
    def test_a_command_becomes_words(self, text: str):
        (part,) = guarded(turn("user", text), ("/", "$")).parts
        assert part == Text(text=JOINER + text)

    @pytest.mark.parametrize("text", ["hello", "a / b", ""])
    def test_other_words_stay_as_they_are(self, text: str):
        assert guarded(turn("user", text), ("/", "$")) == turn("user", text)

    def test_a_command_in_pieces_is_one(self):
        image = Image(media_type="image/png", data="AAAA")
        whole = Turn(role="user", parts=(image, Text(text=" "), Text(text="/help")))
        assert guarded(whole, ("/",)).text() == JOINER + " /help"

    def test_no_turn_of_the_past_vanishes(self):
        asked = prompt(
            turn("user", "?why"),
            turn("assistant", "/because"),
            turn("user", " "),
            turn("user", "x"),
        )
        kept = past_turns(GEMINI, asked)
        assert [one.text() for one in kept] == [JOINER + "?why", "/because", JOINER]

    def test_nothing_in_a_system_prompt_is_filled_in(self):
        text = system_text(GEMINI, prompt(system="${AvailableTools} and ${HOME}, ${a_ToolName}"))
        assert text == f"${JOINER}{{AvailableTools}} and ${{HOME}}, ${JOINER}{{a_ToolName}}"


class TestLogins:
    @pytest.mark.parametrize(
        "line",
        [
            "GEMINI_API_KEY=AIzaMadeUp",
            'export GEMINI_API_KEY = "AIzaMadeUp" # mine',
            "# GEMINI_API_KEY=old\nOTHER=x\nGEMINI_API_KEY='AIzaMadeUp'\n",
            "GEMINI_API_KEY=AIzaMadeUp # mine",
        ],
    )
    @pytest.mark.parametrize("name", [".gemini/.env", ".gemini/oauth_creds.json"])
    def test_a_key_is_known_by_its_form(self, name: str, line: str):
        credential = AcpProvider(GEMINI).read_credential({name: Secret(line.encode())})
        assert credential.kind == "api_key"
        assert credential.access_token == Secret("AIzaMadeUp")
        assert AcpProvider(GEMINI).read_credential(credential.files) == credential

    def test_a_key_goes_another_way_than_a_login(self):
        provider = AcpProvider(GEMINI)
        credential = provider.read_credential(
            {".gemini/.env": Secret(b"GEMINI_API_KEY=AIzaMadeUp")}
        )
        policy = provider.policy(Purpose.RUN, credential.kind)
        assert policy.plain_host == "generativelanguage.googleapis.com"
        assert [header.name for header in policy.added] == ["x-goog-api-key"]
        launch = provider.launch(order(provider, credential, Purpose.RUN))
        assert launch.environment["GEMINI_API_KEY"] == SENTINEL.reveal()
        assert "AIzaMadeUp" not in repr([file.reveal() for file in launch.files.values()])

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            ("BAILIAN_CODING_PLAN_API_KEY=k", "coding_plan"),
            ("OPENAI_API_KEY=k", "coding_plan"),
            (
                "OPENAI_API_KEY=k\nOPENAI_BASE_URL=https://dashscope.aliyuncs.com/compatible-mode/v1",
                "api_key_cn",
            ),
        ],
    )
    def test_an_address_decides_where_a_key_is_used(self, content: str, kind: str):
        credential = AcpProvider(QWEN).read_credential({".qwen/.env": Secret(content.encode())})
        assert credential.kind == kind

    def test_a_key_is_sent_to_no_unknown_address(self):
        content = Secret(b"OPENAI_API_KEY=k\nOPENAI_BASE_URL=https://keys.example/v1")
        with pytest.raises(CredentialUnreadable, match=r"keys\.example"):
            AcpProvider(QWEN).read_credential({".qwen/.env": content})


class TestLaunch:
    @AGENTS
    def test_the_past_is_where_the_agent_looks_for_it(self, agent: Agent):
        provider = AcpProvider(agent)
        credential = provider.read_credential(
            {str(agent.credential_file): Secret(b"GEMINI_API_KEY=k\nOPENAI_API_KEY=k")}
        )
        past = (turn("user", "My name is Ada."), turn("assistant", "Hello Ada."))
        ordered = order(provider, credential, Purpose.RUN)
        assert ordered.prompt
        asked = replace(ordered.prompt, turns=(*past, turn("user", "Who am I?")))
        launch = provider.launch(replace(ordered, prompt=asked))
        _, opening = (json.loads(line) for line in launch.opening)
        session = opening["params"]["sessionId"]
        assert opening["id"] == f"session {session}"
        assert opening["params"]["cwd"] == str(ordered.place.workspace)
        (path,) = [path for path in launch.files if session in path]
        lines = launch.files[path].reveal().decode().splitlines()
        assert "Hello Ada." in lines[-1]
        assert not any("Who am I?" in line for line in lines)
        assert PurePosixPath(path).suffix == ".jsonl"

    @AGENTS
    def test_a_conversation_keeps_its_session(self, agent: Agent):
        provider = AcpProvider(agent)
        credential = provider.read_credential(
            {str(agent.credential_file): Secret(b"GEMINI_API_KEY=k\nOPENAI_API_KEY=k")}
        )

        def session(*turns: Turn, **changes: Any) -> str:
            ordered = order(provider, credential, Purpose.RUN, **changes)
            assert ordered.prompt
            launch = provider.launch(replace(ordered, prompt=replace(ordered.prompt, turns=turns)))
            return str(json.loads(launch.opening[-1])["id"])

        first = turn("user", "one")
        longer = (first, turn("assistant", "two"), turn("user", "three"))
        assert session(first) == session(*longer)
        assert session(first) != session(turn("user", "two"))
        other = "00000000-0000-4000-8000-000000000009"
        assert session(first) != session(first, identity=other)
