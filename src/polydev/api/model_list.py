"""`GET /v1/models`, in the format of the SDK that asks."""

from typing import Any

from fastapi import APIRouter, Request

from polydev.api.dependencies import CallerDependency
from polydev.api.problems import Format, format_of
from polydev.core.catalogue import listed_models, resolve_model

router = APIRouter()

# The vendors' lists carry a date of release; ours has none to tell, and SDKs want the field.
_CREATED = 0


@router.get("/v1/models", tags=["OpenAI", "Anthropic"])
async def list_models(request: Request, caller: CallerDependency) -> dict[str, Any]:
    """Every model that can be asked for by name. Vendors' other names work too."""
    listed = [(f"{model.provider}/{model.name}", model) for model in listed_models()]
    if format_of(request) is Format.ANTHROPIC:
        models = [_anthropic(name, model.title) for name, model in listed]
        return {
            "data": models,
            "has_more": False,
            "first_id": models[0]["id"],
            "last_id": models[-1]["id"],
        }
    return {"object": "list", "data": [_openai(name, model.provider) for name, model in listed]}


@router.get("/v1/models/{name:path}", tags=["OpenAI", "Anthropic"])
async def read_model(name: str, request: Request, caller: CallerDependency) -> dict[str, Any]:
    model = resolve_model(name)
    if format_of(request) is Format.ANTHROPIC:
        return _anthropic(name, model.title)
    return _openai(name, model.provider)


def _openai(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": owner}


def _anthropic(name: str, title: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": f"{title} {name.partition('/')[2] or name}",
        "created_at": "1970-01-01T00:00:00Z",
    }
