"""Which providers there are."""

from collections.abc import Mapping

from polydev.errors import UnknownModel
from polydev.providers.acp import GEMINI, QWEN, AcpProvider
from polydev.providers.base import Provider
from polydev.providers.claude import ClaudeProvider
from polydev.providers.codex import CodexProvider

_ALL: tuple[Provider, ...] = (
    ClaudeProvider(),
    CodexProvider(),
    AcpProvider(GEMINI),
    AcpProvider(QWEN),
)

PROVIDERS: Mapping[str, Provider] = {provider.name: provider for provider in _ALL}


def provider_named(name: str) -> Provider:
    """Raises UnknownModel for a name that no provider has."""
    try:
        return PROVIDERS[name]
    except KeyError:
        raise UnknownModel(
            f"There is no provider {name[:80]!r}.",
            remedy=f"The providers are: {', '.join(PROVIDERS)}.",
        ) from None
