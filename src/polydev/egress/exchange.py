"""One request of a sandbox: judged, passed on, answered, reported.

Bodies pass as they come, undecoded, in constant memory. The sandbox going away aborts the request
upstream. A sealed request is different: it goes out whole, and once its first byte did, its
answer is read to the end and kept, whoever has gone. No request is ever sent twice.
"""

import asyncio
import base64
import contextlib

import h11

from polydev.egress.bound import Bound, Services
from polydev.egress.downstream import Downstream
from polydev.egress.headers import (
    Headers,
    answered,
    check_request,
    injected,
    observed,
    replaced,
    value_of,
    wants_websocket,
    without,
    witnessed,
)
from polydev.egress.notices import presentable
from polydev.egress.policy import split_target
from polydev.egress.refusal import ProxyFailed, Refused, Unreachable
from polydev.egress.relay import relay
from polydev.egress.spool import ANSWER_BYTES, seal_answer, write_spool
from polydev.egress.stream import StreamClosed
from polydev.egress.upstream import Upstream
from polydev.models.egress import ASKED_ALREADY, EgressMode, Exchange, Rule

_REQUEST_BYTES = 2**20  # of a sealed request
_KEEP_SECONDS = 5.0
_FLUSH_BYTES = 128 * 1024
_UNWRITTEN_BYTES = 64 * 1024
_WEBSOCKET = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]


class Passing:
    """`tls_host` is the host whose TLS was ended here; empty for plain HTTP."""

    def __init__(
        self,
        services: Services,
        bound: Bound,
        down: Downstream,
        request: h11.Request,
        *,
        tls_host: str = "",
    ) -> None:
        self._services = services
        self._bound = bound
        self._down = down
        self._tls_host = tls_host
        self._headers: Headers = list(request.headers.raw_items())
        self._method = request.method.decode("ascii")
        self._target = request.target.decode("ascii")
        self._host = ""
        path = self._target.partition("?")[0]
        self._path = path if path.startswith("/") else ""  # else it may name a user and password
        self._started_at = asyncio.get_running_loop().time()
        self._answering = False

    async def run(self) -> None:
        """Raises StreamClosed when the sandbox went away."""
        try:
            rule, outgoing = self._admit()
            if rule.sealed:
                await self._pass_sealed(outgoing)
            else:
                await self._pass(outgoing)
        except Refused as refusal:
            self.report(refusal.status, refused=refusal.reason)
            await self._down.refuse(
                refusal.status, f"{self._method} {self._host}{self._path}: {refusal.reason}"
            )
        except Unreachable as problem:
            by_proxy = isinstance(problem, ProxyFailed)
            reason = problem.reason
            if self._bound.proxy is not None and not by_proxy:
                reason += " (through the outbound proxy)"
            if self._answering:
                if self._down.stream.gone.done():
                    raise StreamClosed from problem  # it was us who ended it, with the sandbox
                self._services.notices.log("answer cut off", host=self._host, reason=reason)
                # Not aborted: what came before the cut is the sandbox's, and the missing end tells.
                self._down.stream.close()
                raise StreamClosed from problem
            self.report(problem.status, unreachable=reason, proxy_failed=by_proxy)
            await self._down.refuse(problem.status, reason)

    def report(
        self,
        status: int,
        *,
        refused: str = "",
        unreachable: str = "",
        proxy_failed: bool = False,
        headers: Headers | None = None,
    ) -> None:
        took = asyncio.get_running_loop().time() - self._started_at
        self._services.notices.exchange(
            Exchange(
                binding=self._bound.id,
                method=self._method[:32],
                host=self._host[:253],
                path=presentable(self._path),
                status=status,
                refused=refused,
                unreachable=unreachable,
                proxy_failed=proxy_failed,
                headers=observed(headers or [], self._bound.policy.observed),
                first_byte_seconds=None if headers is None else took,
            )
        )

    def _admit(self) -> tuple[Rule, h11.Request]:
        """The rule that admits this request, and the request as it goes upstream."""
        bound, policy = self._bound, self._bound.policy
        if policy.mode is EgressMode.TUNNEL:
            raise Refused("only CONNECT is admitted here")
        target = split_target(self._target)
        self._path = target.path
        self._host = target.host or self._tls_host or policy.plain_host
        if not self._host:
            raise Refused("plain HTTP is not admitted here")
        if self._tls_host:
            named = value_of(self._headers, b"host").decode("latin-1").lower()
            if target.host or named.removesuffix(":443") != self._tls_host:
                raise Refused("the request names another host than its connection")
        websocket = wants_websocket(self._headers)
        rule = bound.judge.rule(
            method=self._method, host=self._host, path=self._path, websocket=websocket
        )
        bound.judge.check_query(target.query)
        check_request(self._headers)
        if policy.mode is EgressMode.INJECT:
            headers = injected(
                self._headers,
                host=self._host,
                policy=policy,
                sentinel=bound.sentinel,
                token=self._services.tokens.get(bound.connection_id),
            )
        else:
            headers = witnessed(self._headers, host=self._host)
        if websocket:
            headers = [*headers, *_WEBSOCKET]
        if rule.once:
            if rule in bound.asked:
                raise Refused(ASKED_ALREADY)
            bound.asked.add(rule)
        return rule, h11.Request(method=self._method, target=target.line(), headers=headers)

    async def _take(self) -> Upstream:
        bound = self._bound
        upstream = await self._services.pool.take(bound.connection_id, self._host, bound.proxy)
        if self._down.stream.gone.done():
            self._services.pool.give_back(upstream)
            raise StreamClosed
        return upstream

    async def _pass(self, request: h11.Request) -> None:
        upstream = await self._take()
        gone = self._down.stream.gone

        def abort(_: asyncio.Future[None]) -> None:
            upstream.stream.abort()

        gone.add_done_callback(abort)
        sending = asyncio.create_task(self._send(upstream, request))
        try:
            try:
                head = await upstream.head()
            except Unreachable:
                if gone.done():
                    raise StreamClosed from None
                if sending.done():
                    sending.result()  # the sandbox's own mistake comes first
                raise
            if isinstance(head, h11.Response):
                await self._give_answer(upstream, head)
            else:
                gone.remove_done_callback(abort)
                await self._switch(upstream, head)
        finally:
            gone.remove_done_callback(abort)
            sending.cancel()
            await asyncio.wait([sending])
            if not sending.cancelled():
                sending.exception()
            self._services.pool.give_back(upstream)

    async def _send(self, upstream: Upstream, request: h11.Request) -> None:
        """Raises, with upstream aborted, what the sandbox did wrong; upstream's end is silent."""
        try:
            if not await _offer(upstream, request):
                return
            async with contextlib.aclosing(self._down.body()) as chunks:
                async for chunk in chunks:
                    if not await _offer(upstream, h11.Data(data=chunk)):
                        return
            await _offer(upstream, h11.EndOfMessage())
        except (StreamClosed, h11.RemoteProtocolError, Unreachable):
            upstream.stream.abort()
            raise

    async def _give_answer(self, upstream: Upstream, head: h11.Response) -> None:
        down, headers = self._down, list(head.headers.raw_items())
        self.report(head.status_code, headers=headers)
        self._answering = True
        shown = answered(headers, mode=self._bound.policy.mode)
        if head.status_code >= 400:
            for header in self._bound.policy.on_failure:
                shown = replaced(shown, header.name.lower().encode(), header.value.encode())
        response = h11.Response(
            status_code=head.status_code,
            headers=shown,
            reason=head.reason,
        )
        ready = down.http.send(response) or b""
        while True:
            part = upstream.next_part()
            if part is None or len(ready) > _FLUSH_BYTES:
                if ready:
                    await down.flush(ready)
                    ready = b""
                if part is None:
                    await upstream.more()
                    continue
            if isinstance(part, h11.EndOfMessage):
                await down.flush(ready + (down.http.send(h11.EndOfMessage()) or b""))
                return
            ready += down.http.send(h11.Data(data=part.data)) or b""

    async def _switch(self, upstream: Upstream, head: h11.InformationalResponse) -> None:
        headers = list(head.headers.raw_items())
        self.report(head.status_code, headers=headers)
        self._answering = True
        response = h11.InformationalResponse(
            status_code=101,
            headers=[*answered(headers, mode=self._bound.policy.mode), *_WEBSOCKET],
            reason=head.reason,
        )
        await self._down.flush(self._down.http.send(response) or b"")
        await relay(
            self._down.stream,
            upstream.stream,
            to_left=upstream.http.trailing_data[0],
            to_right=self._down.http.trailing_data[0],
        )

    async def _pass_sealed(self, request: h11.Request) -> None:
        if self._bound.seal_key is None:
            raise Refused("the answer must be sealed and there is no key for it", status=503)
        body = await self._down.whole_body(_REQUEST_BYTES)
        if body is None:
            raise Refused("the request is too large for a token endpoint", status=413)
        headers = without(list(request.headers.raw_items()), b"transfer-encoding")
        headers = replaced(headers, b"content-length", str(len(body)).encode())
        headers = replaced(headers, b"accept-encoding", b"identity")
        whole = h11.Request(method=request.method, target=request.target, headers=headers)
        upstream = await self._take()
        try:
            with self._bound.sealed_request():
                head, content = await self._ask(upstream, whole, body)
                await self._keep(head, content)
        finally:
            self._services.pool.give_back(upstream)
        answer = list(head.headers.raw_items())
        self.report(head.status_code, headers=answer)
        self._answering = True
        kept = without(
            answered(answer, mode=self._bound.policy.mode), b"content-length", b"transfer-encoding"
        )
        await self._down.answer(head.status_code, kept, content, reason=head.reason)

    async def _ask(
        self, upstream: Upstream, request: h11.Request, body: bytes
    ) -> tuple[h11.Response, bytes]:
        try:
            with contextlib.suppress(StreamClosed):
                await upstream.send(request)
                await upstream.send(h11.Data(data=body))
                await upstream.send(h11.EndOfMessage())
            head = await upstream.head()
            if not isinstance(head, h11.Response):
                raise Unreachable("upstream changed the protocol unasked")
            return head, await upstream.whole_body(ANSWER_BYTES)
        except Unreachable as problem:
            self._services.notices.alarm(
                "no whole answer from a token endpoint: the login may be lost",
                connection=self._bound.connection_id,
                host=self._host,
                reason=problem.reason,
            )
            raise

    async def _keep(self, head: h11.Response, content: bytes) -> None:
        """Seals the answer on disk, or, where the disk takes nothing, hands it to the gateway.

        The sandbox is answered in either case: a CLI that hears of a failure asks again with the
        token it just used up, and providers answer that by revoking the login altogether.
        """
        bound, notices = self._bound, self._services.notices
        assert bound.seal_key is not None
        success = 200 <= head.status_code < 300
        async with bound.sealing:
            if bound.kept_success and not success:
                return
            sealed = seal_answer(
                bound.seal_key,
                binding_id=bound.id,
                connection_id=bound.connection_id,
                status=head.status_code,
                body=content,
                encoding=value_of(head.headers.raw_items(), b"content-encoding").decode("latin-1"),
            )
            unwritten = ""
            reason = await self._write(sealed)
            if reason:
                notices.alarm(
                    "a token endpoint's answer cannot be written: make room on the disk",
                    connection=bound.connection_id,
                    reason=reason,
                )
                if len(sealed) <= _UNWRITTEN_BYTES:
                    unwritten = base64.b64encode(sealed).decode()
            bound.kept_success = bound.kept_success or success
            notices.sealed(bound.id, unwritten)

    async def _write(self, sealed: bytes) -> str:
        """Tries until it is written, for a short while; then says why it is not."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _KEEP_SECONDS
        pause = 0.05
        while True:
            try:
                await asyncio.to_thread(write_spool, self._services.spool, self._bound.id, sealed)
            except OSError as error:
                if loop.time() + pause > give_up_at:
                    return error.strerror or str(error)
                # Nothing tells when a disk has room again, so this looks again, ever less often.
                await asyncio.sleep(pause)
                pause *= 2
            else:
                return ""


async def _offer(upstream: Upstream, event: h11.Request | h11.Data | h11.EndOfMessage) -> bool:
    """False when upstream takes no more: its answer, if there is one, says why."""
    try:
        await upstream.send(event)
    except StreamClosed:
        return False
    return True
