"""The stand-in for Google, asked over plain HTTP as the gemini CLI asks."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from polydev.sim import Account, Simulator
from polydev.sim.google_credentials import CLIENT_ID, project_of

pytestmark = pytest.mark.anyio

ASSIST = "cloudcode-pa.googleapis.com"
API = "generativelanguage.googleapis.com"
MODEL = "gemini-3-pro-preview"


@pytest.fixture
def account(sim: Simulator) -> Account:
    return sim.world.accounts["gemini-1"]


@pytest.fixture
def token(sim: Simulator, account: Account) -> str:
    return sim.world.log_in(account).access.value


@pytest.fixture
def key(sim: Simulator, account: Account) -> str:
    return sim.world.give_api_key(account).value


def question(text: str, **others: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **others}


async def assist(
    http: httpx.AsyncClient, method: str, token: str, body: dict[str, Any]
) -> httpx.Response:
    headers = {"host": ASSIST, "authorization": f"Bearer {token}"}
    return await http.post(f"/v1internal:{method}", json=body, headers=headers)


async def ask(
    http: httpx.AsyncClient, token: str, text: str, *, stream: bool = True, **others: Any
) -> httpx.Response:
    body = {"model": MODEL, "project": "p", "request": question(text, **others)}
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return await assist(http, method, token, body)


async def ask_with_key(
    http: httpx.AsyncClient, key: str, text: str, *, model: str = MODEL, query: str = "?alt=sse"
) -> httpx.Response:
    return await http.post(
        f"/v1beta/models/{model}:streamGenerateContent{query}",
        json=question(text),
        headers={"host": API, "x-goog-api-key": key} if key else {"host": API},
    )


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in answer.text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def parts_of(responses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        part
        for response in responses
        for candidate in response["candidates"]
        for part in candidate["content"]["parts"]
    ]


def text_of(responses: list[dict[str, Any]]) -> str:
    return "".join(part.get("text", "") for part in parts_of(responses) if "thought" not in part)


async def test_code_assist_streams_wrapped_responses(http: httpx.AsyncClient, token: str) -> None:
    answer = await ask(http, token, "count to 20")
    assert answer.headers["content-type"] == "text/event-stream"
    wrapped = events(answer)
    responses = [one["response"] for one in wrapped]
    assert all(one["traceId"] for one in wrapped)
    assert text_of(responses) == " ".join(str(number) for number in range(1, 21))
    assert len(responses) > 10
    assert responses[-1]["candidates"][0]["finishReason"] == "STOP"
    usage = responses[-1]["usageMetadata"]
    assert usage["candidatesTokenCount"] == len(responses) - 1
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]


async def test_code_assist_answers_whole(http: httpx.AsyncClient, token: str) -> None:
    answer = (await ask(http, token, "calculate 3*67", stream=False)).json()
    assert text_of([answer["response"]]) == "201"


async def test_the_gemini_api_takes_a_key(http: httpx.AsyncClient, key: str) -> None:
    assert text_of(events(await ask_with_key(http, key, "calculate 3*67"))) == "201"
    array = (await ask_with_key(http, key, "calculate 3*67", query="")).json()
    assert text_of(array) == "201"
    listed = (await http.get("/v1beta/models", headers={"host": API, "x-goog-api-key": key})).json()
    assert f"models/{MODEL}" in [model["name"] for model in listed["models"]]


async def test_turns_images_and_the_system_prompt_are_seen(
    http: httpx.AsyncClient, token: str
) -> None:
    surroundings = {"text": "<session_context>\nToday is a day.\n</session_context>"}
    contents = [
        {"role": "user", "parts": [surroundings, {"text": "My name is Ada."}]},
        {"role": "model", "parts": [{"text": "Hello Ada."}]},
        {
            "role": "user",
            "parts": [{"text": "What is it?"}, {"inlineData": {"mimeType": "a/b", "data": "AA=="}}],
        },
    ]
    body = {
        "model": MODEL,
        "request": {
            "contents": contents,
            "systemInstruction": {"role": "user", "parts": [{"text": "terse"}]},
        },
    }
    answer = (await assist(http, "generateContent", token, body)).json()["response"]
    assert text_of([answer]) == (
        "You sent 3 words, beginning “What is it?”. Before that came 2 turns. I saw 1 image. "
        "The system prompt has 5 characters."
    )


async def test_thoughts_and_functions_have_their_parts(http: httpx.AsyncClient, token: str) -> None:
    declared = {"name": "weather", "parametersJsonSchema": {"properties": {"city": {}}}}
    answer = await ask(
        http,
        token,
        'think, then call the tool weather {"city": "Bergen"}',
        tools=[{"functionDeclarations": [declared]}],
        generationConfig={"thinkingConfig": {"includeThoughts": True}},
    )
    responses = [one["response"] for one in events(answer)]
    thought, call, *_ = parts_of(responses)
    assert thought["thought"] is True
    assert call == {"functionCall": {"name": "weather", "args": {"city": "Bergen"}}}
    assert responses[-1]["usageMetadata"]["thoughtsTokenCount"] > 0


async def test_limits_of_the_request_are_obeyed(http: httpx.AsyncClient, token: str) -> None:
    short = await ask(http, token, "count to 50", generationConfig={"maxOutputTokens": 3})
    responses = [one["response"] for one in events(short)]
    assert text_of(responses) == "1 2 3"
    assert responses[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}}
    shaped = await ask(http, token, "2*21?", generationConfig={"responseJsonSchema": schema})
    assert json.loads(text_of([one["response"] for one in events(shaped)])) == {"answer": 42}


async def test_an_account_has_its_project_tier_and_quota(
    http: httpx.AsyncClient, account: Account, token: str
) -> None:
    loaded = (await assist(http, "loadCodeAssist", token, {"metadata": {}})).json()
    assert loaded["cloudaicompanionProject"] == project_of(account)
    assert loaded["currentTier"]["id"] == "standard-tier"
    assert loaded["paidTier"]["id"] == account.plan
    onboarded = (await assist(http, "onboardUser", token, {"tierId": "standard-tier"})).json()
    assert onboarded["done"] is True
    assert onboarded["response"]["cloudaicompanionProject"]["id"] == project_of(account)
    account.windows["requests_per_day"].used_fraction = 0.25
    buckets = (await assist(http, "retrieveUserQuota", token, {"project": "p"})).json()["buckets"]
    assert {bucket["remainingFraction"] for bucket in buckets} == {0.75}
    assert MODEL in [bucket["modelId"] for bucket in buckets]
    experiments = (await assist(http, "listExperiments", token, {})).json()
    assert experiments == {"experimentIds": [], "flags": []}
    body = {"request": question("one two three")}
    counted = (await assist(http, "countTokens", token, body)).json()
    assert counted["totalTokens"] >= 3


@pytest.mark.parametrize(
    ("knobs", "code", "status", "reason"),
    [
        ({"overloaded": True}, 503, "UNAVAILABLE", ""),
        ({"server_error": 500}, 500, "INTERNAL", ""),
        ({"rate_limited": True, "retry_after_seconds": 7}, 429, "RESOURCE_EXHAUSTED",
         "RATE_LIMIT_EXCEEDED"),
        ({"limit_reached": True}, 429, "RESOURCE_EXHAUSTED", "QUOTA_EXHAUSTED"),
        ({"tokens_rejected": True}, 401, "UNAUTHENTICATED", "ACCESS_TOKEN_EXPIRED"),
    ],
)  # fmt: skip
async def test_a_knob_makes_googles_error(
    *,
    sim: Simulator,
    http: httpx.AsyncClient,
    account: Account,
    token: str,
    knobs: dict[str, Any],
    code: int,
    status: str,
    reason: str,
) -> None:
    sim.world.turn(account, knobs)
    answer = await ask(http, token, "1+1")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (code, code, status)
    details = {detail["@type"].rsplit(".", 1)[-1]: detail for detail in error.get("details", [])}
    assert details.get("ErrorInfo", {}).get("reason", "") == reason
    assert "retry-after" not in answer.headers
    if reason == "RATE_LIMIT_EXCEEDED":
        assert details["RetryInfo"]["retryDelay"] == "7.000s"
    if reason == "QUOTA_EXHAUSTED":
        assert "Your quota will reset after" in error["message"]
        delay = float(details["ErrorInfo"]["metadata"]["quotaResetDelay"].removesuffix("s"))
        assert 3590 < delay <= 3600


async def test_the_gemini_api_tells_a_day_from_a_minute(
    sim: Simulator, http: httpx.AsyncClient, account: Account, key: str
) -> None:
    for knobs, span in (({"rate_limited": True}, "PerMinute"), ({"limit_reached": True}, "PerDay")):
        sim.world.turn(account, knobs)
        error = (await ask_with_key(http, key, "1+1")).json()["error"]
        sim.world.turn(account, dict.fromkeys(knobs))
        assert span in error["details"][0]["violations"][0]["quotaId"]


async def test_a_bad_key_is_no_401(http: httpx.AsyncClient, token: str, key: str) -> None:
    wrong = await ask_with_key(http, "AIzaNotAKey", "1+1")
    assert wrong.status_code == 400
    assert wrong.json()["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert (await ask_with_key(http, "", "1+1")).status_code == 403
    assert (await ask(http, "ya29.unknown", "1+1")).status_code == 401


async def test_bad_requests_are_refused_in_googles_form(
    http: httpx.AsyncClient, token: str, key: str
) -> None:
    empty = await assist(http, "generateContent", token, {"model": MODEL})
    assert empty.json()["error"]["status"] == "INVALID_ARGUMENT"
    unknown = await ask_with_key(http, key, "1+1", model="made-up-model")
    assert (unknown.status_code, unknown.json()["error"]["status"]) == (404, "NOT_FOUND")


async def test_a_refresh_keeps_its_refresh_token(
    sim: Simulator, http: httpx.AsyncClient, account: Account
) -> None:
    pair = sim.world.log_in(account, lifetime_seconds=-60)
    assert (await ask(http, pair.access.value, "1+1")).status_code == 401
    form = {
        "grant_type": "refresh_token",
        "refresh_token": pair.refresh.value,
        "client_id": CLIENT_ID,
        "client_secret": "made-up",
    }
    headers = {"host": "oauth2.googleapis.com"}
    for _ in range(2):
        renewed = (await http.post("/token", data=form, headers=headers)).json()
        assert "refresh_token" not in renewed
        assert renewed["expires_in"] == 8 * 3600 - 1
        assert (await ask(http, renewed["access_token"], "1+1")).status_code == 200
    assert account.counters["refreshes"] == 2
    sim.world.turn(account, {"refresh_denied": True})
    denied = await http.post("/token", data=form, headers=headers)
    assert (denied.status_code, denied.json()["error"]) == (400, "invalid_grant")
    wrong = await http.post("/token", data=form | {"client_id": "other"}, headers=headers)
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    coded = await http.post("/token", data={"grant_type": "authorization_code"}, headers=headers)
    assert (coded.status_code, coded.json()["error"]) == (400, "invalid_request")


async def test_a_token_tells_whose_it_is(
    http: httpx.AsyncClient, account: Account, token: str
) -> None:
    bearer = {"authorization": f"Bearer {token}"}
    info = await http.post("/tokeninfo", headers={"host": "oauth2.googleapis.com", **bearer})
    assert info.json()["email"] == account.email
    assert info.json()["aud"] == CLIENT_ID
    where = {"host": "www.googleapis.com"}
    user = await http.get("/oauth2/v2/userinfo", headers={**where, **bearer})
    assert user.json()["email"] == account.email
    assert (await http.get("/oauth2/v2/userinfo", headers=where)).status_code == 401


async def test_the_credential_file_is_the_clis_own(sim: Simulator, http: httpx.AsyncClient) -> None:
    file = json.loads(sim.credential_path("gemini").read_text())
    assert set(file) == {
        "access_token", "refresh_token", "id_token", "token_type", "scope", "expiry_date"
    }  # fmt: skip
    assert file["expiry_date"] > 1e12
    assert (
        text_of([one["response"] for one in events(await ask(http, file["access_token"], "6*7="))])
        == "42"
    )


async def test_a_stream_is_cut_off(
    sim: Simulator, http: httpx.AsyncClient, account: Account, token: str
) -> None:
    sim.world.turn(account, {"cut_after_chunks": 4})
    with pytest.raises(httpx.RemoteProtocolError):
        await ask(http, token, "count to 50")


async def test_a_client_that_goes_away_is_noticed(
    sim: Simulator, http: httpx.AsyncClient, account: Account, key: str
) -> None:
    sim.world.turn(account, {"pace_seconds": 0.05})
    async with http.stream(
        "POST",
        f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse",
        json=question("count to 2000"),
        headers={"host": API, "x-goog-api-key": key},
    ) as answer:
        async for _ in answer.aiter_lines():
            break
    async with asyncio.timeout(5):
        while not account.counters["abandoned"]:
            await asyncio.sleep(0.01)


async def test_a_key_and_a_token_never_show_in_records(
    sim: Simulator, http: httpx.AsyncClient, token: str, key: str
) -> None:
    await ask(http, token, "1+1")
    await ask_with_key(http, key, "1+1")
    shown = [record.headers for record in sim.world.records.all()]
    assert [record.account for record in sim.world.records.all()] == ["gemini-1", "gemini-1"]
    assert token not in str(shown)
    assert key not in str(shown)
