"""No log line shows what has the shape of a token, wherever in it that stands."""

import json
import subprocess
import sys

import pytest

from polydev.logs import masked

TOKENS = {
    "anthropic access": "sk-ant-oat01-made-up-access-token-0001",
    "anthropic refresh": "sk-ant-ort01-made-up-refresh-token-0001",
    "anthropic key": "sk-ant-api03-made-up-key-000000000001",
    "openai key": "sk-proj-madeup0000000000000000",
    "our key": "polydev_0123456789abcdef0123456789abcdef",
    "google access": "ya29.a0made-up-token",
    "google refresh": "1//0made-up-refresh-token",
    "google key": "AIzaSyMadeUpMadeUpMadeUpMadeUpMadeUp",
    "json web token": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtYWRlLXVwIn0.bWFkZS11cA",
    "bearer": "Bearer made-up-opaque-value",
    "login of an address": "made-up-user:made-up-password",
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_tokens_are_masked_in_every_kind_of_value(token: str):
    secret = token.removeprefix("Bearer ")
    if ":" in token:
        token = f"http://{token}@proxy.example:1"
    fields = {
        "event": f"something about {token} happened",
        "text": token,
        "mapping": {"inner": f"a {token}", "deeper": [{"x": token}]},
        "several": [token, (token, 1)],
        "error": ValueError(f"no {token}"),
        "content": token.encode(),
        "number": 3,
        "nothing": None,
        "flag": True,
    }
    shown = masked(None, "info", dict(fields))
    assert secret not in repr(shown)
    assert (shown["number"], shown["nothing"], shown["flag"]) == (3, None, True)


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_whole_process_writes_no_token(json_lines: bool):
    """Through structlog, with a traceback, and through the standard module as libraries do."""
    token = TOKENS["anthropic access"]
    script = f"""
import logging, structlog
from polydev.config import LogSettings
from polydev.logs import set_up_logging
set_up_logging(LogSettings(json_lines={json_lines}))
log = structlog.get_logger()
log.warning("plain", value={token!r}, nested={{"a": [{token!r}]}})
try:
    raise ValueError({token!r})
except ValueError:
    log.exception("failed")
    logging.getLogger("some.library").exception("library failed with %s", {token!r})
logging.getLogger("some.library").warning("saw %s", {token!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "plain" in done.stderr
    assert "library failed" in done.stderr
    assert "ValueError" in done.stderr
    # The script's own line in a traceback shows the literal; values never.
    assert token not in done.stderr
    if json_lines:
        first = json.loads(done.stderr.splitlines()[0])
        assert first["event"] == "plain"
