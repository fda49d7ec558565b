"""Turns as an agent takes them for what they are.

Agents look at how a text begins: a slash is a command to them, and some beginnings make a past
turn disappear. A word joiner (U+2060, no width, no meaning) in front keeps the words words.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from polydev.models.runs import Part, Prompt, Text, Turn
from polydev.providers.acp.agent import Agent

_JOINER = "\N{WORD JOINER}"
# What JavaScript's trim() takes off, beside what Python's does.
_BLANKS = re.compile(r"[\s\ufeff]*")


def guarded(turn: Turn, beginnings: Sequence[str]) -> Turn:
    """The turn, so that it does not begin with any of these."""
    first = next((n for n, part in enumerate(turn.parts) if isinstance(part, Text)), None)
    if first is None:
        return turn
    text = turn.text()
    if not text[_blank(text) :].startswith(tuple(beginnings)):
        return turn
    parts: list[Part] = list(turn.parts)
    parts[first] = Text(text=_JOINER + turn.parts[first].text)  # type: ignore[union-attr]
    return replace(turn, parts=tuple(parts))


def past_turns(agent: Agent, prompt: Prompt) -> tuple[Turn, ...]:
    """The history as the agent's session file is to hold it: no blank turns, none that vanish."""
    turns = prompt.history or (Turn(role="user", parts=()),)
    return tuple(
        guarded(turn, agent.guard.history) if turn.role == "user" else turn
        for turn in map(_filled, turns)
    )


def system_text(agent: Agent, prompt: Prompt) -> str:
    """The system prompt, so that nothing in it is filled in."""
    return re.sub(
        agent.guard.substituted, lambda found: found[0][0] + _JOINER + found[0][1:], prompt.system
    )


def _filled(turn: Turn) -> Turn:
    text = turn.text()
    has_more = any(not isinstance(part, Text) for part in turn.parts)
    if has_more or _blank(text) < len(text):
        return turn
    return replace(turn, parts=(Text(text=_JOINER),))


def _blank(text: str) -> int:
    match = _BLANKS.match(text)
    return match.end() if match else 0
