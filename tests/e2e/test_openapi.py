"""Whatever fits, or does not fit, the API's own description is answered and never with a crash."""

import json

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup

from tests.e2e.conftest import House

pytestmark = pytest.mark.anyio

OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/messages"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/v1/connections"),
    ("GET", "/v1/connections/events"),
    ("POST", "/v1/runs"),
    ("GET", "/v1/runs"),
    ("GET", "/v1/runs/{run_id}"),
    ("GET", "/v1/runs/{run_id}/prompt"),
    ("DELETE", "/v1/runs/{run_id}"),
    ("GET", "/v1/runs/{run_id}/events"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]
ENDLESS = {("GET", "/v1/connections/events")}  # until its reader leaves
# What a request that fits its description may be told: it asks for a model or run there is none
# of, or for something that no provider does.
EXPECTED = {200, 202, 400, 404, 413}


@pytest.fixture
async def schema(scripted_house: House):
    person = await scripted_house.person("ada", "claude")
    url = scripted_house.gateway.url
    loaded = schemathesis.openapi.from_url(f"{url}/openapi.json")
    loaded.config.update(headers={"authorization": f"Bearer {person.key}"})
    return loaded


def test_the_description_lists_every_operation(schema):
    listed = {
        (method.upper(), path)
        for path, methods in schema.raw_schema["paths"].items()
        for method in methods
    }
    assert listed == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if one not in ENDLESS])
def test_every_answer_is_meant(schema, method: str, path: str):
    @hypothesis.given(case=schema[path][method].as_strategy(), known=st.booleans())
    @hypothesis.settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def answered(case, known):
        # Left to chance, hardly any model's name would be one that there is.
        if known and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "claude"
        answer = case.call(timeout=60)
        assert answer.status_code in EXPECTED, (answer.status_code, answer.text)
        if answer.status_code >= 400:
            error = json.loads(answer.content)["error"]
            assert error["message"]
            assert error["reason"]
        else:
            case.validate_response(answer)

    try:
        answered()
    except FailureGroup as failures:
        raise AssertionError("\n".join(map(str, failures.exceptions))) from failures
