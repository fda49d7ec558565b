"""What is installed has everything that pages are made of."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEB = ROOT / "src" / "polydev" / "web"


@pytest.mark.slow
def test_the_wheel_holds_every_template_and_script(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = {
        str(path.relative_to(ROOT / "src"))
        for path in WEB.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(files) > 30
    assert files <= packed


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(WEB.rglob("*")) if path.suffix in (".html", ".js", ".css")],
    ids=lambda path: path.name,
)
def test_nothing_is_inline_and_nothing_comes_from_elsewhere(path: Path):
    text = path.read_text()
    for forbidden in (" style=", "<style", " onclick=", "javascript:", "innerHTML =", "|safe"):
        assert forbidden not in text
    for scheme in ("https://", "http://"):
        assert text.replace("http://www.w3.org/2000/svg", "").count(scheme) == 0
    if path.suffix == ".html":
        assert text.count("<script") == text.count("<script src=") + text.count(
            '<script type="module" src='
        )
