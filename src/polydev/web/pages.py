"""Pages and fragments from templates. What is put into them is text, whatever it holds."""

from datetime import datetime, timedelta
from functools import cache
from typing import Any

import jinja2
from fastapi import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from polydev.core.catalogue import listed_models
from polydev.web.dependencies import Visit
from polydev.web.static import HTMX, Static

_NAVIGATION = (
    ("Connections", "/connections"),
    ("Logins", "/logins"),
    ("Runs", "/runs"),
    ("Keys", "/keys"),
    ("Try it", "/try"),
)


def page(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """A page, or a fragment of one, as an answer."""
    static: Static = request.app.state.static
    visit: Visit | None = getattr(request.state, "visit", None)
    text = (
        _environment()
        .get_template(template)
        .render(
            visit=visit,
            path=request.url.path,
            navigation=_navigation(request),
            static=static.url,
            htmx_missing=not static.has(HTMX),
            **context,
        )
    )
    return HTMLResponse(text, status_code=status)


def done(request: Request, words: str, back: str, *, good: bool = True) -> Response:
    """Says in the page that a change is made; without scripts, leads back to it."""
    if "hx-request" in request.headers:
        return page(request, "fragments/done.html", words=words, good=good)
    return RedirectResponse(back, status_code=303)


@cache
def provider_titles() -> dict[str, str]:
    return {model.provider: model.title for model in listed_models()}


def _navigation(request: Request) -> list[tuple[str, str]]:
    there: frozenset[str] = request.app.state.paths
    return [(title, path) for title, path in _NAVIGATION if path in there]


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("polydev.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "seconds": seconds,
        "title_of": title_of,
        "words": words,
        "local": local,
    }
    return environment


def seconds(span: timedelta) -> str:
    """For example `850 ms`, `12.3 s`, `4 min 10 s`."""
    value = max(0.0, span.total_seconds())
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 99.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


def title_of(provider: str) -> str:
    return provider_titles().get(provider, provider)


def words(name: str) -> str:
    """A state's or a window's name as words."""
    return name.replace("_", " ").replace("-", " ")


def local(moment: datetime) -> str:
    """What stands until a script shows the viewer's own time."""
    return moment.strftime("%Y-%m-%d %H:%M UTC")
