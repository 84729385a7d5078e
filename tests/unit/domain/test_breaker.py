"""The circuit breaker against a model of what it promises, at a clock that only the test moves."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kobiri.domain.breaker import (
    BUCKET_S,
    IN_A_ROW,
    LONGEST_S,
    MOST_TRIALS,
    OPEN_S,
    REMEMBER_S,
    WINDOW_CALLS,
    Breaker,
    State,
    Trouble,
)

T0 = 1_000.0
QUARTER = 0.25  # times are multiples of it, so that sums are exact

How = Literal["good", "bad", "neither"]


def answer(breaker: Breaker, how: How, now: float, jitter: float = 0.5, began: int | None = None) -> None:
    """Tell how one call went, that began in this turn of the breaker (None: in the present one)."""
    match how:
        case "good":
            breaker.good(now, began)
        case "bad":
            breaker.bad(now, jitter, began)
        case "neither":
            breaker.neither(began)


def opened(now: float = T0) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker()
    for _ in range(IN_A_ROW):
        assert breaker.begin()
        breaker.bad(now, 0.5)
    assert breaker.state is State.OPEN
    return breaker


@pytest.mark.parametrize("between_s", [0.0, 1.0, 40.0, 3_600.0, 86_400.0])
def test_five_failures_in_a_row_open_it_whatever_the_time_between_them(between_s: float) -> None:
    breaker, now = Breaker(), T0
    for number in range(IN_A_ROW):
        assert breaker.begin(), number
        now += between_s
        breaker.bad(now, 0.5)
    assert breaker.state is State.OPEN
    assert not breaker.begin()


def test_one_call_that_went_well_begins_the_row_anew() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(IN_A_ROW - 1):
            breaker.bad(T0, 0.5)
        breaker.good(T0)
        breaker.neither()
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize(("bad", "good", "opens"), [(10, 10, True), (9, 11, False), (10, 9, False)])
def test_half_of_twenty_calls_in_thirty_seconds_open_it(bad: int, good: int, opens: bool) -> None:
    breaker = Breaker()
    for number in range(max(bad, good)):
        if number < good:
            breaker.good(T0 + number)
        if number < bad:
            breaker.bad(T0 + number, 0.5)
    assert (breaker.state is State.OPEN) is opens


def test_what_is_older_than_the_window_is_no_part_of_it() -> None:
    breaker = Breaker()
    for _ in range(9):
        breaker.good(T0)
        breaker.bad(T0, 0.5)
    breaker.good(T0 + 31)
    breaker.bad(T0 + 31, 0.5)
    assert breaker.state is State.CLOSED


def test_a_circuit_that_closes_begins_its_window_anew() -> None:
    breaker = Breaker()
    for _ in range(WINDOW_CALLS // 2):
        breaker.good(T0)
        breaker.bad(T0, 0.5)
    breaker.half_open()
    assert breaker.begin()
    breaker.good(T0 + 10)
    breaker.bad(T0 + 11, 0.5)
    assert breaker.state is State.CLOSED


def test_it_remembers_five_minutes_however_long_it_lives() -> None:
    breaker = Breaker()
    for number in range(10_000):
        breaker.good(T0 + 5 * number)
        breaker.bad(T0 + 5 * number + 1, 0.5)
        assert len(breaker._buckets) <= REMEMBER_S / BUCKET_S + 1


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_it_stays_open_for_ten_seconds_more_or_less(jitter: float) -> None:
    breaker = Breaker()
    breaker.open(T0, jitter)
    assert breaker.open_until - T0 == pytest.approx(OPEN_S * (0.8 + 0.4 * jitter))


def test_time_alone_lets_nothing_through() -> None:
    breaker = opened()
    breaker.good(T0 + REMEMBER_S)
    assert not breaker.lets_through
    assert not breaker.begin()


def test_a_closed_circuit_is_not_half_opened() -> None:
    breaker = Breaker()
    breaker.half_open()
    assert breaker.state is State.CLOSED
    assert breaker.begin()
    assert breaker.begin()


def test_what_is_counted_for_availability_is_five_minutes_old_at_most() -> None:
    breaker = Breaker()
    breaker.good(T0)
    breaker.bad(T0 + 200, 0.5)
    assert breaker.counts(T0 + 200) == (1, 1)
    assert breaker.counts(T0 + REMEMBER_S + BUCKET_S) == (0, 1)
    assert breaker.counts(T0 + 200 + REMEMBER_S + BUCKET_S) == (0, 0)


@pytest.mark.parametrize("how", ["good", "bad", "neither"])
def test_a_late_answer_does_not_free_the_place_of_the_call_that_was_let_through(how: How) -> None:
    breaker = Breaker()
    early = breaker.begin()  # it hangs, and ends when all of this is over
    for _ in range(IN_A_ROW):
        assert breaker.begin()
        breaker.bad(T0, 0.5)
    breaker.half_open()
    assert breaker.begin()
    answer(breaker, how, T0 + 12, began=early)
    breaker.half_open()  # no more than it is already, where the late word said nothing
    assert not breaker.begin(), "a second call is let through while the first one is on its way"


def test_a_call_that_lasts_without_trouble_gives_its_place_to_others_and_more_and_more_of_them() -> None:
    breaker = opened()
    breaker.half_open()
    first = begin_all(breaker)
    assert len(first) == 1
    began = first
    for places in (2, 4, MOST_TRIALS, MOST_TRIALS):
        for turn in began:
            breaker.lasts(turn)
        assert breaker.state is State.HALF_OPEN
        began = begin_all(breaker)
        assert len(began) == places
    breaker.bad(T0 + 60, 0.5, first[0])
    assert breaker.state is State.OPEN, "trouble after all"
    breaker.half_open()
    for turn in (*first, *began):
        breaker.lasts(turn)
    assert len(begin_all(breaker)) == 1, "calls of before are of the past"


def begin_all(breaker: Breaker) -> list[int]:
    """As many calls as are let through, each by its turn."""
    return [turn for _ in range(100) if (turn := breaker.begin()) is not None]


def test_late_failures_of_before_it_opened_do_not_open_it_again() -> None:
    breaker = Breaker()
    began = [breaker.begin() for _ in range(2 * IN_A_ROW)]
    for turn in began[:IN_A_ROW]:
        breaker.bad(T0, 0.5, turn)
    breaker.half_open()
    breaker.good(T0 + 12, breaker.begin())
    for turn in began[IN_A_ROW:]:
        breaker.bad(T0 + 13, 0.5, turn)
    assert breaker.state is State.CLOSED


# --- what one payer costs the others --------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 60), st.sampled_from(["good", "bad", "bad"])), max_size=200),
    st.sampled_from(Trouble),
)
def test_one_number_opens_no_circuit_however_often_and_whatever_it_provokes(
    calls: list[tuple[float, How]], trouble: Trouble
) -> None:
    breaker, now = Breaker(), T0
    for passes_s, how in calls:
        now += passes_s
        if how == "good":
            breaker.good(now)
        else:
            breaker.bad(now, 0.5, about="one number", trouble=trouble, rest_s=86_400)
        assert breaker.state is State.CLOSED


def test_one_number_keeps_no_circuit_open() -> None:
    breaker = Breaker()
    for number in range(IN_A_ROW):
        breaker.bad(T0, 0.5, about=number)
    for again in range(3):
        breaker.half_open()
        for _ in range(20):
            assert breaker.begin(), "its place is free for somebody else"
            breaker.bad(T0 + again, 0.5, about=0)
            assert breaker.state is State.HALF_OPEN
    breaker.begin()
    breaker.bad(T0, 0.5, about="another")
    assert breaker.state is State.OPEN, "the trouble is still there"


def test_no_connection_is_nobodys_own_trouble() -> None:
    breaker = Breaker()
    for _ in range(IN_A_ROW):
        breaker.bad(T0, 0.5)
    assert breaker.state is State.OPEN


@pytest.mark.parametrize("trouble", [Trouble.REFUSED, Trouble.REST])
def test_what_is_said_plainly_to_many_payers_closes_it_for_all_with_that_reason(trouble: Trouble) -> None:
    breaker = Breaker()
    for number in range(IN_A_ROW):
        assert breaker.state is State.CLOSED
        breaker.bad(T0, 0.5, about=number, trouble=trouble)
    assert breaker.state is State.OPEN
    assert breaker.because is trouble
    breaker.half_open()
    breaker.begin()
    breaker.good(T0)
    breaker.bad(T0, 0.5, about="a third", trouble=trouble)
    assert breaker.lets_through, "a call that went well begins anew"


@given(st.floats(0, 1e9), st.floats(0, 1), st.integers(0, 10))
def test_a_rest_is_as_long_as_asked_and_a_minute_at_most(rest_s: float, jitter: float, failed_tries: int) -> None:
    breaker = Breaker()
    for _ in range(failed_tries):
        breaker.open(T0, 0.5)
        breaker.half_open()
        breaker.bad(T0, 0.5)
    breaker.open(T0, jitter, Trouble.REST, rest_s)
    assert T0 + min(rest_s, LONGEST_S) <= breaker.open_until <= T0 + 50  # a difference would be rounded


# --- the whole of it ------------------------------------------------------------------------------------------------


@dataclass
class Counted:
    """The answers that a closed circuit got since it closed."""

    answers: list[tuple[float, bool]] = field(default_factory=list)
    bad_in_a_row: int = 0

    def add(self, now: float, is_bad: bool) -> None:
        self.answers.append((now, is_bad))
        self.bad_in_a_row = self.bad_in_a_row + 1 if is_bad else 0

    def verdicts(self, now: float) -> set[bool]:
        """Whether half of twenty are bad, for each beginning of the window between 25 and 30 seconds ago."""
        if self.bad_in_a_row >= IN_A_ROW:
            return {True}
        edges = [now - 25.0, *(at for at, _ in self.answers if now - 30.0 < at <= now - 25.0)]
        return {_is_half_of_twenty([bad for at, bad in self.answers if at >= edge]) for edge in edges}


def _is_half_of_twenty(bads: list[bool]) -> bool:
    return len(bads) >= WINDOW_CALLS and 2 * sum(bads) >= len(bads)


class Circuit(RuleBasedStateMachine):
    """Calls begin and end in any order. Answers to calls of before it opened come while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.breaker = Breaker()
        self.state = State.CLOSED
        self.era = 0  # grows with each change of state
        self.calls: list[int] = []  # the era in which each call in flight began
        self.counted = Counted()
        self.failed_tries = 0

    @property
    def probing(self) -> bool:
        return self.state is State.HALF_OPEN and self.era in self.calls

    def _becomes(self, state: State) -> None:
        self.state, self.era = state, self.era + 1

    @rule(quarters=st.integers(0, 300))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters * QUARTER

    @rule(many=st.integers(1, 12))
    def calls_begin(self, many: int) -> None:
        for _ in range(many):
            expected = self.state is State.CLOSED or (self.state is State.HALF_OPEN and not self.probing)
            assert self.breaker.lets_through is expected
            assert bool(self.breaker.begin()) is expected
            if expected:
                self.calls.append(self.era)

    @precondition(lambda self: self.state is State.CLOSED and self.era in self.calls)
    @rule(how=st.sampled_from(["good", "bad", "bad", "neither"]), many=st.integers(1, 6), jitter=st.floats(0, 1))
    def a_closed_circuit_is_answered(self, how: How, many: int, jitter: float) -> None:
        for _ in range(many):
            if self.state is not State.CLOSED or self.era not in self.calls:
                return
            self.calls.remove(self.era)
            answer(self.breaker, how, self.now, jitter)
            if how != "neither":
                self.counted.add(self.now, how == "bad")
            is_open = self.breaker.state is State.OPEN
            assert is_open in (self.counted.verdicts(self.now) if how == "bad" else {False})
            if is_open:
                self._becomes(State.OPEN)
                self._opened_just_now()

    @precondition(lambda self: self.state is State.OPEN and self.calls)
    @rule(how=st.sampled_from(["good", "bad", "neither"]), jitter=st.floats(0, 1))
    def an_open_circuit_hears_a_late_answer(self, how: How, jitter: float) -> None:
        before = self.breaker.open_until
        self.calls.pop()
        answer(self.breaker, how, self.now, jitter)
        assert self.breaker.open_until == before

    @precondition(lambda self: self.probing)
    @rule(how=st.sampled_from(["good", "bad", "neither"]), jitter=st.floats(0, 1))
    def the_one_that_was_let_through_is_answered(self, how: How, jitter: float) -> None:
        self.calls.remove(self.era)
        answer(self.breaker, how, self.now, jitter)
        if how == "good":
            self._becomes(State.CLOSED)
            self.counted = Counted()
            self.failed_tries = 0
        elif how == "bad":
            self.failed_tries += 1
            self._becomes(State.OPEN)
            self._opened_just_now()

    @precondition(lambda self: self.state is State.OPEN)
    @rule(well=st.booleans(), jitter=st.floats(0, 1))
    def what_moves_nothing_was_called(self, well: bool, jitter: float) -> None:
        self.now = max(self.now, self.breaker.open_until // QUARTER * QUARTER + QUARTER)
        if well:
            self.breaker.half_open()
            self._becomes(State.HALF_OPEN)
            # Whoever is still on the way from before has gone by now: the tests above say what else would be.
            self.calls = []
        else:
            self.breaker.open(self.now, jitter)
            self._opened_just_now()

    def _opened_just_now(self) -> None:
        pause_s = min(OPEN_S * 2**self.failed_tries, LONGEST_S)
        assert 0.8 * pause_s - 0.001 <= self.breaker.open_until - self.now <= 1.2 * pause_s + 0.001

    @invariant()
    def it_stands_as_it_must(self) -> None:
        assert self.breaker.state is self.state

    @invariant()
    def it_lets_through_what_it_must(self) -> None:
        assert self.breaker.lets_through is (
            self.state is State.CLOSED or (self.state is State.HALF_OPEN and not self.probing)
        )


Circuit.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestCircuit = Circuit.TestCase
