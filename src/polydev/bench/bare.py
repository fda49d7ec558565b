"""The bare CLIs, one-shot, as their owner would run them; pointed at the simulator.

Each gives the argv, environment and files of a run, and the mark of its first answer on stdout.
claude and codex are told another address; gemini asks hosts of its own too, by the proxy.
"""

from dataclasses import dataclass
from pathlib import Path

from polydev.bench.stage import Stage, access_token
from polydev.core.programs import Programs, npm_platform
from polydev.providers.registry import PROVIDERS

PROMPT = "calculate 3*67 and respond with just the number"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bare:
    argv: tuple[str, ...]
    environment: dict[str, str]
    mark: bytes


def bare_cli(provider: str, stage: Stage, programs: Programs, home: Path) -> Bare | None:
    """None for a provider whose bare form is not known here."""
    make = {"claude": _claude, "codex": _codex, "gemini": _gemini}.get(provider)
    if make is None:
        return None
    home.mkdir(parents=True, exist_ok=True)
    program = str(programs.file(PROVIDERS[provider].program))
    bare = make(program, stage, programs, home)
    ca = str(stage.directory / "ca.pem")
    common = {"HOME": str(home), "PATH": "/usr/bin:/bin", "NODE_EXTRA_CA_CERTS": ca}
    return Bare(argv=bare.argv, environment=common | bare.environment, mark=bare.mark)


def _claude(program: str, stage: Stage, _: Programs, __: Path) -> Bare:
    return Bare(
        argv=(
            program, "-p", PROMPT, "--output-format", "stream-json", "--verbose",
            "--include-partial-messages", "--tools", "", "--system-prompt", "",
            "--setting-sources", "", "--strict-mcp-config", "--disable-slash-commands",
            "--model", "sonnet", "--no-session-persistence",
        ),
        environment={
            "CLAUDE_CODE_OAUTH_TOKEN": access_token(stage, "claude"),
            "ANTHROPIC_BASE_URL": f"https://localhost:{stage.simulator}",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "MAX_THINKING_TOKENS": "0",
        },
        mark=b"text_delta",
    )  # fmt: skip


def _codex(program: str, stage: Stage, _: Programs, home: Path) -> Bare:
    folder = home / ".codex"
    folder.mkdir(exist_ok=True)
    base = f"https://localhost:{stage.simulator}/backend-api"
    (folder / "auth.json").write_bytes((stage.directory / "codex/auth.json").read_bytes())
    (folder / "config.toml").write_text(
        f'chatgpt_base_url = "{base}"\nmodel_provider = "here"\n'
        f'[model_providers.here]\nname = "here"\nbase_url = "{base}/codex"\n'
        "requires_openai_auth = true\nsupports_websockets = false\n"
        "[analytics]\nenabled = false\n"
    )
    ca = str(stage.directory / "ca.pem")
    return Bare(
        argv=(
            program, "exec", "--json", "--skip-git-repo-check", "--ephemeral", "-s", "read-only",
            "--disable", "plugins", "--disable", "apps", PROMPT,
        ),
        environment={"CODEX_CA_CERTIFICATE": ca, "SSL_CERT_FILE": ca},
        mark=b"agent_message",
    )  # fmt: skip


def _gemini(program: str, stage: Stage, programs: Programs, home: Path) -> Bare:
    folder = home / ".gemini"
    folder.mkdir(exist_ok=True)
    (folder / "oauth_creds.json").write_bytes(
        (stage.directory / "gemini/oauth_creds.json").read_bytes()
    )
    (folder / "settings.json").write_text(
        '{"security": {"auth": {"selectedType": "oauth-personal"}}, "tools": {"core": []},'
        ' "privacy": {"usageStatisticsEnabled": false}, "general": {"maxAttempts": 1}}'
    )
    node = str(programs.root / f"node_modules/node-{npm_platform()}/bin/node")
    return Bare(
        argv=(node, program, "-m", "gemini-2.5-pro", "-p", PROMPT, "-o", "stream-json"),
        environment={
            "HTTPS_PROXY": stage.proxy,
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
            "GEMINI_CLI_NO_RELAUNCH": "true",
        },
        mark=b'"delta":true',
    )
