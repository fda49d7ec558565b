"""Records `stdout.jsonl` of golden folders: real CLI, real sandbox, real egress, simulator.

    python -m tests.providers.record DIRECTORY [PROVIDER/CASE …]

DIRECTORY holds `node_modules` with the CLIs. A case is added by writing its `prompt.json` first.
Folders whose `prompt.json` has `recorded: false` are left alone: they hold what this way does not
bring about.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from polydev.config import EgressSettings
from polydev.core.programs import Programs
from polydev.egress.client import Egress
from polydev.models.egress import Purpose
from polydev.models.places import Launch, Place
from polydev.providers.base import LaunchOrder
from polydev.sandboxes import Bubblewrap
from polydev.secret import Secret
from polydev.sim import Simulator
from tests.providers.golden import Case, cases

_SECONDS = 60
_SENTINEL = Secret("polydev-made-up-sentinel")
_IDENTITY = "00000000-0000-4000-8000-000000000000"


async def record(case: Case, programs: Programs) -> list[bytes]:
    """What the CLI prints for this case, up to the end of the dialogue."""
    provider = case.provider
    with tempfile.TemporaryDirectory(prefix="polydev-record-") as name:
        directory = Path(name)
        async with (
            asyncio.timeout(_SECONDS),
            Simulator(directory / "sim") as simulator,
            Egress(
                EgressSettings(redirect=simulator.redirect, upstream_ca=simulator.ca),
                authority=directory / "authority",
                spool=directory / "spool",
            ) as egress,
            Bubblewrap(
                directory=directory / "sandboxes",
                programs=programs.root,
                authority=egress.authority_pem,
            ) as sandboxes,
        ):
            account = simulator.world.accounts[f"{provider.name}-1"]
            simulator.world.turn(account, case.simulator)
            file = simulator.credential_path(provider.name).read_bytes()
            credential = provider.read_credential({str(provider.credential_file): Secret(file)})
            await egress.set_credential(
                "con_recording",
                access_token=credential.access_token,
                attributes=credential.attributes,
            )

            opening: tuple[bytes, ...] = ()

            def launch(place: Place) -> Launch:
                nonlocal opening
                launched = provider.launch(
                    LaunchOrder(
                        purpose=Purpose.RUN,
                        place=place,
                        program=programs.inside(provider.program, place),
                        node=programs.node(place),
                        identity=_IDENTITY,
                        sentinel=_SENTINEL,
                        credential=credential,
                        prompt=case.prompt,
                    )
                )
                opening = launched.opening
                return launched

            async with (
                await sandboxes.open(launch) as sandbox,
                await egress.bind(
                    connection_id="con_recording",
                    policy=provider.policy(Purpose.RUN, credential.kind),
                    listeners=sandbox.listeners,
                    sentinel=_SENTINEL,
                    proxy=None,
                ),
            ):
                process = await sandbox.start()
                dialogue = provider.dialogue(case.prompt)
                await process.send((*opening, *dialogue.open()))
                lines: list[bytes] = []
                async for line in process.lines():
                    lines.append(line)
                    step = dialogue.receive(line)
                    if step.finished:
                        break
                    if step.send:
                        await process.send(step.send)
                return lines


async def main() -> None:
    parser = argparse.ArgumentParser(description="Records golden folders from the real CLIs.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_args()
    programs = Programs(arguments.directory)
    for case in cases():
        description = json.loads((case.directory / "prompt.json").read_bytes())
        if not description.get("recorded", True):
            continue
        if arguments.cases and case.name not in arguments.cases:
            continue
        lines = await record(case, programs)
        (case.directory / "stdout.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        print(f"{case.name}: {len(lines)} lines")


if __name__ == "__main__":
    asyncio.run(main())
