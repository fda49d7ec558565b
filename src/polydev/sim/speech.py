"""What the stand-ins say: a pure function of what they were sent.

Arithmetic is computed, "count to N" counts, "write N words" writes as many; anything else is
answered with facts about the prompt itself. There is no canned answer, so a test that compares
an answer proves that its own prompt arrived. Nothing here fails: a prompt that looks like
arithmetic and cannot be computed is answered as an ordinary one.
"""

import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from polydev.sim.arithmetic import find_result

LONGEST_COUNT = 20_000

_COUNT = re.compile(r"\bcount\s+(?:from\s+1\s+)?(?:up\s+)?to\s+(\d{1,9})\b", re.IGNORECASE)
_WORDS = re.compile(r"\bwrite\s+(?:about\s+)?(\d{1,9})\s+words\b", re.IGNORECASE)
_THINK = re.compile(r"\bthink\b", re.IGNORECASE)
_TOOL = re.compile(r"\b(?:call|use) the tool\s+[`\"']?([\w.-]+)", re.IGNORECASE)
_CHUNK = re.compile(r"\s*\S{1,6}|\s+\Z")
_VOCABULARY = (
    *("one", "river", "runs", "past", "seven", "quiet", "houses", "while", "evening", "light"),
    *("moves", "over", "stone", "and", "water"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message of the conversation that a provider was sent."""

    role: Literal["user", "assistant", "system", "tool"]
    text: str
    images: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A function that was offered to the model; some vendors group them in namespaces."""

    name: str
    schema: dict[str, Any] = field(default_factory=dict)
    namespace: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A function that the answer calls. When there is one, there is no text."""

    name: str
    arguments: dict[str, Any]
    namespace: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Everything that a model would see. The last user turn is the question.

    schema: the JSON schema that the answer was asked to obey, if any.
    thinking: the request allows reasoning; it is given when the question says "think".
    """

    turns: tuple[Turn, ...]
    system: str = ""
    schema: dict[str, Any] | None = None
    tools: tuple[Tool, ...] = ()
    thinking: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What is said, already cut into the pieces of a stream: they join to `text` exactly."""

    text: str
    chunks: tuple[str, ...]
    input_tokens: int
    output_tokens: int
    reasoning: str = ""
    call: ToolCall | None = None


def answer(prompt: Prompt) -> Answer:
    """The answer to `prompt`."""
    question, _ = _question(prompt)
    call = _call(prompt, question)
    text = "" if call is not None else _speak(prompt)
    if prompt.schema is not None and call is None:
        text = json.dumps(shaped(prompt.schema, text), ensure_ascii=False)
    chunks = pieces(text)
    reasoning = ""
    if prompt.thinking and _THINK.search(question.text):
        reasoning = f"The question has {_plural(len(question.text.split()), 'word')}."
    sent = count_tokens(prompt.system) + sum(
        count_tokens(turn.text) + 1000 * turn.images for turn in prompt.turns
    )
    return Answer(
        text=text,
        chunks=chunks,
        input_tokens=max(1, sent),
        output_tokens=max(1, len(chunks)),
        reasoning=reasoning,
        call=call,
    )


def pieces(text: str) -> tuple[str, ...]:
    """`text` cut as a tokenizer might; the pieces join to it exactly."""
    return tuple(_CHUNK.findall(text))


def count_tokens(text: str) -> int:
    return len(pieces(text))


def shaped(schema: dict[str, Any], text: str, *, depth: int = 0) -> Any:
    """A value that obeys the common part of a JSON schema, with `text` as its strings."""
    if depth > 20:
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return shaped(schema[union][0], text, depth=depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    match kind:
        case "object":
            return {
                name: shaped(part, text, depth=depth + 1)
                for name, part in schema.get("properties", {}).items()
            }
        case "array":
            count = max(1, int(schema.get("minItems", 1)))
            return [shaped(schema.get("items", {}), text, depth=depth + 1)] * count
        case "integer" | "number":
            number = re.search(r"-?\d+(?:\.\d+)?", text)
            value = float(number[0]) if number else 0.0
            return int(value) if kind == "integer" or value.is_integer() else value
        case "boolean":
            return True
        case "null":
            return None
    return text


def _call(prompt: Prompt, question: Turn) -> ToolCall | None:
    """A question that says `call the tool NAME {arguments}` calls it, once.

    A tool that gives the answer its shape is always called.
    """
    if prompt.turns and prompt.turns[-1].role == "tool":
        return None
    shaping = next((tool for tool in prompt.tools if tool.name == "StructuredOutput"), None)
    if shaping is not None:
        arguments = shaped(shaping.schema, _speak(prompt))
        return ToolCall(name=shaping.name, arguments=arguments)
    asked = _TOOL.search(question.text)
    if asked is None:
        return None
    tool = next((one for one in prompt.tools if one.name.endswith(asked[1])), None)
    if tool is None:
        return None
    arguments = None
    opening = question.text.find("{", asked.end())
    if opening >= 0:
        with contextlib.suppress(ValueError):
            arguments, _ = json.JSONDecoder().raw_decode(question.text, opening)
    if not isinstance(arguments, dict):
        arguments = shaped({"type": "object", **tool.schema}, question.text)
    return ToolCall(name=tool.name, arguments=arguments, namespace=tool.namespace)


def _speak(prompt: Prompt) -> str:
    if prompt.turns and prompt.turns[-1].role == "tool":
        return f"The tool answered: {prompt.turns[-1].text}"
    question, earlier = _question(prompt)
    result = find_result(question.text)
    if result is not None:
        return result
    count = _COUNT.search(question.text)
    if count:
        return " ".join(str(number) for number in range(1, _bounded(count[1]) + 1))
    wanted = _WORDS.search(question.text)
    if wanted:
        return " ".join(
            _VOCABULARY[number % len(_VOCABULARY)] for number in range(_bounded(wanted[1]))
        )
    return _about(prompt, question, earlier)


def _question(prompt: Prompt) -> tuple[Turn, tuple[Turn, ...]]:
    for index in range(len(prompt.turns) - 1, -1, -1):
        if prompt.turns[index].role == "user":
            return prompt.turns[index], prompt.turns[:index]
    return Turn(role="user", text=""), prompt.turns


def _bounded(digits: str) -> int:
    return min(int(digits), LONGEST_COUNT)


def _about(prompt: Prompt, question: Turn, earlier: tuple[Turn, ...]) -> str:
    words = question.text.split()
    first = " ".join(words[:6])[:80]
    earlier = tuple(turn for turn in earlier if turn.role != "system")
    images = question.images + sum(turn.images for turn in earlier)
    facts = [
        f"You sent {_plural(len(words), 'word')}" + (f", beginning “{first}”." if first else "."),
        f"Before that came {_plural(len(earlier), 'turn')}.",
        f"I saw {_plural(images, 'image')}.",
        f"The system prompt has {_plural(len(prompt.system), 'character')}.",
    ]
    return " ".join(facts)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
