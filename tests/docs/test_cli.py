"""docs/cli.md is what the commands say of themselves."""

from tests.docs.generate import current, written


def test_the_page_is_current() -> None:
    assert written("cli.md") == current("cli.md"), "run: python -m tests.docs.generate"
