"""A road's guards: what is repeated, when its circuit opens, how it is asked. The provider is a script."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain import breaker
from kobiri.domain.allowance import BUDGET_FULL
from kobiri.domain.breaker import IN_A_ROW
from kobiri.domain.ids import ProviderReference, new_provider_reference
from kobiri.domain.outcome import (
    Accepted,
    Declined,
    FailureCode,
    Finding,
    NotFound,
    NotSent,
    Outcome,
    Succeeded,
    Unknown,
)
from kobiri.domain.payment import Kind
from kobiri.domain.schedule import QUICK_DELAYS_S, quick_delay_s
from kobiri.providers.base import Payout
from kobiri.services import roads
from kobiri.services.roads import SENSE_IN_REPEATING_S, Road
from tests.services.scripted import Clock, Operator, comes_true, make_spec, order

PASSES = 1 + len(QUICK_DELAYS_S)
CIRCUIT_OPEN = NotSent("its circuit is open", outage=False)

DOWN = Unknown("HTTP 500")
AWAY = NotSent("ConnectionRefusedError")
OURS = NotSent("it was held up for too long", outage=False)
STRANGE = Unknown("HTTP 404", outage=False)
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
    operator.outcomes.append(STRANGE)
    operator.outcomes.extendleft([Unknown("HTTP 500", retry_after_s=0.0)] * IN_A_ROW)  # not repeated: no time is lost
    operator.finding = DOWN  # of nobody's payment too: so the account is checked
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
    repeats: bool | None = None


REPEATED = [
    Repeated(AWAY, dedupes=True, passes=PASSES),
    Repeated(AWAY, dedupes=False, passes=PASSES),
    Repeated(OURS, dedupes=True, passes=1),
    Repeated(OURS, dedupes=False, passes=1),
    Repeated(DOWN, dedupes=True, passes=PASSES),
    Repeated(DOWN, dedupes=False, passes=1),
    Repeated(DOWN, dedupes=True, repeats=False, passes=1),  # asked for, and sent again only where it is not found
    Repeated(AWAY, dedupes=True, repeats=False, passes=PASSES),
    Repeated(STRANGE, dedupes=True, passes=1),
    Repeated(Unknown("HTTP 503", retry_after_s=1.0), dedupes=True, passes=1),
    Repeated(Unknown("HTTP 429", outage=False, retry_after_s=1.0), dedupes=True, passes=1),
    Repeated(NO, dedupes=True, passes=1),
    Repeated(Accepted(), dedupes=True, passes=1),
    Repeated(Succeeded(), dedupes=True, passes=1),
]


async def test_only_what_is_safe_and_of_use_is_repeated_and_three_times_at_most() -> None:
    async def passes(case: Repeated) -> int:
        operator = Operator(case.outcome, spec=make_spec(dedupes=case.dedupes, repeats=case.repeats))
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
        operator = Operator(AWAY)
        async with road_of(operator) as road:
            await send(road)
        return [later.at - earlier.at for earlier, later in pairwise(operator.sent)]

    all_gaps = await asyncio.gather(*(gaps_s(number) for number in range(40)))
    for number, delay_s in enumerate(QUICK_DELAYS_S):
        gaps = [gaps[number] for gaps in all_gaps]
        assert min(gaps) >= 0.8 * delay_s - 0.005
        assert min(gaps) < delay_s < max(gaps), "all of them wait equally long"


@given(st.integers(0, 10), st.floats(0, 1))
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

    async def half_a_second() -> Outcome:
        clock.now += 0.5
        return AWAY

    operator = Operator(half_a_second)
    async with road_of(operator, clock) as road:
        await send(road, within_s=2.25)
        assert [call.within_s for call in operator.sent] == [2.25, 1.75, 1.25]
        operator.sent.clear()
        await send(road, within_s=0.5 + SENSE_IN_REPEATING_S)
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


@pytest.mark.parametrize("said", [NO, STRANGE, OURS, Accepted()])
async def test_a_word_is_no_outage_however_often_it_is_said(said: Outcome) -> None:
    operator = Operator(said)
    async with road_of(operator) as road:
        for _ in range(40):
            assert await send(road) == said
    assert len(operator.sent) == 40


@pytest.mark.parametrize(("between", "opens"), [(NO, False), (STRANGE, False), (OURS, True)])
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
        assert await find(road) == Unknown("its circuit is open", outage=False, asked=False)
        assert len(operator.found) == IN_A_ROW
        assert road.closed_because("collection") is None
        assert await send(road) == Accepted()
    asked = Operator(finds=Accepted())
    async with road_of(asked) as road:
        await open_circuit(road, asked)
        asked.finding = Accepted()
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


@pytest.mark.parametrize("waits_for_the_payer", [True, False])
async def test_one_payer_that_is_waited_for_keeps_a_half_open_circuit_shut_for_no_other(
    monkeypatch: pytest.MonkeyPatch, waits_for_the_payer: bool
) -> None:
    monkeypatch.setattr(roads, "LASTS_S", 0.05)
    operator = Operator(spec=UNASKABLE) if waits_for_the_payer else Operator()
    async with half_open(operator) as road:
        pending = [Pending() for _ in range(3)]
        operator.outcomes.extendleft(reversed(pending))
        dead = asyncio.create_task(send(road))
        await comes_true(lambda: len(operator.sent) == 1)
        assert await send(road) == CIRCUIT_OPEN
        await asyncio.sleep(0.1)
        if waits_for_the_payer:
            others = [asyncio.create_task(send(road)) for _ in range(2)]
            await comes_true(lambda: len(operator.sent) == 3)
            pending[1].outcome.set_result(Accepted())
            await others[0]
            assert road.availability("collection") != "down", "the first that went well closes it"
            pending[2].outcome.set_result(Accepted())
            await others[1]
        else:
            assert await send(road) == CIRCUIT_OPEN, "the time limit of such a call is short"
        pending[0].outcome.set_result(Accepted())
        await dead


@pytest.mark.parametrize("call", ["send", "find"])
async def test_a_cancelled_call_frees_the_half_open_place(call: str) -> None:
    operator, pending = Operator(), Pending()
    async with half_open(operator) as road:
        operator.found.clear()
        if call == "find":
            road._breakers["find", "collection"].open(0.0, 0.5)
            road._breakers["find", "collection"].half_open()
            operator.finding = never
        operator.outcomes.extendleft([pending])
        running = asyncio.create_task(send(road) if call == "send" else find(road))
        await comes_true(lambda: len(operator.sent) + len(operator.found) == 1)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        operator.finding = Accepted()
        assert await (send(road) if call == "send" else find(road)) in (STRANGE, Accepted())


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


# --- a rest, and credentials that are refused -----------------------------------------------------------------------

BUSY = Unknown("HTTP 429", outage=False, retry_after_s=30)
REFUSED = Unknown("HTTP 403 FORBIDDEN IP", outage=False, refused=True)
NO_TOKEN = NotSent("no token: HTTP 401", outage=False, refused=True)
PLAIN = [(BUSY, "it asked for a rest"), (REFUSED, "it refuses the account's credentials")]
BOTH = make_spec(kinds=("collection", "payout"))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A circuit stays open for a moment only."""
    monkeypatch.setattr(breaker, "OPEN_S", 0.02)
    monkeypatch.setattr(breaker, "LONGEST_S", 0.02)


def pay_out(reference: ProviderReference | None = None) -> Payout:
    asked = order()
    return Payout(reference or asked.reference, asked.money, asked.payer, asked.network, None)


@pytest.mark.parametrize(("said", "because"), PLAIN)
async def test_what_is_said_to_many_payers_closes_new_payments_and_no_question(said: Unknown, because: str) -> None:
    operator = Operator(said)
    async with road_of(operator, Clock()) as road:
        for _ in range(IN_A_ROW):
            assert road.closed_because("collection") is None, "it may be about these payers alone"
            await send(road)
        assert road.closed_because("collection") == because
        assert await send(road) == NotSent(because, outage=False)
        assert len(operator.sent) == IN_A_ROW
        assert await find(road) == Accepted()


@pytest.mark.parametrize(("said", "because"), PLAIN)
async def test_what_is_said_about_nobodys_payment_too_closes_it_after_one_payer(said: Unknown, because: str) -> None:
    operator = Operator(said, finds=said)
    async with road_of(operator, Clock()) as road:
        await send(road)
        await comes_true(lambda: road.closed_because("collection") == because)
        assert len(operator.sent) == 1
        assert len(operator.found) == 1


@pytest.mark.parametrize(("said", "_because"), PLAIN)
async def test_one_payer_closes_nothing_however_often_it_is_told(said: Unknown, _because: str) -> None:
    clock, operator = Clock(), Operator(said)
    async with road_of(operator, clock) as road:
        asked = order()
        for _ in range(40):
            clock.now += 1
            await road.send(replace(asked, reference=new_provider_reference()), within_s=10, first_byte_before=None)
            await asyncio.sleep(0)
        assert road.closed_because("collection") is None
        assert len(operator.found) <= 5, "nobody's payment is asked about every ten seconds at most"


@pytest.mark.parametrize(("said", "because"), PLAIN)
async def test_a_question_that_is_told_so_stops_questions_and_no_new_money(
    said: Unknown, because: str, soon: None
) -> None:
    operator = Operator(finds=said)
    async with road_of(operator) as road:
        await find(road)
        await comes_true(lambda: not road._breakers["find", "collection"].lets_through)
        assert await find(road) == Unknown(because, outage=False, asked=False)
        assert road.closed_because("collection") is None
        assert await send(road) == Accepted()
        before = len(operator.found)
        operator.finding = Accepted()
        await comes_true(lambda: road._breakers["find", "collection"].lets_through)
        assert len(operator.found) == before + 1, "one that is about nobody, before all the others go"
        assert await asyncio.gather(*(find(road) for _ in range(5))) == [Accepted()] * 5


@pytest.mark.parametrize(("said", "_because"), PLAIN)
async def test_what_is_said_of_some_payments_and_not_of_nobodys_stops_no_question(said: Unknown, _because: str) -> None:
    class Picky(Operator):
        async def find(self, kind: Kind, reference: ProviderReference, *, within_s: float) -> Finding:
            self.finding = said if reference in theirs else NotFound()
            return await super().find(kind, reference, within_s=within_s)

    theirs = {new_provider_reference() for _ in range(3 * IN_A_ROW)}
    async with road_of(Picky(), Clock()) as road:
        for reference in theirs:
            assert await road.find("collection", reference) == said
            await asyncio.sleep(0)
        assert await find(road) == NotFound()


async def test_no_token_to_ask_with_is_about_no_payment() -> None:
    operator = Operator(finds=Unknown("no token: HTTP 503", asked=False))
    async with road_of(operator, Clock()) as road:
        reference = new_provider_reference()
        for _ in range(IN_A_ROW):
            await road.find("collection", reference)
        assert (await road.find("collection", reference)).reason == "its circuit is open"  # type: ignore[union-attr]


async def test_each_kind_of_movement_has_circuits_of_its_own() -> None:
    operator = Operator(NO_TOKEN, finds=REFUSED, spec=BOTH)
    async with road_of(operator, Clock()) as road:
        for _ in range(2):
            await road.send(pay_out(), within_s=10, first_byte_before=None)
            await road.find("payout", new_provider_reference())
        assert road.closed_because("payout") == "it refuses the account's credentials"
        assert not road._breakers["find", "payout"].lets_through
        assert road.closed_because("collection") is None
        operator.outcomes[0] = operator.finding = Accepted()
        assert await send(road) == Accepted()
        assert await find(road) == Accepted()


async def test_a_circuit_is_probed_by_the_product_of_its_own_calls() -> None:
    clock, operator = Clock(), Operator(Unknown("HTTP 500", retry_after_s=0.0), finds=DOWN, spec=BOTH)
    async with road_of(operator, clock) as road:
        for _ in range(IN_A_ROW):
            await send(road)
        clock.now += 60
        await comes_true(lambda: operator.checks == 1)
        assert [call.kind for call in operator.found] == ["collection"]
        assert operator.checked_for == ["collection"]


@pytest.mark.parametrize(("said", "because"), PLAIN)
async def test_a_refusal_stays_as_long_as_nobodys_payment_is_refused_too_whatever_the_check_says(
    said: Unknown, because: str, soon: None
) -> None:
    operator = Operator(said, finds=said)
    async with road_of(operator) as road:
        await send(road)
        await comes_true(lambda: road.closed_because("collection") == because)
        operator.checked.put_nowait(None)  # a token is to be had all the time
        await comes_true(lambda: len(operator.found) >= 6)
        assert road.closed_because("collection") == because
        assert len(operator.sent) == 1, "no payer had to try whether it works again"
        operator.finding, operator.outcomes[0] = NotFound(), Accepted()
        await comes_true(lambda: road.closed_because("collection") is None)
        assert await send(road) == Accepted()


async def test_an_answer_like_an_outage_about_nobodys_payment_keeps_nothing_closed_where_the_key_is_taken() -> None:
    clock, operator = Clock(), Operator()
    async with road_of(operator, clock) as road:
        await open_circuit(road, operator)
        clock.now += 60
        operator.checked.put_nowait(None)
        await comes_true(lambda: road.closed_because("collection") is None)
        assert operator.found


async def test_an_operators_word_opens_everything_at_once() -> None:
    operator = Operator(REFUSED, finds=BUSY)
    async with road_of(operator, Clock()) as road:
        await send(road)
        await send(road)
        await find(road)
        await comes_true(lambda: not road._breakers["find", "collection"].lets_through)
        road.reset()
        operator.outcomes[0] = operator.finding = Accepted()
        assert road.closed_because("collection") is None
        assert await asyncio.gather(*(send(road) for _ in range(5))) == [Accepted()] * 5
        assert await find(road) == Accepted()


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
    """A worker waits for half a second at the most. Who found no place is told when, each at the provider's pace."""
    operator = Operator(spec=make_spec(status_reads_per_s=4))
    async with road_of(operator, Clock()) as road:
        said = await asyncio.gather(*(find(road) for _ in range(600)))
    assert len(operator.found) == 3, "at once, and after one and two quarters of a second"
    unasked = [one for one in said if isinstance(one, Unknown) and not one.asked]
    assert len(unasked) == 597
    assert {(one.reason, one.outage) for one in unasked} == {("too many questions at once", False)}
    told = [one.retry_after_s for one in unasked]
    line_s = [0.5 + number / 4 for number in range(597)]
    assert told == pytest.approx([min(seconds, 0.5 + 120) for seconds in line_s])


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
