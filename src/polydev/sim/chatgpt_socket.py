"""codex's WebSocket: frames `response.create` in, the events of a response out, many per socket.

A frame may name a `previous_response_id` and then carries only what is new; the turns behind the
last responses of this socket are kept for that, and an id that is not known is answered with the
vendor's error. Every frame is recorded. The socket ends when the client ends it, when its token
is no longer good, or when a stream is to be cut off.
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from polydev.sim.chatgpt_responses import (
    answer_turn,
    events_of,
    prompt_of,
    response_id,
    turns_of,
)
from polydev.sim.speech import Turn, answer
from polydev.sim.state import Account, TokenRejected, World
from polydev.sim.wire import Failure, Frame, bearer, delay, is_cut, kept

_RESPONSES_REMEMBERED = 50


class Conversation:
    """One accepted socket. `failure` and `windows` say what the account's state makes of it."""

    def __init__(
        self,
        websocket: WebSocket,
        world: World,
        account: Account,
        *,
        failure: Callable[[], Failure | None],
        windows: Callable[[], dict[str, Any]],
    ) -> None:
        self._websocket = websocket
        self._world = world
        self._account = account
        self._failure = failure
        self._windows = windows
        self._earlier: OrderedDict[str, tuple[Turn, ...]] = OrderedDict()

    async def serve(self) -> None:
        """Answers frames until the socket ends."""
        going_on = True
        while going_on:
            try:
                body = self._record(await self._websocket.receive_text())
            except WebSocketDisconnect:
                return
            try:
                self._world.authenticate(self._account.provider, bearer(self._websocket))
            except TokenRejected:
                await self._websocket.close(1008, "the token is no longer good")
                return
            try:
                going_on = await self._respond(body)
            except WebSocketDisconnect:
                self._account.counters["abandoned"] += 1
                return

    async def _respond(self, body: dict[str, Any]) -> bool:
        """Answers one frame; False when the socket was cut off on purpose."""
        if body.get("type") != "response.create":
            return True
        previous = str(body.get("previous_response_id") or "")
        if previous and previous not in self._earlier:
            await self._send(_error_event(_unknown_response(previous)))
            return True
        turns = self._earlier.get(previous, ()) + turns_of(body.get("input") or [])
        if body.get("generate") is False:
            events = events_of(body, None)
            self._remember(response_id(events), turns)
            for event, _ in events:
                await self._send(event)
            return True
        knobs = self._world.knobs(self._account)
        await delay(knobs.first_byte_seconds)
        failed = self._failure()
        if failed is not None:
            await self._send(_error_event(failed))
            return True
        self._world.use_windows(self._account)
        said = answer(prompt_of(body, turns))
        events = events_of(body, said)
        self._remember(response_id(events), (*turns, answer_turn(said)))
        await self._send(self._windows())
        frames = [
            Frame(content=json.dumps(event).encode(), is_text=is_text) for event, is_text in events
        ]
        for frame in kept(frames, knobs):
            if frame.is_text:
                await delay(knobs.pace_seconds)
            await self._websocket.send_text(frame.content.decode())
        if is_cut(frames, knobs):
            await self._websocket.close(1011)
            return False
        return True

    async def _send(self, event: dict[str, Any]) -> None:
        await self._websocket.send_text(json.dumps(event))

    def _remember(self, identifier: str, turns: tuple[Turn, ...]) -> None:
        self._earlier[identifier] = turns
        while len(self._earlier) > _RESPONSES_REMEMBERED:
            self._earlier.popitem(last=False)

    def _record(self, text: str) -> dict[str, Any]:
        self._world.records.add(
            method="FRAME",
            host=self._websocket.url.hostname or "",
            path=self._websocket.url.path,
            headers=[
                (name, value)
                for name, value in self._websocket.headers.items()
                if name in ("authorization", "chatgpt-account-id")
            ],
            body=text.encode(),
        )
        try:
            value = json.loads(text)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


def _error_event(failed: Failure) -> dict[str, Any]:
    return {
        "type": "error",
        "status": failed.status,
        **failed.body,
        "headers": failed.headers,
    }


def _unknown_response(identifier: str) -> Failure:
    error = {
        "type": "invalid_request_error",
        "code": "previous_response_not_found",
        "message": f"Previous response with id '{identifier}' not found.",
        "param": "previous_response_id",
    }
    return Failure(status=400, body={"error": error})
