"""The parts of the documentation that are made from the code.

`python -m tests.docs.generate` writes them; the tests beside this module hold them current. A
page keeps its own words: only what stands between its two markers is replaced. A page without
the markers raises ValueError.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import click
from pydantic.fields import FieldInfo
from typer.main import get_command
from typer.testing import CliRunner

from polydev.cli.app import app
from polydev.config import Section, Settings

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- generated -->", "<!-- end of generated -->"

# Defaults that are made at run time, in words.
_MADE_DEFAULTS = {"data": "`~/.local/share/polydev`"}
_NO_DEFAULT = "–"


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its dotted name."""
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            for inner, inner_field in kind.model_fields.items():
                yield f"{name}.{inner}", inner_field
        else:
            yield name, field


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return "POLYDEV_" + name.upper().replace(".", "__")


def default_text(name: str, field: FieldInfo) -> str:
    """A default as the page shows it."""
    if name in _MADE_DEFAULTS:
        return _MADE_DEFAULTS[name]
    value = field.get_default(call_default_factory=True)
    if value in (None, "", ()):
        return _NO_DEFAULT
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def settings_tables() -> str:
    parts: list[str] = []
    section = None
    for name, field in sorted(settings(), key=lambda item: "." in item[0]):
        head = name.rpartition(".")[0]
        if head != section:
            section = head
            parts.append(f"\n## {head or 'General'}\n")
            parts.append("| setting | variable | kind | default | what it does |")
            parts.append("|---|---|---|---|---|")
        assert field.description, f"{name} has no description"
        words = field.description.replace("|", r"\|")
        parts.append(
            f"| `{name}` | `{variable(name)}` | {_kind(field.annotation)} "
            f"| {default_text(name, field)} | {words} |"
        )
    return "\n".join(parts).strip()


def commands_help() -> str:
    """The `--help` of every command, in the order of the tree."""
    parts = []
    for path in _commands(get_command(app), ()):
        title = " ".join(("polydev", *path))
        parts.append(f"## {title}\n\n```text\n{_help(path)}\n```")
    return "\n\n".join(parts)


PAGES = {"settings.md": settings_tables, "cli.md": commands_help}


def written(page: str) -> str:
    """The page as it stands."""
    return (DOCS / page).read_text()


def current(page: str) -> str:
    """The page as it should stand."""
    before, begin, rest = written(page).partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"docs/{page} lacks its markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{PAGES[page]()}\n\n{END}{after}"


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    if hasattr(command, "list_commands"):
        context = command.context_class(command)
        for name in command.list_commands(context):
            yield from _commands(command.get_command(context, name), (*path, name))


def _help(path: tuple[str, ...]) -> str:
    # Else the width of whoever's terminal this runs in would be part of the page.
    answer = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*path, "--help"], prog_name="polydev")
    if answer.exit_code != 0:
        raise ValueError(f"`polydev {' '.join(path)} --help` failed: {answer.output}")
    return "\n".join(line.rstrip() for line in click.unstyle(answer.output).strip().splitlines())


def _kind(annotation: Any) -> str:
    choices = get_args(annotation)
    if get_origin(annotation) is tuple:
        return "list of texts"
    if str(get_origin(annotation)) == "typing.Literal":
        return " or ".join(f"`{choice}`" for choice in choices)
    if choices:
        return " or ".join(_kind(choice) for choice in choices if choice is not type(None))
    words = {"int": "whole number", "float": "number", "str": "text", "bool": "`true` or `false`"}
    words |= {"Path": "path", "SecretStr": "secret text"}
    return words[annotation.__name__]


def main() -> None:
    for page in PAGES:
        text = current(page)
        (DOCS / page).write_text(text)


if __name__ == "__main__":
    main()
