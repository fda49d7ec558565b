"""Parameters that a CLI cannot honour: named in `polydev-ignored`, or refused in strict mode."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection

from polydev.errors import UnsupportedParameter

# A model's name becomes an argument of a CLI; of an answer, as much is held back as a sequence has.
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]
StopSequence = Annotated[str, Field(max_length=1000)]

IGNORED_HEADER = "polydev-ignored"
STRICT_HEADER = "polydev-strict"


def ignored_parameters(request: BaseModel, harmless: Mapping[str, object]) -> list[str]:
    """The names of what was sent beyond the fields of the model, unless it changes nothing.

    harmless: name → the value with which it asks for nothing (`n` = 1).
    """
    extra = request.model_extra or {}
    return sorted(
        name[:64]
        for name, value in extra.items()
        if value is not None and not (name in harmless and harmless[name] in (value, ...))
    )


def headers_for(ignored: Iterable[str], connection: HTTPConnection) -> dict[str, str]:
    """The header that names them. Raises UnsupportedParameter in strict mode."""
    names = [name if name.isascii() and name.isprintable() else "?" for name in ignored]
    if not names:
        return {}
    if connection.headers.get(STRICT_HEADER) == "1":
        raise UnsupportedParameter(
            f"The CLI cannot honour: {', '.join(names)}.",
            remedy=f"Leave them out, or leave out `{STRICT_HEADER}: 1` to have them ignored.",
        )
    return {IGNORED_HEADER: ", ".join(names[:32])}
