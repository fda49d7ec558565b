"""A scripted CLI in claude's place: a real process in a real sandbox that does what it is told.

Its question is a JSON object with one command, or anything else, which it says back:

    {"do": "say", "text": …}          {"do": "die", "code": …}        {"do": "garbage"}
    {"do": "huge_line", "bytes": …}   {"do": "hang"}                  {"do": "ignore_sigterm"}
    {"do": "drip", "pieces": …, "seconds": …}
    {"do": "ask", "requests": [{"over": "socket" | "direct", …}, …]}  says what came of each
"""

from pathlib import Path

from polydev.core.programs import Programs
from polydev.providers.registry import provider_named

_SCRIPT = Path(__file__).with_name("scripted_cli.py")


def install(directory: Path) -> Path:
    """Puts it where claude's executable would be; gives the directory of programs."""
    program = provider_named("claude").program
    file = Programs(directory).file(program)
    file.parent.mkdir(parents=True)
    file.write_text(_SCRIPT.read_text())
    file.chmod(0o755)
    manifest = directory / "node_modules" / program.package / "package.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('{"version": "0.0.0"}')
    return directory
