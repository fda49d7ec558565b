"""What a CLI makes at its first start: taken out of a sandbox once, for every later run."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from polydev.core.first_start import FirstStarts
from polydev.core.programs import Programs
from polydev.models.places import Launch
from polydev.providers.base import FirstStart, Program
from polydev.providers.registry import provider_named
from polydev.sandboxes import Unprotected
from polydev.secret import Secret

pytestmark = pytest.mark.anyio

LAUNCH = Launch(argv=("/x",), files={".tool/config": Secret(b"mine")})
GOOD = """#!/bin/sh
cat
echo noise; echo more >&2
mkdir -p .tool/deep; printf 'a\\0b' > .tool/one.db; : > .tool/empty.db
head -c 200000 /dev/zero > .tool/deep/zero; echo theirs > .tool/config; echo no > .tool/other
exit 3
"""
KEEPS = (".tool/*.db", ".tool/deep/zero", ".tool/config", ".tool/missing", "../*")


class Tool:
    """As much of one as is needed; its CLI is a script."""

    def __init__(self, root: Path, script: str) -> None:
        self.name = "tool"
        self.program = Program(package="tool", file="tool/tool")
        self.first_start = FirstStart(arguments=(), keeps=KEEPS)
        self.directory = root / "node_modules/tool"
        self.directory.mkdir(parents=True)
        self.install("1", script)

    def install(self, version: str, script: str) -> None:
        (self.directory / "tool").write_text(script.replace("mkdir", 'cd "$HOME"; mkdir'))
        (self.directory / "tool").chmod(0o755)
        (self.directory / "package.json").write_text(json.dumps({"version": version}))


@pytest.fixture
async def sandboxes(tmp_path_factory, anyio_backend):
    place = tmp_path_factory.mktemp("fs")
    async with Unprotected(
        directory=place / "sandboxes", programs=place / "programs", authority=place / "ca.pem"
    ) as made:
        made.root = place / "programs"  # type: ignore[attr-defined]
        yield made


async def made(starts: FirstStarts, provider: Any) -> Launch:
    starts.add_to(LAUNCH, provider)
    async with asyncio.timeout(30):
        await asyncio.gather(*starts._making.values())
    return starts.add_to(LAUNCH, provider)


async def test_what_it_made_is_in_every_later_launch(sandboxes):
    provider: Any = Tool(sandboxes.root, GOOD)
    starts = FirstStarts(Programs(sandboxes.root), sandboxes)
    assert starts.add_to(LAUNCH, provider) is LAUNCH  # nobody waits for it
    launch = await made(starts, provider)
    assert {path: content.reveal() for path, content in launch.files.items()} == {
        ".tool/one.db": b"a\0b",
        ".tool/empty.db": b"",
        ".tool/deep/zero": bytes(200000),
        ".tool/config": b"mine",  # a run's own files come first
    }
    provider.install("2", GOOD.replace("a\\0b", "new"))
    assert starts.add_to(LAUNCH, provider) is LAUNCH  # another version's are not given
    again = await made(starts, provider)
    assert again.files[".tool/one.db"].reveal() == b"new"
    await starts.close()


@pytest.mark.parametrize(
    "script",
    ["#!/bin/sh\nexit 1\n", GOOD.replace("200000", "9000000")],
    ids=["fails", "makes too much"],
)
async def test_a_first_start_that_fails_costs_time_only(sandboxes, script: str):
    provider: Any = Tool(sandboxes.root, script)
    starts = FirstStarts(Programs(sandboxes.root), sandboxes)
    launch = await made(starts, provider)
    assert launch.files == LAUNCH.files
    assert starts._making == {}  # and is not tried again and again


async def test_one_that_hangs_ends_with_the_gateway(sandboxes):
    provider: Any = Tool(sandboxes.root, "#!/bin/sh\nsleep 600\n")
    starts = FirstStarts(Programs(sandboxes.root), sandboxes)
    starts.add_to(LAUNCH, provider)
    await starts.close()
    assert list(sandboxes._directory.path.iterdir()) == []


async def test_without_anything_to_make_a_launch_stays_as_it_is(sandboxes):
    starts = FirstStarts(Programs(sandboxes.root), sandboxes)
    assert starts.add_to(LAUNCH, provider_named("claude")) is LAUNCH
    assert starts._making == {}
