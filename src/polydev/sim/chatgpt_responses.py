"""OpenAI's Responses format as codex speaks it: a request → what was asked, an answer → events."""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from polydev.sim.speech import Answer, Prompt, Tool, Turn, pieces

_TEXTS = ("input_text", "output_text", "text")
# What codex puts into user messages itself.
_SURROUNDINGS = (
    "<environment_context",
    "<user_instructions",
    "<permissions",
    "<skills",
    "# AGENTS",
)

Event = tuple[dict[str, Any], bool]


def turns_of(items: Iterable[Any]) -> tuple[Turn, ...]:
    """The turns in the `input` of a request. Odd parts are passed over, never refused."""
    found: list[Turn] = []
    for item in items:
        if not isinstance(item, dict):
            continue
        kind = item.get("type", "message")
        if kind == "message":
            found.append(_message_turn(item))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            found.append(Turn(role="tool", text=_text(item.get("output"))))
    return tuple(turn for turn in found if turn.text or turn.images)


def prompt_of(body: Mapping[str, Any], turns: tuple[Turn, ...]) -> Prompt:
    """What a model would see of a request whose input is `turns`."""
    format_ = (body.get("text") or {}).get("format") or {}
    offered = list(body.get("tools") or [])
    for item in body.get("input") or []:
        # The light form of a request carries its tools as an item of the input.
        if isinstance(item, dict) and item.get("type") == "additional_tools":
            offered += item.get("tools") or []
    own = [turn.text for turn in turns if turn.role == "system"]
    return Prompt(
        turns=turns,
        system=str(body.get("instructions") or "") or "\n".join(own),
        schema=format_.get("schema") if format_.get("type") == "json_schema" else None,
        tools=tuple(_tools(offered)),
        thinking=bool(body.get("reasoning")),
    )


def _tools(offered: Iterable[Any], namespace: str = "") -> Iterator[Tool]:
    for tool in offered:
        if not isinstance(tool, dict) or not tool.get("name"):
            continue
        if tool.get("type") == "namespace" and not namespace:
            yield from _tools(tool.get("tools") or [], str(tool["name"]))
        elif tool.get("type") == "function":
            yield Tool(
                name=str(tool["name"]), schema=tool.get("parameters") or {}, namespace=namespace
            )


def answer_turn(said: Answer) -> Turn:
    """The answer as a turn of what follows."""
    return Turn(role="assistant", text=said.text or said.reasoning or "called a tool")


def events_of(body: Mapping[str, Any], said: Answer | None) -> list[Event]:
    """The events of a whole answer, each with whether it is a piece of text.

    None answers a request that only warms up (`generate: false`).
    """
    response: dict[str, Any] = {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": round(datetime.now(UTC).timestamp()),
        "status": "in_progress",
        "model": body.get("model"),
        "output": [],
        "usage": None,
    }
    output: list[dict[str, Any]] = []
    events: list[Event] = [
        ({"type": "response.created", "response": response}, False),
        ({"type": "response.in_progress", "response": response}, False),
    ]
    if said is not None:
        if said.reasoning:
            events += _reasoning(said, output)
        if said.text:
            events += _message(said, output)
        if said.call is not None:
            events += _call(said, output)
    ended = {**response, "status": "completed", "output": output, "usage": _usage(said)}
    events.append(({"type": "response.completed", "response": ended}, False))
    return [({**event, "sequence_number": at}, text) for at, (event, text) in enumerate(events)]


def response_id(events: list[Event]) -> str:
    identifier: str = events[0][0]["response"]["id"]
    return identifier


def _message_turn(item: Mapping[str, Any]) -> Turn:
    content = item.get("content")
    parts = content if isinstance(content, list) else [{"type": "input_text", "text": content}]
    parts = [part for part in parts if isinstance(part, dict)]
    texts = [str(part.get("text") or "") for part in parts if part.get("type") in _TEXTS]
    own = [text for text in texts if not text.lstrip().startswith(_SURROUNDINGS)]
    role: Literal["user", "assistant", "system"] = "user"
    if item.get("role") == "assistant":
        role = "assistant"
    elif item.get("role") in ("developer", "system") or (texts and not own):
        role = "system"
    return Turn(
        role=role,
        text="\n".join(own or texts),
        images=sum(1 for part in parts if part.get("type") == "input_image"),
    )


def _text(output: Any) -> str:
    if isinstance(output, str):
        return output
    if isinstance(output, list):
        return "\n".join(str(part.get("text", "")) for part in output if isinstance(part, dict))
    return json.dumps(output)


def _reasoning(said: Answer, output: list[dict[str, Any]]) -> list[Event]:
    item: dict[str, Any] = {"type": "reasoning", "id": _id("rs"), "summary": []}
    place = {"item_id": item["id"], "output_index": len(output), "summary_index": 0}
    part = {"type": "summary_text", "text": said.reasoning}
    done = {**item, "summary": [part], "encrypted_content": "made-up"}
    index = len(output)
    output.append(done)
    return [
        ({"type": "response.output_item.added", "output_index": index, "item": item}, False),
        (
            {
                "type": "response.reasoning_summary_part.added",
                **place,
                "part": {**part, "text": ""},
            },
            False,
        ),
        *(
            ({"type": "response.reasoning_summary_text.delta", **place, "delta": piece}, True)
            for piece in pieces(said.reasoning)
        ),
        (
            {"type": "response.reasoning_summary_text.done", **place, "text": said.reasoning},
            False,
        ),
        ({"type": "response.reasoning_summary_part.done", **place, "part": part}, False),
        ({"type": "response.output_item.done", "output_index": index, "item": done}, False),
    ]


def _message(said: Answer, output: list[dict[str, Any]]) -> list[Event]:
    item: dict[str, Any] = {
        "type": "message",
        "id": _id("msg"),
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    place = {"item_id": item["id"], "output_index": len(output), "content_index": 0}
    part = {"type": "output_text", "text": said.text, "annotations": []}
    done = {**item, "status": "completed", "content": [part]}
    index = len(output)
    output.append(done)
    return [
        ({"type": "response.output_item.added", "output_index": index, "item": item}, False),
        ({"type": "response.content_part.added", **place, "part": {**part, "text": ""}}, False),
        *(
            ({"type": "response.output_text.delta", **place, "delta": chunk}, True)
            for chunk in said.chunks
        ),
        ({"type": "response.output_text.done", **place, "text": said.text}, False),
        ({"type": "response.content_part.done", **place, "part": part}, False),
        ({"type": "response.output_item.done", "output_index": index, "item": done}, False),
    ]


def _call(said: Answer, output: list[dict[str, Any]]) -> list[Event]:
    assert said.call is not None
    arguments = json.dumps(said.call.arguments)
    item: dict[str, Any] = {
        "type": "function_call",
        "id": _id("fc"),
        "call_id": _id("call"),
        "name": said.call.name,
        "arguments": "",
        "status": "in_progress",
    }
    if said.call.namespace:
        item["namespace"] = said.call.namespace
    place = {"item_id": item["id"], "output_index": len(output)}
    done = {**item, "arguments": arguments, "status": "completed"}
    index = len(output)
    output.append(done)
    return [
        ({"type": "response.output_item.added", "output_index": index, "item": item}, False),
        *(
            ({"type": "response.function_call_arguments.delta", **place, "delta": piece}, True)
            for piece in pieces(arguments)
        ),
        (
            {"type": "response.function_call_arguments.done", **place, "arguments": arguments},
            False,
        ),
        ({"type": "response.output_item.done", "output_index": index, "item": done}, False),
    ]


def _usage(said: Answer | None) -> dict[str, Any]:
    sent = said.input_tokens if said else 0
    given = said.output_tokens if said else 0
    return {
        "input_tokens": sent,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": given,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sent + given,
    }


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
