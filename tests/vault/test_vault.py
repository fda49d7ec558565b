import hashlib
import pickle
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydev.errors import VaultProblem
from polydev.models.seals import SealContext, SealPurpose
from polydev.secret import MASK, Secret
from polydev.vault import KeyRing, MasterKey, Vault

contents = st.binary(max_size=300)
purposes = st.sampled_from(SealPurpose)
names = st.text(max_size=12)
contexts = st.builds(
    SealContext,
    purpose=purposes,
    user_id=names,
    connection_id=names,
    provider=names,
    subject=names,
)
materials = st.binary(min_size=32, max_size=32)


def vault_of(*materials: bytes) -> Vault:
    return Vault(KeyRing(keys=tuple(MasterKey(Secret(material)) for material in materials)))


VAULT = vault_of(b"k" * 32)


@given(materials, contents, contexts)
def test_what_was_sealed_opens(material: bytes, content: bytes, context: SealContext) -> None:
    vault = vault_of(material)
    assert vault.open(vault.seal(content, context), context) == Secret(content)


@given(st.binary(min_size=16, max_size=100), contexts)
def test_the_content_is_not_in_the_sealed_bytes(content: bytes, context: SealContext) -> None:
    assert content not in VAULT.seal(content, context)


@given(contents, contexts)
def test_sealing_twice_gives_different_bytes(content: bytes, context: SealContext) -> None:
    assert VAULT.seal(content, context) != VAULT.seal(content, context)


@given(contents, contexts, st.data())
def test_any_flipped_bit_is_noticed(
    content: bytes, context: SealContext, data: st.DataObject
) -> None:
    sealed = bytearray(VAULT.seal(content, context))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(VaultProblem):
        VAULT.open(bytes(sealed), context)


@given(contents, contexts, st.data())
def test_any_cut_or_addition_is_noticed(
    content: bytes, context: SealContext, data: st.DataObject
) -> None:
    sealed = VAULT.seal(content, context)
    cut = data.draw(st.integers(0, len(sealed) - 1))
    for wrong in (sealed[:cut], sealed + b"\0"):
        with pytest.raises(VaultProblem):
            VAULT.open(wrong, context)


@given(
    contents, contexts, st.sampled_from([field.name for field in fields(SealContext)]), st.data()
)
def test_any_other_context_is_noticed(
    content: bytes, context: SealContext, field: str, data: st.DataObject
) -> None:
    values = purposes if field == "purpose" else names
    other = data.draw(values.filter(lambda value: value != getattr(context, field)))
    with pytest.raises(VaultProblem):
        VAULT.open(VAULT.seal(content, context), replace(context, **{field: other}))


@given(contexts, contexts)
def test_contexts_are_encoded_unambiguously(one: SealContext, other: SealContext) -> None:
    sealed = VAULT.seal(b"content", one)
    if one == other:
        assert VAULT.open(sealed, other).reveal() == b"content"
    else:
        with pytest.raises(VaultProblem):
            VAULT.open(sealed, other)


def test_characters_do_not_move_between_fields() -> None:
    one = SealContext(purpose=SealPurpose.CREDENTIAL, user_id="ab", connection_id="c")
    other = SealContext(purpose=SealPurpose.CREDENTIAL, user_id="a", connection_id="bc")
    with pytest.raises(VaultProblem):
        VAULT.open(VAULT.seal(b"content", one), other)


@given(materials, materials, contents, contexts)
def test_another_key_does_not_open(
    one: bytes, other: bytes, content: bytes, context: SealContext
) -> None:
    if one == other:
        return
    with pytest.raises(VaultProblem) as caught:
        vault_of(other).open(vault_of(one).seal(content, context), context)
    assert caught.value.reason == "unknown_key"


@given(contents, contexts)
def test_older_keys_open_and_the_first_one_seals(content: bytes, context: SealContext) -> None:
    old, new, both = vault_of(b"o" * 32), vault_of(b"n" * 32), vault_of(b"n" * 32, b"o" * 32)
    sealed = old.seal(content, context)
    assert both.open(sealed, context) == Secret(content)
    assert not both.is_current(sealed)
    resealed = both.reseal(sealed, context)
    assert resealed is not None
    assert both.is_current(resealed)
    assert both.reseal(resealed, context) is None
    assert new.open(resealed, context) == Secret(content)


def test_resealing_checks_the_context(vault: Vault) -> None:
    one = SealContext(purpose=SealPurpose.CREDENTIAL, user_id="usr_1")
    newer = Vault(KeyRing(keys=(MasterKey(Secret(b"n" * 32)), vault.keyring.first)))
    with pytest.raises(VaultProblem):
        newer.reseal(vault.seal(b"content", one), replace(one, user_id="usr_2"))


def test_a_running_vault_takes_new_keys(vault: Vault) -> None:
    context = SealContext(purpose=SealPurpose.CREDENTIAL)
    before = vault.seal(b"before", context)
    fresh = MasterKey(Secret(b"n" * 32))
    vault.use(KeyRing(keys=(fresh, *vault.keyring.keys)))
    assert vault.open(before, context).reveal() == b"before"
    assert Vault(KeyRing(keys=(fresh,))).open(vault.seal(b"after", context), context)


def test_a_right_key_is_verified_and_a_wrong_one_is_one_clear_error() -> None:
    old, other = vault_of(b"o" * 32), vault_of(b"x" * 32)
    check = old.check_value()
    old.verify(check)
    vault_of(b"n" * 32, b"o" * 32).verify(check)
    with pytest.raises(
        VaultProblem, match="not the one that this database was sealed with"
    ) as wrong:
        other.verify(check)
    assert wrong.value.reason == "wrong_key"
    assert "POLYDEV_MASTER_KEY" in wrong.value.remedy
    for damaged in (b"", check[:-1], b"\x02" + check[1:]):
        with pytest.raises(VaultProblem):
            old.verify(damaged)


@given(names, names, names, names)
def test_derived_keys_differ_by_purpose_and_id(p1: str, i1: str, p2: str, i2: str) -> None:
    one, other = VAULT.derive(p1, i1), VAULT.derive(p2, i2)
    assert len(one) == 32
    assert (one == other) == ((p1, i1) == (p2, i2))


def test_derived_keys_of_older_keys_are_still_found() -> None:
    old, both = vault_of(b"o" * 32), vault_of(b"n" * 32, b"o" * 32)
    assert both.derive_all("spool", "con_1") == (
        vault_of(b"n" * 32).derive("spool", "con_1"),
        old.derive("spool", "con_1"),
    )
    assert both.derive("spool", "con_1") == both.derive_all("spool", "con_1")[0]


def test_nothing_shows_a_key_or_what_was_opened(vault: Vault) -> None:
    context = SealContext(purpose=SealPurpose.CREDENTIAL)
    opened = vault.open(vault.seal(b"made-up-token", context), context)
    key = vault.keyring.first
    shown = "".join(
        f"{thing!r} {thing!s}" for thing in (vault, vault.keyring, key, key.export(), opened)
    )
    assert "made-up-token" not in shown
    assert "kkkk" not in shown
    assert key.export().reveal() not in shown
    assert MASK in shown
    for thing in (key, opened):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


def test_the_key_id_does_not_reveal_the_key() -> None:
    material = b"k" * 32
    key = MasterKey(Secret(material))
    assert len(key.id) == 8
    assert key.id != hashlib.sha256(material).digest()[:8]
