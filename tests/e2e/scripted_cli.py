#!/usr/bin/python3 -IS
"""See scripted.py. Runs inside a sandbox with the system's Python and nothing else."""

import http.client
import json
import os
import signal
import socket
import sys
import time
from typing import Any

SECONDS = 20


def show(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    show(
        {
            "type": "stream_event",
            "event": {
                "type": "content_block_delta",
                "delta": {"type": "text_delta", "text": text},
            },
        }
    )


def end() -> None:
    usage = {"input_tokens": 3, "output_tokens": 5}
    show(
        {
            "type": "result",
            "subtype": "success",
            "is_error": False,
            "stop_reason": "end_turn",
            "usage": usage,
        }
    )


class OverSocket(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(os.environ["ANTHROPIC_UNIX_SOCKET"])


def ask(request: dict[str, Any]) -> dict[str, Any]:
    """Status and body of what egress answers, or why nothing came."""
    try:
        if request["over"] == "direct":
            with socket.create_connection((request["host"], request["port"]), 5):
                return {"reached": True}
        connection = OverSocket(request.get("host", "api.anthropic.com"), timeout=SECONDS)
        headers = dict(request.get("headers", {}))
        sentinel = os.environ["CLAUDE_CODE_OAUTH_TOKEN"]
        headers.setdefault("authorization", "Bearer " + sentinel)
        connection.request(
            request.get("method", "GET"), request["path"], request.get("body"), headers
        )
        answer = connection.getresponse()
        return {"status": answer.status, "body": answer.read(4096).decode(errors="replace")}
    except OSError as error:
        return {"error": type(error).__name__, "words": str(error)}


def carry_out(command: dict[str, Any]) -> None:
    what = command["do"]
    if what == "say":
        say(command["text"])
    elif what == "die":
        sys.stderr.write("cannot go on\n")
        sys.stderr.flush()
        os._exit(command.get("code", 3))
    elif what == "garbage":
        os.write(1, b"\x00\xff\xfe{{{\n\x1b[31mnot json\n")
    elif what == "huge_line":
        piece = b"x" * 65536
        for _ in range(command["bytes"] // len(piece)):
            os.write(1, piece)
        time.sleep(600)
    elif what == "hang":
        time.sleep(600)
    elif what == "ignore_sigterm":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        say("deaf")
        while True:
            time.sleep(600)
    elif what == "drip":
        for piece in command["pieces"]:
            say(piece)
            time.sleep(command["seconds"])
    elif what == "ask":
        say(json.dumps([ask(request) for request in command["requests"]]))


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("shouldQuery") is False:
            show({"type": "result", "subtype": "success", "is_error": False})
        if message["type"] != "user" or message.get("shouldQuery") is False:
            continue
        text = "".join(part.get("text", "") for part in message["message"]["content"])
        show({"type": "system", "subtype": "init", "model": "scripted"})
        try:
            command = json.loads(text)
        except ValueError:
            command = None
        if isinstance(command, dict) and "do" in command:
            carry_out(command)
        else:
            say("You said: " + text)
        end()


def log_in() -> None:
    """As a CLI whose words have changed."""
    print("A sentence that no version before has said.", flush=True)
    sys.stdin.read()


if sys.argv[1:3] == ["auth", "login"]:
    log_in()
else:
    main()
