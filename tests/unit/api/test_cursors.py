from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.api.cursors import Cursors
from kobiri.domain.errors import InvalidCursor
from kobiri.domain.ids import TenantId
from kobiri.services.access import Caller

CURSORS = Cursors(b"a key that all processes share")
CALLER = Caller(
    tenant_id=TenantId("01935a1e-0000-7000-8000-000000000001"),
    slug="shop",
    mode="test",
    scopes=frozenset(),
    key_id="A" * 12,
    suspended=False,
    tenant_throttle_limit=None,
    key_throttle_limit=None,
)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_a_cursor_is_read_back(position: str) -> None:
    assert CURSORS.read(CALLER, "payments", CURSORS.write(CALLER, "payments", position)) == position


@given(st.text(max_size=200))
def test_junk_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        CURSORS.read(CALLER, "payments", text)


def test_no_changed_bit_passes() -> None:
    cursor = CURSORS.write(CALLER, "payments", "01935a1e-0000-7000-8000-000000000002")
    for place, letter in enumerate(cursor[:-1]):  # the last letter has bits that mean nothing
        for other in "AZaz09-_":
            if other != letter:
                with pytest.raises(InvalidCursor):
                    CURSORS.read(CALLER, "payments", cursor[:place] + other + cursor[place + 1 :])


def test_it_is_good_for_its_caller_and_list_alone() -> None:
    cursor = CURSORS.write(CALLER, "payments", "7")
    strangers = (
        (replace(CALLER, tenant_id=TenantId("01935a1e-0000-7000-8000-000000000009")), "payments"),
        (replace(CALLER, mode="live"), "payments"),
        (CALLER, "transactions"),
    )
    for caller, name in strangers:
        with pytest.raises(InvalidCursor):
            CURSORS.read(caller, name, cursor)
    with pytest.raises(InvalidCursor):
        Cursors(b"another key").read(CALLER, "payments", cursor)


def test_another_key_of_the_tenant_may_use_it() -> None:
    cursor = CURSORS.write(CALLER, "payments", "7")
    assert CURSORS.read(replace(CALLER, key_id="B" * 12, scopes=frozenset({"x"})), "payments", cursor) == "7"
