import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain.allowance import BUDGET_FULL, EARNED_PER_CALL, Pace, RetryBudget

NEARLY = 1e-6


@given(st.lists(st.sampled_from(["call", "call", "call", "repeat"]), max_size=600))
def test_repeats_are_a_tenth_of_the_calls_beside_what_a_rested_budget_holds(steps: list[str]) -> None:
    budget, calls, repeats = RetryBudget(), 0, 0
    for step in steps:
        if step == "call":
            budget.earn()
            calls += 1
        elif budget.spend():
            repeats += 1
        assert repeats <= calls / 10 + BUDGET_FULL + NEARLY


def test_who_would_repeat_every_call_repeats_a_tenth_of_them() -> None:
    budget, repeats = RetryBudget(), 0
    for _ in range(1_000):
        budget.earn()
        repeats += budget.spend()
    assert 100 + BUDGET_FULL - 2 <= repeats <= 100 + BUDGET_FULL


def test_rest_saves_up_no_more_than_ten_repeats() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == BUDGET_FULL


def test_who_asks_in_vain_pays_nothing() -> None:
    budget = RetryBudget()
    while budget.spend():
        pass
    for _ in range(1_000):
        assert not budget.spend()
    for _ in range(math.ceil(1 / EARNED_PER_CALL) + 1):
        budget.earn()
    assert budget.spend()
    assert not budget.spend()


ASKED = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 5)), max_size=200)


@given(st.sampled_from([0.5, 1, 2, 10, 33]), ASKED)
def test_no_second_has_more_calls_than_it_may_and_nobody_waits_longer_than_he_would(
    per_s: float, asked: list[tuple[float, float]]
) -> None:
    pace, now, calls = Pace(per_s), 100.0, list[float]()
    for passes_s, within_s in asked:
        now += passes_s
        wait_s = pace.reserve(now, within_s)
        free_at = max(now, calls[-1] + 1 / per_s) if calls else now
        if wait_s is None:
            assert free_at - now > within_s - NEARLY, "there was a place in time"
            continue
        assert 0 <= wait_s <= within_s
        assert now + wait_s == pytest.approx(free_at), "it waits longer than it must"
        calls.append(now + wait_s)
    assert calls == sorted(calls)
    for first in calls:
        assert sum(first <= at < first + 1 - NEARLY for at in calls) <= max(per_s, 1)


def test_an_idle_hour_earns_no_burst() -> None:
    pace = Pace(10)
    assert pace.reserve(0.0, 1) == 0
    waits = [pace.reserve(3_600.0, 10) for _ in range(5)]
    assert waits == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_a_refused_question_takes_no_place() -> None:
    pace = Pace(1)
    assert pace.reserve(0.0, 0) == 0
    assert [pace.reserve(0.0, 0.5) for _ in range(50)] == [None] * 50
    assert pace.reserve(0.0, 1.5) == 1
