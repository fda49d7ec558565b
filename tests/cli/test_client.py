"""The owner's commands and the gateway's socket."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest


def polydev(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "polydev", *arguments],
        env={**os.environ, "POLYDEV_DATA": str(data), "POLYDEV_SANDBOX__KIND": "none"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_data_directory_with_a_long_path_is_reached(tmp_path: Path) -> None:
    data = tmp_path / ("d" * 150)
    listed = polydev("users", "list", data=data)
    assert listed.returncode == 0, listed.stderr
    assert "owner" in listed.stdout
    assert data.stat().st_mode & 0o777 == 0o700


def test_the_first_key_is_made_and_shown_once(tmp_path: Path) -> None:
    first = polydev("service", "first-key", data=tmp_path / "data")
    assert first.returncode == 0, first.stderr
    assert re.search(r"shown only now: polydev_[0-9a-f]{48}\n", first.stdout)
    again = polydev("service", "first-key", data=tmp_path / "data")
    assert (again.returncode, again.stdout) == (0, "")


def test_a_data_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = polydev("users", "list", data=tmp_path / "file" / "data")
    assert refused.returncode == 1
    assert "cannot be used" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("answers", [0, 1], ids=["at the request", "in the stream"])
def test_a_gateway_that_goes_away_is_told_in_words(answers: int, tmp_path: Path) -> None:
    """answers: how many requests of a run it still answers."""
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{directory}/gateway.sock")
        os.close(directory)
        listening.listen()
        serving = threading.Thread(target=_serve, args=(listening, 1 + answers), daemon=True)
        serving.start()
        asked = polydev("run", "claude", "hello", data=tmp_path)
        listening.shutdown(socket.SHUT_RDWR)
    serving.join(10)
    assert asked.returncode == 1
    assert "did not answer" in asked.stderr
    assert "Traceback" not in asked.stderr


def _serve(listening: socket.socket, answers: int) -> None:
    body = json.dumps({"id": "run_made_up"}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            if answers:
                connection.sendall(head + body)
                answers -= 1
