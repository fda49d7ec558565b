"""What speaks against a prompt before anything is started for it."""

from polydev.errors import InvalidRequest, PromptTooLarge
from polydev.models.runs import Image, Prompt, Text
from polydev.providers.base import Provider


def check_prompt(provider: Provider, prompt: Prompt, limit_bytes: int) -> None:
    """Raises PromptTooLarge, or InvalidRequest for what the provider's CLI does not take."""
    size = _size_bytes(prompt)
    if size > limit_bytes:
        raise PromptTooLarge(
            f"The prompt has {size} bytes; {limit_bytes} are taken.",
            remedy="Send less, or raise POLYDEV_RUNS__PROMPT_LIMIT_BYTES.",
        )
    if _has_images(prompt) and not provider.takes_images:
        raise InvalidRequest(f"{provider.title}'s CLI takes no images.", provider=provider.name)
    if prompt.history and not provider.takes_history:
        raise InvalidRequest(
            f"{provider.title}'s CLI takes no earlier turns.",
            remedy="Send a single user message.",
            provider=provider.name,
        )
    if not any(isinstance(part, Image) or part.text.strip() for part in prompt.question.parts):
        raise InvalidRequest("The prompt is empty.", remedy="Send some text.")


def _size_bytes(prompt: Prompt) -> int:
    try:
        return len(prompt.system.encode()) + sum(
            len(part.text.encode()) if isinstance(part, Text) else len(part.data)
            for turn in prompt.turns
            for part in turn.parts
        )
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "The prompt holds half of a character (one surrogate without the other).",
            remedy="Send text that is valid Unicode.",
        ) from error


def _has_images(prompt: Prompt) -> bool:
    return any(isinstance(part, Image) for turn in prompt.turns for part in turn.parts)
