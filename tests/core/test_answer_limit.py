from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from polydev.core.answer_limit import AnswerLimit
from polydev.events import EndReason

# Few letters, so that stop sequences are met, overlap, and begin without ending.
LETTERS = st.text(alphabet="ab€", max_size=30)
STOPS = st.lists(st.text(alphabet="ab€", min_size=1, max_size=4), max_size=3).map(tuple)


def _shown(chunks: list[str], stop: tuple[str, ...], max_tokens: int | None):
    limit = AnswerLimit(stop, max_tokens)
    shown = ""
    for chunk in chunks:
        shown += limit.feed(chunk)
        if limit.reached:
            break
    else:
        shown += limit.rest()
    return shown, limit.reached, limit.matched


def _cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(
    text=LETTERS,
    stop=STOPS,
    max_tokens=st.none() | st.integers(1, 10),
    places=st.lists(st.integers(0, 100), max_size=8),
)
@example(text="aab", stop=("aab", "ab"), max_tokens=None, places=[])
@example(text="ba€", stop=("ba€", "a"), max_tokens=None, places=[1, 2])
@example(text="aaaab", stop=("b",), max_tokens=1, places=[4])
def test_however_a_text_is_cut_the_same_is_shown(
    text: str, stop: tuple[str, ...], max_tokens: int | None, places: list[int]
):
    chunks = _cut(text, places)
    assert "".join(chunks) == text
    assert _shown(chunks, stop, max_tokens) == _shown(list(text), stop, max_tokens)


@given(text=LETTERS, stop=STOPS, places=st.lists(st.integers(0, 100), max_size=8))
def test_what_is_shown_ends_before_the_first_complete_stop_sequence(
    text: str, stop: tuple[str, ...], places: list[int]
):
    shown, reached, matched = _shown(_cut(text, places), stop, None)
    ends = [(text.find(one) + len(one), one) for one in stop if one in text]
    if not ends:
        assert (shown, reached, matched) == (text, None, None)
        return
    first = min(end for end, _ in ends)
    assert reached is EndReason.STOP
    assert matched in stop
    assert shown + (matched or "") == text[:first]


@given(text=LETTERS, max_tokens=st.integers(1, 10))
def test_no_more_is_shown_than_was_allowed(text: str, max_tokens: int):
    shown, reached, _ = _shown([text], (), max_tokens)
    assert text.startswith(shown)
    assert len(shown.encode()) <= 4 * max_tokens
    assert (reached is EndReason.LENGTH) == (len(text.encode()) > 4 * max_tokens)
    if reached is None:
        assert shown == text


def test_text_that_cannot_be_a_stop_sequence_is_shown_at_once():
    limit = AnswerLimit(("STOP",))
    assert limit.feed("go on") == "go on"
    assert limit.feed(" ST") == " "
    assert limit.feed("AY") == "STAY"
    assert limit.feed(" STO") == " "
    assert limit.rest() == "STO"


def test_an_empty_stop_sequence_stops_nothing():
    limit = AnswerLimit(("",))
    assert limit.feed("abc") == "abc"
    assert limit.reached is None


def test_what_was_held_back_may_still_be_too_long():
    limit = AnswerLimit(("xxxx",), max_tokens=1)
    assert limit.feed("abcxxx") == "abc"
    assert limit.rest() == "x"
    assert limit.reached is EndReason.LENGTH


def test_half_a_character_is_counted_and_not_choked_on():
    limit = AnswerLimit(max_tokens=1)
    assert limit.feed("a\ud83d") == "a\ud83d"
    assert limit.feed("bcd").startswith("b")
    assert limit.reached is EndReason.LENGTH
