"""Agents that speak the Agent Client Protocol, each by an entry: Gemini, Qwen.

`AcpProvider(ENTRY)` is a provider. An entry (polydev.providers.acp.agent.Agent) is data and a few
pure functions, in a module of its own; adding an agent is adding one. Facts about the CLIs (0.61.0
and 0.24.4) were measured against a stand-in; docs/providers/gemini.md tells which and how.
"""

from polydev.providers.acp.gemini import GEMINI
from polydev.providers.acp.provider import AcpProvider
from polydev.providers.acp.qwen import QWEN

__all__ = ["GEMINI", "QWEN", "AcpProvider"]
