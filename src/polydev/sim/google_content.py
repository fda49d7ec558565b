"""Google's generation format: a request body → what was asked, an answer → one response or many.

The Gemini API and Code Assist speak the same format; Code Assist wraps request and response once
more, which polydev.sim.google does.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from polydev.sim.speech import Answer, Prompt, Tool, Turn, pieces

# The CLI describes its surroundings in a part of its own, before the person's words.
_SURROUNDINGS = "<session_context>"
_JOINER = "\N{WORD JOINER}"


def prompt_of(body: Mapping[str, Any]) -> Prompt:
    """What a model would see of this request. Odd parts are passed over, never refused."""
    contents = body.get("contents")
    contents = contents if isinstance(contents, list) else []
    settings = _settings(body)
    thinking = settings.get("thinkingConfig")
    schema = settings.get("responseJsonSchema") or settings.get("responseSchema")
    return Prompt(
        turns=tuple(_turn(entry) for entry in contents if isinstance(entry, dict)),
        system=_text(_parts(body.get("systemInstruction"))),
        schema=schema if isinstance(schema, dict) else None,
        tools=tuple(_tools(body)),
        thinking=isinstance(thinking, dict) and bool(thinking.get("includeThoughts")),
    )


def responses(body: Mapping[str, Any], said: Answer, model: str) -> list[dict[str, Any]]:
    """The answer as a stream's responses: the last one says how it ended and what was used."""
    chunks, reason = _within(body, said)
    shell = {"modelVersion": model, "responseId": uuid.uuid4().hex[:22]}
    parts: list[dict[str, Any]] = []
    if said.reasoning:
        parts.append({"text": f"**Reading the question**\n\n{said.reasoning}", "thought": True})
    parts += [{"text": chunk} for chunk in chunks]
    if said.call is not None:
        parts.append({"functionCall": {"name": said.call.name, "args": said.call.arguments}})
    steps = [
        {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}], **shell}
        for part in parts
    ]
    end = {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": reason}
    last = {"candidates": [end | {"index": 0}], "usageMetadata": _usage(said, chunks), **shell}
    return [*steps, last]


def whole(body: Mapping[str, Any], said: Answer, model: str) -> dict[str, Any]:
    """The same as one response."""
    many = responses(body, said, model)
    parts = [
        part
        for response in many[:-1]
        for candidate in response["candidates"]
        for part in candidate["content"]["parts"]
    ]
    joined = "".join(part["text"] for part in parts if "text" in part and "thought" not in part)
    kept = [part for part in parts if "thought" in part or "functionCall" in part]
    if joined:
        kept.append({"text": joined})
    last = many[-1]
    last["candidates"][0]["content"] = {"role": "model", "parts": kept}
    return last


def has_text(response: Mapping[str, Any]) -> bool:
    """Whether a stream's response is one of those that a pace and a cut count."""
    content = response["candidates"][0]["content"]
    return any(part.get("text") and "thought" not in part for part in content["parts"])


def _turn(entry: Mapping[str, Any]) -> Turn:
    parts = _parts(entry)
    results = [part["functionResponse"] for part in parts if "functionResponse" in part]
    if results:
        return Turn(role="tool", text=json.dumps(results[-1].get("response"), ensure_ascii=False))
    images = sum(1 for part in parts if "inlineData" in part)
    if entry.get("role") == "model":
        return Turn(role="assistant", text=_text(parts), images=images)
    said = [part for part in parts if not str(part.get("text")).startswith(_SURROUNDINGS)]
    # A joiner in front is nothing to a model; it keeps the CLI from taking words for a command.
    text = _text(said or parts).lstrip(_JOINER)
    return Turn(role="user" if said else "system", text=text, images=images)


def _parts(content: Any) -> list[dict[str, Any]]:
    parts = content.get("parts") if isinstance(content, dict) else None
    return [part for part in parts or [] if isinstance(part, dict)]


def _text(parts: list[dict[str, Any]]) -> str:
    return "".join(str(part.get("text") or "") for part in parts if not part.get("thought"))


def _settings(body: Mapping[str, Any]) -> dict[str, Any]:
    settings = body.get("generationConfig")
    return settings if isinstance(settings, dict) else {}


def _tools(body: Mapping[str, Any]) -> list[Tool]:
    groups = [group for group in body.get("tools") or [] if isinstance(group, dict)]
    return [
        Tool(
            name=str(declared.get("name", "")),
            schema=declared.get("parametersJsonSchema") or declared.get("parameters") or {},
        )
        for group in groups
        for declared in group.get("functionDeclarations") or []
        if isinstance(declared, dict)
    ]


def _within(body: Mapping[str, Any], said: Answer) -> tuple[tuple[str, ...], str]:
    most = _settings(body).get("maxOutputTokens")
    if isinstance(most, int) and 0 < most < len(said.chunks):
        return said.chunks[:most], "MAX_TOKENS"
    return said.chunks, "STOP"


def _usage(said: Answer, chunks: tuple[str, ...]) -> dict[str, Any]:
    written = max(1, len(chunks))
    usage = {
        "promptTokenCount": said.input_tokens,
        "candidatesTokenCount": written,
        "totalTokenCount": said.input_tokens + written,
    }
    thought = len(pieces(said.reasoning))
    if thought:
        usage["thoughtsTokenCount"] = thought
        usage["totalTokenCount"] += thought
    return usage
