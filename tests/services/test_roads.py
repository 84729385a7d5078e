"""A road's guards: what is repeated, when its circuit opens, how it is asked. The provider is a script."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kobiri.domain.allowance import BUDGET_FULL
from kobiri.domain.breaker import IN_A_ROW
from kobiri.domain.ids import ProviderReference, new_provider_reference
from kobiri.domain.outcome import Accepted, Declined, FailureCode, Finding, NotSent, Outcome, Succeeded, Unknown
from kobiri.domain.schedule import QUICK_DELAYS_S, quick_delay_s
from kobiri.services.roads import SENSE_IN_REPEATING_S, Road
from tests.services.scripted import Clock, Operator, comes_true, make_spec, order

PASSES = 1 + len(QUICK_DELAYS_S)
CIRCUIT_OPEN = NotSent("the circuit is open", outage=False)

DOWN = Unknown("HTTP 500")
AWAY = NotSent("ConnectionRefusedError")
OURS = NotSent("it was held up for too long", outage=False)
REFUSES = Unknown("HTTP 403", outage=False)
NO = Declined(FailureCode.NOT_ALLOWED, "NOT_ALLOWED")
AT_MOST_ONCE = make_spec(dedupes=False)
UNASKABLE = make_spec(dedupes=False, status_query="none")


@asynccontextmanager
async def road_of(operator: Operator, clock: Callable[[], float] = monotonic) -> AsyncIterator[Road]:
    road = Road(operator, clock=clock)
    try:
        yield road
    finally:
        await road.close()


async def send(
    road: Road, *, within_s: float = 10.0, first_byte_before: float | None = None, reference: str | None = None
) -> Outcome:
    asked = order(reference=ProviderReference(reference)) if reference else order()
    return await road.send(asked, within_s=within_s, first_byte_before=first_byte_before)


async def find(road: Road) -> Finding:
    return await road.find("collection", new_provider_reference())


async def open_circuit(road: Road, operator: Operator) -> None:
    """Let the provider fail until nothing is let through."""
    operator.outcomes.clear()
    operator.outcomes.append(REFUSES)
    operator.outcomes.extendleft(
        [Unknown("HTTP 500", retry_after_s=0.0)] * IN_A_ROW
    )  # not repeated, so it takes no time
    for _ in range(IN_A_ROW):
        await send(road)
    assert road.closed_because("collection") == "its circuit is open"
    operator.sent.clear()


# --- repeats --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repeated:
    """An outcome that a provider gives every time, and how often the call is made."""

    outcome: Outcome
    dedupes: bool
    passes: int


REPEATED = [
    Repeated(AWAY, dedupes=True, passes=PASSES),
    Repeated(AWAY, dedupes=False, passes=PASSES),
    Repeated(OURS, dedupes=True, passes=1),
    Repeated(OURS, dedupes=False, passes=1),
    Repeated(DOWN, dedupes=True, passes=PASSES),
    Repeated(DOWN, dedupes=False, passes=1),
    Repeated(REFUSES, dedupes=True, passes=1),
    Repeated(Unknown("HTTP 503", retry_after_s=1.0), dedupes=True, passes=1),
    Repeated(Unknown("HTTP 429", outage=False, retry_after_s=1.0), dedupes=True, passes=1),
    Repeated(NO, dedupes=True, passes=1),
    Repeated(Accepted(), dedupes=True, passes=1),
    Repeated(Succeeded(), dedupes=True, passes=1),
]


async def test_only_what_is_safe_and_of_use_is_repeated_and_three_times_at_most() -> None:
    async def passes(case: Repeated) -> int:
        operator = Operator(case.outcome, spec=make_spec(dedupes=case.dedupes))
        async with road_of(operator) as road:
            assert await send(road) == case.outcome
        return len(operator.sent)

    counted = await asyncio.gather(*(passes(case) for case in REPEATED))
    assert dict(zip(REPEATED, counted, strict=True)) == {case: case.passes for case in REPEATED}


async def test_a_repeat_bears_the_same_reference_and_its_outcome_counts() -> None:
    operator = Operator(AWAY, DOWN, Accepted(calls_back=True))
    async with road_of(operator) as road:
        asked = order()
        assert await road.send(asked, within_s=10, first_byte_before=17.5) == Accepted(calls_back=True)
    assert operator.passes == {asked.reference: 3}
    assert {call.first_byte_before for call in operator.sent} == {17.5}, "no pass may leave later than the first"


async def test_repeats_come_after_a_tenth_two_tenths_and_four_tenths_of_a_second_each_jittered() -> None:
    async def gaps_s(number: int) -> list[float]:
        await asyncio.sleep(number / 100)  # so that one pause of the machine does not lengthen all of them
        operator = Operator(DOWN)
        async with road_of(operator) as road:
            await send(road)
        return [later.at - earlier.at for earlier, later in pairwise(operator.sent)]

    all_gaps = await asyncio.gather(*(gaps_s(number) for number in range(40)))
    for number, delay_s in enumerate(QUICK_DELAYS_S):
        gaps = [gaps[number] for gaps in all_gaps]
        assert min(gaps) >= 0.8 * delay_s - 0.005
        assert min(gaps) < delay_s < max(gaps), "all of them wait equally long"


@given(st.integers(0, 10), st.floats(0, 1))
@settings(deadline=None)
def test_the_delay_of_a_repeat_spreads_around_the_table_which_has_an_end(repeats: int, jitter: float) -> None:
    delay_s = quick_delay_s(repeats, jitter)
    if repeats >= 3:
        assert delay_s is None
        return
    assert delay_s is not None
    assert 0.8 <= delay_s / (0.1, 0.2, 0.4)[repeats] <= 1.2001
    assert quick_delay_s(repeats, 0.0) != quick_delay_s(repeats, 1.0)


async def test_no_repeat_is_begun_without_time_for_it_and_each_gets_what_is_left() -> None:
    clock = Clock()

    async def three_seconds() -> Outcome:
        clock.now += 3
        return DOWN

    operator = Operator(three_seconds)
    async with road_of(operator, clock) as road:
        await send(road, within_s=8)
        assert [call.within_s for call in operator.sent] == [8, 5, 2]
        operator.sent.clear()
        await send(road, within_s=3 + SENSE_IN_REPEATING_S)
        assert len(operator.sent) == 1


async def test_repeats_stay_a_tenth_of_the_calls_beside_what_a_rested_budget_holds() -> None:
    """Every fourth call is one that a repeat would heal, so the circuit never opens."""
    calls = 100
    operator = Operator(Accepted())
    async with road_of(operator) as road:
        for _ in range(calls // 4):
            operator.outcomes.extendleft([AWAY, Accepted(), Accepted(), Accepted()])
            for _ in range(4):
                await send(road)
            operator.outcomes.clear()
            operator.outcomes.append(Accepted())
    repeats = len(operator.sent) - calls
    assert calls / 10 + BUDGET_FULL - 2 <= repeats <= calls / 10 + BUDGET_FULL


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ((DOWN, NO), Unknown("repeat refused: NOT_ALLOWED", outage=False)),
        ((DOWN, OURS), Unknown(OURS.reason, outage=False)),
        ((DOWN, AWAY), Unknown(AWAY.reason)),
        ((AWAY, DOWN, NO), Unknown("repeat refused: NOT_ALLOWED", outage=False)),
        ((DOWN, AWAY, NO), Unknown("repeat refused: NOT_ALLOWED", outage=False)),
        ((DOWN, Accepted()), Accepted()),
        ((DOWN, Succeeded("4711")), Succeeded("4711")),
        ((AWAY, NO), NO),
        ((AWAY, OURS), OURS),
    ],
)
async def test_once_a_pass_may_have_arrived_no_later_refusal_settles_anything(
    said: tuple[Outcome, ...], means: Outcome
) -> None:
    async with road_of(Operator(*said)) as road:
        assert await send(road) == means


async def test_where_nobody_can_ask_nothing_is_repeated_and_the_doubt_says_so() -> None:
    operator = Operator(DOWN, spec=UNASKABLE)
    async with road_of(operator) as road:
        assert await send(road) == Unknown(DOWN.reason, askable=False)
    assert len(operator.sent) == 1
    async with road_of(Operator(NO, spec=UNASKABLE)) as road:
        assert await send(road) == NO
    async with road_of(Operator(DOWN, spec=AT_MOST_ONCE)) as road:
        assert await send(road) == DOWN, "it can be asked"


# --- the circuit ----------------------------------------------------------------------------------------------------


async def test_outages_in_a_row_open_the_circuit_and_nothing_is_sent_any_more() -> None:
    operator = Operator(DOWN, spec=AT_MOST_ONCE)
    async with road_of(operator) as road:
        for _ in range(IN_A_ROW):
            assert road.closed_because("collection") is None
            await send(road)
        assert road.closed_because("collection") == "its circuit is open"
        assert await send(road) == CIRCUIT_OPEN
        assert len(operator.sent) == IN_A_ROW
        assert road.availability("collection") == "down"


@pytest.mark.parametrize("said", [NO, REFUSES, OURS, Accepted(), Unknown("HTTP 429", outage=False, retry_after_s=1)])
async def test_a_word_is_no_outage_however_often_it_is_said(said: Outcome) -> None:
    operator = Operator(said)
    async with road_of(operator) as road:
        for _ in range(40):
            assert await send(road) == said
    assert len(operator.sent) == 40


@pytest.mark.parametrize(("between", "opens"), [(NO, False), (REFUSES, False), (OURS, True)])
async def test_an_answer_ends_a_row_of_outages_and_our_own_trouble_does_not(between: Outcome, opens: bool) -> None:
    row = [DOWN] * (IN_A_ROW - 1)
    operator = Operator(*row, between, *row, spec=AT_MOST_ONCE)
    async with road_of(operator) as road:
        for _ in range(2 * len(row) + 1):
            await send(road)
        assert (road.closed_because("collection") == "its circuit is open") is opens


async def test_a_payer_who_is_awaited_in_vain_says_nothing_about_the_provider() -> None:
    clock = Clock()

    async def silence() -> Outcome:
        clock.now += 120
        return Unknown("no answer in time")

    operator = Operator(silence, spec=UNASKABLE)
    async with road_of(operator, clock) as road:
        for _ in range(3 * IN_A_ROW):
            await send(road, within_s=120)
        assert road.closed_because("collection") is None
        assert road.availability("collection") == "unknown"
        operator.outcomes[0] = DOWN  # at once: that is no payer
        for _ in range(IN_A_ROW):
            await send(road, within_s=120)
        assert road.closed_because("collection") == "its circuit is open"


async def test_questions_have_a_circuit_of_their_own() -> None:
    operator = Operator(Accepted(), finds=Unknown("HTTP 500"))
    async with road_of(operator) as road:
        for _ in range(IN_A_ROW):
            await find(road)
        assert await find(road) == Unknown("the circuit is open", outage=False, asked=False)
        assert len(operator.found) == IN_A_ROW
        assert road.closed_because("collection") is None
        assert await send(road) == Accepted()
    asked = Operator(finds=Accepted())
    async with road_of(asked) as road:
        await open_circuit(road, asked)
        assert await find(road) == Accepted()


async def test_an_open_circuit_is_probed_by_what_moves_nothing_until_that_goes_well() -> None:
    clock, operator = Clock(), Operator()
    async with road_of(operator, clock) as road:
        await open_circuit(road, operator)
        assert operator.checks == 0, "not before its time"
        clock.now, clock.step = clock.now + 60, 60.0  # whatever it waits for has come when it looks
        await comes_true(lambda: operator.checks == 1)
        operator.checked.put_nowait("HTTP 503")
        await comes_true(lambda: operator.checks == 2)
        assert road.closed_because("collection") == "its circuit is open"
        assert await send(road) == CIRCUIT_OPEN
        operator.checked.put_nowait(None)
        await comes_true(lambda: road.closed_because("collection") is None)
        assert operator.sent == [], "no payer had to try whether it works again"


async def test_the_probe_waits_as_long_as_the_circuit_stays_open() -> None:
    operator = Operator()
    async with road_of(operator, Clock()) as road:
        await open_circuit(road, operator)
        for _ in range(100):
            await asyncio.sleep(0)
        assert operator.checks == 0


@asynccontextmanager
async def half_open(operator: Operator) -> AsyncIterator[Road]:
    clock = Clock()
    async with road_of(operator, clock) as road:
        await open_circuit(road, operator)
        clock.now += 60
        operator.checked.put_nowait(None)
        await comes_true(lambda: road.closed_because("collection") is None)
        yield road


async def never() -> Finding:
    """No answer comes."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


class Pending:
    """An outcome that comes when the test says so."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> Outcome:
        return await self.outcome


async def test_a_half_open_circuit_lets_one_call_through_at_a_time_and_closes_when_it_went_well() -> None:
    operator, pending = Operator(), Pending()
    async with half_open(operator) as road:
        operator.outcomes.extendleft([pending])
        first = asyncio.create_task(send(road))
        await comes_true(lambda: len(operator.sent) == 1)
        assert road.closed_because("collection") == "its circuit is open"
        assert await asyncio.gather(*(send(road) for _ in range(5))) == [CIRCUIT_OPEN] * 5
        assert len(operator.sent) == 1
        pending.outcome.set_result(NO)  # it answers: that is well enough
        assert await first == NO
        assert road.closed_because("collection") is None
        await asyncio.gather(*(send(road) for _ in range(5)))
        assert len(operator.sent) == 6


async def test_a_half_open_circuit_opens_again_when_its_one_call_failed() -> None:
    operator = Operator()
    async with half_open(operator) as road:
        operator.outcomes.extendleft([Unknown("HTTP 500", retry_after_s=0.0)])
        await send(road)
        assert road.closed_because("collection") == "its circuit is open"
        assert await send(road) == CIRCUIT_OPEN
        assert len(operator.sent) == 1


@pytest.mark.parametrize("call", ["send", "find"])
async def test_a_cancelled_call_frees_the_half_open_place(call: str) -> None:
    operator, pending = Operator(), Pending()
    async with half_open(operator) as road:
        if call == "find":
            road._breakers["find"].stay_open(0.0, 0.5)
            road._breakers["find"].half_open()
            operator.finding = never
        operator.outcomes.extendleft([pending])
        running = asyncio.create_task(send(road) if call == "send" else find(road))
        await comes_true(lambda: len(operator.sent) + len(operator.found) == 1)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        operator.finding = Accepted()
        assert await (send(road) if call == "send" else find(road)) in (REFUSES, Accepted())


async def test_our_own_reason_for_not_sending_frees_the_half_open_place_and_closes_nothing() -> None:
    operator, pending = Operator(), Pending()
    async with half_open(operator) as road:
        operator.outcomes.extendleft([pending, OURS])
        assert await send(road) == OURS
        assert road.closed_because("collection") is None
        first = asyncio.create_task(send(road))
        await comes_true(lambda: len(operator.sent) == 2)
        assert await send(road) == CIRCUIT_OPEN, "it is still half open"
        pending.outcome.set_result(Accepted())
        await first


async def test_closing_ends_the_probes_and_the_provider() -> None:
    operator = Operator()
    clock = Clock()
    road = Road(operator, clock=clock)
    await open_circuit(road, operator)
    clock.now += 60
    await comes_true(lambda: operator.checks == 1)
    await road.close()
    assert operator.closed
    assert [task for task in asyncio.all_tasks() if "Road._probe" in repr(task)] == []


# --- rest -----------------------------------------------------------------------------------------------------------


async def test_who_asks_for_a_rest_gets_it() -> None:
    clock = Clock()
    operator = Operator(Unknown("HTTP 429", outage=False, retry_after_s=30), Accepted())
    async with road_of(operator, clock) as road:
        await send(road)
        for passes_s in (0.0, 29.9):
            clock.now += passes_s
            assert road.closed_because("collection") == "it asked for a rest"
            assert await find(road) == Unknown("it asked for a rest", outage=False, asked=False)
        assert operator.found == []
        clock.now += 0.2
        assert road.closed_because("collection") is None
        assert await find(road) == Accepted()


async def test_a_question_that_is_answered_by_a_rest_stops_the_sending_too() -> None:
    clock = Clock()
    operator = Operator(finds=Unknown("HTTP 429", outage=False, retry_after_s=30))
    async with road_of(operator, clock) as road:
        await find(road)
        assert road.closed_because("collection") == "it asked for a rest"


async def test_a_short_rest_does_not_cut_a_long_one_short() -> None:
    clock = Clock()
    long, short = (Unknown("HTTP 429", outage=False, retry_after_s=seconds) for seconds in (30, 1))
    async with road_of(Operator(long, short), clock) as road:
        await send(road)
        await send(road)
        clock.now += 20
        assert road.closed_because("collection") == "it asked for a rest"


async def test_a_503_that_asks_for_a_rest_gets_it() -> None:
    async with road_of(Operator(Unknown("HTTP 503", retry_after_s=30)), Clock()) as road:
        await send(road)
        assert road.closed_because("collection") == "it asked for a rest"


async def test_questions_that_wait_for_their_place_heed_a_rest_that_is_asked_for_meanwhile() -> None:
    operator = Operator(
        finds=Unknown("HTTP 429", outage=False, retry_after_s=30), spec=make_spec(status_reads_per_s=20)
    )
    async with road_of(operator) as road:
        await asyncio.gather(*(find(road) for _ in range(4)))
    assert len(operator.found) == 1


# --- questions ------------------------------------------------------------------------------------------------------


async def test_questions_are_asked_at_the_pace_that_the_provider_wants() -> None:
    operator = Operator(spec=make_spec(status_reads_per_s=20))
    async with road_of(operator, Clock()) as road:
        began = monotonic()
        assert await asyncio.gather(*(find(road) for _ in range(6))) == [Accepted()] * 6
    for number, call in enumerate(operator.found):
        assert call.at - began >= number / 20 - 0.005, "too soon"
        assert call.within_s == pytest.approx(10 - number / 20), "the wait is part of the time"


async def test_more_questions_than_there_are_places_in_time_are_not_asked() -> None:
    operator = Operator(spec=make_spec(status_reads_per_s=10), answer_within_s=0.5)
    async with road_of(operator, Clock()) as road:
        said = await asyncio.gather(*(find(road) for _ in range(8)))
    assert len(operator.found) == 3, "at once, and after one and two tenths"
    assert said.count(Unknown("too many questions at once", outage=False, asked=False)) == 5


async def test_who_cannot_be_asked_is_not_asked() -> None:
    operator = Operator(spec=UNASKABLE)
    async with road_of(operator) as road:
        said = await find(road)
    assert isinstance(said, Unknown)
    assert not said.askable
    assert operator.found == []


# --- availability ---------------------------------------------------------------------------------------------------


async def test_availability_is_how_our_own_calls_went() -> None:
    clock, operator = Clock(), Operator(Accepted(), spec=AT_MOST_ONCE)
    async with road_of(operator, clock) as road:
        assert road.availability("collection") == "unknown"
        for _ in range(8):
            await send(road)
        assert road.availability("collection") == "operational"
        operator.outcomes[0] = DOWN
        await send(road)
        assert road.availability("collection") == "degraded"
        clock.now += 600
        assert road.availability("collection") == "unknown"
        for _ in range(IN_A_ROW):
            await send(road)
        assert road.availability("collection") == "down"


async def test_a_road_is_named_by_its_provider_and_closed_by_its_owner() -> None:
    road = Road(Operator(), disabled_because="credentials are being rotated")
    assert road.label == "scripted"
    assert road.closed_because("collection") == "switched off: credentials are being rotated"
    await road.close()
