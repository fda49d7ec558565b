"""Spawning, line framing with limits, the stop ladder, and what of the environment is passed on."""

from polydev.proc.environment import child_environment, host_environment, npm_environment
from polydev.proc.finishing import to_the_end
from polydev.proc.lines import DEFAULT_LINE_LIMIT_BYTES, LineFramer, LineTooLong
from polydev.proc.process import Process, ProcessEnded
from polydev.proc.tools import ToolAnswer, require_program, run_tool

__all__ = [
    "DEFAULT_LINE_LIMIT_BYTES",
    "LineFramer",
    "LineTooLong",
    "Process",
    "ProcessEnded",
    "ToolAnswer",
    "child_environment",
    "host_environment",
    "npm_environment",
    "require_program",
    "run_tool",
    "to_the_end",
]
