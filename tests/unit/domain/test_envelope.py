"""Secrets at rest: they open where they were sealed, under a key that is there, and nowhere else."""

import base64
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain.envelope import CannotOpen, Envelope, MasterKeys, open_, rewrap, seal

PLACE = ("tenant", "mtn", "account", "1")


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


OLD = MasterKeys.parse(f"old:{key(1)}")
BOTH = MasterKeys.parse(f"new:{key(2)},old:{key(1)}")
NEW = MasterKeys.parse(f"new:{key(2)}")

places = st.tuples(*(st.text(max_size=20) for _ in range(4)))


def sealed(secret: bytes = b"canary", keys: MasterKeys = OLD, place: tuple[str, ...] = PLACE) -> Envelope:
    return seal(keys, secret, place, os.urandom)


@given(st.binary(max_size=1000), places)
def test_what_was_sealed_opens(secret: bytes, place: tuple[str, ...]) -> None:
    envelope = seal(OLD, secret, place, os.urandom)
    assert open_(OLD, envelope, place) == secret
    assert secret not in envelope.sealed or len(secret) < 4


@given(places, places)
def test_it_opens_in_no_other_place(here: tuple[str, ...], there: tuple[str, ...]) -> None:
    envelope = seal(OLD, b"canary", here, os.urandom)
    if here != there:
        with pytest.raises(CannotOpen):
            open_(OLD, envelope, there)


@pytest.mark.parametrize("part", range(4))
def test_each_part_of_the_place_counts(part: int) -> None:
    elsewhere = tuple("x" if number == part else text for number, text in enumerate(PLACE))
    with pytest.raises(CannotOpen):
        open_(OLD, sealed(), elsewhere)
    with pytest.raises(CannotOpen):
        open_(OLD, sealed(), (*PLACE[:2], "", PLACE[2] + PLACE[3]))


def test_every_changed_byte_is_noticed() -> None:
    envelope = sealed()
    for name in ("wrapped_key", "sealed"):
        whole: bytes = getattr(envelope, name)
        spoilt = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
        for changed in (*spoilt, b"", whole[:5], whole[:-1]):
            change: dict[str, Any] = {name: changed}
            with pytest.raises(CannotOpen):
                open_(OLD, replace(envelope, **change), PLACE)


def test_a_secret_of_one_envelope_does_not_open_by_anothers_key() -> None:
    with pytest.raises(CannotOpen):
        open_(OLD, replace(sealed(), sealed=sealed().sealed), PLACE)


def test_the_master_key_changes_and_the_secret_is_not_touched() -> None:
    envelope = sealed()
    assert open_(BOTH, envelope, PLACE) == b"canary", "the old key still opens"
    wrapped = rewrap(BOTH, envelope, PLACE, os.urandom)
    assert (wrapped.key_id, wrapped.sealed) == ("new", envelope.sealed)
    assert open_(NEW, wrapped, PLACE) == b"canary"
    with pytest.raises(CannotOpen, match="master key new"):
        open_(OLD, wrapped, PLACE)
    with pytest.raises(CannotOpen, match="master key old"):
        open_(NEW, envelope, PLACE)
    assert seal(BOTH, b"x", PLACE, os.urandom).key_id == "new", "the first one seals"


def test_a_key_of_the_right_name_and_the_wrong_bytes_opens_nothing() -> None:
    with pytest.raises(CannotOpen):
        open_(MasterKeys.parse(f"old:{key(9)}"), sealed(), PLACE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        f":{key(1)}",
        "a:",
        "a:AAAA",
        f"a:{key(1)}=",
        f"a:{key(1)},a:{key(2)}",
        f"a b:{key(1)}",
        "a:ü",
        ",",
        "a:!",
    ],
)
def test_bad_keys_are_refused_in_a_sentence_that_shows_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|must") as refused:
        MasterKeys.parse(text)
    assert key(1)[:20] not in str(refused.value)


def test_keys_show_nowhere() -> None:
    assert repr(BOTH) == "MasterKeys(new, old)"
    assert key(1)[:10] not in f"{BOTH!r} {BOTH}"
