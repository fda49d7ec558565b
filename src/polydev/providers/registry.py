"""Which providers there are."""

from collections.abc import Mapping

from polydev.errors import UnknownModel
from polydev.providers.base import Provider
from polydev.providers.claude import ClaudeProvider
from polydev.providers.codex import CodexProvider

_ALL: tuple[Provider, ...] = (ClaudeProvider(), CodexProvider())

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


def resolve_model(name: str) -> tuple[Provider, str]:
    """`claude/opus`, `claude` or a vendor's plain name → provider and the vendor's model name.

    Raises UnknownModel.
    """
    head, slash, tail = name.partition("/")
    if head in PROVIDERS:
        return PROVIDERS[head], PROVIDERS[head].catalogue.resolve(tail, head)
    if not slash:
        for provider in PROVIDERS.values():
            if provider.catalogue.knows(name):
                return provider, provider.catalogue.resolve(name, provider.name)
    raise UnknownModel(
        f"There is no model {name[:80]!r}.",
        remedy="GET /v1/models lists what can be asked, for example "
        + ", ".join(f"{p.name}/{p.catalogue.default}" for p in PROVIDERS.values())
        + ".",
    )
