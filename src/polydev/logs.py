"""Logging: structured, to standard error, with everything that looks like a token masked."""

import logging
import sys
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
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s"
    )


def masked(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
    """Every text in a log line without what has the shape of a token."""
    return {name: _masked_value(value) for name, value in fields.items()}


def _masked_value(value: Any) -> Any:
    return mask_tokens(value) if isinstance(value, str) else value
