"""The gateway's side of egress: starts the process, binds sandboxes to connections, listens.

Every request to the process has a bound on its wait; a late answer, a refused one or a dead
process raise EgressProblem. When the process dies, `exited` is set and bindings stop answering:
their listeners are gone, so runs in flight fail, and the gateway ends; its service starts it again.
"""

import asyncio
import base64
import contextlib
import os
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from polydev.config import EgressSettings
from polydev.egress.binding import Binding, OnExchange, process_gone
from polydev.egress.channel import SETTLE_SECONDS, Channel, ChannelClosed, Message
from polydev.egress.hold import let_go
from polydev.egress.notices import presentable
from polydev.errors import EgressProblem
from polydev.models.egress import EgressPolicy, Exchange, exchange_from_dict, policy_to_dict
from polydev.models.proxies import Proxy
from polydev.proc import to_the_end
from polydev.secret import Secret

_START_SECONDS = 20.0
_ANSWER_SECONDS = 10.0
_ENVIRONMENT = (
    "PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip

log = structlog.get_logger()


class Egress:
    """The egress process. Enter it to start the process; leaving ends it.

    authority: directory of the authority whose certificates sandboxes are shown; made at first.
    spool: directory of sealed answers.
    """

    def __init__(
        self,
        settings: EgressSettings,
        *,
        authority: Path,
        spool: Path,
    ) -> None:
        self.authority_pem = authority / "ca.pem"
        self._spool = spool
        self.exited = asyncio.Event()
        self._settings = settings
        self._authority = authority
        self._bindings: dict[str, Binding] = {}
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._last_id = 0
        self._channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        """Raises EgressProblem when the process does not come up."""
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not await let_go(self._spool, SETTLE_SECONDS + _ANSWER_SECONDS):
            log.error("another egress process still works on this spool", spool=str(self._spool))
        ours, theirs = Channel.pair()
        self._channel = Channel(ours)
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    # -P: the working directory must not be a place to import from.
                    *(sys.executable, "-P", "-m", "polydev.egress", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                )
            await self._set_up(self._channel)
        except BaseException:
            await self._stop(patience=0)
            raise
        self._listening = asyncio.create_task(self._listen(self._channel))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop(patience=SETTLE_SECONDS + 3)

    async def bind(
        self,
        *,
        connection_id: str,
        policy: EgressPolicy,
        listeners: Sequence[socket.socket],
        sentinel: Secret[str] | None,
        proxy: Proxy | None,
        seal_key: Secret[bytes] | None = None,
        on_exchange: OnExchange | None = None,
    ) -> Binding:
        """Lets whoever connects to `listeners` ask what `policy` admits, as this connection.

        proxy: what all of it leaves by; None for directly, which nobody gets by leaving it out.
        The listeners are handed over: they are closed here in any case. A bind that fails or is
        cancelled leaves nothing behind in the process.
        """
        binding = Binding(
            unbind=self._unbind,
            spool=self._spool,
            id=uuid.uuid4().hex,
            connection_id=connection_id,
            seal_key=seal_key,
            on_exchange=on_exchange,
        )
        self._bindings[binding.id] = binding
        try:
            await self._request(
                {
                    "do": "bind",
                    "binding": binding.id,
                    "connection_id": connection_id,
                    "policy": policy_to_dict(policy),
                    "sentinel": sentinel.reveal() if sentinel else None,
                    "proxy": proxy.reveal() if proxy else None,
                    "seal_key": base64.b64encode(seal_key.reveal()).decode() if seal_key else None,
                },
                [listener.fileno() for listener in listeners],
            )
        except BaseException:
            await to_the_end(self._take_back(binding.id))
            raise
        finally:
            for listener in listeners:
                listener.close()
        return binding

    async def set_credential(
        self, connection_id: str, *, access_token: Secret[str], attributes: Mapping[str, str]
    ) -> None:
        """What requests of this connection carry from now on."""
        await self._request(
            {
                "do": "set_credential",
                "connection_id": connection_id,
                "access_token": access_token.reveal(),
                "attributes": dict(attributes),
            }
        )

    async def set_proxy(self, connection_id: str, proxy: Proxy | None) -> None:
        """What this connection's next requests leave by, also those of its present bindings.

        Requests under way come to their end by the one they began with; nothing kept alive is
        used again.
        """
        await self._request(
            {
                "do": "set_proxy",
                "connection_id": connection_id,
                "proxy": proxy.reveal() if proxy else None,
            }
        )

    async def forget(self, connection_id: str) -> None:
        """Drops the token of a connection and closes what is kept alive for it."""
        await self._request({"do": "forget", "connection_id": connection_id})

    async def _unbind(self, binding_id: str) -> None:
        try:
            await self._request(
                {"do": "unbind", "binding": binding_id}, seconds=SETTLE_SECONDS + _ANSWER_SECONDS
            )
        finally:
            self._bindings.pop(binding_id, None)

    async def _take_back(self, binding_id: str) -> None:
        """Ends a binding that nobody got, for the process may have made it all the same."""
        self._bindings.pop(binding_id, None)
        if self.exited.is_set():
            return
        try:
            await self._request({"do": "unbind", "binding": binding_id})
        except EgressProblem as problem:
            log.warning(
                "a binding could not be taken back", binding=binding_id, reason=problem.reason
            )

    async def _set_up(self, channel: Channel) -> None:
        upstream_ca = self._settings.upstream_ca
        try:
            async with asyncio.timeout(_START_SECONDS):
                await channel.send(
                    {
                        "redirect": self._settings.redirect,
                        "upstream_ca": str(upstream_ca.absolute()) if upstream_ca else "",
                        "authority": str(self._authority.absolute()),
                        "spool": str(self._spool.absolute()),
                    }
                )
                received = await channel.receive()
        except (TimeoutError, ChannelClosed):
            received = None
        if received is None:
            raise EgressProblem(
                "The egress process did not start.",
                remedy="Its own words are above, on standard error; run `polydev doctor`.",
            )
        if "failed" in received[0]:
            raise EgressProblem(
                f"The egress process cannot work: {received[0]['failed']}.",
                remedy="Correct the egress settings or the files they name.",
            )

    async def _request(
        self,
        message: Message,
        descriptors: Sequence[int] = (),
        *,
        seconds: float = _ANSWER_SECONDS,
    ) -> None:
        if self._channel is None or self.exited.is_set():
            raise process_gone()
        self._last_id += 1
        number = self._last_id
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            async with asyncio.timeout(seconds):
                await self._channel.send({"id": number, **message}, descriptors)
                await answer
        except TimeoutError as error:
            raise EgressProblem(
                f"The egress process did not answer `{message['do']}` in time.",
                remedy="Try again; if it stays so, restart the gateway.",
                reason="late",
            ) from error
        except ChannelClosed as error:
            raise process_gone() from error
        except ValueError as error:
            raise EgressProblem(f"Egress cannot be asked this: {error}.") from error
        finally:
            self._answers.pop(number, None)

    async def _listen(self, channel: Channel) -> None:
        """Hears the process until it ends; then nobody waits for it any longer."""
        try:
            while (received := await channel.receive()) is not None:
                self._hear(received[0])
            log.error("the egress process ended by itself", pid=self.pid)
        except Exception:
            log.exception("the egress process cannot be understood any longer", pid=self.pid)
            channel.close()  # it ends by that
        finally:
            self.exited.set()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(process_gone())

    def _hear(self, message: Message) -> None:
        if message.get("lost"):
            log.warning("egress reports were lost", count=message["lost"])
        if "re" in message:
            answer = self._answers.get(message["re"])
            if answer and not answer.done():
                if "error" in message:
                    answer.set_exception(
                        EgressProblem(f"Egress refused: {message['error']}.", reason="refused")
                    )
                else:
                    answer.set_result(None)
        elif "exchange" in message:
            self._saw(exchange_from_dict(message["exchange"]))
        elif "sealed" in message:
            binding = self._bindings.get(message["sealed"])
            log.info("token endpoint's answer sealed", binding=message["sealed"])
            if binding:
                unwritten = message["unwritten"]
                binding.was_sealed(base64.b64decode(unwritten) if unwritten else None)
        elif "log" in message:
            fields: dict[str, Any] = message["fields"]
            getattr(log, message["level"])(message["log"], **fields)

    def _saw(self, exchange: Exchange) -> None:
        words = {
            "method": exchange.method,
            "host": exchange.host,
            "path": presentable(exchange.path),
            "status": exchange.status,
            "binding": exchange.binding,
        }
        if exchange.refused:
            log.warning("egress refused a request", reason=exchange.refused, **words)
        elif exchange.unreachable:
            log.warning("egress reached no upstream", reason=exchange.unreachable, **words)
        binding = self._bindings.get(exchange.binding)
        if binding is None:
            return
        try:
            binding.saw(exchange)
        except Exception:
            # What a listener does wrong must not deafen the gateway to egress.
            log.exception("a listener to egress exchanges failed")

    async def _stop(self, *, patience: float) -> None:
        """Closing the channel ends the process; one that does not end is killed."""
        channel, self._channel = self._channel, None
        if self._listening:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        if channel:
            channel.close()
        self.exited.set()
        if self._process is None:
            return
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._process.wait()
        finally:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
