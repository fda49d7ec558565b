"""`polydev run`."""

import contextlib
import json
import sys
from typing import Annotated, Any

import httpx
import typer

from polydev.cli.client import OwnerError, answering, raise_for, with_owner


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    model: Annotated[str, typer.Argument(help="PROVIDER or PROVIDER/MODEL.")],
    prompt: Annotated[str, typer.Argument(help="The question; `-` reads standard input.")],
    system: Annotated[str, typer.Option(help="System prompt.")] = "",
    user: Annotated[str | None, typer.Option(help="As which user; the first by default.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print events, one a line.")] = False,
) -> None:
    """Ask one question; the answer streams to standard output."""
    text = sys.stdin.read() if prompt == "-" else prompt
    body = {"model": model, "prompt": text, "system": system}

    async def work(client: httpx.AsyncClient) -> None:
        headers = {"polydev-user": user} if user else {}
        with answering():
            answer = await client.post("/v1/runs", json=body, headers=headers)
        raise_for(answer.status_code, answer.content)
        path = f"/v1/runs/{answer.json()['id']}"
        try:
            with answering():
                async with client.stream("GET", f"{path}/events", headers=headers) as stream:
                    async for line in stream.aiter_lines():
                        if line.startswith("data: "):
                            _show(line.removeprefix("data: "), as_json=as_json)
        except BaseException:
            # A gateway that is gone has ended the run with it; what happened first is to be told.
            with contextlib.suppress(httpx.HTTPError):
                await client.delete(path, headers=headers)
            raise

    with_owner(work)


def _show(line: str, *, as_json: bool) -> None:
    if as_json:
        print(line, flush=True)
    event: dict[str, Any] = json.loads(line)
    if event["type"] == "text.delta" and not as_json:
        print(event["text"], end="", flush=True)
    if event["type"] == "run.finished":
        if not as_json:
            print(flush=True)
        if event["outcome"] != "succeeded":
            retry = f" Try again at {event['retry_at']}." if event["retry_at"] else ""
            raise OwnerError(
                f"The run {event['outcome']} ({event['reason']}): {event['message']}{retry}"
            )
