import datetime as dt
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.requests import HTTPConnection

from polydev import errors
from polydev.api.problems import Format, body_of, format_of, headers_of, invalid_request
from polydev.core import outcomes
from polydev.errors import PolydevError
from polydev.events import EndReason
from polydev.providers.base import OUTCOMES, finished

NOW = dt.datetime.now(dt.UTC)


def _kinds(of: type[PolydevError] = PolydevError) -> list[type[PolydevError]]:
    """Those that share the constructor of the tree; some of `proc` word themselves."""
    kinds = [of, *(kind for sub in of.__subclasses__() for kind in _kinds(sub))]
    return [kind for kind in kinds if "__init__" not in vars(kind) or kind is PolydevError]


def _connection(path: str, **headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "path": path, "headers": raw, "query_string": b""})


@pytest.mark.parametrize("kind", _kinds())
@pytest.mark.parametrize("format", list(Format))
def test_every_error_has_its_words_in_every_format(kind: type[PolydevError], format: Format):
    error = kind("It broke.", remedy="Mend it.", retry_at=NOW, provider="claude")
    body = body_of(error, format)
    said = body["error"]
    assert "It broke." in said["message"]
    assert "Mend it." in said["message"] + said.get("remedy", "")
    assert said["reason"] == kind.code
    assert said["provider"] == "claude"
    assert dt.datetime.fromisoformat(said["retry_at"]) == NOW
    assert 400 <= error.status < 600
    if format is Format.ANTHROPIC:
        assert body["type"] == "error"
        assert said["type"]
    if format is Format.OPENAI:
        assert said["code"] == kind.code
        assert "param" in said
    if format is Format.NATIVE:
        assert said["code"] == kind.code


@pytest.mark.parametrize(
    ("kind", "anthropic", "openai"),
    [
        (errors.InvalidRequest, "invalid_request_error", "invalid_request_error"),
        (errors.UnknownModel, "not_found_error", "invalid_request_error"),
        (errors.PromptTooLarge, "request_too_large", "invalid_request_error"),
        (errors.Unauthenticated, "authentication_error", "authentication_error"),
        (errors.NeedsLogin, "permission_error", "permission_error"),
        (errors.Conflict, "invalid_request_error", "invalid_request_error"),
        (errors.WindowExhausted, "rate_limit_error", "rate_limit_error"),
        (errors.TooManyRequests, "rate_limit_error", "rate_limit_error"),
        (errors.ProviderProblem, "api_error", "server_error"),
        (outcomes.RunTimedOut, "timeout_error", "server_error"),
        (errors.StoreProblem, "api_error", "server_error"),
    ],
)
def test_the_vendors_own_words_for_a_kind_of_error(
    kind: type[PolydevError], anthropic: str, openai: str
):
    assert body_of(kind("x"), Format.ANTHROPIC)["error"]["type"] == anthropic
    assert body_of(kind("x"), Format.OPENAI)["error"]["type"] == openai


@pytest.mark.parametrize(
    ("path", "headers", "format"),
    [
        ("/v1/messages", {}, Format.ANTHROPIC),
        ("/v1/messages/count_tokens", {}, Format.ANTHROPIC),
        ("/v1/chat/completions", {}, Format.OPENAI),
        ("/v1/models", {}, Format.OPENAI),
        ("/v1/models/x", {"anthropic_version": "2023-06-01"}, Format.ANTHROPIC),
        ("/v1/runs", {"anthropic_version": "2023-06-01"}, Format.NATIVE),
        ("/elsewhere", {}, Format.NATIVE),
    ],
)
def test_a_path_belongs_to_a_surface(path: str, headers: dict[str, str], format: Format):
    assert format_of(_connection(path, **headers)) is format


def test_retry_after_is_whole_seconds_and_never_in_the_past():
    for seconds, least, most in ((100.4, 100, 101), (0.2, 1, 1), (-50, 1, 1)):
        error = errors.TooManyRequests(
            "x", retry_at=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
        )
        assert least <= int(headers_of(error)["retry-after"]) <= most
    assert "retry-after" not in headers_of(errors.ProviderProblem("x"))


def test_sdks_are_told_not_to_repeat_what_cannot_help():
    for kind in (errors.Unauthenticated, errors.NeedsLogin, errors.WindowExhausted):
        assert headers_of(kind("x"))["x-should-retry"] == "false"
    assert headers_of(errors.Unauthenticated("x"))["www-authenticate"] == "Bearer"


def test_mistakes_are_named_without_repeating_what_was_sent():
    secret = "quetzalmarker"
    error = RequestValidationError(
        [
            {
                "type": "union_tag_invalid",
                "loc": ("body", "messages", 0, "content"),
                "msg": f"Input tag '{secret}' found",
                "input": secret,
                "ctx": {"tag": secret, "expected_tags": "'text', 'image'"},
            },
            {
                "type": "extra_forbidden",
                "loc": ("body", "bad\ud800\nname" + "x" * 500),
                "msg": "Extra inputs are not permitted",
                "input": secret,
            },
        ]
    )
    message = invalid_request(error).message
    assert secret not in message
    assert "messages.0.content: type must be one of 'text', 'image'" in message
    assert "bad??name" in message
    assert len(message) < 500
    message.encode()


@pytest.mark.parametrize("reason", list(EndReason))
def test_every_bad_end_of_a_run_is_an_error(reason: EndReason):
    end = finished(reason, "What happened.", retry_at=NOW)
    error = outcomes.error_from(end, "claude")
    good = OUTCOMES.get(reason) is OUTCOMES[EndReason.STOP]
    assert (error is None) == good
    if error is not None:
        assert error.message == "What happened."
        assert error.remedy
        assert (error.reason, error.provider, error.retry_at) == (reason.value, "claude", NOW)


def test_limits_outages_and_dead_logins_are_told_apart():
    def status(reason: EndReason) -> tuple[int, str]:
        error: Any = outcomes.error_from(finished(reason), "claude")
        return error.status, error.code

    assert status(EndReason.WINDOW_EXHAUSTED) == (429, "window_exhausted")
    assert status(EndReason.RATE_LIMITED) == (429, "provider_rate_limited")
    assert status(EndReason.NEEDS_LOGIN) == (403, "needs_login")
    assert status(EndReason.PROVIDER_ERROR) == (502, "provider_error")
    assert status(EndReason.TIMED_OUT) == (504, "run_timed_out")
