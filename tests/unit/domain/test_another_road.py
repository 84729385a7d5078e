"""When a payment may leave its road for another: only while nobody was told of it, and only while it is wanted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kobiri.domain.ids import TenantId
from kobiri.domain.outcome import Accepted, Declined, FailureCode, NotSent, Outcome, Succeeded, Unknown
from kobiri.domain.payment import Status, may_take_another_road
from tests.store.builders import make_payment

NOW = datetime(2026, 2, 1, 8, 0, tzinfo=UTC)
NOTHING_LEFT = NotSent("ConnectionRefusedError")


def may(outcome: Outcome = NOTHING_LEFT, **but: Any) -> bool:
    payment = make_payment(TenantId("t"), **{"send_before": NOW + timedelta(microseconds=1)} | but)
    return may_take_another_road(payment, outcome, NOW)


@pytest.mark.parametrize("attempt", [0, 1, 7])
@pytest.mark.parametrize("outage", [True, False])
def test_what_was_surely_not_sent_may_go_by_another_road(attempt: int, outage: bool) -> None:
    assert may(NotSent("x", outage=outage), attempt=attempt)


@pytest.mark.parametrize(
    "outcome",
    [
        Unknown("HTTP 500"),
        Unknown("HTTP 403", outage=False),
        Unknown("x", askable=False),
        Accepted(),
        Succeeded(),
        Declined(FailureCode.NOT_ALLOWED),
    ],
    ids=repr,
)
def test_any_other_outcome_is_a_word_about_the_money_or_a_doubt(outcome: Outcome) -> None:
    assert not may(outcome)
    assert not may(outcome, unsent=True, attempt=0)


@pytest.mark.parametrize(
    "but",
    [
        {"sent_before": True},
        {"accepted_at": NOW},
        {"send_before": NOW},
        {"status": Status.FAILED},
        {"status": Status.SUCCESSFUL},
    ],
    ids=lambda but: f"{but}"[:30],
)
def test_what_somebody_may_know_of_or_nobody_wants_any_more_goes_by_no_other_road(but: dict[str, Any]) -> None:
    assert not may(**but)
