"""Anthropic's message format: a request body → what was asked, an answer → message or stream."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from polydev.sim.speech import Answer, Prompt, Tool, Turn, pieces
from polydev.sim.wire import Frame, server_event

_REMINDER = "<system-reminder>"


def prompt_of(body: Mapping[str, Any]) -> Prompt:
    """What a model would see of this request. Odd parts are passed over, never refused."""
    turns = [_turn(entry) for entry in body.get("messages") or [] if isinstance(entry, dict)]
    tools = [tool for tool in body.get("tools") or [] if isinstance(tool, dict)]
    output = body.get("output_config") or {}
    format_ = output.get("format") or body.get("output_format") or {}
    thinking = (body.get("thinking") or {}).get("type", "disabled")
    return Prompt(
        turns=tuple(turns),
        system=_text(body.get("system")),
        schema=format_.get("schema") if isinstance(format_, dict) else None,
        tools=tuple(
            Tool(name=str(tool.get("name", "")), schema=tool.get("input_schema") or {})
            for tool in tools
        ),
        thinking=thinking != "disabled",
    )


def message(body: Mapping[str, Any], said: Answer) -> dict[str, Any]:
    """The whole message, as a request without `stream` is answered."""
    chunks, stop_reason = _within(body, said)
    content: list[dict[str, Any]] = []
    if said.reasoning:
        content.append({"type": "thinking", "thinking": said.reasoning, "signature": "made-up"})
    if said.text:
        content.append({"type": "text", "text": "".join(chunks)})
    if said.call is not None:
        content.append(
            {
                "type": "tool_use",
                "id": _id("toolu"),
                "name": said.call.name,
                "input": said.call.arguments,
            }
        )
    return {
        **_shell(body),
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": _usage(said, len(chunks)),
    }


def stream_frames(body: Mapping[str, Any], said: Answer) -> list[Frame]:
    """The same as server-sent events."""
    chunks, stop_reason = _within(body, said)
    start = {
        **_shell(body),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(said, 1),
    }
    frames = [
        _frame({"type": "message_start", "message": start}),
    ]
    index = 0
    if said.reasoning:
        frames += _block(
            index,
            {"type": "thinking", "thinking": "", "signature": ""},
            [
                *(
                    {"type": "thinking_delta", "thinking": piece}
                    for piece in pieces(said.reasoning)
                ),
                {"type": "signature_delta", "signature": "made-up"},
            ],
        )
        index += 1
    if said.text:
        frames += _block(
            index,
            {"type": "text", "text": ""},
            [{"type": "text_delta", "text": chunk} for chunk in chunks],
        )
        index += 1
    if said.call is not None:
        frames += _block(
            index,
            {"type": "tool_use", "id": _id("toolu"), "name": said.call.name, "input": {}},
            [
                {"type": "input_json_delta", "partial_json": piece}
                for piece in pieces(json.dumps(said.call.arguments))
            ],
        )
    frames.insert(2, _frame({"type": "ping"}))
    frames.append(
        _frame(
            {
                "type": "message_delta",
                "delta": {"stop_reason": stop_reason, "stop_sequence": None},
                "usage": _usage(said, len(chunks)),
            }
        )
    )
    frames.append(_frame({"type": "message_stop"}))
    return frames


def _turn(entry: Mapping[str, Any]) -> Turn:
    content = entry.get("content")
    blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
    blocks = [block for block in blocks if isinstance(block, dict)]
    results = [block for block in blocks if block.get("type") == "tool_result"]
    texts = [
        str(block.get("text") or "")
        for block in blocks
        if block.get("type") == "text" and not str(block.get("text")).startswith(_REMINDER)
    ]
    if results and not any(text.strip() for text in texts):
        return Turn(role="tool", text="\n".join(_text(block.get("content")) for block in results))
    role = entry.get("role")
    return Turn(
        # claude adds its own surroundings as messages of the role "system".
        role=role if role in ("assistant", "system") else "user",
        # claude puts what it adds itself in blocks before the person's own words.
        text=texts[-1] if texts else "",
        images=sum(1 for block in blocks if block.get("type") == "image"),
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(
        str(block.get("text") or "")
        for block in content
        if isinstance(block, dict) and block.get("type") == "text"
    )


def _within(body: Mapping[str, Any], said: Answer) -> tuple[tuple[str, ...], str]:
    most = body.get("max_tokens")
    if isinstance(most, int) and 0 < most < len(said.chunks):
        return said.chunks[:most], "max_tokens"
    return said.chunks, "tool_use" if said.call is not None else "end_turn"


def _shell(body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": _id("msg"),
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
    }


def _usage(said: Answer, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": said.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": max(1, output_tokens),
        "service_tier": "standard",
    }


def _block(index: int, start: dict[str, Any], deltas: list[dict[str, Any]]) -> list[Frame]:
    return [
        _frame({"type": "content_block_start", "index": index, "content_block": start}),
        *(
            _frame({"type": "content_block_delta", "index": index, "delta": delta}, is_text=True)
            for delta in deltas
        ),
        _frame({"type": "content_block_stop", "index": index}),
    ]


def _frame(data: dict[str, Any], *, is_text: bool = False) -> Frame:
    return Frame(content=server_event(data), is_text=is_text)


def _id(prefix: str) -> str:
    return f"{prefix}_01{uuid.uuid4().hex[:22]}"
