"""What is particular to codex: the order of its protocol, refusals, its credential's claims."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from polydev.errors import CredentialUnreadable
from polydev.events import EndReason, ReasoningDelta, RunFinished, TextDelta
from polydev.models.egress import Exchange, Purpose
from polydev.models.runs import Image, Prompt, Text, Turn
from polydev.providers.claims import claims_of
from polydev.providers.codex import CodexProvider
from polydev.providers.codex.dialogue import CodexDialogue
from polydev.secret import Secret
from tests.providers.samples import credential_files, order, prompt

PROVIDER = CodexProvider()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
IMAGE = Image(media_type="image/png", data="aGVsbG8=")
THREAD = {"id": 2, "result": {"thread": {"id": "the-thread"}, "model": "gpt-6.1-sol"}}


def line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def notice(method: str, **params: Any) -> bytes:
    return line({"method": method, "params": params})


def turn(role: Any, *parts: Text | Image) -> Turn:
    return Turn(role=role, parts=parts)


def opened(asked: Prompt | None = None) -> CodexDialogue:
    dialogue = CodexDialogue(asked or prompt(PROVIDER))
    dialogue.open()
    return dialogue


def end_of(dialogue: CodexDialogue, error: dict[str, Any]) -> RunFinished:
    failed = {"status": "failed", "error": {"message": "it failed", **error}}
    (end,) = dialogue.receive(notice("turn/completed", turn=failed)).events
    assert isinstance(end, RunFinished)
    return end


def test_everything_that_needs_no_answer_is_sent_at_once():
    lines = [json.loads(each) for each in CodexDialogue(prompt(PROVIDER)).open()]
    assert [each["method"] for each in lines] == ["initialize", "initialized", "thread/start"]
    assert lines[2]["params"]["baseInstructions"] == "You answer briefly."
    assert lines[2]["params"]["ephemeral"] is True


def test_history_goes_in_as_turns_before_the_question():
    asked = Prompt(
        model="gpt-6.1-sol",
        turns=(
            turn("user", Text(text="look"), IMAGE),
            turn("assistant", Text(text="seen")),
            turn("user", IMAGE, Text(text="again")),
        ),
    )
    history, question = map(json.loads, opened(asked).receive(line(THREAD)).send)
    assert history["method"] == "thread/inject_items"
    url = "data:image/png;base64,aGVsbG8="
    assert [(item["role"], item["content"]) for item in history["params"]["items"]] == [
        (
            "user",
            [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": url}],
        ),
        ("assistant", [{"type": "output_text", "text": "seen"}]),
    ]
    assert question["method"] == "turn/start"
    assert question["params"] == {
        "threadId": "the-thread",
        "input": [{"type": "image", "url": url}, {"type": "text", "text": "again"}],
    }


def test_without_history_only_the_question_is_sent():
    (question,) = opened().receive(line(THREAD)).send
    assert json.loads(question)["method"] == "turn/start"


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("item/commandExecution/requestApproval", {"decision": "decline"}),
        ("item/fileChange/requestApproval", {"decision": "decline"}),
        ("execCommandApproval", {"decision": "denied"}),
        ("applyPatchApproval", {"decision": "denied"}),
        ("mcpServer/elicitation/request", {"action": "decline"}),
    ],
)
def test_an_approval_is_refused(method: str, result: dict[str, str]):
    step = opened().receive(line({"id": 0, "method": method, "params": {}}))
    assert [json.loads(each) for each in step.send] == [{"id": 0, "result": result}]


@pytest.mark.parametrize("method", ["item/tool/call", "from/the/future"])
def test_any_other_request_is_answered_with_an_error(method: str):
    (answer,) = opened().receive(line({"id": "a", "method": method, "params": {}})).send
    assert json.loads(answer)["id"] == "a"
    assert json.loads(answer)["error"]["code"] == -32601


def test_notices_of_newer_versions_are_passed_over():
    step = opened().receive(notice("from/the/future", anything=[1]))
    assert (step.events, step.send) == ((), ())


def test_an_answer_in_one_piece_is_not_lost_and_one_in_pieces_not_doubled():
    dialogue = opened()
    pieces = [
        notice("item/agentMessage/delta", itemId="a", delta="one "),
        notice("item/agentMessage/delta", itemId="a", delta="two"),
        notice("item/completed", item={"type": "agentMessage", "id": "a", "text": "one two"}),
        notice("item/completed", item={"type": "agentMessage", "id": "b", "text": "three"}),
        notice("item/completed", item={"type": "userMessage", "id": "c"}),
    ]
    events = [event for piece in pieces for event in dialogue.receive(piece).events]
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "one two\n\nthree"


def test_parts_of_reasoning_are_paragraphs():
    dialogue = opened()
    pieces = [
        notice("item/reasoning/summaryTextDelta", itemId="a", summaryIndex=i, delta=text)
        for i, text in ((0, "one "), (0, "two"), (1, "three"))
    ]
    events = [event for piece in pieces for event in dialogue.receive(piece).events]
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "one two\n\nthree"


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ("usageLimitExceeded", EndReason.WINDOW_EXHAUSTED),
        ("rateLimitExceeded", EndReason.RATE_LIMITED),
        ("serverOverloaded", EndReason.RATE_LIMITED),
        ("unauthorized", EndReason.NEEDS_LOGIN),
        ("badRequest", EndReason.INVALID_REQUEST),
        ("contextWindowExceeded", EndReason.INVALID_REQUEST),
        ("cyberPolicy", EndReason.REFUSAL),
        ("internalServerError", EndReason.PROVIDER_ERROR),
        ("other", EndReason.PROVIDER_ERROR),
        ("fromTheFuture", EndReason.PROVIDER_ERROR),
        (None, EndReason.PROVIDER_ERROR),
        ({"responseTooManyFailedAttempts": {"httpStatusCode": 429}}, EndReason.RATE_LIMITED),
        ({"responseTooManyFailedAttempts": {"httpStatusCode": 502}}, EndReason.PROVIDER_ERROR),
        ({"httpConnectionFailed": {"httpStatusCode": 401}}, EndReason.NEEDS_LOGIN),
        ({"responseStreamDisconnected": {"httpStatusCode": None}}, EndReason.PROVIDER_ERROR),
        ({}, EndReason.PROVIDER_ERROR),
    ],
)
def test_each_error_has_its_reason(info: Any, reason: EndReason):
    assert end_of(opened(), {"codexErrorInfo": info}).reason is reason


def test_the_limit_that_opens_last_says_when_to_try_again():
    dialogue = opened()
    full = {"usedPercent": 100, "resetsAt": 1_800_000_000}
    limits = {"limitId": "codex", "primary": full, "secondary": full | {"resetsAt": 1_800_009_999}}
    dialogue.receive(notice("account/rateLimits/updated", rateLimits=limits))
    end = end_of(dialogue, {"codexErrorInfo": "usageLimitExceeded"})
    assert end.retry_at == datetime.fromtimestamp(1_800_009_999, UTC)


def test_the_limit_of_one_model_is_a_window_of_its_own():
    limits = {"limitId": "codex_other", "primary": {"usedPercent": 5, "resetsAt": None}}
    (event,) = opened().receive(notice("account/rateLimits/updated", rateLimits=limits)).events
    headers = (("x-codex-other-primary-used-percent", "5"),)
    seen = PROVIDER.observe(answered(200, headers), NOW)
    assert event.type == "window.observed"
    assert event.kind == seen.windows[0].kind == "codex_other_primary"


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        (4, -32600, EndReason.INVALID_REQUEST),
        (4, -32603, EndReason.CLI_FAILED),
        (2, -32600, EndReason.CLI_FAILED),
    ],
)
def test_a_refused_question_is_told_from_a_cli_that_cannot_work(
    number: int, code: int, reason: EndReason
):
    refused = {"id": number, "error": {"code": code, "message": "no"}}
    (end,) = opened().receive(line(refused)).events
    assert isinstance(end, RunFinished)
    assert end.reason is reason


def test_its_usual_complaint_does_not_hide_why_it_ended():
    stderr = "ERROR the disk is full\nERROR Codex could not find bubblewrap on PATH. Install it.\n"
    assert "the disk is full" in opened().ended(1, stderr).message


def answered(status: int, headers: Any = (), path: str = "/backend-api/codex/models") -> Exchange:
    return Exchange(
        binding="b", method="GET", host="chatgpt.com", path=path, status=status, headers=headers
    )


@pytest.mark.parametrize("status", [403, 404, 429, 500])
def test_what_is_asked_beside_the_answer_may_fail(status: int):
    assert PROVIDER.observe(answered(status), NOW).trouble is None


def test_the_sandbox_is_told_the_real_account_and_plan():
    credential = PROVIDER.read_credential(credential_files(PROVIDER))
    launch = PROVIDER.launch(order(PROVIDER, credential, Purpose.RUN))
    tokens = json.loads(launch.files[".codex/auth.json"].reveal())["tokens"]
    claims = claims_of(tokens["id_token"])
    assert claims["https://api.openai.com/auth"] == {
        "chatgpt_account_id": credential.attributes["account_id"],
        "chatgpt_plan_type": "plus",
    }
    assert credential.account not in json.dumps(claims)
    assert tokens["refresh_token"] == ""


def test_the_keeper_has_the_refresh_token_alone():
    credential = PROVIDER.read_credential(credential_files(PROVIDER))
    launch = PROVIDER.launch(order(PROVIDER, credential, Purpose.KEEPER))
    content = launch.files[".codex/auth.json"].reveal().decode()
    assert credential.refresh_token
    assert credential.refresh_token.reveal() in content
    assert credential.access_token.reveal() not in content


def test_an_api_key_is_no_subscription():
    content = json.dumps({"OPENAI_API_KEY": "sk-made-up-key", "tokens": None})
    with pytest.raises(CredentialUnreadable, match="API key") as caught:
        PROVIDER.read_credential({".codex/auth.json": Secret(content.encode())})
    assert "ChatGPT" in caught.value.remedy
    assert "sk-made-up" not in str(caught.value)


def test_an_api_key_beside_a_login_is_not_kept():
    document = json.loads(credential_files(PROVIDER)[".codex/auth.json"].reveal())
    document["OPENAI_API_KEY"] = "sk-made-up-key"
    files = {".codex/auth.json": Secret(json.dumps(document).encode())}
    kept = PROVIDER.read_credential(files).files[".codex/auth.json"].reveal()
    assert b"sk-made-up-key" not in kept


def test_a_token_that_says_no_expiry_is_renewed_by_its_age():
    document = json.loads(credential_files(PROVIDER)[".codex/auth.json"].reveal())
    document["tokens"]["access_token"] = "made-up-opaque-token"
    document["last_refresh"] = "2026-01-01T00:00:00Z"
    files = {".codex/auth.json": Secret(json.dumps(document).encode())}
    assert PROVIDER.read_credential(files).expires_at == NOW + timedelta(days=8)


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.!!!.c", "a.bnVsbA.c", "a.W10.c", "made-up", "é.é.é"]
)
def test_a_token_that_is_no_web_token_has_no_claims(token: str):
    assert claims_of(token) == {}
