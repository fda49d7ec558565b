"""`polydev open`, and what the cookie is under TLS."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from polydev.config import EgressSettings, ServerSettings, load_settings
from polydev.gateway import network_listener, running_gateway
from polydev.sim import Simulator
from tests.e2e.conftest import House, NewGateway
from tests.e2e.conftest import new_gateway as new_gateway
from tests.e2e.gateway import Failed, Gateway

pytestmark = [pytest.mark.anyio, pytest.mark.real]


async def test_it_prints_a_link_that_signs_in(scripted_house: House):
    gateway = scripted_house.gateway
    said = await gateway.command("open", "--print")
    assert said.code == 0, said
    async with httpx.AsyncClient(follow_redirects=True) as http:
        page = await http.get(said.output.strip())
    assert page.status_code == 200
    assert "owner" in page.text


async def test_it_names_a_user_that_is_not_there(scripted_house: House):
    said = await scripted_house.gateway.command("open", "--user", "nobody")
    assert said.code == 1
    assert "users list" in said.errors


async def test_without_a_gateway_it_says_so(tmp_path: Path):
    said = await Gateway(tmp_path / "data", {}).command("open")
    assert said.code == 1
    assert "polydev up" in said.errors


async def test_beyond_loopback_it_does_not_start_without_tls(tmp_path: Path):
    with pytest.raises(Failed) as caught:
        await Gateway(tmp_path / "data", {"POLYDEV_SERVER__HOST": "0.0.0.0"}).start()
    assert "POLYDEV_SERVER__TLS_CERTIFICATE" in caught.value.output


async def test_behind_a_proxy_links_and_cookies_are_for_tls(
    new_gateway: NewGateway, scripted_programs: Path
):
    gateway = await new_gateway(
        scripted_programs,
        POLYDEV_SERVER__BEHIND_TLS_PROXY="true",
        POLYDEV_SERVER__HOSTS='["polydev.example"]',
    )
    said = await gateway.command("open", "--print")
    assert said.output.startswith("https://polydev.example/sign-in/")
    path = said.output.strip().removeprefix("https://polydev.example")
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        answer = await http.get(path, headers={"host": "polydev.example"})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-polydev=")
    assert "Secure" in cookie


async def test_it_speaks_tls_itself(sim: Simulator, programs_with_htmx: Path, tmp_path: Path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    _make_certificate(certificate, key)
    settings = load_settings(
        data=tmp_path / "data",
        programs=programs_with_htmx,
        egress=EgressSettings(redirect=sim.redirect, upstream_ca=sim.ca),
        server=ServerSettings(port=0, tls_certificate=certificate, tls_key=key),
    )
    context = ssl.create_default_context(cafile=certificate)
    with network_listener(settings.server) as listener:
        async with running_gateway(settings) as gateway:
            stop = asyncio.Event()
            serving = asyncio.create_task(gateway.serve_until(stop, listener))
            try:
                url = f"https://127.0.0.1:{listener.getsockname()[1]}"
                async with httpx.AsyncClient(base_url=url, verify=context) as http:
                    assert (await http.get("/healthz")).text == "ok\n"
                    user = await gateway.services.accounts.first_user()
                    link = gateway.services.sign_ins.open_link(user)
                    answer = await http.get(f"/sign-in/{link.reveal()}")
                    assert answer.status_code == 303
                    assert answer.headers["set-cookie"].startswith("__Host-polydev=")
                    assert (await http.get("/connections")).status_code == 200
            finally:
                stop.set()
                await asyncio.wait({serving})
            serving.result()


def _make_certificate(certificate: Path, key: Path) -> None:
    """Of this machine's loopback, signed by itself."""
    made = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "polydev")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(made.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(made, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
