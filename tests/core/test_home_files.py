import asyncio
import os
import socket
from contextlib import aclosing
from pathlib import Path, PurePosixPath

import pytest

from polydev.core.home_files import (
    changes,
    connected,
    make_directories,
    read_file,
    read_object,
    write_file,
)
from polydev.secret import Secret

pytestmark = pytest.mark.anyio

FILE = PurePosixPath(".cli/login.json")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    make_directories(home, [FILE])
    return home


def test_a_plain_file_is_read(home: Path) -> None:
    (home / FILE).write_bytes(b'{"a": 1}')
    found = read_object(home, FILE)
    assert found is not None
    assert found.reveal() == b'{"a": 1}'


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[1]", b'"text"', b"\xff\xfe"])
def test_what_is_not_yet_a_whole_object_is_none(home: Path, content: bytes) -> None:
    (home / FILE).write_bytes(content)
    assert read_file(home, FILE) is not None
    assert read_object(home, FILE) is None


def test_no_link_is_followed_neither_at_the_end_nor_on_the_way(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "login.json").write_bytes(b"{}")
    (home / FILE).symlink_to(outside / "login.json")
    assert read_file(home, FILE) is None
    (home / FILE).unlink()
    (home / ".cli").rmdir()
    (home / ".cli").symlink_to(outside)
    assert read_file(home, FILE) is None
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        make_directories(home, [FILE])


def test_only_plain_files_of_a_bounded_size_are_read(home: Path) -> None:
    os.mkfifo(home / FILE)
    assert read_file(home, FILE) is None  # and nobody waits for a writer
    (home / FILE).unlink()
    (home / FILE).mkdir()
    assert read_file(home, FILE) is None
    (home / FILE).rmdir()
    (home / FILE).write_bytes(b" " * (2**20 + 1))
    assert read_file(home, FILE) is None


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "in-place"])
async def test_a_file_is_noticed_when_it_is_written(home: Path, *, replaced: bool) -> None:
    async with aclosing(changes(home, [FILE])) as seen, asyncio.timeout(10):
        await anext(seen)  # at once: it may be there already
        if replaced:
            (home / "new").write_bytes(b"{}")
            (home / "new").rename(home / FILE)
        else:
            (home / FILE).write_bytes(b"{}")
        async for _ in seen:
            if read_object(home, FILE):
                return


def test_a_file_is_written_for_its_owner_alone_and_only_once(home: Path) -> None:
    path = PurePosixPath(".new/deep/file")
    write_file(home, path, Secret(b"made up"))
    assert (home / path).read_bytes() == b"made up"
    assert (home / path).stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_file(home, path, Secret(b"other"))


def test_nothing_is_written_through_a_link(home: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (home / "link").symlink_to(tmp_path / "outside")
    (home / ".cli/file").symlink_to(tmp_path / "outside" / "made")
    for name in ("link/made", ".cli/file"):
        with pytest.raises(OSError):
            write_file(home, PurePosixPath(name), Secret(b"made up"))
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_socket_under_home_is_connected_to_and_none_of_the_hosts(
    home: Path, tmp_path: Path
) -> None:
    listeners = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for listener, path in zip(listeners, (home / ".cli/own", tmp_path / "host"), strict=True):
        listener.bind(str(path))
        listener.listen()
    with connected(home, PurePosixPath(".cli/own")) as connection:
        there, _ = listeners[0].accept()
        there.sendall(b"hello")
        connection.setblocking(True)
        assert connection.recv(5) == b"hello"
        there.close()
    (home / ".cli/link").symlink_to(tmp_path / "host")
    (home / "out").symlink_to(tmp_path)
    (home / ".cli/file").touch()
    for name in (".cli/link", "out/host", ".cli/file", ".cli/missing"):
        with pytest.raises(OSError):
            connected(home, PurePosixPath(name))
    for listener in listeners:
        listener.close()
