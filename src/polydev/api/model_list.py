"""`GET /v1/models`, in the format of the SDK that asks."""

from typing import Any

from fastapi import APIRouter, Request

from polydev.api.dependencies import CallerDependency
from polydev.api.problems import Format, format_of
from polydev.providers.registry import PROVIDERS, resolve_model

router = APIRouter()

# The vendors' lists carry a date of release; ours has none to tell, and SDKs want the field.
_CREATED = 0


@router.get("/v1/models", tags=["OpenAI", "Anthropic"])
async def list_models(request: Request, caller: CallerDependency) -> dict[str, Any]:
    """Every model that can be asked for by name. Vendors' other names work too."""
    names = [
        (f"{provider.name}/{model}", provider)
        for provider in PROVIDERS.values()
        for model in provider.catalogue.names
    ]
    if format_of(request) is Format.ANTHROPIC:
        models = [_anthropic(name, provider.title) for name, provider in names]
        return {
            "data": models,
            "has_more": False,
            "first_id": models[0]["id"],
            "last_id": models[-1]["id"],
        }
    return {"object": "list", "data": [_openai(name, p.name) for name, p in names]}


@router.get("/v1/models/{name:path}", tags=["OpenAI", "Anthropic"])
async def read_model(name: str, request: Request, caller: CallerDependency) -> dict[str, Any]:
    provider, _ = resolve_model(name)
    if format_of(request) is Format.ANTHROPIC:
        return _anthropic(name, provider.title)
    return _openai(name, provider.name)


def _openai(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": owner}


def _anthropic(name: str, title: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": f"{title} {name.partition('/')[2] or name}",
        "created_at": "1970-01-01T00:00:00Z",
    }
