from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydev.errors import RunFailed
from polydev.proc import LineFramer, LineTooLong

texts = st.lists(st.binary(max_size=40).map(lambda part: part.replace(b"\n", b"")), max_size=20)


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


@given(texts, st.binary(max_size=10), st.lists(st.integers(0, 900), max_size=30))
def test_any_chunking_gives_the_same_lines(lines, rest, cuts):
    rest = rest.replace(b"\n", b"")
    data = b"".join(line + b"\n" for line in lines) + rest
    framer = LineFramer()
    got = [line for chunk in chunked(data, cuts) for line in framer.feed(chunk)]
    assert got == lines
    assert framer.held_bytes == len(rest)
    assert framer.finish() == ([rest] if rest else [])
    assert framer.finish() == []


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 300))
def test_never_holds_more_than_the_limit_and_a_chunk(limit, step, size):
    framer = LineFramer(limit)
    fed = 0
    try:
        while fed < size:
            framer.feed(b"x" * step)
            fed += step
            assert framer.held_bytes <= limit
        framer.feed(b"\n")
    except LineTooLong:
        assert fed + step > limit
        assert framer.held_bytes == 0
    else:
        assert fed <= limit


def test_a_line_of_exactly_the_limit_passes():
    assert LineFramer(4).feed(b"1234\n") == [b"1234"]


@pytest.mark.parametrize("chunks", [[b"12345\n"], [b"1234", b"5"], [b"ok\n12345", b"\n"]])
def test_a_longer_line_is_refused_for_good(chunks):
    framer = LineFramer(4)
    with pytest.raises(LineTooLong) as failure:
        for chunk in chunks:
            framer.feed(chunk)
    assert isinstance(failure.value, RunFailed)
    assert failure.value.reason == "line_too_long"
    assert "4 bytes" in str(failure.value)
    with pytest.raises(LineTooLong):
        framer.feed(b"a\n")
    assert framer.finish() == []
