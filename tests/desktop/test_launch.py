"""What a desktop is started with, and what its login is handed over as."""

import json
import subprocess

import pytest

from polydev.desktop import POLICY, UPSTREAM_AUTHORITY, command_of, desktop_launch
from polydev.desktop.browser import POLICY_FILE
from polydev.egress.policy import Judge
from polydev.models.places import Launch
from polydev.sandboxes.confinement import PLACE, file_under_home


def test_its_files_lie_in_a_directory_of_their_own() -> None:
    launch = desktop_launch(PLACE, None)
    assert {file_under_home(name).parts[0] for name in launch.files} == {".polydev"}
    assert set(launch.executable) <= set(launch.files)
    assert launch.argv[1] in {str(PLACE.home / name) for name in launch.executable}


@pytest.mark.parametrize("name", ["session", "bin/sign-in", "bin/xdg-open"])
def test_its_scripts_are_scripts(name: str) -> None:
    script = desktop_launch(PLACE, None).files[f".polydev/{name}"].reveal()
    checked = subprocess.run(["/bin/sh", "-n"], input=script, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_browsers_only_way_out_is_egress_and_locked() -> None:
    policies = json.loads(desktop_launch(PLACE, None).etc[POLICY_FILE])["policies"]
    assert policies["Proxy"]["HTTPProxy"] == f"127.0.0.1:{PLACE.egress_port}"
    assert policies["Proxy"]["Locked"]
    assert "Certificates" not in policies
    Judge(POLICY)


def test_a_stand_ins_authority_is_trusted_only_where_there_is_a_stand_in() -> None:
    launch = desktop_launch(PLACE, b"made-up certificate")
    policies = json.loads(launch.etc[POLICY_FILE])["policies"]
    assert policies["Certificates"]["Install"] == [str(PLACE.home / UPSTREAM_AUTHORITY)]
    assert launch.files[str(UPSTREAM_AUTHORITY)].reveal() == b"made-up certificate"
    assert str(UPSTREAM_AUTHORITY) not in desktop_launch(PLACE, None).files


def test_a_command_is_words_and_never_a_shells_text() -> None:
    cli = Launch(argv=("/bin/cli", "two words", "$(x)"), environment={"NAME": "a;b", "PATH": "/no"})
    words = command_of(cli, PLACE).decode().split("\0")
    assert words.pop() == ""
    assert words[:2] == ["/usr/bin/env", "-i"]
    assert words[-3:] == ["/bin/cli", "two words", "$(x)"]
    assert "NAME=a;b" in words
    assert [word for word in words if word.startswith("PATH=")] == [
        f"PATH={PLACE.home}/.polydev/bin:/usr/local/bin:/usr/bin:/bin"
    ]
