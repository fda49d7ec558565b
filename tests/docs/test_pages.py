"""The pages agree with the code where they list something, and their links lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest

from polydev import errors
from polydev.api import chat, health, messages, model_list, native
from polydev.core import outcomes
from polydev.errors import PolydevError
from polydev.events import EndReason, Event
from polydev.models.runs import RunState

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
API = (ROOT / "docs" / "api.md").read_text()

FENCED = re.compile(r"```.*?```", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ROUTERS = (chat.router, messages.router, model_list.router, native.router, health.router)


def every_error() -> list[type[PolydevError]]:
    found = [PolydevError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ in (errors.__name__, outcomes.__name__)]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = page if not target else (page.parent / target).resolve()
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_is_listed_with_its_status_and_code(kind: type[PolydevError]) -> None:
    assert f"| {kind.status} | `{kind.code}` |" in API


def test_every_route_is_listed() -> None:
    routes = {
        (method, route.path)  # type: ignore[attr-defined]
        for router in ROUTERS
        for route in router.routes
        for method in getattr(route, "methods", None) or ()
    }
    shown = {(method, path.replace(":path", "")) for method, path in routes}
    for method, path in shown:
        assert f"`{method} {path}`" in API or f"`{path}`" in API, (method, path)


@pytest.mark.parametrize("word", [*(s.value for s in RunState), *(r.value for r in EndReason)])
def test_every_state_and_reason_of_a_run_is_explained(word: str) -> None:
    assert f"`{word}`" in API


@pytest.mark.parametrize("kind", Event.__args__, ids=lambda kind: kind.__name__)
def test_every_event_is_listed_with_its_fields(kind: type) -> None:
    fields = dict(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    name = fields.pop("type").default
    rows = [line for line in API.splitlines() if line.startswith("| ") and f"`{name}`" in line]
    assert len(rows) == 1
    assert all(f"`{field}`" in rows[0] for field in fields)


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    reasons = (ROOT / "docs" / "decisions.md").read_text().partition("## Dependencies")[2]
    for line in names:
        name = re.split(r"[\[<>=~ ]", line)[0]
        assert f"`{name}`" in reasons, f"{name}: say in docs/decisions.md why it is here"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
