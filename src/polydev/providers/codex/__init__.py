"""ChatGPT's Codex, through OpenAI's `codex` CLI as an app-server.

Facts about the CLI (0.169.0) were measured against a stand-in; docs/providers/codex.md tells
which and how.
"""

from polydev.providers.codex.provider import CodexProvider

__all__ = ["CodexProvider"]
