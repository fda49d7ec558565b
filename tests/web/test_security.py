"""Over HTTP, without a browser's help: what the dashboard refuses."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from polydev.web.app import PAGES, paths_of
from polydev.web.guard import CSRF_FIELD
from tests.e2e.conftest import House
from tests.e2e.events import submit
from tests.e2e.gateway import MARKER, Gateway
from tests.web.conftest import ABSENT, Client, link_for, signed_in

pytestmark = [pytest.mark.anyio, pytest.mark.real]


@pytest.fixture
def gateway(scripted_house: House) -> Gateway:
    return scripted_house.gateway


@pytest.fixture
async def client(scripted_house: House) -> AsyncIterator[Client]:
    person = await scripted_house.person("ada", "claude")
    async with signed_in(scripted_house.gateway, person.name) as client:
        yield client


@pytest.fixture
async def stranger(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, headers={"accept": "text/html"}) as http:
        yield http


def routes() -> list[tuple[str, str]]:
    return [
        (method, re.sub(r"\{\w+\}", "x", path))
        for router in PAGES
        for route in router.routes
        for path in [str(getattr(route, "path", ""))]
        for method in getattr(route, "methods", ())
    ]


def test_there_are_pages():
    assert ("GET", "/connections") in routes()
    assert all(paths_of(router) for router in PAGES)


@pytest.mark.parametrize(("method", "path"), routes())
async def test_every_page_needs_a_sign_in(stranger: httpx.AsyncClient, method: str, path: str):
    answer = await stranger.request(method, path)
    assert answer.status_code == 401
    assert "polydev open" in answer.text
    assert "location" not in answer.headers


@pytest.mark.parametrize("path", [path for method, path in routes() if method == "POST"])
@pytest.mark.parametrize("token", [ABSENT, "", "0" * 64])
async def test_every_change_needs_the_token(client: Client, path: str, token: str):
    answer = await client.post(path, x_csrf_token=token)
    assert answer.status_code == 403
    assert "did not come from a page" in answer.text


async def test_another_sign_ins_token_is_wrong(client: Client, gateway: Gateway):
    async with signed_in(gateway, None) as other:
        theirs = await other.csrf()
    assert len(theirs) == 64
    answer = await client.post("/keys", x_csrf_token=theirs)
    assert answer.status_code == 403


async def test_the_token_may_stand_in_the_form(client: Client):
    fields = {CSRF_FIELD: await client.csrf(), "name": "by form"}
    answer = await client.post("/keys", fields, x_csrf_token=ABSENT)
    assert answer.status_code == 200
    assert "polydev_" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:1"},
        {"origin": "null"},
        {"origin": ABSENT},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"origin": "null", "sec_fetch_site": "cross-site"},
    ],
    ids=str,
)
async def test_another_sites_change_is_refused(client: Client, headers: dict[str, Any]):
    answer = await client.post("/keys", **headers)
    assert answer.status_code == 403
    assert "another site" in answer.text


async def test_a_plain_form_of_ours_has_the_origin_null(client: Client):
    answer = await client.post("/keys", origin="null", sec_fetch_site="same-origin")
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/live", "/runs/x/events", "/connections/list"])
async def test_another_sites_page_reads_no_stream(client: Client, path: str):
    for headers in (
        {"origin": "http://evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"},
    ):
        answer = await client.get(path, **headers)
        assert answer.status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8484", "127.0.0.1.evil.example", ""]
)
@pytest.mark.parametrize("path", ["/", "/connections", "/sign-in/x", "/static/x/app.js", "/none"])
async def test_a_foreign_host_name_is_refused(stranger: httpx.AsyncClient, path: str, host: str):
    answer = await stranger.get(path, headers={"host": host})
    assert answer.status_code in (400, 421)  # the server itself refuses no name at all
    assert "evil" not in answer.headers.get("location", "")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_loopbacks_names_are_ours(client: Client, host: str):
    port = httpx.URL(client.gateway.url).port
    answer = await client.get("/connections", host=f"{host}:{port}")
    assert answer.status_code == 200


async def test_the_cookie(stranger: httpx.AsyncClient, gateway: Gateway):
    answer = await stranger.get(await link_for(gateway))
    assert answer.status_code == 303
    assert answer.headers["location"] == "/connections"
    cookie = answer.headers["set-cookie"]
    name, _, value = cookie.partition(";")[0].partition("=")
    assert name == f"polydev-{httpx.URL(gateway.url).port}"
    assert len(value) >= 43
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes
    assert not {part for part in attributes if part.startswith("domain")}


async def test_a_link_works_once(stranger: httpx.AsyncClient, gateway: Gateway):
    link = await link_for(gateway)
    assert (await stranger.get(link)).status_code == 303
    stranger.cookies.clear()
    again = await stranger.get(link)
    assert again.status_code == 401
    assert "used already" in again.text
    assert "set-cookie" not in again.headers
    assert link.rpartition("/")[2] not in gateway.output


async def test_another_site_uses_up_no_link(stranger: httpx.AsyncClient, gateway: Gateway):
    link = await link_for(gateway)
    assert (await stranger.get(link, headers={"sec-fetch-site": "cross-site"})).status_code == 403
    assert (await stranger.get(link, headers={"sec-fetch-site": "none"})).status_code == 303


async def test_nothing_of_a_sign_in_is_logged(client: Client):
    for value in client.http.cookies.values():
        assert value not in client.gateway.output
    assert await client.csrf() not in client.gateway.output


async def test_signing_out_ends_it(client: Client):
    cookie = dict(client.http.cookies)
    answer = await client.post("/sign-out")
    assert answer.status_code == 303
    assert dict(client.http.cookies) == {}
    client.http.cookies.update(cookie)
    assert (await client.get("/connections")).status_code == 401


async def test_signing_out_ends_what_is_followed(scripted_house: House):
    person = await scripted_house.person("leaver", "claude")
    drip = json.dumps({"do": "drip", "pieces": ["."] * 600, "seconds": 0.1})
    run = await submit(person.http(), model="claude", prompt=drip)
    async with signed_in(scripted_house.gateway, person.name) as client:
        async with client.http.stream("GET", f"/runs/{run}/events") as events:
            lines = events.aiter_lines()
            assert await anext(lines)
            await client.post("/sign-out")
            async with asyncio.timeout(20):  # of the minute that the run takes
                assert all(["run.finished" not in line async for line in lines])
    assert (await person.http().delete(f"/v1/runs/{run}")).status_code == 200


async def test_a_disabled_user_is_signed_out(scripted_house: House):
    person = await scripted_house.person("mallory")
    async with signed_in(scripted_house.gateway, person.name) as client:
        assert (await client.get("/connections")).status_code == 200
        async with client.http.stream("GET", "/live") as live:
            await scripted_house.gateway.owner("POST", f"/owner/users/{person.name}/disable")
            lines = [line async for line in live.aiter_lines()]
        assert "event: signed-out" in lines
        assert (await client.get("/connections")).status_code == 401


@pytest.mark.parametrize("path", ["/connections", "/none", "/static/x/app.js", "/sign-in/x"])
async def test_what_browsers_are_told(client: Client, path: str):
    headers = (await client.get(path)).headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    if "static" not in path:
        assert headers["cache-control"] == "no-store"


async def test_a_persons_things_are_theirs(scripted_house: House, client: Client):
    grace = await scripted_house.person("grace", "claude")
    async with signed_in(scripted_house.gateway, grace.name) as other:
        started = await other.post("/try", {"model": "claude", "prompt": MARKER}, accept=JSON)
        assert started.status_code == 202, started.text
        run = started.json()["run"]
        assert (await other.get(f"/runs/{run}")).status_code == 200
    records = (await scripted_house.gateway.owner("GET", "/owner/connections")).json()
    connection = next(record["id"] for record in records if record["user"] == grace.name)
    keys = await scripted_house.gateway.owner("GET", "/owner/keys", user=grace.name)
    key = keys.json()[0]["id"]
    for path in (f"/runs/{run}", f"/runs/{run}/events", f"/runs/{run}/summary"):
        assert (await client.get(path)).status_code == 404
    for path in (
        f"/runs/{run}/cancel",
        f"/connections/{connection}/check",
        f"/connections/{connection}/disconnect",
        f"/keys/{key}/revoke",
    ):
        answer = await client.post(path)
        assert answer.status_code == 404, path
    for path in ("/runs", "/connections", "/keys"):
        text = (await client.get(path)).text
        assert run not in text
        assert connection not in text
        assert key not in text
    after = (await scripted_house.gateway.owner("GET", "/owner/keys", user=grace.name)).json()
    assert after[0]["revoked_at"] is None


JSON = "application/json"


async def test_an_api_key_opens_no_page_and_a_cookie_no_api(client: Client, scripted_house: House):
    person = await scripted_house.person("ada", "claude")
    async with person.http() as http:
        assert (await http.get("/connections")).status_code == 401
    assert (await client.get("/v1/models")).status_code == 401


async def test_what_neither_knows(stranger: httpx.AsyncClient, client: Client):
    page = await client.get("/none")
    assert page.status_code == 404
    assert "no such page" in page.text
    by_program = await stranger.get("/none", headers={"accept": "*/*"})
    assert by_program.status_code == 404
    assert by_program.json()["error"]["code"] == "not_found"
    assert (await stranger.get("/healthz")).text == "ok\n"


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"model": "claude", "prompt": " "}, 400, "Write a prompt"),
        ({"model": "nonesuch", "prompt": "x"}, 404, "no model"),
        ({"model": "codex", "prompt": "x"}, 503, "doctor --fix"),
    ],
)
async def test_errors_say_what_to_do(
    client: Client, fields: dict[str, str], status: int, words: str
):
    by_script = await client.post("/try", fields, accept=JSON)
    assert by_script.status_code == status
    error = by_script.json()["error"]
    assert words in f"{error['message']} {error['remedy']}"
    by_form = await client.post("/try", fields)
    assert by_form.status_code == status
    assert words in by_form.text
    assert "Traceback" not in by_form.text


async def test_a_form_has_bounds(client: Client):
    huge = await client.post("/try", {"model": "claude", "prompt": "x" * (9 * 2**20)})
    assert huge.status_code == 413
    multipart = await client.http.post(
        "/keys",
        files={"name": b"x"},
        headers={"origin": client.gateway.url, "x-csrf-token": await client.csrf()},
    )
    assert multipart.status_code == 400
    named = await client.post("/keys", {"name": "x" * 65})
    assert named.status_code == 400


async def test_without_scripts_forms_work_all_the_same(client: Client):
    answer = await client.post("/try", {"model": "claude", "prompt": MARKER})
    assert answer.status_code == 303
    run = answer.headers["location"]
    assert re.fullmatch(r"/runs/run_\w+", run)
    page = await client.get(run)
    assert MARKER in page.text


async def test_static_files_have_their_type_and_are_kept_by_version(client: Client):
    page = (await client.get("/connections")).text
    for name, kind in (
        ("app.css", "text/css"),
        ("app.js", "text/javascript"),
        ("htmx.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        found = re.search(rf'"(/static/\w+/{re.escape(name)})"', page)
        assert found, name
        answer = await client.get(found[1])
        assert answer.headers["content-type"].startswith(kind)
        assert "immutable" in answer.headers["cache-control"]
        again = await client.get(found[1], if_none_match=answer.headers["etag"])
        assert again.status_code == 304
        other = await client.get(f"/static/other/{name}")
        assert other.headers["cache-control"] == "no-cache"
    for name in ("none.js", "..%2fpages.py", "%2e%2e%2fapp.py"):
        assert (await client.get(f"/static/x/{name}")).status_code == 404
