"""What egress adds to a first byte, and whether a large body passes in constant memory."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from polydev.authority import Authority
from polydev.bench.figures import Figure, median_ms, spread
from polydev.bench.memory import peak_mib
from polydev.config import EgressSettings
from polydev.egress.client import Egress
from polydev.models.egress import AddedHeader, EgressMode, EgressPolicy, Rule
from polydev.secret import Secret

_HOST = "upstream.example"
_LIMIT_MS = 2.0
_BODY_BYTES = 50 * 10**6
_CHUNK = bytes(64 * 1024)
_GROWTH_LIMIT_MIB = 16.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def egress_cost(directory: Path, requests: int) -> AsyncIterator[Figure]:
    """Both figures, over an upstream with TLS on this machine."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = Authority.create("bench")
    (directory / "upstream.pem").write_bytes(authority.pem())
    context = authority.server_context(_HOST)
    async with await asyncio.start_server(_answer, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        settings = EgressSettings(
            redirect=f"127.0.0.1:{port}", upstream_ca=directory / "upstream.pem"
        )
        async with (
            Egress(
                settings, authority=directory / "authority", spool=directory / "spool"
            ) as egress,
            _bound(egress, directory / "egress.sock") as path,
        ):
            trust = ssl.create_default_context(cafile=str(directory / "upstream.pem"))
            direct = await asyncio.open_connection(
                "127.0.0.1", port, ssl=trust, server_hostname=_HOST
            )
            through = await asyncio.open_unix_connection(str(path))
            alone, added = await _in_turn(direct, through, requests)
            yield Figure(
                name="egress: added to a first byte",
                value=median_ms(added) - median_ms(alone),
                unit="ms",
                limit=_LIMIT_MS,
                detail=f"through {spread(added)}; direct {spread(alone)}",
            )
            before = peak_mib(egress.pid)
            await _ask(through, _BODY_BYTES)
            after = peak_mib(egress.pid)
            yield Figure(
                name="egress: peak memory added by a 50 MB body",
                value=after - before,
                unit="MiB",
                limit=_GROWTH_LIMIT_MIB,
                detail=f"{before:.1f} → {after:.1f} MiB",
            )
            for _, writer in (direct, through):
                writer.close()


@asynccontextmanager
async def _bound(egress: Egress, path: Path) -> AsyncIterator[Path]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)
    listener.setblocking(False)
    await egress.set_credential("bench", access_token=Secret("made-up-token"), attributes={})
    policy = EgressPolicy(
        mode=EgressMode.INJECT,
        rules=(Rule(method="POST", host=_HOST, path="/v1/messages"),),
        plain_host=_HOST,
        added=(AddedHeader(name="authorization", value="Bearer {access_token}"),),
    )
    binding = await egress.bind(
        connection_id="bench", policy=policy, listeners=[listener], sentinel=None, proxy=None
    )
    async with binding:
        yield path


async def _in_turn(
    direct: Connection, through: Connection, requests: int
) -> tuple[list[float], list[float]]:
    alone: list[float] = []
    added: list[float] = []
    for number in range(requests + 10):
        pair = await _ask(direct, 2048), await _ask(through, 2048)
        if number >= 10:
            alone.append(pair[0])
            added.append(pair[1])
    return alone, added


async def _ask(connection: Connection, size: int) -> float:
    """Sends a body of `size` bytes; seconds from its end to the first byte of the answer."""
    reader, writer = connection
    head = f"POST /v1/messages HTTP/1.1\r\nhost: {_HOST}\r\ncontent-length: {size}\r\n\r\n"
    writer.write(head.encode())
    sent = 0
    while sent < size:
        part = _CHUNK[: min(len(_CHUNK), size - sent)]
        writer.write(part)
        sent += len(part)
        await writer.drain()
    started = time.perf_counter()
    first = await reader.readexactly(1)
    seconds = time.perf_counter() - started
    head_bytes = first + await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head_bytes.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    await reader.readexactly(length)
    return seconds


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that takes a body and answers at once."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(
                line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line
            )
            left = int(fields.get(b"content-length", b"0"))
            while left:
                left -= len(await reader.read(min(left, 2**16)))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client is done
    finally:
        writer.close()
