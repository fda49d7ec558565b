"""The models that can be asked for, and whose each is."""

from dataclasses import dataclass

from polydev.errors import UnknownModel
from polydev.providers.base import Provider
from polydev.providers.registry import PROVIDERS


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """name: the vendor's; title: the provider's, for people."""

    provider: str
    title: str
    name: str


def listed_models() -> tuple[Model, ...]:
    """Every model that has a name of its own here; the vendors' other names work too."""
    return tuple(
        _model(provider, name)
        for provider in PROVIDERS.values()
        for name in provider.catalogue.names
    )


def resolve_model(name: str) -> Model:
    """What `claude/opus`, `claude` or a vendor's plain name stands for. Raises UnknownModel."""
    head, slash, tail = name.partition("/")
    if head in PROVIDERS:
        return _model(PROVIDERS[head], PROVIDERS[head].catalogue.resolve(tail, head))
    if not slash:
        for provider in PROVIDERS.values():
            if provider.catalogue.knows(name):
                return _model(provider, provider.catalogue.resolve(name, provider.name))
    raise UnknownModel(
        f"There is no model {name[:80]!r}.",
        remedy="GET /v1/models lists what can be asked, for example "
        + ", ".join(f"{p.name}/{p.catalogue.default}" for p in PROVIDERS.values())
        + ".",
    )


def _model(provider: Provider, name: str) -> Model:
    return Model(provider=provider.name, title=provider.title, name=name)
