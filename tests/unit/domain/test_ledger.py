from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kobiri.domain.ledger import AVAILABLE, SUSPENSE, Movement, Posting, arrived_unexpectedly, collected
from kobiri.domain.money import EXPONENTS, MAX_MINOR, Money

monies = st.builds(Money, st.integers(1, MAX_MINOR), st.sampled_from(sorted(EXPONENTS)))

Booking = Callable[[str, Money], Movement]


@given(st.sampled_from([collected, arrived_unexpectedly]), monies)
@settings(deadline=None)
def test_each_movement_sums_to_zero_in_its_currency(book: Booking, money: Money) -> None:
    postings = book("mtn", money).postings
    assert sum(p.minor for p in postings) == 0
    assert {p.currency for p in postings} == {money.currency}
    assert len({p.account for p in postings}) == len(postings)


@pytest.mark.parametrize(
    ("book", "reason", "owed"),
    [
        (collected, "collected", "merchant_available"),
        (arrived_unexpectedly, "arrived_unexpectedly", "suspense"),
    ],
)
def test_the_provider_holds_what_is_owed(book: Booking, reason: str, owed: str) -> None:
    assert book("airtel", Money(100_050, "ZMW")) == Movement(
        reason, (Posting("provider:airtel", 100_050, "ZMW"), Posting(owed, -100_050, "ZMW"))
    )


def test_stray_money_is_not_the_merchants() -> None:
    assert len({AVAILABLE, SUSPENSE}) == 2
