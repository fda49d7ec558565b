import time

from polydev.models.ids import new_id


def test_identifiers_sort_by_time_and_do_not_repeat(monkeypatch) -> None:
    moments = iter(range(1_700_000_000_000_000_000, 2_700_000_000_000_000_000, 10**15))
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    made = [new_id("run") for _ in range(1000)]
    assert made == sorted(made)
    assert len(set(made)) == 1000


def test_an_identifier_is_its_prefix_and_26_characters() -> None:
    prefix, _, rest = new_id("con").partition("_")
    assert prefix == "con"
    assert len(rest) == 26
    assert set(rest) <= set("0123456789abcdefghjkmnpqrstvwxyz")
