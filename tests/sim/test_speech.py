"""What the stand-ins say follows from the prompt alone."""

import ast
import json
import operator
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polydev.sim.arithmetic import evaluate, find_result, written
from polydev.sim.speech import (
    LONGEST_COUNT,
    Prompt,
    Tool,
    ToolCall,
    Turn,
    answer,
    pieces,
    shaped,
)

_OPERATORS: dict[type[ast.AST], Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def exactly(expression: str) -> Fraction | None:
    """Python's own reading of an expression, with exact numbers."""

    def walk(node: ast.AST) -> Fraction:
        match node:
            case ast.Expression(body=body):
                return walk(body)
            case ast.BinOp(left=left, op=op, right=right):
                return _OPERATORS[type(op)](walk(left), walk(right))
            case ast.UnaryOp(op=op, operand=operand):
                return _OPERATORS[type(op)](walk(operand))
            case ast.Constant():
                return Fraction(ast.get_source_segment(expression, node) or "0")
        raise AssertionError(node)

    try:
        return walk(ast.parse(expression, mode="eval"))
    except ZeroDivisionError:
        return None


numbers = st.one_of(
    st.integers(0, 10**9).map(str),
    st.tuples(st.integers(0, 9999), st.integers(0, 999)).map(lambda pair: f"{pair[0]}.{pair[1]}"),
)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", " + ", " * "]), inner).map("".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-({text})"),
    ),
    max_leaves=8,
).filter(lambda text: any(character in text for character in "+*/") and len(text) < 500)


def ask(text: str, **others: object) -> str:
    return answer(Prompt(turns=(Turn(role="user", text=text),), **others)).text  # type: ignore[arg-type]


@given(expressions)
@example("2+3*4")
@example("8/4/2")
@example("1-2-3")
@example("2*-3")
def test_arithmetic_agrees_with_exact_arithmetic(expression: str) -> None:
    assert evaluate(expression) == exactly(expression)


@given(st.fractions(max_denominator=1000))
def test_a_written_number_reads_back(value: Fraction) -> None:
    assert abs(Fraction(written(value)) - value) <= Fraction(1, 10**10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("calculate 3*67 and respond with just the number", "201"),
        ("What is (2 + 3) * 4.5?", "22.5"),
        ("please compute 10 / 4", "2.5"),
        ("what's 1/3", "0.3333333333"),
        ("6 × 7 =", "42"),
        ("12+30", "42"),
        ("calculate -5 + 2", "-3"),
        ("What is 0.1 + 0.2?", "0.3"),
    ],
)
def test_a_calculation_is_computed(text: str, expected: str) -> None:
    assert ask(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "calculate 1/0",
        "compute (2+3",
        "what is 7",
        "meet me on 2026-11-21",
        "hello",
        "",
        "1+",
        "()",
    ],
)
def test_what_is_no_calculation_is_no_number(text: str) -> None:
    assert find_result(text) is None
    assert "You sent" in ask(text)


@given(st.text(max_size=400))
def test_any_text_is_answered(text: str) -> None:
    said = answer(Prompt(turns=(Turn(role="user", text=text),)))
    assert said.text
    assert "".join(said.chunks) == said.text


@given(st.text())
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


def test_a_deep_expression_is_refused_and_not_a_crash() -> None:
    assert find_result("calculate " + "(" * 5000 + "1+1" + ")" * 5000) is None


def test_counting_is_as_long_as_asked_and_bounded() -> None:
    assert ask("Count to 5") == "1 2 3 4 5"
    assert len(ask("write 300 words about rivers").split()) == 300
    assert len(ask("count to 999999999").split()) == LONGEST_COUNT


def test_other_prompts_are_spoken_about() -> None:
    said = answer(
        Prompt(
            system="Be brief.",
            turns=(
                Turn(role="user", text="my name is Ada", images=1),
                Turn(role="assistant", text="Noted."),
                Turn(role="user", text="tell me about the weather in the town of Bergen"),
            ),
        )
    ).text
    assert "10 words" in said
    assert "tell me about the weather in" in said
    assert "2 turns" in said
    assert "1 image." in said
    assert "9 characters" in said


def test_a_schema_is_obeyed() -> None:
    schema = {
        "type": "object",
        "properties": {
            "answer": {"type": "integer"},
            "kind": {"enum": ["sum", "product"]},
            "parts": {"type": "array", "items": {"type": "string"}},
        },
    }
    value = json.loads(ask("calculate 3*67", schema=schema))
    assert value == {"answer": 201, "kind": "sum", "parts": ["201"]}
    assert shaped({"type": ["number", "null"]}, "about 2.5") == 2.5


def test_a_tool_is_called_when_the_prompt_says_so_and_its_answer_is_used() -> None:
    tools = (Tool(name="mcp__caller__weather", schema={"properties": {"city": {}}}),)
    question = Turn(role="user", text='call the tool weather {"city": "Bergen"}')
    said = answer(Prompt(turns=(question,), tools=tools))
    assert said.call == ToolCall(name="mcp__caller__weather", arguments={"city": "Bergen"})
    assert said.text == ""
    after = answer(Prompt(turns=(question, Turn(role="tool", text="rain")), tools=tools))
    assert after.call is None
    assert "rain" in after.text
    assert answer(Prompt(turns=(question,))).call is None
