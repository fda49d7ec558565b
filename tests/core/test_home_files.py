import asyncio
import os
from contextlib import aclosing
from pathlib import Path, PurePosixPath

import pytest

from polydev.core.home_files import changes, make_directories, read_file, read_object

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
