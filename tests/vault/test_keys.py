import base64
import os
import stat
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from polydev.errors import VaultProblem
from polydev.secret import Secret
from polydev.vault import (
    KEY_FILE,
    KeyRing,
    MasterKey,
    add_key,
    drop_old_keys,
    load_keyring,
    parse_keyring,
)

ONE = base64.b64encode(b"1" * 32).decode()
TWO = base64.b64encode(b"2" * 32).decode()


def ids(ring: KeyRing) -> list[bytes]:
    return [key.id for key in ring.keys]


def names(directory: Path) -> list[str]:
    return [file.name for file in directory.iterdir()]


def test_the_variable_wins_over_the_file(tmp_path: Path) -> None:
    load_keyring(None, tmp_path)
    ring = load_keyring(SecretStr(ONE), tmp_path)
    assert ids(ring) == [MasterKey(Secret(b"1" * 32)).id]
    assert ring.file is None


def test_several_keys_are_held_in_their_order_and_once_each() -> None:
    ring = parse_keyring(Secret(f" {TWO} , {ONE},{TWO},"))
    assert ids(ring) == [MasterKey(Secret(b * 32)).id for b in (b"2", b"1")]
    assert ring.rotating
    assert not parse_keyring(Secret(ONE)).rotating


def test_url_safe_base64_is_taken_too() -> None:
    material = b"\xfb\xff" * 16
    assert parse_keyring(Secret(base64.urlsafe_b64encode(material).decode())).first == MasterKey(
        Secret(material)
    )


@pytest.mark.parametrize(
    "text",
    ["", " , ", "hunter2", f"{ONE},hunter2", ONE[:-4], ONE + ONE, "hunter2é", f"{ONE}\0"],
)
def test_a_malformed_variable_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(VaultProblem, match="POLYDEV_MASTER_KEY") as caught:
        load_keyring(SecretStr(text), Path("/nowhere"))
    assert caught.value.reason == "key_malformed"
    assert "hunter2" not in str(caught.value)
    assert ONE[:8] not in str(caught.value)


def test_a_key_file_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = load_keyring(None, data)
    assert stat.S_IMODE((data / KEY_FILE).stat().st_mode) == 0o600
    assert ids(load_keyring(None, data)) == ids(first)
    assert first.file == data / KEY_FILE
    assert names(data) == [KEY_FILE]


def test_the_umask_does_not_open_the_key_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_keyring(None, tmp_path / "data")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "data" / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_several_first_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    rings: list[KeyRing] = []
    together = threading.Barrier(8)

    def start() -> None:
        together.wait(10)
        rings.append(load_keyring(None, tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple(ids(ring)) for ring in rings}) == 1
    assert len(rings) == 8
    assert names(tmp_path) == [KEY_FILE]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    load_keyring(None, tmp_path)
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(VaultProblem, match=f"mode {mode:04o}") as caught:
        load_keyring(None, tmp_path)
    assert caught.value.reason == "key_file_mode"
    assert "chmod 600" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"\n\n", b"hunter2\n", b"\xff\xfe" * 20, b"x" * 100_000])
def test_a_file_with_other_content_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / KEY_FILE
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(VaultProblem) as caught:
        load_keyring(None, tmp_path)
    assert caught.value.reason == "key_malformed"
    assert "hunter2" not in str(caught.value)
    assert file.read_bytes() == content


def test_a_lost_file_is_not_replaced_where_values_are_sealed(tmp_path: Path) -> None:
    with pytest.raises(VaultProblem, match="is gone") as caught:
        load_keyring(None, tmp_path, may_create=False)
    assert caught.value.reason == "key_missing"
    assert names(tmp_path) == []


def test_what_cannot_be_read_or_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(VaultProblem, match="cannot be made"):
        load_keyring(None, tmp_path / "file" / "data")
    (tmp_path / "data" / KEY_FILE).mkdir(parents=True)
    with pytest.raises(VaultProblem, match="cannot be read"):
        load_keyring(None, tmp_path / "data")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / KEY_FILE).symlink_to("gone")
    with pytest.raises(VaultProblem, match="cannot be read"):
        load_keyring(None, tmp_path / "link")


def test_keys_are_added_before_and_dropped_behind(tmp_path: Path) -> None:
    first = load_keyring(None, tmp_path)
    both = add_key(first)
    assert ids(both)[1:] == ids(first)
    assert ids(load_keyring(None, tmp_path)) == ids(both)
    alone = drop_old_keys(both)
    assert ids(alone) == ids(both)[:1]
    assert ids(load_keyring(None, tmp_path)) == ids(alone)
    assert drop_old_keys(alone) is alone
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert names(tmp_path) == [KEY_FILE]


def test_keys_that_another_process_added_are_never_lost(tmp_path: Path) -> None:
    stale = load_keyring(None, tmp_path)
    present = add_key(stale)
    with pytest.raises(VaultProblem) as caught:
        add_key(stale)
    assert caught.value.reason == "key_file_changed"
    assert ids(load_keyring(None, tmp_path)) == ids(present)


def test_keys_in_the_environment_are_changed_there() -> None:
    ring = parse_keyring(Secret(f"{ONE},{TWO}"))
    for change in (add_key, drop_old_keys):
        with pytest.raises(VaultProblem, match="POLYDEV_MASTER_KEY") as caught:
            change(ring)
        assert caught.value.reason == "key_in_environment"


def test_an_exported_key_is_the_same_key(tmp_path: Path) -> None:
    ring = load_keyring(None, tmp_path)
    exported = SecretStr(ring.first.export().reveal())
    assert ids(load_keyring(exported, tmp_path / "elsewhere")) == ids(ring)
