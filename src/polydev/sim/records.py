"""A bounded ring of what the simulator was asked, with every credential reduced to a label.

Tests read an upstream body here. A token that was given out here shows as `account/kind#serial`,
any other as `unknown`; large bodies are counted and not kept; the oldest records go first when
either bound is met.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from polydev.secret import mask_tokens

LONGEST_BODY_KEPT_BYTES = 4 * 2**20
ALL_BODIES_KEPT_BYTES = 64 * 2**20

_CREDENTIAL_HEADERS = frozenset(
    {"authorization", "x-api-key", "x-goog-api-key", "cookie", "proxy-authorization"}
)
_CREDENTIAL_FIELDS = frozenset(
    {
        "access_token", "refresh_token", "id_token", "token", "code", "code_verifier",
        "client_secret", "subject_token", "key", "api_key", "authorization",
        "authorization_code", "device_auth_id", "password",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One request, or one frame of a WebSocket (method `FRAME`).

    account: the account whose token came with it, when one did.
    body: decoded JSON or form fields, else text; None when there was none or it was too large.
    body_bytes: the size as it came over the wire.
    """

    number: int
    received_at: datetime
    method: str
    host: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    body_bytes: int
    account: str | None


class Records:
    """The ring; `label` names a token that was given out."""

    def __init__(self, label: Callable[[str], str | None], *, kept: int) -> None:
        self._label = label
        self._kept: deque[tuple[Record, int]] = deque()
        self._most = kept
        self._bytes = 0
        self._changed = asyncio.Event()
        self.total = 0

    def add(
        self,
        *,
        method: str,
        host: str,
        path: str,
        query: str = "",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        wire_bytes: int | None = None,
    ) -> Record:
        """Keeps one request; `body` is already decompressed."""
        reduced = {name: self._header(name, value) for name, value in headers}
        size = len(body) if len(body) <= LONGEST_BODY_KEPT_BYTES else 0
        self.total += 1
        record = Record(
            number=self.total,
            received_at=datetime.now(UTC),
            method=method,
            host=host,
            path=path,
            query=self._reduce(dict(parse_qsl(query))),
            headers=reduced,
            body=self._reduce(_decoded(body, reduced.get("content-type", ""))) if size else None,
            body_bytes=len(body) if wire_bytes is None else wire_bytes,
            account=_account(reduced),
        )
        self._kept.append((record, size))
        self._bytes += size
        while len(self._kept) > self._most or self._bytes > ALL_BODIES_KEPT_BYTES:
            self._bytes -= self._kept.popleft()[1]
        self._changed.set()
        self._changed = asyncio.Event()
        return record

    def all(
        self,
        *,
        after: int = 0,
        host: str = "",
        path: str = "",
        account: str = "",
        method: str = "",
    ) -> list[Record]:
        """What is kept, oldest first; `path` matches by its beginning."""
        return [
            record
            for record, _ in self._kept
            if record.number > after
            and (not host or record.host == host)
            and record.path.startswith(path)
            and (not account or record.account == account)
            and (not method or record.method == method)
        ]

    async def arrived(self, condition: Callable[[list[Record]], bool], within: float) -> None:
        """Waits until `condition` holds of what is kept. TimeoutError after `within` seconds."""
        async with asyncio.timeout(within):
            while not condition(self.all()):
                await self._changed.wait()

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0

    def _header(self, name: str, value: str) -> str:
        if name not in _CREDENTIAL_HEADERS:
            return value
        scheme, space, rest = value.partition(" ")
        if space and scheme.lower() == "bearer":
            return f"{scheme} {self._label(rest.strip()) or 'unknown'}"
        return self._label(value) or "unknown"

    def _reduce(self, value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: self._reduce(part, str(key)) for key, part in value.items()}
        if isinstance(value, list):
            return [self._reduce(part, name) for part in value]
        if isinstance(value, str):
            label = self._label(value)
            if label is not None:
                return label
            if value and name.lower() in _CREDENTIAL_FIELDS and _looks_secret(name, value):
                return "unknown"
            return mask_tokens(value) if len(value) < 100_000 else value
        return value


def _looks_secret(name: str, value: str) -> bool:
    """Field names such as `code` and `key` also hold harmless short words."""
    return name.lower() == "password" or (len(value) >= 12 and " " not in value)


def _account(headers: dict[str, str]) -> str | None:
    for name in ("authorization", "x-api-key", "x-goog-api-key"):
        label = headers.get(name, "").removeprefix("Bearer ").removeprefix("bearer ")
        if "/" in label and "#" in label:
            return label.split("/")[0]
    return None


def _decoded(body: bytes, content_type: str) -> Any:
    text = body.decode("utf-8", "replace")
    if content_type.startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl(text))
    try:
        return json.loads(text)
    except ValueError:
        return text
