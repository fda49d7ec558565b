"""Golden folders: `tests/data/<provider>/<case>/{prompt.json, stdout.jsonl, events.json}`.

`prompt.json` is the prompt (and, under `simulator`, how the stand-in behaved), `stdout.jsonl` what
the real CLI printed for it, `events.json` what our dialogue makes of that. The first two are
recorded by tests/providers/record.py. After a change that is meant to change events,

    python -m tests.providers.golden --write [PROVIDER/CASE …]

rewrites `events.json`; read the difference before it is committed.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from polydev.events import Event, event_to_dict
from polydev.models.runs import Prompt
from polydev.providers.base import Provider
from polydev.providers.registry import PROVIDERS

DATA = Path(__file__).parents[1] / "data"
_prompt: TypeAdapter[Prompt] = TypeAdapter(Prompt)


@dataclass(frozen=True, slots=True)
class Case:
    directory: Path

    @property
    def name(self) -> str:
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def provider(self) -> Provider:
        return PROVIDERS[self.directory.parent.name]

    @property
    def prompt(self) -> Prompt:
        return _prompt.validate_python(self._description["prompt"])

    @property
    def simulator(self) -> dict[str, Any]:
        """The simulator's knobs when it was recorded."""
        knobs: dict[str, Any] = self._description.get("simulator", {})
        return knobs

    @property
    def stdout(self) -> list[bytes]:
        return (self.directory / "stdout.jsonl").read_bytes().splitlines()

    @property
    def expected(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads((self.directory / "events.json").read_bytes())
        return events

    def write(self) -> None:
        events = replay(self).as_dicts()
        lines = ",\n".join(json.dumps(event, ensure_ascii=False) for event in events)
        (self.directory / "events.json").write_text(f"[\n{lines}\n]\n")

    @property
    def _description(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads((self.directory / "prompt.json").read_bytes())
        return fields


def cases(provider: str = "*") -> list[Case]:
    return [Case(path.parent) for path in sorted(DATA.glob(f"{provider}/*/prompt.json"))]


@dataclass(frozen=True, slots=True)
class Replayed:
    events: list[Event]
    retry_after_seconds: float | None

    def as_dicts(self) -> list[dict[str, Any]]:
        found = [event_to_dict(event) for event in self.events]
        if self.retry_after_seconds is not None:
            found[-1]["retry_after_seconds"] = self.retry_after_seconds
        return found


def replay(case: Case) -> Replayed:
    """What a fresh dialogue makes of a recording; it is given nothing after its end."""
    dialogue = case.provider.dialogue(case.prompt)
    dialogue.open()
    events: list[Event] = []
    for line in case.stdout:
        step = dialogue.receive(line)
        events += step.events
        if step.finished:
            return Replayed(events, step.retry_after_seconds)
    return Replayed(events, None)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rewrites events.json of golden folders.")
    parser.add_argument("--write", action="store_true", required=True)
    parser.add_argument("cases", nargs="*")
    wanted = parser.parse_args().cases
    for case in cases():
        if not wanted or case.name in wanted:
            case.write()
            print(case.name)


if __name__ == "__main__":
    main()
