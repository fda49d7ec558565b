"""The packages of a desktop are listed once for people and once for machines."""

import re
from pathlib import Path

from polydev.core.desktops import missing_packages
from polydev.desktop.packages import PACKAGES

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def test_make_installs_what_a_desktop_needs() -> None:
    listed = re.search(r"^DESKTOP := ((?:.*\\\n)*.*)$", MAKEFILE.read_text(), re.MULTILINE)
    assert listed is not None
    assert listed[1].replace("\\", "").split() == sorted(PACKAGES)


def test_a_package_is_missing_without_its_file(tmp_path: Path) -> None:
    assert missing_packages(tmp_path) == list(PACKAGES)
    for file in PACKAGES.values():
        (tmp_path / "usr" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "usr" / file).touch()
    assert missing_packages(tmp_path) == []
