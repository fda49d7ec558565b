"""A person at the simulator's pages, for tests and demonstrations: a browser's part, in one call.

    async with Person(sim.redirect, sim.ca) as person:
        seen = await person.allow(url, email="ada@example.org")
        seen.code   # what the page shows to be pasted
        seen.url    # or the address of the CLI's own listener, which
        await person.call_back(seen)   # leads the browser there, as the redirect would

It goes through the pages' own forms. Names of the provider lead to the simulator, whichever they
are; other addresses are left alone. PersonStopped when a page does not let it go on: it has the
page. Every request is bounded by `timeout_seconds`.
"""

import ssl
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

_MOST_PAGES = 20
_LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Where the browser ended.

    url: the last address; on loopback it was not visited yet.
    code: what the page shows to be pasted; empty when it shows none.
    title, text: of the last page that was visited.
    """

    url: str
    status: int
    title: str
    text: str
    code: str

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the last address."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.url).query).items()}


class PersonStopped(Exception):
    """A page does not let the person go on."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(f"{seen.url.partition('?')[0]} answered {seen.status}: {seen.text}")
        self.seen = seen


class Person:
    """See the module's docstring.

    simulator: `host:port` of a running one. ca: the PEM file of its authority.
    """

    def __init__(self, simulator: str, ca: Path, *, timeout_seconds: float = 20.0) -> None:
        self._simulator = simulator
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=str(ca)),
            trust_env=False,
            timeout=timeout_seconds,
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def allow(self, url: str, *, email: str, password: str = "made up") -> Seen:  # noqa: S107
        """Signs in at an authorize page, and allows."""
        return await self._answer(await self._open(url), email, password, "allow")

    async def deny(self, url: str, *, email: str = "", password: str = "made up") -> Seen:  # noqa: S107
        """Denies at an authorize page: before signing in, or after it when there is an e-mail."""
        return await self._answer(await self._open(url), email, password, "deny")

    async def allow_device(
        self,
        url: str,
        user_code: str,
        *,
        email: str,
        password: str = "made up",  # noqa: S107
    ) -> Seen:
        """Types a device code at its page, signs in, and allows."""
        return await self._answer(await self._type(url, user_code), email, password, "allow")

    async def deny_device(self, url: str, user_code: str, *, email: str = "") -> Seen:
        """Types a device code at its page, and denies."""
        return await self._answer(await self._type(url, user_code), email, "made up", "deny")

    async def call_back(self, seen: Seen) -> Seen:
        """Leads the browser to the CLI's own listener, and on to where that sends it."""
        host = urlsplit(seen.url).hostname
        if host not in _LOOPBACK:
            raise ValueError(f"{host} is not on this machine.")
        return (await self._follow("GET", seen.url, visit_loopback=True)).seen

    async def _type(self, url: str, user_code: str) -> "_Page":
        page = await self._open(url)
        return await self._submit(page, "continue", user_code=user_code)

    async def _answer(self, page: "_Page", email: str, password: str, answer: str) -> Seen:
        if page.popup and email:
            popup = await self._open(urljoin(page.seen.url, page.popup))
            signed_in = await self._submit(popup, "continue", email=email, password=password)
            page = await self._open(urljoin(page.seen.url, signed_in.onward))
        elif email:
            page = await self._submit(page, "continue", email=email, password=password)
        return (await self._submit(page, answer)).seen

    async def _open(self, url: str) -> "_Page":
        page = await self._follow("GET", url)
        if page.seen.status >= 400:
            raise PersonStopped(page.seen)
        return page

    async def _submit(self, page: "_Page", answer: str, **typed: str) -> "_Page":
        if not page.action or answer not in page.buttons or not typed.keys() <= page.fields.keys():
            raise PersonStopped(page.seen)
        form = page.fields | typed | {"answer": answer}
        after = await self._follow("POST", urljoin(page.seen.url, page.action), form)
        # A refusal sends the browser on with status 303; a page of 400 is where it ends.
        if after.seen.status >= 400 and answer != "deny":
            raise PersonStopped(after.seen)
        return after

    async def _follow(
        self,
        method: str,
        url: str,
        form: dict[str, str] | None = None,
        *,
        visit_loopback: bool = False,
    ) -> "_Page":
        page = _Page()
        for _ in range(_MOST_PAGES):
            answer = await self._ask(method, url, form)
            page = _Page.of(url, answer)
            if not answer.has_redirect_location:
                return page
            method, form, url = "GET", None, urljoin(url, answer.headers["location"])
            if urlsplit(url).hostname in _LOOPBACK and not visit_loopback:
                return _Page.left_for(url, answer.status_code)
        raise PersonStopped(page.seen)

    async def _ask(self, method: str, url: str, form: dict[str, str] | None) -> httpx.Response:
        asked = urlsplit(url)
        host = asked.hostname or ""
        if host in _LOOPBACK:
            return await self._client.request(method, url, data=form)
        target = f"https://{self._simulator}{asked.path or '/'}"
        return await self._client.request(
            method,
            f"{target}?{asked.query}" if asked.query else target,
            data=form,
            headers={"host": asked.netloc},
            extensions={"sni_hostname": host},
        )


@dataclass(kw_only=True, slots=True)
class _Page:
    """What of a page matters: its last form, where its small window and its way on lead."""

    seen: Seen = field(default_factory=lambda: Seen(url="", status=0, title="", text="", code=""))
    action: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[str] = field(default_factory=list)
    popup: str = ""
    onward: str = ""

    @classmethod
    def of(cls, url: str, answer: httpx.Response) -> "_Page":
        reader = _Reader()
        reader.feed(answer.text)
        seen = Seen(
            url=url,
            status=answer.status_code,
            title=reader.of("title"),
            text=reader.of("p"),
            code=reader.of("code"),
        )
        return cls(
            seen=seen,
            action=reader.action,
            fields=reader.fields,
            buttons=reader.buttons,
            popup=reader.links.get("popup", ""),
            onward=reader.links.get("continue", ""),
        )

    @classmethod
    def left_for(cls, url: str, status: int) -> "_Page":
        return cls(seen=Seen(url=url, status=status, title="", text="", code=""))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.buttons: list[str] = []
        self.links: dict[str, str] = {}
        self._texts: dict[str, list[str]] = {}
        self._open: list[str] = []

    def of(self, tag: str) -> str:
        return " ".join("".join(self._texts.get(tag, [])).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        match tag:
            case "form":
                self.action, self.fields, self.buttons = has.get("action", ""), {}, []
            case "input":
                self.fields[has.get("name", "")] = has.get("value", "")
            case "button":
                self.buttons.append(has.get("value", ""))
            case "a":
                self.links[has.get("id", "")] = has.get("href", "")
        if tag in ("title", "p") or (tag == "code" and has.get("id") == "code"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self._texts.setdefault(self._open[-1], []).append(data)
