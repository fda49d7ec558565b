import base64
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from starlette.requests import HTTPConnection

from polydev.api.content import image, image_from_url, turns
from polydev.api.parameters import headers_for, ignored_parameters
from polydev.errors import InvalidRequest, UnsupportedParameter
from polydev.models.runs import Image, Text, Turn

DATA = base64.b64encode(b"made-up image").decode()


def _text(role: str, *texts: str) -> tuple[str, tuple[Text, ...]]:
    return role, tuple(Text(text=text) for text in texts)


def test_turns_stay_apart():
    made = turns([_text("user", "a"), _text("assistant", "b"), _text("user", "c")])
    assert [(turn.role, turn.text()) for turn in made] == [
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]


def test_neighbours_of_one_role_are_joined_as_the_vendors_do():
    made = turns(
        [_text("user", "a"), _text("user", "b"), _text("assistant", "c"), _text("user", "d")]
    )
    assert [turn.text() for turn in made] == ["a\n\nb", "c", "d"]
    picture = Image(media_type="image/png", data=DATA)
    (only,) = turns([("user", (picture,)), _text("user", "what is it?")])
    assert only.parts == (picture, Text(text="what is it?"))


def test_empty_messages_are_no_turns():
    made = turns([_text("user", "a"), _text("assistant", ""), _text("user", "b")])
    assert made == (Turn(role="user", parts=(Text(text="a"), Text(text="\n\n"), Text(text="b"))),)


@pytest.mark.parametrize(
    "messages",
    [[], [_text("user", "")], [("user", ())], [_text("user", "a"), _text("assistant", "b")]],
)
def test_there_must_be_a_question_at_the_end(messages):
    with pytest.raises(InvalidRequest):
        turns(messages)


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(min_size=1))))
def test_roles_always_alternate_and_no_text_is_lost(messages):
    listed = [(role, (Text(text=text),)) for role, text in messages]
    try:
        made = turns(listed)
    except InvalidRequest:
        assert not messages or messages[-1][0] == "assistant"
        return
    assert all(one.role != other.role for one, other in pairwise(made))
    kept = [part.text for turn in made for part in turn.parts if isinstance(part, Text)]
    for _, text in messages:
        assert text in kept


def test_images():
    assert image_from_url(f"data:image/png;base64,{DATA}") == Image(
        media_type="image/png", data=DATA
    )
    assert image("image/webp", DATA).media_type == "image/webp"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://example.com/x.png",
        "file:///etc/passwd",
        "data:image/png,abc",
        "data:image/png;base64,",
        "data:image/png;base64,%%%",
        "data:image/png;base64,a",
        "data:image/svg+xml;base64," + DATA,
        "data:text/html;base64," + DATA,
    ],
)
def test_what_is_no_image(url: str):
    with pytest.raises(InvalidRequest):
        image_from_url(url)


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str


HARMLESS: dict[str, object] = {"n": 1, "tools": [], "user": ...}


def _connection(**headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "path": "/", "headers": raw, "query_string": b""})


def test_only_what_would_change_the_answer_is_ignored_aloud():
    request = _Request(model="m", n=1, tools=[], user="me", seed=3, top_k=None, temperature=0.5)
    assert ignored_parameters(request, HARMLESS) == ["seed", "temperature"]
    request = _Request(model="m", n=2, tools=[{}])
    assert ignored_parameters(request, HARMLESS) == ["n", "tools"]


def test_ignored_parameters_are_named_or_refused():
    assert headers_for([], _connection(polydev_strict="1")) == {}
    assert headers_for(["a", "b"], _connection()) == {"polydev-ignored": "a, b"}
    with pytest.raises(UnsupportedParameter) as refused:
        headers_for(["a", "b"], _connection(polydev_strict="1"))
    assert "a, b" in refused.value.message


def test_a_name_that_fits_no_header_does_not_break_it():
    headers = headers_for(["naïve", "line\nbreak", "fine"], _connection())
    assert headers == {"polydev-ignored": "?, ?, fine"}
