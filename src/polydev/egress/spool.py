"""Answers of token endpoints, sealed on disk before the sandbox sees them.

A refresh token is used up by the request; its answer is the login from then on. So the answer is
written, sealed, flushed to disk and renamed into place as `<binding id>.sealed` before one byte of
it goes to the CLI. The gateway reads it from there, at once or after a crash. A refusal (not 2xx)
never takes the place of a kept success.
"""

import base64
import binascii
import contextlib
import datetime as dt
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polydev.errors import VaultProblem
from polydev.sealing import open_bytes, seal_bytes
from polydev.secret import Secret

SUFFIX = ".sealed"
ANSWER_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class SpooledAnswer:
    """A token endpoint's answer. body is as the provider meant it, no longer compressed."""

    connection_id: str
    status: int
    body: Secret[bytes]
    at: dt.datetime


def read_spool(path: Path, key: Secret[bytes]) -> SpooledAnswer:
    """The answer kept in `path`, named for its binding.

    Raises OSError when it cannot be read, VaultProblem when `key` does not open it.
    """
    return open_answer(path.read_bytes(), key, binding_id=path.name.removesuffix(SUFFIX))


def reseal_spool(path: Path, keys: Sequence[Secret[bytes]]) -> bool:
    """Seals a kept answer with the first of `keys`, whichever of them it was sealed with.

    False when it is so already. Raises OSError, and VaultProblem when none of the keys opens it.
    """
    binding_id = path.name.removesuffix(SUFFIX)
    sealed = path.read_bytes()
    for number, key in enumerate(keys):
        with contextlib.suppress(VaultProblem):
            content = open_bytes(key, sealed, binding_id.encode())
            if number:
                fresh = seal_bytes(keys[0], content, binding_id.encode())
                write_spool(path.parent, binding_id, fresh)
            return number > 0
    raise VaultProblem(
        f"{path} opens with none of the master keys that are held.",
        remedy="Restore the key it was sealed with, or remove the file.",
        reason="unknown_key",
    )


def open_answer(sealed: bytes, key: Secret[bytes], *, binding_id: str) -> SpooledAnswer:
    fields = json.loads(open_bytes(key, sealed, binding_id.encode()))
    try:
        body = _expanded(base64.b64decode(fields["body"]), fields["encoding"])
        return SpooledAnswer(
            connection_id=fields["connection_id"],
            status=fields["status"],
            body=Secret(body),
            at=dt.datetime.fromisoformat(fields["at"]),
        )
    except (KeyError, ValueError, binascii.Error, zlib.error) as error:
        raise VaultProblem(
            "A sealed answer of a token endpoint opened, but is not what egress writes.",
            remedy="If the connection then needs a login, log in again.",
        ) from error


def seal_answer(
    key: Secret[bytes],
    *,
    binding_id: str,
    connection_id: str,
    status: int,
    body: bytes,
    encoding: str = "",
) -> bytes:
    content = {
        "status": status,
        "body": base64.b64encode(body).decode(),
        "encoding": encoding.strip().lower(),
        "at": dt.datetime.now(dt.UTC).isoformat(),
        "connection_id": connection_id,
    }
    return seal_bytes(key, json.dumps(content).encode(), binding_id.encode())


def write_spool(directory: Path, binding_id: str, sealed: bytes) -> Path:
    """Puts a sealed answer in place so that it survives a crash. Blocking. Raises OSError."""
    final = directory / f"{binding_id}{SUFFIX}"
    draft = directory / f".{binding_id}.draft"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(final)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return final


def _expanded(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(wbits=47).decompress(body, 16 * ANSWER_BYTES)
    raise ValueError("an encoding that was not asked for")
