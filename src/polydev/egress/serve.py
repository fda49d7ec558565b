"""One connection of a sandbox: its requests, one after the other, and CONNECT.

Whatever goes wrong on it ends this connection only.
"""

import traceback

import h11

from polydev.egress.bound import Bound, Services
from polydev.egress.downstream import Downstream
from polydev.egress.exchange import Passing
from polydev.egress.policy import split_authority
from polydev.egress.refusal import ProxyFailed, Refused, Unreachable
from polydev.egress.relay import relay
from polydev.egress.stream import Stream, StreamClosed
from polydev.models.egress import EgressMode, Exchange

MOST_CONNECTIONS = 64
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


async def serve(services: Services, bound: Bound, stream: Stream) -> None:
    """Serves until the sandbox or the binding ends the connection."""
    if len(bound.streams) >= MOST_CONNECTIONS:
        services.notices.log("too many connections from a sandbox", binding=bound.id)
        stream.write(_TOO_MANY)
        stream.close()
        return
    try:
        await _Connection(services, bound).serve(stream)
    except StreamClosed:
        stream.abort()
    except Exception as error:
        # The outermost boundary. Only kind and place: messages may quote headers.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        services.notices.log(
            "egress connection failed",
            level="error",
            kind=type(error).__name__,
            at=f"{frame.filename.rpartition('/')[2]}:{frame.lineno}",
        )
        stream.abort()


class _Connection:
    def __init__(self, services: Services, bound: Bound) -> None:
        self._services = services
        self._bound = bound

    async def serve(self, stream: Stream, *, tls_host: str = "") -> None:
        self._bound.streams.add(stream)
        try:
            await self._requests(Downstream(stream), tls_host)
        finally:
            self._bound.streams.discard(stream)
            stream.close()

    async def _requests(self, down: Downstream, tls_host: str) -> None:
        while True:
            try:
                request = await down.request()
                if request is None:
                    return
                if request.method == b"CONNECT":
                    await self._connect(down, request, tls_host)
                    return
                passing = Passing(self._services, self._bound, down, request, tls_host=tls_host)
                await passing.run()
            except h11.RemoteProtocolError as error:
                self._report("", tls_host, error.error_status_hint, refused="malformed HTTP")
                await down.refuse(error.error_status_hint, "The request is not valid HTTP.")
                return
            if not down.next_cycle():
                await down.linger()
                return

    async def _connect(self, down: Downstream, request: h11.Request, tls_host: str) -> None:
        host = ""
        try:
            host, port = split_authority(request.target.decode("ascii"))
            if tls_host:
                raise Refused("CONNECT within a connection is not admitted")
            if port != 443:
                raise Refused(f"port {port} is not admitted; only 443 is")
            self._bound.judge.check_host(host)
            if await down.whole_body(0) is None:
                raise Refused("CONNECT has no body", status=400)
            if self._bound.policy.mode is EgressMode.TUNNEL:
                await self._tunnel(down, host)
            else:
                await self._end_tls(down, host)
        except Refused as refusal:
            self._report("CONNECT", host, refusal.status, refused=refusal.reason)
            await down.refuse(refusal.status, f"CONNECT {host}: {refusal.reason}")
        except Unreachable as problem:
            self._report(
                *("CONNECT", host, problem.status),
                unreachable=problem.reason,
                proxy_failed=isinstance(problem, ProxyFailed),
            )
            await down.refuse(problem.status, problem.reason)

    async def _tunnel(self, down: Downstream, host: str) -> None:
        upstream = await self._services.dialer.dial(host, self._bound.proxy, tls=False)
        try:
            self._report("CONNECT", host, 200)
            await down.flush(_established(down))
            await relay(down.stream, upstream, to_right=down.http.trailing_data[0])
        finally:
            upstream.close()

    async def _end_tls(self, down: Downstream, host: str) -> None:
        context = self._services.server_context(host)
        if down.http.trailing_data[0] or not down.stream.is_idle():
            raise Refused("bytes came before CONNECT was answered", status=400)
        down.stream.write(_established(down))
        try:
            inner = await down.stream.start_tls(context)
        except StreamClosed:
            self._services.notices.log(
                "a sandbox ended its TLS connection to egress before it began", host=host
            )
            raise
        self._bound.streams.discard(down.stream)
        await self.serve(inner, tls_host=host)

    def _report(
        self,
        method: str,
        host: str,
        status: int,
        *,
        refused: str = "",
        unreachable: str = "",
        proxy_failed: bool = False,
    ) -> None:
        self._services.notices.exchange(
            Exchange(
                binding=self._bound.id,
                method=method,
                host=host,
                path="",
                status=status,
                refused=refused,
                unreachable=unreachable,
                proxy_failed=proxy_failed,
            )
        )


def _established(down: Downstream) -> bytes:
    response = h11.Response(status_code=200, headers=[], reason=b"Connection established")
    return down.http.send(response) or b""
