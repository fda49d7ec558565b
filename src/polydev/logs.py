"""Logging: structured, to standard error, with everything that looks like a token masked."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from polydev.config import LogSettings
from polydev.secret import mask_tokens


def set_up_logging(settings: LogSettings) -> None:
    """Once, at the start of a process."""
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        masked,
    ]
    if settings.json_lines:
        processors.append(structlog.processors.JSONRenderer())
    else:
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries say what goes wrong in them through the standard module.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_MaskingFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def masked(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
    """Every text in a log line without what has the shape of a token."""
    return {name: _masked_value(value) for name, value in fields.items()}


class _MaskingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask_tokens(super().format(record))


def _masked_value(value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return mask_tokens(value)
        case Mapping():
            return {str(name): _masked_value(part) for name, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked_value(part) for part in value]
        case _:
            return mask_tokens(str(value))
