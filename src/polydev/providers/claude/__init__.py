"""Claude, through Anthropic's `claude` CLI in stream-json mode.

Facts about the CLI (2.1.329) were measured against a stand-in; docs/providers/claude.md tells
which and how.
"""

from polydev.providers.claude.provider import ClaudeProvider

__all__ = ["ClaudeProvider"]
