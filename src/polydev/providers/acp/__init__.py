"""Agents that speak the Agent Client Protocol, each by an entry: Gemini, Qwen.

`AcpProvider(ENTRY)` is a provider. An entry (polydev.providers.acp.agent.Agent) is data and a few
pure functions, in a module of its own; adding an agent is adding one. Facts about the CLIs were
measured against a stand-in; docs/providers/gemini.md tells which and how.
"""

from polydev.providers.acp.gemini import GEMINI
from polydev.providers.acp.provider import AcpProvider

__all__ = ["GEMINI", "AcpProvider"]
