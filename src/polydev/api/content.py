"""Message content of both vendors' formats as turns."""

import base64
import binascii
import re
from collections.abc import Iterable

from polydev.errors import InvalidRequest
from polydev.models.runs import Image, Part, Text, Turn

_DATA_URL = re.compile(r"data:([\w./+-]+);base64,(.*)", re.DOTALL)
_IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


def image_from_url(url: str) -> Image:
    """Raises InvalidRequest for anything but a base64 data URL."""
    match = _DATA_URL.fullmatch(url)
    if match is None:
        raise InvalidRequest(
            "An image is given by an address that is not a data URL.",
            remedy="Send the image itself: `data:image/png;base64,…`. Nothing is fetched for you.",
        )
    return image(match[1], match[2])


def image(media_type: str, data: str) -> Image:
    if media_type not in _IMAGE_TYPES:
        raise InvalidRequest(
            f"Images of type {media_type[:40]!r} are not taken.",
            remedy=f"Send one of: {', '.join(sorted(_IMAGE_TYPES))}.",
        )
    try:
        empty = not base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        empty = True
    if empty:
        raise InvalidRequest("An image's data is not valid base64.")
    return Image(media_type=media_type, data=data)


def turns(messages: Iterable[tuple[str, tuple[Part, ...]]]) -> tuple[Turn, ...]:
    """Turns with the consecutive ones of one role joined, as both vendors do.

    Raises InvalidRequest when there is nothing to answer.
    """
    joined: list[Turn] = []
    for role, parts in messages:
        kept = tuple(part for part in parts if not isinstance(part, Text) or part.text)
        if not kept:
            continue
        assert role in ("user", "assistant")
        if joined and joined[-1].role == role:
            separator = (Text(text="\n\n"),) if _text_meets_text(joined[-1].parts, kept) else ()
            joined[-1] = Turn(role=joined[-1].role, parts=joined[-1].parts + separator + kept)
        else:
            joined.append(Turn(role="user" if role == "user" else "assistant", parts=kept))
    if not joined:
        raise InvalidRequest("The prompt is empty.", remedy="Send at least one user message.")
    if joined[-1].role != "user":
        raise InvalidRequest(
            "The last message is the assistant's; the CLIs cannot continue one.",
            remedy="End the list with a user message.",
        )
    return tuple(joined)


def _text_meets_text(before: tuple[Part, ...], after: tuple[Part, ...]) -> bool:
    return isinstance(before[-1], Text) and isinstance(after[0], Text)
