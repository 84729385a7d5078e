import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain.ids import new_id, new_provider_reference, parse_id

ID = "01935a1e-0000-7000-8000-000000000000"
HEX = ID.replace("-", "")


def test_our_ids_are_version_7_in_the_order_of_their_making() -> None:
    made = [new_id() for _ in range(2000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {uuid.UUID(text).version for text in made} == {7}


def test_references_for_providers_are_version_4() -> None:
    made = [new_provider_reference() for _ in range(2000)]
    assert len(set(made)) == len(made)
    assert {uuid.UUID(text).version for text in made} == {4}


@given(st.uuids(), st.booleans())
def test_an_id_is_read_in_either_case_and_becomes_lower(value: uuid.UUID, upper: bool) -> None:
    assert parse_id(str(value).upper() if upper else str(value)) == str(value)


@given(st.one_of(st.text(), st.text(alphabet=string.hexdigits + "-{}:_ +x\u0661\ud800", min_size=36, max_size=36)))
def test_junk_never_raises(text: str) -> None:
    parsed = parse_id(text)
    assert parsed is None or parsed == str(uuid.UUID(parsed))


@pytest.mark.parametrize("text", [ID[:-1], ID + "0", ID + "\n", HEX, "", "\ud800" * 36], ids=ascii)
def test_what_cannot_be_an_id_is_none(text: str) -> None:
    assert parse_id(text) is None


@pytest.mark.parametrize(
    "text",
    [
        f" {ID[1:]}",
        f"urn:{HEX}",
        f"{{{{{HEX}}}}}",
        f"----{HEX}",
        f"{HEX[:16]}----{HEX[16:]}",
        f"0x{HEX[2:]}----",
        f" +{HEX[2:]}----",
        "1_1_1_1_1_1_1_1_1_1_1_1_1_1_1_11----",
        "\u0661" * 32 + "----",
    ],
)
def test_only_the_canonical_form_is_an_id(text: str) -> None:
    assert len(text) == 36
    assert parse_id(text) is None
