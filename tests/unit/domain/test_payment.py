from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kobiri.domain import ledger
from kobiri.domain.ids import LeaseToken, PaymentId, ProviderReference, TenantId
from kobiri.domain.ledger import Arrival, Why
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import (
    Accepted,
    Declined,
    Doubtful,
    FailureCode,
    Finding,
    NotFound,
    NotSent,
    Outcome,
    Source,
    Succeeded,
    Unknown,
)
from kobiri.domain.payment import (
    AGAINST,
    FINAL,
    OUR_OWN_FAILURES,
    Change,
    EventDraft,
    Payment,
    Review,
    Status,
    Step,
    agrees,
    created,
    hinted,
    may_arrive_until,
    may_send_again,
    next_step,
    raises_doubt,
    says_otherwise,
    seen,
    sends_end,
    told_otherwise,
    transition,
    unless_booked,
    unless_told,
)
from kobiri.domain.schedule import check_delay, send_delay

T0 = datetime(2026, 2, 1, 8, 0, tzinfo=UTC)
SEND_BEFORE = T0 + timedelta(seconds=60)
EXPIRES = T0 + timedelta(minutes=15)
SEND_TAKES = timedelta(seconds=15)
TICK = timedelta(microseconds=1)

OURS = Money(100_050, "ZMW")
USD = Money(100_050, "USD")
PAYER = "260961234567"
FINGERPRINT = "mtn@sandbox"

# What a transition may change. Every other field is the order itself, also one that is added later.
MAY_CHANGE = {
    "status", "provider_transaction_id", "provider_receipt", "failure_code", "failure_provider_code", "review",
    "version", "unsent", "checks", "not_founds", "first_not_found_at", "doubts", "first_doubt_at", "accepted_at",
    "completed_at",
    "next_run_at", "lease_token", "received",
}  # fmt: skip

MAY_BECOME = {
    Status.PENDING: {Status.PENDING, Status.TIMEOUT, Status.SUCCESSFUL, Status.FAILED},
    Status.TIMEOUT: {Status.TIMEOUT, Status.SUCCESSFUL, Status.FAILED},
    Status.SUCCESSFUL: {Status.SUCCESSFUL},
    Status.FAILED: {Status.FAILED},
    Status.REVERSED: {Status.REVERSED},
}

ORDER = Payment(
    id=PaymentId("01935a1e-0000-7000-8000-000000000000"),
    tenant_id=TenantId("01935a1e-0000-7000-8000-000000000001"),
    mode="live",
    kind="collection",
    status=Status.PENDING,
    money=OURS,
    payer=Msisdn(PAYER),
    network="mtn",
    provider="mtn",
    account_fingerprint=FINGERPRINT,
    provider_reference=ProviderReference("2d8b1f6e-5a44-4c11-9a77-0c6f5b0f2f11"),
    send_before=SEND_BEFORE,
    expires_at=EXPIRES,
    created_at=T0,
    reference="INV-1",
    attempt=1,
    next_run_at=T0 + timedelta(seconds=30),
    lease_token=LeaseToken("lease"),
)


def order(**but: Any) -> Payment:
    return replace(ORDER, **but)


@dataclass(frozen=True)
class Word:
    """One thing that somebody said about the payment."""

    outcome: Outcome | Finding
    source: Source
    now: datetime
    jitter: float = 0.5
    attempts_ago: int = 0  # whose answer it is, counted back from the attempt that it meets


@dataclass(frozen=True)
class Moment:
    """A word, the payment that it met, and what came of it. `booked`: what had arrived before, `told`: the events."""

    before: Payment
    word: Word
    change: Change | None
    booked: tuple[Arrival, ...] = ()
    told: tuple[EventDraft, ...] = ()

    @property
    def arrival(self) -> Arrival | None:
        return self.change.movement.arrival if self.change and self.change.movement else None

    @property
    def booked_after(self) -> tuple[Arrival, ...]:
        return (*self.booked, self.arrival) if self.arrival else self.booked

    @property
    def told_after(self) -> tuple[EventDraft, ...]:
        return (*self.told, *(self.change.events if self.change else ()))

    @property
    def after(self) -> Payment:
        return self.change.after if self.change else self.before

    @property
    def became(self) -> Status | None:
        return self.after.status if self.after.status is not self.before.status else None


def hear(payment: Payment, word: Word) -> Change | None:
    attempt = payment.attempt - word.attempts_ago
    return transition(payment, word.outcome, word.source, word.now, word.jitter, attempt=attempt)


def tell(payment: Payment, word: Word, booked: tuple[Arrival, ...] = (), told: tuple[EventDraft, ...] = ()) -> Moment:
    change = hear(payment, word)
    change = change and unless_booked(payment, change, booked)
    return Moment(payment, word, change and unless_told(payment, change, told), booked, told)


def say(
    payment: Payment, outcome: Outcome | Finding, source: Source, now: datetime = T0, attempts_ago: int = 0
) -> Change:
    change = tell(payment, Word(outcome, source, now, attempts_ago=attempts_ago)).change
    assert change is not None
    return change


def changes_nothing(
    payment: Payment, outcome: Outcome | Finding, source: Source, now: datetime = T0, attempts_ago: int = 0
) -> bool:
    return tell(payment, Word(outcome, source, now, attempts_ago=attempts_ago)).change is None


def send_again(payment: Payment, now: datetime, *, repeats: bool = True) -> bool:
    """For a provider that dedupes, asked at once where the first request went."""
    return may_send_again(
        payment, dedupes=True, repeats=repeats, account_fingerprint=FINGERPRINT, asked_at=now, now=now
    )


def begin(payment: Payment, now: datetime = T0) -> Payment:
    """The commit before each send, as `store.payments.begin_attempt` writes it."""
    return replace(
        payment,
        attempt=payment.attempt + 1,
        sent_before=payment.sent_before or (payment.attempt > 0 and not payment.unsent),
        unsent=False,
        sent_until=now + SEND_TAKES,
        version=payment.version + 1,
    )


def history(payment: Payment, words: list[Word]) -> list[Moment]:
    moments: list[Moment] = []
    booked: tuple[Arrival, ...] = ()
    told: tuple[EventDraft, ...] = ()
    for word in words:
        moments.append(tell(payment, word, booked, told))
        payment, booked, told = moments[-1].after, moments[-1].booked_after, moments[-1].told_after
    return moments


def types(change: Change) -> list[str]:
    return [event.type for event in change.events]


def event_types(moments: list[Moment]) -> Counter[str]:
    return Counter(event.type for moment in moments if moment.change for event in moment.change.events)


codes = st.sampled_from(FailureCode)
maybe_text = st.none() | st.sampled_from(["TX1", "PAYER_NOT_FOUND"])
receipts = st.sampled_from([None, None, "R1", "R2", "TX1"])
ours = st.builds(Succeeded, maybe_text, st.sampled_from([None, OURS]), st.sampled_from([None, PAYER]), receipt=receipts)
not_ours = st.one_of(
    st.builds(
        Succeeded,
        maybe_text,
        st.sampled_from([Money(100_049, "ZMW"), Money(1_000, "ZMW"), Money(100_050, "USD"), Money(1_000, "UGX")]),
        st.sampled_from([None, PAYER]),
    ),
    st.builds(
        Succeeded,
        maybe_text,
        st.sampled_from([None, OURS]),
        st.sampled_from(["260961234568", "2609", "961234568"]),
    ),
)
unknowns = st.builds(Unknown, st.just("reset"))
not_founds = st.builds(NotFound, st.booleans())
declines = st.builds(Declined, codes, maybe_text)
doubtfuls = st.builds(Doubtful, codes.filter(lambda code: code not in OUR_OWN_FAILURES), maybe_text)
findings: st.SearchStrategy[Finding] = st.one_of(
    st.builds(Accepted, st.booleans(), receipt=receipts), ours, not_ours, declines, not_founds, doubtfuls, unknowns
)
outcomes = findings | st.builds(NotSent, st.just("no connection"))
sources = st.sampled_from(Source)
moments_in_time = st.one_of(
    st.integers(-60, 3 * 3600).map(lambda s: T0 + timedelta(seconds=s)),
    st.builds(
        lambda moment, ticks: moment + ticks * TICK,
        st.sampled_from([T0, SEND_BEFORE, EXPIRES, T0 + timedelta(minutes=11), T0 + timedelta(hours=1)]),
        st.integers(-1, 1),
    ),
)
jitters = st.floats(0, 1)
words = st.builds(Word, outcomes, sources, moments_in_time, jitters, st.sampled_from([0, 0, 0, 1, 2])).map(
    lambda word: (
        replace(word, outcome=replace(word.outcome, receipt=None))  # a statement and a person name one number
        if word.source in (Source.STATEMENT, Source.PERSON) and isinstance(word.outcome, Accepted | Succeeded)
        else word
    )
)
words_of_findings = st.builds(
    Word, st.one_of(not_founds, unknowns, st.just(Accepted())), sources, moments_in_time, jitters
)
any_words = st.lists(words, max_size=16)
open_orders = st.builds(
    lambda status, attempt, unsent, sent_before, accepted, sent_until: order(
        status=status,
        attempt=attempt,
        sent_until=T0 + timedelta(seconds=sent_until) if sent_until else None,
        unsent=unsent,
        sent_before=sent_before and attempt > 1,
        accepted_at=T0 if accepted and attempt else None,
    ),
    st.sampled_from([Status.PENDING, Status.TIMEOUT]),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 15, 59, 74, 125]),
)
closed_orders = st.builds(
    lambda status, review, code, asked: order(
        status=status,
        review=review,
        failure_code=code if status is Status.FAILED else None,
        completed_at=T0,
        next_run_at=T0 + SEND_TAKES if asked else None,
        lease_token=LeaseToken("lease") if asked else None,
    ),
    st.sampled_from(sorted(FINAL)),
    st.sampled_from([None, Review.UNRESOLVED, Review.MISMATCHED]),
    st.sampled_from(FailureCode),
    st.booleans(),
)
# Heard twice before, so that one more may be enough.
doubted_orders = st.builds(
    lambda start, doubts: replace(start, doubts=doubts, first_doubt_at=SEND_BEFORE + timedelta(minutes=2)),
    open_orders | closed_orders,
    st.integers(1, 2),
)
all_orders = open_orders | closed_orders | doubted_orders


# --- any order and any repetition of anything that anybody may say ------------------------------------------


@given(all_orders, any_words)
def test_a_status_only_moves_forward(start: Payment, said: list[Word]) -> None:
    for moment in history(start, said):
        assert moment.after.status in MAY_BECOME[moment.before.status]


@given(all_orders, any_words)
def test_the_order_itself_never_changes(start: Payment, said: list[Word]) -> None:
    for moment in history(start, said):
        for field in fields(Payment):
            if field.name not in MAY_CHANGE:
                assert getattr(moment.after, field.name) == getattr(start, field.name), field.name


@given(all_orders, any_words)
def test_each_change_raises_the_version_by_one(start: Payment, said: list[Word]) -> None:
    for moment in history(start, said):
        assert moment.after.version == moment.before.version + (moment.change is not None)


@given(all_orders, any_words)
def test_money_is_booked_once_and_only_when_it_came(start: Payment, said: list[Word]) -> None:
    moments = history(start, said)
    movements = []
    for moment in moments:
        movement = moment.change.movement if moment.change else None
        collected = ledger.collected(start.provider, start.money)
        if moment.became is Status.SUCCESSFUL:
            assert movement == collected
        elif movement is not None:
            assert movement.reason == "arrived_unexpectedly"
            if moment.became is Status.FAILED:
                assert isinstance(moment.word.outcome, Declined | Doubtful)
                assert moment.arrival is not None
                assert moment.arrival.money == moment.before.received
                movements.append(movement)
                continue
            assert isinstance(moment.word.outcome, Succeeded)
            assert moment.before.status is Status.FAILED
            assert moment.change is not None
            assert types(moment.change) == ["payment.contradicted"]
        if movement is not None:
            movements.append(movement)
            assert sum(posting.minor for posting in movement.postings) == 0
            assert len({posting.currency for posting in movement.postings}) == 1
        if moment.arrival is not None:
            heard = hear(moment.before, moment.word)
            assert heard is not None
            assert heard.movement is not None
            assert heard.movement.arrival is not None
            assert ledger.booked_as(heard.movement.arrival, moment.booked) is None
            if {arrival.money.currency for arrival in moment.booked_after} == {moment.arrival.money.currency}:
                total = sum(arrival.money.minor for arrival in moment.booked_after)
                assert moment.after.received == Money(total, moment.arrival.money.currency)
    assert len([movement for movement in movements if movement.arrival is None]) <= 1


@given(all_orders, any_words)
def test_each_fact_is_told_once(start: Payment, said: list[Word]) -> None:
    moments = history(start, said)
    told = event_types(moments)
    once = (
        "accepted", "not_sent", "timed_out", "succeeded", "failed",
    )  # fmt: skip
    assert {name: told[f"payment.{name}"] for name in once if told[f"payment.{name}"] > 1} == {}
    became = Counter(moment.became for moment in moments)
    assert told["payment.succeeded"] == became[Status.SUCCESSFUL]
    assert told["payment.failed"] == became[Status.FAILED]
    assert told["payment.timed_out"] == became[Status.TIMEOUT]
    reviews = [moment for moment in moments if moment.before.review is None]
    assert told["payment.review_needed"] == sum(one.after.review is Review.UNRESOLVED for one in reviews)
    against = Counter(
        (event.type, *sorted((name, str(value)) for name, value in event.data.items() if name != "source"))
        for event in (moments[-1].told_after if moments else ())
        if event.type in AGAINST
    )
    assert {word: times for word, times in against.items() if times > 1} == {}


@given(all_orders, any_words)
def test_an_open_payment_is_always_due_some_day_and_a_final_one_until_it_is_answered(
    start: Payment, said: list[Word]
) -> None:
    for moment in history(start, said):
        assert moment.after.is_final or moment.after.next_run_at is not None
        assert (moment.after.completed_at is None) == (not moment.after.is_final)
        if moment.after.is_final and (moment.became or moment.word.source is Source.CHECK):
            assert moment.after.lease_token is None
            assert (moment.after.next_run_at is not None) == (
                moment.after.next_run_at == sends_end(moment.before) if moment.became else asks_on(moment)
            )


def asks_on(moment: Moment) -> bool:
    """Whether a question about a final payment has no firm answer yet."""
    is_question = moment.word.source is Source.CHECK and moment.after.status is not Status.REVERSED
    outcome = moment.word.outcome
    denies = isinstance(outcome, Accepted) or (
        isinstance(outcome, Doubtful) and moment.before.failure_code in OUR_OWN_FAILURES
    )
    denies = denies and moment.before.status is Status.FAILED
    unsettled = isinstance(outcome, Accepted | Unknown) or moment.after.not_founds > 0 or moment.after.doubts > 0
    return is_question and unsettled and (denies or moment.before.next_run_at is not None)


@given(open_orders, words)
def test_a_worker_that_is_done_gives_its_lease_back_and_waits(start: Payment, word: Word) -> None:
    moment = tell(start, word)
    if word.source in (Source.SEND, Source.CHECK) and not moment.after.is_final:
        if moment.change is None:
            assert isinstance(word.outcome, NotSent)
            return
        assert not moment.change.keeps_schedule
        assert moment.after.lease_token is None
        assert moment.after.next_run_at is not None
        assert timedelta(0) < max(moment.after.next_run_at - word.now, TICK) <= timedelta(minutes=72)


@given(open_orders, findings, st.sampled_from([Source.CALLBACK, Source.STATEMENT, Source.PERSON]), moments_in_time)
def test_who_comes_unasked_does_not_move_the_schedule(
    start: Payment, finding: Finding, source: Source, now: datetime
) -> None:
    moment = tell(start, Word(finding, source, now))
    if moment.change is not None and not moment.after.is_final:
        assert moment.change.keeps_schedule
        assert (moment.after.next_run_at, moment.after.lease_token) == (start.next_run_at, start.lease_token)
        assert moment.after.checks == start.checks


@given(all_orders, any_words)
def test_events_carry_no_personal_data(start: Payment, said: list[Word]) -> None:
    for moment in history(start, said):
        for event in (created(start, "prefix", ()), *(moment.change.events if moment.change else ())):
            assert PAYER not in repr(event)
            assert PAYER[3:] not in repr(event)
            assert all(value is None or isinstance(value, str | int | list) for value in event.data.values())


@given(all_orders, any_words)
def test_a_repeated_final_word_changes_nothing(start: Payment, said: list[Word]) -> None:
    for moment in history(start, said):
        has_just_opened = not moment.before.is_final and moment.after.next_run_at is not None  # the question
        if moment.after.is_final and not has_just_opened and not asks_on(moment):
            assert tell(moment.after, moment.word, moment.booked_after, moment.told_after).change is None


# --- failing: only on a firm word ---------------------------------------------------------------------------


@given(open_orders, st.lists(words_of_findings, max_size=16))
def test_not_received_needs_two_firm_ones_or_three_soft_ones_well_after_the_last_send(
    start: Payment, said: list[Word]
) -> None:
    heard: list[datetime] = []
    ended = max(SEND_BEFORE, start.sent_until or T0) + timedelta(minutes=1)
    for moment in history(start, said):
        word = moment.word
        if isinstance(word.outcome, Accepted):
            heard.clear()
        counts = (
            isinstance(word.outcome, NotFound)
            and word.source is Source.CHECK
            and word.now >= ended
            and not moment.before.accepted_at
        )
        if counts:
            heard.append(word.now)
        if moment.before.is_final:
            continue
        firm = isinstance(word.outcome, NotFound) and word.outcome.firm
        times, minutes = (2, 15) if firm else (3, 10)
        proven = counts and len(heard) >= times and word.now - heard[0] >= timedelta(minutes=minutes)
        assert moment.after.is_final == proven
        if moment.became is Status.FAILED:
            assert moment.after.failure_code == FailureCode.NOT_RECEIVED


@given(open_orders, any_words)
def test_every_failure_has_its_word(start: Payment, said: list[Word]) -> None:
    for moment in history(start, said):
        if moment.became is not Status.FAILED:
            continue
        match moment.word.outcome:
            case Declined(code, provider_code):
                assert (moment.after.failure_code, moment.after.failure_provider_code) == (
                    code,
                    provider_code,
                )
            case NotFound():
                assert moment.after.failure_code == FailureCode.NOT_RECEIVED
            case Doubtful(code, provider_code):
                assert (moment.after.failure_code, moment.after.failure_provider_code) == (code, provider_code)
                assert moment.word.source is Source.CHECK
                assert moment.before.doubts >= 2
            case NotSent():
                assert moment.after.failure_code == FailureCode.PROVIDER_UNAVAILABLE
                assert moment.word.now >= SEND_BEFORE
                assert moment.after.surely_unsent
            case other:
                pytest.fail(f"failed by {other}")


@given(open_orders, unknowns | st.just(Accepted()), sources, moments_in_time)
def test_neither_silence_nor_time_fails_a_payment(
    start: Payment, outcome: Outcome, source: Source, now: datetime
) -> None:
    moment = tell(start, Word(outcome, source, now))
    assert not moment.after.is_final
    if now >= EXPIRES:
        assert moment.after.status is Status.TIMEOUT


@given(open_orders, not_ours, sources, moments_in_time)
def test_a_success_that_is_not_ours_settles_nothing(
    start: Payment, success: Succeeded, source: Source, now: datetime
) -> None:
    change = say(start, success, source, now)
    assert not change.after.is_final
    assert change.movement is None
    assert change.after.provider_transaction_id is None
    assert change.after.review is Review.MISMATCHED
    assert "payment.mismatched" in types(change)
    again = tell(change.after, Word(success, source, now), (), change.events)
    assert event_types([again])["payment.mismatched"] == 0
    # It stays possible that the right word comes later.
    assert say(change.after, Succeeded("TX1", OURS, PAYER), source, now).after.status is Status.SUCCESSFUL


# --- what was surely not sent -------------------------------------------------------------------------------

NOT_SENT = NotSent("no connection")


@given(st.lists(st.one_of(words, st.none()), max_size=24))
def test_surely_unsent_means_that_each_attempt_said_so(said: list[Word | None]) -> None:
    payment, not_sent = order(attempt=0), set[int]()
    for word in said:
        if word is None:
            payment = begin(payment)
        else:
            if word.outcome == NOT_SENT and word.source is Source.SEND:
                not_sent.add(payment.attempt - word.attempts_ago)
            payment = tell(payment, word).after
        if payment.surely_unsent:
            assert set(range(1, payment.attempt + 1)) <= not_sent


@given(open_orders, st.lists(st.one_of(words, st.none()), max_size=24))
def test_not_sent_is_told_at_most_once_an_attempt(start: Payment, said: list[Word | None]) -> None:
    payment, told = start, Counter[object]()
    for word in said:
        if word is None:
            payment = begin(payment)
            continue
        moment = tell(payment, word)
        payment = moment.after
        for event in moment.change.events if moment.change else ():
            if event.type == "payment.not_sent":
                assert event.data == {"reason": NOT_SENT.reason, "attempt": payment.attempt}
                told[cast("int", event.data["attempt"])] += 1
    assert set(told.values()) <= {1}
    assert not told[0]  # no attempt was made
    assert not (start.unsent and told[start.attempt])


@pytest.mark.parametrize("status", [Status.PENDING, Status.TIMEOUT])
def test_not_sent_fails_only_what_was_surely_not_sent(status: Status) -> None:
    for attempt, sent_before, accepted, late in product((1, 2, 3), (False, True), (None, T0), (False, True)):
        start = order(status=status, attempt=attempt, sent_before=sent_before, accepted_at=accepted)
        after = say(start, NOT_SENT, Source.SEND, SEND_BEFORE if late else SEND_BEFORE - TICK).after
        all_unsent = not sent_before and accepted is None
        assert after.unsent
        assert after.surely_unsent == all_unsent
        assert (after.status is Status.FAILED) == (all_unsent and late)
        if not all_unsent:
            assert after.status is (Status.TIMEOUT if accepted is None else status)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_not_sent_is_tried_again_at_the_latest_when_it_is_too_late(jitter: float) -> None:
    payment, now, waits = order(), T0, list[timedelta]()
    while not payment.is_final:
        moment = tell(payment, Word(NOT_SENT, Source.SEND, now, jitter))
        assert moment.change is not None
        payment = moment.after
        if payment.is_final:
            break
        assert types(moment.change) == ["payment.not_sent"]
        assert payment.next_run_at is not None
        assert now < payment.next_run_at <= SEND_BEFORE
        assert payment.status is Status.PENDING
        waits.append(payment.next_run_at - now)
        now = payment.next_run_at
        if next_step(payment, now) is Step.SEND:
            payment = begin(payment)
    assert now == SEND_BEFORE
    assert 5 < payment.attempt < 20
    assert waits[:-1] == [send_delay(n, jitter) for n in range(len(waits) - 1)]
    assert payment.failure_code == FailureCode.PROVIDER_UNAVAILABLE


def test_a_payment_that_was_never_tried_can_be_given_up() -> None:
    start = order(attempt=0)
    assert next_step(start, SEND_BEFORE) is Step.GIVE_UP
    assert say(start, NotSent("too late"), Source.SEND, SEND_BEFORE).after.status is Status.FAILED


def test_a_not_sent_whose_commit_was_lost_may_be_told_again() -> None:
    once = say(order(), NOT_SENT, Source.SEND)
    assert (types(once), once.after.surely_unsent) == (["payment.not_sent"], True)
    twice = say(once.after, NOT_SENT, Source.SEND)
    assert (types(twice), twice.after.surely_unsent) == ([], True)
    assert twice.after.next_run_at == once.after.next_run_at


def test_a_not_sent_that_is_told_twice_does_not_vouch_for_another_attempt() -> None:
    start = begin(order(status=Status.TIMEOUT))  # the first attempt was not answered
    once = say(start, NOT_SENT, Source.SEND).after
    assert next_step(once, T0) is Step.ASK
    for now in (T0, SEND_BEFORE, EXPIRES):
        assert changes_nothing(once, NOT_SENT, Source.SEND, now)


def test_a_not_sent_that_is_told_after_another_attempt_began_says_nothing_about_it() -> None:
    told_before = begin(say(order(), NOT_SENT, Source.SEND).after)
    told_only_late = begin(order())
    for payment, now in product((told_before, told_only_late), (T0, SEND_BEFORE, EXPIRES)):
        assert not payment.surely_unsent
        assert changes_nothing(payment, NOT_SENT, Source.SEND, now, attempts_ago=1)
    assert (told_before.sent_before, told_only_late.sent_before) == (False, True)
    # Nor does it help a later attempt that was not sent either: the one between may have been.
    between = begin(told_before)
    assert not say(between, NOT_SENT, Source.SEND, SEND_BEFORE).after.is_final
    assert next_step(say(between, NOT_SENT, Source.SEND).after, T0) is Step.ASK


@pytest.mark.parametrize("source", [Source.CHECK, Source.CALLBACK])
@pytest.mark.parametrize("now", [T0, SEND_BEFORE, EXPIRES, EXPIRES + timedelta(hours=1)])
def test_a_question_that_was_not_sent_says_nothing_about_the_request(source: Source, now: datetime) -> None:
    for attempt, unsent in product((0, 1), (False, True)):
        assert changes_nothing(order(attempt=attempt, unsent=unsent), NOT_SENT, source, now)


@pytest.mark.parametrize("start", [order(attempt=attempt, unsent=attempt > 0) for attempt in range(3)], ids=range(3))
@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("sign", [Accepted(), Succeeded("TX1", Money(700, "ZMW"))], ids=repr)
def test_what_was_accepted_meanwhile_is_not_given_up(start: Payment, source: Source, sign: Finding) -> None:
    assert next_step(start, SEND_BEFORE) is Step.GIVE_UP
    accepted = say(start, sign, source, SEND_BEFORE).after
    for now in (SEND_BEFORE, EXPIRES):
        assert changes_nothing(accepted, NotSent("it was not sent in time"), Source.SEND, now)


def test_a_refused_repeat_is_no_word_about_the_first_request() -> None:
    refusal = Declined(FailureCode.PROVIDER_REJECTED, "TOO_MANY")
    for attempt, sent_before, source, ago in product(range(1, 4), (False, True), Source, (0, 1)):
        after = say(order(attempt=attempt, sent_before=sent_before), refusal, source, attempts_ago=ago).after
        a_repeat = source is Source.SEND and (sent_before or ago > 0)
        assert after.status is (Status.TIMEOUT if a_repeat else Status.FAILED)


# --- words that are no answer of ours -----------------------------------------------------------------------


@pytest.mark.parametrize("source", Source)
def test_a_mismatch_shows_that_the_request_was_received(source: Source) -> None:
    ended = SEND_BEFORE + timedelta(minutes=1)
    doubted = order(status=Status.TIMEOUT, not_founds=2, first_not_found_at=ended, sent_until=T0)
    later = SEND_BEFORE + timedelta(minutes=12)
    known = say(doubted, Succeeded("TX1", Money(700, "ZMW"), PAYER), source, later).after
    assert (known.accepted_at, known.not_founds, known.first_not_found_at) == (later, 0, None)
    assert not send_again(known, T0)
    for firm in (False, True):
        assert not say(known, NotFound(firm), Source.CHECK, later).after.is_final


@given(open_orders, any_words)
def test_a_callback_that_tells_nothing_new_changes_nothing(start: Payment, said: list[Word]) -> None:
    for moment in history(start, said):
        if moment.word.source is Source.CALLBACK:
            assert tell(moment.after, moment.word, moment.booked_after, moment.told_after).change is None


@pytest.mark.parametrize("outcome", [Accepted(), Unknown("nonsense"), Succeeded("TX1", Money(700, "ZMW"))], ids=repr)
def test_a_callback_does_not_make_others_decide_again_for_nothing(outcome: Finding) -> None:
    known = order(accepted_at=T0, review=Review.MISMATCHED, received=Money(700, "ZMW"))
    told = tell(order(), Word(outcome, Source.CHECK, T0)).told_after
    assert tell(known, Word(outcome, Source.CALLBACK, T0), (), told).change is None
    # What it tells by coming so late is written down all the same.
    assert say(known, outcome, Source.CALLBACK, EXPIRES).after.status is Status.TIMEOUT


# --- single decisions ---------------------------------------------------------------------------------------


def test_the_first_event_tells_the_order_and_its_road() -> None:
    assert created(order(), "prefix", ("pawapay: its circuit is open",)) == EventDraft(
        "payment.created",
        {
            "amount": "1000.50",
            "currency": "ZMW",
            "network": "mtn",
            "network_from": "prefix",
            "provider": "mtn",
            "account_id": None,
            "provider_reference": ORDER.provider_reference,
            "passed_over": ["pawapay: its circuit is open"],
        },
    )


@pytest.mark.parametrize("status", [Status.PENDING, Status.TIMEOUT])
@pytest.mark.parametrize("source", Source)
def test_success_is_final_and_booked(status: Status, source: Source) -> None:
    change = say(order(status=status), Succeeded("TX1", OURS, PAYER), source, T0)
    assert (change.after.status, change.after.completed_at) == (Status.SUCCESSFUL, T0)
    assert change.after.provider_transaction_id == "TX1"
    assert change.movement == ledger.collected("mtn", OURS)
    assert types(change) == ["payment.succeeded"]


def test_a_success_without_an_id_keeps_the_one_that_is_known() -> None:
    known = order(provider_transaction_id="TX1")
    assert say(known, Succeeded(), Source.CHECK).after.provider_transaction_id == "TX1"


def test_acknowledgement_is_remembered_and_withdraws_the_not_founds() -> None:
    doubted = order(status=Status.TIMEOUT, not_founds=2, first_not_found_at=SEND_BEFORE)
    change = say(doubted, Accepted(), Source.CHECK, SEND_BEFORE + timedelta(minutes=5))
    assert types(change) == ["payment.accepted"]
    assert change.after.status is Status.TIMEOUT
    assert change.after.accepted_at == SEND_BEFORE + timedelta(minutes=5)
    assert (change.after.not_founds, change.after.first_not_found_at) == (0, None)
    again = say(change.after, Accepted(), Source.CHECK, EXPIRES)
    assert again.after.accepted_at == change.after.accepted_at
    assert "payment.accepted" not in types(again)


def test_silence_after_sending_is_a_timeout_at_once_and_after_asking_it_is_not() -> None:
    assert say(order(), Unknown("reset"), Source.SEND).after.status is Status.TIMEOUT
    assert types(say(order(), Unknown("reset"), Source.SEND)) == ["payment.timed_out"]
    for source in (Source.CHECK, Source.CALLBACK):
        assert tell(order(), Word(Unknown("reset"), source, T0)).after.status is Status.PENDING


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("outcome", [Accepted(), Unknown("reset"), NotFound()])
def test_expiry_is_a_timeout_to_the_microsecond(source: Source, outcome: Finding) -> None:
    start = order(accepted_at=T0)
    if not isinstance(outcome, Unknown):
        assert tell(start, Word(outcome, source, EXPIRES - TICK)).after.status is Status.PENDING
    assert say(start, outcome, source, EXPIRES).after.status is Status.TIMEOUT


def test_an_outcome_unknown_for_an_hour_is_given_to_a_person_once() -> None:
    hour = T0 + timedelta(hours=1)
    start = order(status=Status.TIMEOUT, accepted_at=T0)
    assert say(start, Unknown("reset"), Source.CHECK, hour - TICK).after.review is None
    change = say(start, Unknown("reset"), Source.CHECK, hour)
    assert (change.after.review, types(change)) == (Review.UNRESOLVED, ["payment.review_needed"])
    assert types(say(change.after, Unknown("reset"), Source.CHECK, hour)) == []


def test_checks_slow_down_and_only_checks_are_counted() -> None:
    payment, waits = order(accepted_at=T0), []
    for _ in range(25):
        payment = say(payment, Accepted(), Source.CHECK, T0).after
        assert payment.next_run_at is not None
        waits.append(payment.next_run_at - T0)
    assert payment.checks == 25
    assert waits == sorted(waits)
    assert waits[0] < timedelta(seconds=10)
    assert waits[-1] == timedelta(hours=1)
    for source in (Source.SEND, Source.CALLBACK):
        assert tell(payment, Word(Accepted(), source, T0)).after.checks == 25


@given(open_orders, moments_in_time, jitters)
def test_a_question_that_never_left_counts_for_nothing_and_is_due_again_soon(
    start: Payment, now: datetime, jitter: float
) -> None:
    start = replace(start, checks=15)
    unasked = Unknown("the circuit is open", outage=False, asked=False)
    after = tell(start, Word(unasked, Source.CHECK, now, jitter)).after
    assert (after.checks, after.not_founds) == (15, start.not_founds)
    assert after.next_run_at is not None
    assert timedelta(seconds=12) <= after.next_run_at - now <= timedelta(seconds=18)
    asked = tell(start, Word(replace(unasked, asked=True), Source.CHECK, now, jitter)).after
    assert asked.checks == 16
    # A repeat that never left leaves the first request's doubt, and its pace.
    sent = tell(start, Word(unasked, Source.SEND, now, jitter)).after
    assert (
        sent.next_run_at == tell(start, Word(replace(unasked, asked=True), Source.SEND, now, jitter)).after.next_run_at
    )


def test_doubt_is_asked_about_sooner_than_what_is_acknowledged_and_a_callback_is_awaited() -> None:
    def wait(outcome: Outcome) -> timedelta:
        due = say(order(), outcome, Source.SEND).after.next_run_at
        assert due is not None
        return due - T0

    assert wait(Unknown("reset")) == check_delay(0, 0.5, acknowledged=False)
    assert wait(Accepted()) == check_delay(0, 0.5, acknowledged=True)
    assert wait(Accepted(calls_back=True)) == check_delay(0, 0.5, acknowledged=True, calls_back=True)
    assert wait(Unknown("reset")) < wait(Accepted()) < wait(Accepted(calls_back=True))


@pytest.mark.parametrize(("firm", "heard_after"), [(False, [0, 5, 10]), (True, [0, 15])])
def test_not_founds_fail_a_payment_to_the_microsecond(firm: bool, heard_after: list[int]) -> None:
    payment, minute = order(status=Status.TIMEOUT, sent_until=SEND_BEFORE + SEND_TAKES), timedelta(minutes=1)
    ended = SEND_BEFORE + SEND_TAKES + minute
    for minutes in heard_after[:-1]:
        payment = say(payment, NotFound(firm), Source.CHECK, ended + minutes * minute).after
    last = ended + heard_after[-1] * minute
    assert payment.next_run_at is not None
    assert payment.next_run_at <= last
    assert may_arrive_until(payment, firm=firm) == last
    assert say(payment, NotFound(firm), Source.CHECK, last - TICK).after.status is Status.TIMEOUT
    assert say(payment, NotFound(firm), Source.CHECK, last).after.status is Status.FAILED
    too_few = replace(payment, not_founds=payment.not_founds - 1)
    assert say(too_few, NotFound(firm), Source.CHECK, last + minute).after.status is Status.TIMEOUT
    heard_of = say(payment, Accepted(), Source.CHECK, last).after
    assert say(heard_of, NotFound(firm), Source.CHECK, last + 60 * minute).after.status is Status.TIMEOUT


@pytest.mark.parametrize("firm", [False, True])
@pytest.mark.parametrize("sent_until", [None, T0 + SEND_TAKES, SEND_BEFORE, SEND_BEFORE + SEND_TAKES])
def test_a_not_found_before_the_end_of_the_last_send_counts_for_nothing(
    firm: bool, sent_until: datetime | None
) -> None:
    doubted = order(status=Status.TIMEOUT, sent_until=sent_until)
    ended = max(SEND_BEFORE, sent_until or T0) + timedelta(minutes=1)
    after = say(doubted, NotFound(firm), Source.CHECK, ended - TICK).after
    assert (after.status, after.not_founds, after.first_not_found_at) == (Status.TIMEOUT, 0, None)
    assert after.next_run_at == ended, "the first question that can tell anything is asked then"
    assert say(doubted, NotFound(firm), Source.CHECK, ended).after.not_founds == 1


@pytest.mark.parametrize(("firm", "minutes"), [(True, 18), (False, 14)])
@given(jitter=jitters)
def test_what_never_arrived_fails_in_some_minutes(firm: bool, minutes: int, jitter: float) -> None:
    payment = say(order(sent_until=T0 + SEND_TAKES), Unknown("reset"), Source.SEND, T0 + SEND_TAKES).after
    while not payment.is_final:
        assert payment.next_run_at is not None
        word = Word(NotFound(firm), Source.CHECK, payment.next_run_at + timedelta(milliseconds=20), jitter)
        payment = tell(payment, word).after
    assert payment.completed_at is not None
    assert payment.completed_at - T0 <= timedelta(minutes=minutes)
    assert payment.checks <= 20


@pytest.mark.parametrize("firm", [False, True])
@pytest.mark.parametrize("source", [Source.SEND, Source.CALLBACK])
def test_a_not_found_counts_only_as_the_answer_to_a_question(source: Source, firm: bool) -> None:
    doubted = order(status=Status.TIMEOUT, not_founds=2, first_not_found_at=SEND_BEFORE)
    after = tell(doubted, Word(NotFound(firm), source, EXPIRES)).after
    assert (after.status, after.not_founds) == (Status.TIMEOUT, 2)


# --- the number that people see -----------------------------------------------------------------------------------

RECEIPTED = Succeeded("D1", OURS, receipt="R1")


def test_a_success_with_another_receipt_than_the_first_answer_told_waits_for_a_person() -> None:
    payment = order(provider_receipt="R2", accepted_at=T0)
    change = transition(payment, Succeeded(receipt="R1"), Source.CHECK, T0, 0.0, attempt=payment.attempt)
    assert change is not None
    assert (change.after.status, change.after.review) == (Status.PENDING, Review.MISMATCHED)
    assert change.after.provider_receipt == "R2"


@given(all_orders, any_words)
def test_a_receipt_once_told_stays_and_each_is_an_answers(start: Payment, said: list[Word]) -> None:
    for moment in history(start, said):
        before, after = moment.before.provider_receipt, moment.after.provider_receipt
        assert before is None or after == before
        if after != before:
            assert isinstance(moment.word.outcome, Accepted | Succeeded)
            assert moment.word.outcome.receipt == after
            assert moment.word.source in (Source.SEND, Source.CHECK, Source.CALLBACK)
            assert moment.after.status not in (Status.FAILED, Status.REVERSED)
            assert moment.change is not None
            assert dict(moment.change.events[-1].data) == {"source": moment.word.source, "provider_receipt": after}
            assert types(moment.change)[-1] == "payment.receipt_told"


@pytest.mark.parametrize("first", [Accepted(receipt="R1"), RECEIPTED], ids=["in progress", "paid"])
def test_a_later_answer_without_the_receipt_does_not_erase_it(first: Finding) -> None:
    payment = say(order(), first, Source.SEND).after
    assert payment.provider_receipt == "R1"
    for word in (Unknown("HTTP 503"), Accepted(), Succeeded("D1", OURS)):
        payment = tell(payment, Word(word, Source.CHECK, T0)).after
    assert (payment.status, payment.provider_transaction_id) == (Status.SUCCESSFUL, "D1")
    assert (payment.provider_receipt, payment.review) == ("R1", None)


@pytest.mark.parametrize("source", [Source.SEND, Source.CHECK, Source.CALLBACK])
@pytest.mark.parametrize("first", [Accepted(receipt="R1"), RECEIPTED], ids=["in progress", "paid"])
def test_a_first_answer_that_is_heard_late_still_tells_the_receipt(first: Finding, source: Source) -> None:
    """The enquiry settled it in the meantime, which knows no receipt."""
    settled = say(order(), Succeeded("D1", OURS), Source.CHECK).after
    change = say(settled, first, source)
    assert (change.after.status, change.after.provider_receipt, change.movement) == (Status.SUCCESSFUL, "R1", None)
    assert types(change) == ["payment.receipt_told"]
    assert (change.after.next_run_at, change.after.review) == (None, None)
    assert changes_nothing(change.after, first, source)
    asked = replace(settled, next_run_at=T0, review=Review.UNRESOLVED)
    if source is Source.CHECK and first == RECEIPTED:
        answered = say(asked, first, source)
        assert (answered.after.provider_receipt, answered.after.review, answered.after.next_run_at) == (
            "R1",
            None,
            None,
        )
        assert not answered.keeps_schedule


@pytest.mark.parametrize(
    ("said", "is_another"),
    [
        (Succeeded("D1"), False),
        (Succeeded("R1"), False),
        (Succeeded("R1", receipt="D1"), False),
        (Succeeded(None, receipt="R1"), False),
        (Succeeded("D2"), True),
        (Succeeded("D1", receipt="R2"), True),  # an id that is made of ours may be that of two payouts
        (Succeeded("D2", receipt="R1"), True),
    ],
)
def test_an_answer_with_another_number_contradicts_what_is_settled(said: Succeeded, is_another: bool) -> None:
    settled = say(order(), RECEIPTED, Source.SEND)
    change = tell(settled.after, Word(said, Source.CHECK, T0), told=settled.events).change
    assert (change is not None) == is_another
    if change is not None:
        assert (change.after.provider_receipt, change.after.review) == ("R1", Review.CONTRADICTED)
        assert change.events[0].data["provider_says"] == "another transaction"


def test_a_success_of_another_transaction_or_payer_tells_no_receipt() -> None:
    settled = say(order(), Succeeded("D1", OURS), Source.SEND).after
    assert say(settled, Succeeded("D2", OURS, receipt="R2"), Source.CHECK).after.provider_receipt is None
    assert say(order(), Succeeded("D2", USD, receipt="R2"), Source.CHECK).after.provider_receipt is None
    failed = order(status=Status.FAILED, next_run_at=None)
    change = say(failed, RECEIPTED, Source.CHECK)
    assert change.after.provider_receipt is None
    assert change.movement is not None
    assert change.movement.arrival is not None
    assert change.movement.arrival.other_id == "R1"
    assert change.events[0].data["provider_receipt"] == "R1"


# --- a failure of which the provider is not sure --------------------------------------------------------------------

FAILED_IN_DOUBT = Doubtful(FailureCode.PROVIDER_ERROR, "AMBIGUOUS")
OTHER_WORDS = [Accepted(), NotFound(), NotFound(True), Unknown("paid, and in doubt", outage=False), Succeeded("X", USD)]
SILENCE = [Unknown("HTTP 503"), Unknown("the circuit is open", outage=False, asked=False)]


@given(
    open_orders,
    st.lists(
        st.builds(
            Word,
            st.one_of(doubtfuls, doubtfuls, st.sampled_from(OTHER_WORDS + SILENCE)),
            st.sampled_from([Source.CHECK, Source.CHECK, Source.CHECK, Source.CALLBACK, Source.SEND]),
            st.integers(0, 40).map(lambda minutes: T0 + timedelta(minutes=minutes)),
            jitters,
        ),
        max_size=12,
    ),
)
def test_only_a_doubtful_failure_again_and_again_is_one(start: Payment, said: list[Word]) -> None:
    """Three answers to questions over ten minutes, after the last send could arrive, and no other word between."""
    heard: list[datetime] = []
    ended = max(SEND_BEFORE, start.sent_until or T0) + timedelta(minutes=1)
    for moment in history(start, sorted(said, key=lambda word: word.now)):
        word = moment.word
        if moment.before.is_final:
            break
        if isinstance(word.outcome, Doubtful):
            if word.source is Source.CHECK and word.now >= ended:
                heard.append(word.now)
                assert moment.became is Status.FAILED or moment.after.doubts == len(heard)
            proven = len(heard) >= 3 and word.now - heard[0] >= timedelta(minutes=10)
            assert moment.after.is_final == (proven and word.source is Source.CHECK and word.now >= ended)
        elif word.outcome not in SILENCE:
            heard.clear()
            assert (moment.after.doubts, moment.after.first_doubt_at) == (0, None)


def doubted(payment: Payment, *minutes: int) -> Payment:
    for minute in minutes:
        payment = say(payment, FAILED_IN_DOUBT, Source.CHECK, SEND_BEFORE + timedelta(minutes=minute)).after
    return payment


def test_a_genuine_hint_shows_that_the_provider_knows_it_and_is_no_word_against_its_doubt() -> None:
    unknown = order(status=Status.TIMEOUT, not_founds=2, first_not_found_at=EXPIRES)
    change = hinted(replace(unknown, doubts=2, first_doubt_at=EXPIRES), Accepted(), EXPIRES)
    assert change is not None
    assert types(change) == ["payment.accepted"]
    assert (change.after.accepted_at, change.after.not_founds, change.after.doubts) == (EXPIRES, 0, 2)
    assert hinted(change.after, Unknown("no verdict"), EXPIRES) is None, "nothing new"


def test_doubtful_failures_fail_a_payment_to_the_microsecond() -> None:
    payment = order(status=Status.TIMEOUT)
    assert doubted(payment, 0).doubts == 0, "a send may still arrive"
    payment, last = doubted(payment, 0, 1, 4), SEND_BEFORE + timedelta(minutes=11)
    assert (payment.status, payment.doubts) == (Status.TIMEOUT, 2)
    assert payment.next_run_at is not None
    assert payment.next_run_at <= last
    assert say(payment, FAILED_IN_DOUBT, Source.CHECK, last - TICK).after.status is Status.TIMEOUT
    change = say(payment, FAILED_IN_DOUBT, Source.CHECK, last)
    assert (change.after.status, change.after.doubts, change.after.next_run_at) == (Status.FAILED, 0, None)
    assert [dict(event.data) for event in change.events] == [
        {"source": "check", "code": "provider_error", "provider_code": "AMBIGUOUS"}
    ]
    assert not say(replace(payment, doubts=1), FAILED_IN_DOUBT, Source.CHECK, last).after.is_final
    at_once = doubted(order(status=Status.TIMEOUT), 1, 1, 1, 1, 1)
    assert (at_once.status, at_once.doubts) == (Status.TIMEOUT, 5), "a person who asks on and on proves nothing"


def test_a_success_after_a_failure_in_doubt_contradicts_it_and_waits_in_suspense() -> None:
    failed = doubted(order(status=Status.TIMEOUT), 1, 4, 11)
    assert failed.status is Status.FAILED
    change = say(failed, Succeeded("TX1", OURS), Source.CHECK, EXPIRES)
    assert (change.after.status, change.after.review) == (Status.FAILED, Review.CONTRADICTED)
    assert change.movement == ledger.arrived_unexpectedly(late(OURS))


@pytest.mark.parametrize("source", [Source.CHECK, Source.CALLBACK])
@pytest.mark.parametrize("word", OTHER_WORDS, ids=repr)
def test_another_word_between_two_doubtful_failures_starts_the_count_anew(word: Finding, source: Source) -> None:
    payment = doubted(order(status=Status.TIMEOUT), 1, 4)
    first = tell(payment, Word(word, source, SEND_BEFORE + timedelta(minutes=5)))
    assert (first.after.doubts, first.after.first_doubt_at) == (0, None)
    # Also where nothing of that word is news, and nothing else of the payment changes.
    again = tell(replace(first.after, doubts=2, first_doubt_at=T0), first.word, first.booked_after, first.told_after)
    assert again.after.doubts == 0
    assert again.change is not None
    assert again.change.events == ()
    assert not doubted(first.after, 11, 12).is_final


@pytest.mark.parametrize("silence", SILENCE, ids=repr)
def test_silence_between_two_doubtful_failures_is_no_word(silence: Finding) -> None:
    payment = say(doubted(order(status=Status.TIMEOUT), 1, 4), silence, Source.CHECK, EXPIRES).after
    assert payment.doubts == 2
    assert doubted(payment, 20).is_final


@pytest.mark.parametrize("heard", [0, 2], ids=["before the sends end", "after"])
def test_who_says_that_it_failed_and_is_not_sure_knows_the_reference(heard: int) -> None:
    """A not-found afterwards proves nothing, and nothing is sent again."""
    known = doubted(order(status=Status.TIMEOUT), heard)
    assert known.accepted_at == SEND_BEFORE + timedelta(minutes=heard)
    assert not send_again(known, SEND_BEFORE - TICK)
    for minute in (3, 7, 20, 40):
        known = say(known, NotFound(True), Source.CHECK, SEND_BEFORE + timedelta(minutes=minute)).after
    assert (known.status, known.not_founds) == (Status.TIMEOUT, 0)


@pytest.mark.parametrize("payment", ["failed there", "failed by us", "paid"])
def test_a_doubtful_failure_answers_a_question_about_a_final_payment_when_it_is_proven(payment: str) -> None:
    """It agrees with a failure, and contradicts a success."""
    asked = {"failed there": FAILED_THERE, "failed by us": FAILED_HERE, "paid": PAID}[payment]
    after = doubted(asked, 2, 5)
    assert (after.status, after.doubts) == (asked.status, 2)
    assert after.next_run_at is not None
    assert after.review is (Review.UNRESOLVED if asked is FAILED_HERE else None)
    ended = doubted(after, 12)
    assert (ended.status, ended.doubts, ended.next_run_at) == (asked.status, 0, None)
    assert ended.review is (Review.CONTRADICTED if asked is PAID else None)


def test_one_doubtful_failure_closes_no_review_and_asks_for_nothing() -> None:
    reviewed = replace(FAILED_THERE, next_run_at=None, review=Review.UNRESOLVED)
    assert changes_nothing(reviewed, FAILED_IN_DOUBT, Source.CHECK, EXPIRES)
    assert changes_nothing(replace(PAID, next_run_at=None), FAILED_IN_DOUBT, Source.CHECK, EXPIRES)


# --- a genuine callback that says "paid" and names too little -------------------------------------------------------


def told_by_callback(payment: Payment) -> Change:
    change = hinted(payment, Succeeded("TX1"), EXPIRES)
    assert change is not None
    again = hinted(change.after, Succeeded("TX1"), EXPIRES)
    assert again is None or unless_told(change.after, again, change.events) is None, "nothing new"
    return change


@given(open_orders, any_words)
def test_what_a_genuine_callback_says_was_paid_is_failed_by_a_person_alone(start: Payment, said: list[Word]) -> None:
    """The merchant asks the payer again for what is failed."""
    for moment in history(told_by_callback(start).after, said):
        assert moment.became is not Status.FAILED or moment.word.source is Source.PERSON


@pytest.mark.parametrize("source", [Source.SEND, Source.CHECK, Source.CALLBACK, Source.STATEMENT])
def test_a_failure_against_a_genuine_callback_that_says_paid_is_a_contradiction(source: Source) -> None:
    declined = Declined(FailureCode.PAYER_DECLINED, "REJECTED")
    change = say(told_by_callback(order()).after, declined, source)
    assert (change.after.status, change.after.review) == (Status.PENDING, Review.CONTRADICTED)
    assert types(change) == ["payment.contradicted"]
    assert change.events[0].data == {"source": source, "status": "PENDING", "provider_says": "failed"}
    again = tell(change.after, Word(declined, source, T0), (), change.events)
    assert event_types([again]) == Counter()
    assert say(change.after, declined, Source.PERSON).after.status is Status.FAILED
    assert say(change.after, Succeeded("TX1", OURS), Source.CHECK).after.status is Status.SUCCESSFUL


def heard(numbers: tuple[str, ...]) -> tuple[Payment, tuple[EventDraft, ...]]:
    """An open payment of which genuine callbacks named these numbers, and its events."""
    payment, events = order(), tuple[EventDraft, ...]()
    for number in numbers:
        change = hinted(payment, Succeeded(number), EXPIRES)
        change = change and unless_told(payment, change, events)
        payment, events = (change.after, events + change.events) if change else (payment, events)
    return payment, events


def settle(payment: Payment, events: tuple[EventDraft, ...], number: str | None, source: Source) -> Change:
    change = tell(payment, Word(Succeeded(number, OURS), source, T0), (), events).change
    assert change is not None
    assert change.movement is not None, "the payment is paid, whatever a second number is"
    assert change.after.provider_transaction_id == number
    return told_otherwise(payment, change, events)


@pytest.mark.parametrize(
    ("numbers", "settled_by", "source", "others"),
    [
        (("A", "A"), "A", Source.CHECK, []),
        (("A",), None, Source.CHECK, []),
        (("A",), "B", Source.CHECK, ["A"]),
        (("A", "B", "B"), "B", Source.CHECK, ["A"]),
        (("A", "B"), "A", Source.CHECK, ["B"]),
        (("A", "B"), "C", Source.CHECK, ["A", "B"]),
        (("A", "B"), None, Source.CHECK, ["B"]),
        # What people see may be a number of another kind.
        (("A",), "SMS-1", Source.STATEMENT, []),
        (("A",), "SMS-1", Source.PERSON, []),
        (("A", "B"), "SMS-1", Source.STATEMENT, ["B"]),
        (("A", "B"), "B", Source.PERSON, ["A"]),
        (("A", "B"), None, Source.PERSON, ["B"]),
    ],
)
def test_another_number_of_a_genuine_callback_before_the_success_is_seen(
    numbers: tuple[str, ...], settled_by: str | None, source: Source, others: list[str]
) -> None:
    """Perhaps the payer approved two prompts: each brings its own callback, and the enquiry knows one."""
    payment, events = heard(numbers)
    told = [event.data["provider_transaction_id"] for event in events if event.type == "payment.transaction_told"]
    assert told == list(dict.fromkeys(numbers)), "each once"
    assert payment.provider_transaction_id is None, "it may be another payment's"
    settled = settle(payment, events, settled_by, source)
    assert settled.after.status is Status.SUCCESSFUL
    assert settled.after.review is (Review.CONTRADICTED if others else None)
    against = [event for event in settled.events if event.type == "payment.contradicted"]
    assert [event.data["provider_transaction_id"] for event in against] == others
    assert told_otherwise(payment, replace(settled, events=settled.events[:1]), events + settled.events).events == (
        settled.events[0],
    ), "told once"


def test_a_number_that_comes_late_is_compared_with_those_of_callbacks() -> None:
    payment, events = heard(("A",))
    settled = settle(payment, events, None, Source.STATEMENT)
    events += settled.events
    late = tell(settled.after, Word(Succeeded("B", OURS), Source.CHECK, T0), (), events).change
    assert late is not None
    assert told_otherwise(settled.after, late, events).after.review is Review.CONTRADICTED


def test_a_receipt_alone_is_compared_with_no_number_of_callbacks() -> None:
    payment, events = heard(("A",))
    settled = settle(payment, events, "SMS-1", Source.STATEMENT)
    events += settled.events
    late = tell(settled.after, Word(Succeeded(None, OURS, receipt="R"), Source.CHECK, T0), (), events).change
    assert late is not None
    assert late.after.provider_receipt == "R"
    assert told_otherwise(settled.after, late, events) == late


@pytest.mark.parametrize("code", [FailureCode.PAYER_DECLINED, FailureCode.NOT_RECEIVED])
def test_a_genuine_callback_that_says_paid_is_a_contradiction_of_a_failure_at_once(code: FailureCode) -> None:
    """Its provider may say "failed" again when it is asked: it has said both all the same."""
    change = told_by_callback(replace(FAILED_THERE, failure_code=code))
    assert (change.after.status, change.after.review) == (Status.FAILED, Review.CONTRADICTED)
    assert (types(change), change.movement) == (["payment.contradicted"], None)
    assert say(replace(change.after, next_run_at=T0), DECLINED, Source.CHECK).after.review is Review.CONTRADICTED
    another = hinted(replace(change.after, review=None), Succeeded("TX2"), EXPIRES)
    assert another is not None
    told = unless_told(change.after, another, change.events)
    assert told is not None, "another transaction, which no person has seen"
    assert told.events[0].data["provider_transaction_id"] == "TX2"


@pytest.mark.parametrize("said", [Accepted(), Unknown("no verdict")])
def test_a_genuine_callback_about_what_we_called_not_received_comes_to_a_person(said: Accepted | Unknown) -> None:
    """Its provider has the request: the merchant may have asked the payer again."""
    change = hinted(FAILED_HERE, said, EXPIRES)
    assert change is not None
    assert (change.after.review, types(change), change.keeps_schedule) == (
        Review.UNRESOLVED, ["payment.review_needed"], True
    )  # fmt: skip
    assert hinted(FAILED_HERE, DECLINED, EXPIRES) is None


@pytest.mark.parametrize("said", [Succeeded("TX2"), Declined(FailureCode.PAYER_DECLINED, "REJECTED")])
def test_a_genuine_callback_against_what_is_paid_comes_to_a_person_at_once(said: Succeeded | Declined) -> None:
    """Its provider's list may know one transaction alone, or nothing any more: asking would end it."""
    paid = replace(PAID, provider_transaction_id="TX1")
    change = hinted(paid, said, EXPIRES)
    assert change is not None
    assert (change.after.status, change.after.review) == (Status.SUCCESSFUL, Review.CONTRADICTED)
    assert (types(change), change.movement, change.keeps_schedule) == (["payment.contradicted"], None, True)


@pytest.mark.parametrize("said", [Succeeded("TX1"), Succeeded(), Accepted(), Unknown("no verdict")])
def test_a_genuine_callback_that_is_not_against_what_is_paid_changes_nothing(
    said: Succeeded | Accepted | Unknown,
) -> None:
    assert hinted(replace(PAID, provider_transaction_id="TX1"), said, EXPIRES) is None


# --- words against a final status ---------------------------------------------------------------------------

DECLINED = Declined(FailureCode.PAYER_DECLINED, "REJECTED")


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("status", sorted(FINAL))
@pytest.mark.parametrize(
    "outcome",
    [
        Accepted(),
        Succeeded("TX1", OURS, PAYER),
        DECLINED,
        NotSent("late"),
        NotFound(True),
        NotFound(),
        Doubtful(FailureCode.PROVIDER_ERROR, "AMBIGUOUS"),
        Unknown("?"),
    ],
    ids=repr,
)
def test_only_a_firm_word_contradicts(source: Source, status: Status, outcome: Outcome | Finding) -> None:
    payment = order(status=status, next_run_at=None, provider_transaction_id="TX1")
    change = tell(payment, Word(outcome, source, EXPIRES)).change
    paid = status is Status.FAILED and isinstance(outcome, Succeeded)
    # A declined send may be a repeat's, whose first request moved the money.
    unpaid = status is Status.SUCCESSFUL and isinstance(outcome, Declined) and source is not Source.SEND
    speaks_for_it = source in (Source.SEND, Source.CHECK, Source.CALLBACK)
    if speaks_for_it and isinstance(outcome, Accepted) and status is Status.FAILED:
        assert change is not None  # it is remembered, a check asks again, and nothing else
        assert (change.events, change.movement, change.after.review) == ((), None, None)
        assert (change.after.accepted_at, change.keeps_schedule) == (EXPIRES, source is not Source.CHECK)
        return
    assert (change is not None) == (paid or unpaid)
    if change is None:
        return
    assert (change.after.status, change.after.review) == (status, Review.CONTRADICTED)
    assert types(change) == ["payment.contradicted"]
    assert change.events[0].data == {
        "source": source,
        "status": status,
        "provider_says": "successful" if paid else "failed",
    } | ({"provider_transaction_id": "TX1", "received_amount": "1000.50", "received_currency": "ZMW"} if paid else {})
    assert change.movement == (ledger.arrived_unexpectedly(late(OURS, source)) if paid else None)


def late(money: Money, source: Source = Source.CHECK) -> Arrival:
    return Arrival("mtn", FINGERPRINT, money, Why.LATE, source, "TX1")


def test_the_money_that_came_is_booked_not_the_money_that_was_wanted() -> None:
    failed = order(status=Status.FAILED, next_run_at=None)
    arrived = Money(700, "ZMW")
    change = say(failed, Succeeded("TX1", arrived, PAYER), Source.CHECK)
    assert change.movement == ledger.arrived_unexpectedly(late(arrived))
    assert say(failed, Succeeded("TX1"), Source.CHECK).movement == ledger.arrived_unexpectedly(late(OURS))


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("review", [None, Review.UNRESOLVED, Review.MISMATCHED])
@pytest.mark.parametrize(
    ("success", "detail"),
    [
        (Succeeded("TX1", Money(700, "ZMW"), PAYER), "the provider says 7.00 ZMW"),
        (Succeeded("TX1", Money(100_050, "USD")), "the provider says 1000.50 USD"),
        (Succeeded("TX1", OURS, "260961234568"), "the provider names another payer"),
    ],
    ids=["money", "currency", "payer"],
)
def test_another_success_than_the_settled_one_contradicts_it_once(
    source: Source, review: Review | None, success: Succeeded, detail: str
) -> None:
    settled = replace(PAID, review=review, next_run_at=None, lease_token=None, provider_transaction_id="TX0")
    change = say(settled, success, source, EXPIRES)
    assert change.after == replace(settled, review=Review.CONTRADICTED, version=settled.version + 1)
    assert change.movement is None
    [event] = change.events
    assert event.type == "payment.contradicted"
    assert dict(event.data).items() >= {"source": source, "status": "SUCCESSFUL", "provider_says": detail}.items()
    assert event.data["provider_transaction_id"] == "TX1"
    assert event.data.get("received_amount") == (str(success.money) if success.money else None)
    assert tell(change.after, Word(success, source, EXPIRES), (), change.events).change is None
    for reviewed in (change.after, replace(change.after, review=None)):  # another word is another fact, seen or not
        other = tell(reviewed, Word(DECLINED, source, EXPIRES), (), change.events)
        assert [event.data["provider_says"] for event in other.told_after[1:]] == ["failed"] * (
            source is not Source.SEND
        )
        assert tell(reviewed, Word(DECLINED, source, EXPIRES), (), other.told_after).change is None
    assert changes_nothing(replace(settled, status=Status.REVERSED, review=None), success, source, EXPIRES)


# --- questions about a final payment ------------------------------------------------------------------------------

FAILED_THERE = order(
    status=Status.FAILED, failure_code=FailureCode.PAYER_DECLINED, completed_at=T0, next_run_at=T0, checks=0
)
FAILED_HERE = replace(FAILED_THERE, failure_code=FailureCode.NOT_RECEIVED)
PAID = replace(FAILED_THERE, status=Status.SUCCESSFUL, failure_code=None)


@pytest.mark.parametrize(("firm", "heard_after"), [(True, [0, 15]), (False, [0, 2, 10])])
@pytest.mark.parametrize("payment", [FAILED_THERE, FAILED_HERE, PAID])
def test_one_not_found_does_not_end_the_question_about_a_final_payment(
    payment: Payment, firm: bool, heard_after: list[int]
) -> None:
    for minutes in heard_after[:-1]:
        payment = say(payment, NotFound(firm), Source.CHECK, EXPIRES + timedelta(minutes=minutes)).after
        assert payment.next_run_at is not None
    ended = say(payment, NotFound(firm), Source.CHECK, EXPIRES + timedelta(minutes=heard_after[-1])).after
    assert (ended.next_run_at, ended.not_founds, ended.review) == (None, 0, None)


@pytest.mark.parametrize(
    ("payment", "answer", "review"),
    [
        (FAILED_THERE, DECLINED, None),
        (FAILED_THERE, Succeeded("TX1", OURS, PAYER), Review.CONTRADICTED),
        (FAILED_HERE, Succeeded("TX1"), Review.CONTRADICTED),
        (PAID, Succeeded("TX1", OURS, PAYER), None),
        (PAID, Succeeded("TX1", Money(700, "ZMW")), Review.CONTRADICTED),
        (PAID, DECLINED, Review.CONTRADICTED),
    ],
    ids=repr,
)
def test_one_answer_ends_the_question_about_a_final_payment(
    payment: Payment, answer: Finding, review: Review | None
) -> None:
    word = Word(answer, Source.CHECK, EXPIRES)
    moment = tell(payment, word)
    assert (moment.after.status, moment.after.review) == (payment.status, review)
    assert (moment.after.next_run_at, moment.after.lease_token) == (None, None)
    assert tell(moment.after, word, moment.booked_after, moment.told_after).change is None
    # A hint has it asked once more: what is booked already ends that question too, and nothing else.
    asked_again = replace(moment.after, next_run_at=T0, lease_token=LeaseToken("lease"))
    again = tell(asked_again, word, moment.booked_after, moment.told_after).change
    assert again is not None
    assert (again.after, again.events, again.movement, again.keeps_schedule) == (
        replace(moment.after, version=moment.after.version + 1), (), None, False
    )  # fmt: skip


@pytest.mark.parametrize("payment", [FAILED_THERE, PAID], ids=["failed", "paid"])
@pytest.mark.parametrize("answer", [Accepted(), Unknown("HTTP 503")], ids=repr)
def test_a_question_without_a_firm_answer_stays_and_comes_to_a_person_in_the_end(
    payment: Payment, answer: Finding
) -> None:
    now, waits, events = T0, list[timedelta](), list[str]()
    for _ in range(12):
        change = say(payment, answer, Source.CHECK, now)
        payment, events = change.after, [*events, *types(change)]
        assert payment.next_run_at is not None
        waits.append(payment.next_run_at - now)
        now = payment.next_run_at
        unasked = say(payment, Unknown("rest", asked=False), Source.CHECK, now).after
        assert (unasked.checks, unasked.review) == (payment.checks, payment.review)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (timedelta(minutes=1), timedelta(days=1))
    assert events == ["payment.review_needed"]
    assert payment.review is Review.UNRESOLVED
    seen_by_one = seen(payment, "we know")
    assert seen_by_one is not None
    assert (seen_by_one.after.review, seen_by_one.after.next_run_at) == (None, payment.next_run_at)
    assert seen_by_one.keeps_schedule
    told_again = [say(seen_by_one.after, answer, Source.CHECK, now)]
    assert told_again[0].after.review is None, "what a person has seen does not come back at once"
    for _ in range(5):
        told_again.append(say(told_again[-1].after, answer, Source.CHECK, now))
    assert told_again[-1].after.review is Review.UNRESOLVED, "and is not forgotten"
    late = say(payment, Succeeded("TX1") if payment.status is Status.FAILED else DECLINED, Source.CHECK, now)
    assert late.after.review is Review.CONTRADICTED
    agreed = say(payment, DECLINED if payment.status is Status.FAILED else Succeeded("TX1"), Source.CHECK, now)
    assert (agreed.after.review, agreed.after.next_run_at) == (None, None)


def test_a_not_found_proves_nothing_about_a_failed_payment_that_was_acknowledged() -> None:
    """Whether before it failed or after: it is asked on, and comes to a person in the end."""
    before = replace(FAILED_THERE, accepted_at=T0 - TICK)
    after = say(FAILED_THERE, NotFound(), Source.CHECK, EXPIRES).after
    for heard in (Source.CHECK, Source.SEND, Source.CALLBACK):
        known = say(after, Accepted(), heard, EXPIRES + timedelta(minutes=1)).after
        assert (known.not_founds, known.first_not_found_at) == (0, None)
        for payment, firm in product((before, known), (True, False)):
            asked = [payment]
            for n in range(6):
                asked.append(say(asked[-1], NotFound(firm), Source.CHECK, EXPIRES + timedelta(hours=n)).after)
                assert asked[-1].next_run_at is not None
            assert asked[-1].review is Review.UNRESOLVED
            assert say(asked[-1], DECLINED, Source.CHECK).after.next_run_at is None


@given(
    open_orders,
    st.builds(Declined, codes, maybe_text) | findings,
    st.sampled_from([one for one in Source if one is not Source.SEND]),
    st.integers(0, 200).map(lambda s: T0 + timedelta(seconds=s)) | moments_in_time,
)
def test_who_fails_a_payment_whose_send_may_be_open_leaves_a_question(
    start: Payment, said: Finding, source: Source, now: datetime
) -> None:
    """The send's own word may be lost with its process, or with the database."""
    moment = tell(start, Word(said, source, now))
    if moment.became is not Status.FAILED:
        return
    ended = max(SEND_BEFORE, start.sent_until or SEND_BEFORE) + timedelta(minutes=1)
    may_be_open = now < ended and not start.surely_unsent and start.accepted_at is None
    assert moment.after.next_run_at == (ended if may_be_open else None)
    if may_be_open:
        early = say(moment.after, NotFound(True), Source.CHECK, ended - timedelta(minutes=4)).after
        assert say(early, NotFound(True), Source.CHECK, ended).after.next_run_at is not None, "the first that counts"
        assert say(moment.after, Accepted(), Source.CHECK, ended).after.next_run_at is not None
        assert say(moment.after, DECLINED, Source.CHECK, ended).after.next_run_at is None


@pytest.mark.parametrize("firm", [False, True])
def test_not_founds_that_the_version_before_counted_too_early_do_not_count(firm: bool) -> None:
    ended = SEND_BEFORE + timedelta(minutes=1)
    counted = order(status=Status.TIMEOUT, not_founds=9, first_not_found_at=ended - TICK)
    after = say(counted, NotFound(firm), Source.CHECK, EXPIRES).after
    assert (after.status, after.not_founds, after.first_not_found_at) == (Status.TIMEOUT, 1, EXPIRES)


@pytest.mark.parametrize("source", [Source.SEND, Source.CHECK, Source.CALLBACK])
@pytest.mark.parametrize("code", FailureCode)
def test_what_the_provider_has_is_not_simply_failed_by_our_own_word(source: Source, code: FailureCode) -> None:
    failed = replace(FAILED_THERE, failure_code=code)
    change = tell(failed, Word(Accepted(), source, EXPIRES)).change
    our_own = code in {"not_received", "provider_unavailable", "resolved_by_operator"}
    assert (change is not None and change.after.review is Review.UNRESOLVED) == our_own
    assert not our_own or (change is not None and types(change) == ["payment.review_needed"])
    assert raises_doubt(failed, Accepted(), source) == (source is not Source.CHECK)


@given(closed_orders, st.one_of(st.builds(Accepted), ours, not_ours, st.builds(Declined, codes, maybe_text)))
def test_only_what_says_otherwise_makes_us_ask_about_a_final_payment(
    payment: Payment, said: Accepted | Succeeded | Declined
) -> None:
    agrees_with = {
        Status.SUCCESSFUL: isinstance(said, Accepted) or (isinstance(said, Succeeded) and agrees(payment, said)),
        Status.FAILED: isinstance(said, Declined),
        Status.REVERSED: True,
    }
    assert says_otherwise(payment, said) == (not agrees_with[payment.status])


@given(closed_orders, outcomes, sources)
def test_whatever_shows_that_money_may_move_for_a_failed_payment_makes_us_ask(
    payment: Payment, said: Outcome | Finding, source: Source
) -> None:
    shows = isinstance(said, Accepted | Unknown) and source in (Source.SEND, Source.CALLBACK)
    assert raises_doubt(payment, said, source) == (shows and payment.status is Status.FAILED)
    assert not raises_doubt(payment, Unknown("?", askable=False), source)


def test_who_asked_before_the_end_and_heard_nothing_asks_for_nothing() -> None:
    for payment in (replace(one, next_run_at=None, lease_token=None) for one in (FAILED_THERE, FAILED_HERE, PAID)):
        assert changes_nothing(payment, Unknown("no answer in time"), Source.CHECK)
        assert (payment.status is Status.FAILED) != changes_nothing(payment, Accepted(), Source.CHECK)


def test_nothing_is_sent_of_what_is_final() -> None:
    for status in FINAL:
        assert next_step(order(status=status, attempt=0), T0) is Step.ASK


# --- next_step and may_send_again ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "unsent", "sent_before", "accepted", "early", "late"),
    [
        (0, False, False, False, Step.SEND, Step.GIVE_UP),
        (0, True, False, False, Step.SEND, Step.GIVE_UP),
        (1, True, False, False, Step.SEND, Step.GIVE_UP),
        (3, True, False, False, Step.SEND, Step.GIVE_UP),
        (1, False, False, False, Step.ASK, Step.ASK),  # a crash between the commit and the send leaves the same row
        (3, False, False, False, Step.ASK, Step.ASK),
        (2, True, True, False, Step.ASK, Step.ASK),
        (2, False, True, False, Step.ASK, Step.ASK),
        (1, True, False, True, Step.ASK, Step.ASK),
        (0, False, False, True, Step.ASK, Step.ASK),
    ],
)
def test_the_worker_sends_only_what_surely_was_not_sent(
    attempt: int, unsent: bool, sent_before: bool, accepted: bool, early: Step, late: Step
) -> None:
    for status in (Status.PENDING, Status.TIMEOUT):
        payment = order(
            status=status,
            attempt=attempt,
            unsent=unsent,
            sent_before=sent_before,
            accepted_at=T0 if accepted else None,
        )
        assert payment.surely_unsent == (early is Step.SEND)
        assert next_step(payment, T0) is next_step(payment, SEND_BEFORE - TICK) is early
        assert next_step(payment, SEND_BEFORE) is next_step(payment, EXPIRES) is late


def test_sending_again_needs_every_one_of_its_conditions() -> None:
    cases = product(
        (True, False), Status, (None, T0), (FINGERPRINT, "mtn@production"), (SEND_BEFORE, SEND_BEFORE - TICK)
    )
    allowed = [
        (status, now)
        for dedupes, status, accepted, fingerprint, now in cases
        if may_send_again(
            order(status=status, accepted_at=accepted),
            dedupes=dedupes,
            repeats=dedupes,
            account_fingerprint=fingerprint,
            asked_at=now,
            now=now,
        )
    ]
    assert allowed == [(Status.PENDING, SEND_BEFORE - TICK), (Status.TIMEOUT, SEND_BEFORE - TICK)]


def test_where_a_first_request_may_be_open_no_second_one_is_sent() -> None:
    over = T0 + SEND_TAKES + timedelta(minutes=1)
    slow = order(status=Status.TIMEOUT, sent_until=T0 + SEND_TAKES, send_before=over + timedelta(minutes=5))
    for now, repeats in product((T0, over - TICK), (True, False)):
        assert send_again(slow, now, repeats=repeats) == repeats
    assert send_again(slow, over, repeats=False)
    assert not may_send_again(
        slow, dedupes=True, repeats=False, account_fingerprint=FINGERPRINT, asked_at=over - TICK, now=over
    ), "it was asked before"
    usual = order(status=Status.TIMEOUT, sent_until=T0 + SEND_TAKES)
    assert not send_again(usual, over, repeats=False), "the order is not wanted by then"
    assert not send_again(replace(slow, sent_until=None), over, repeats=False)


# --- an honest provider is never contradicted ---------------------------------------------------------------


class HonestProvider(RuleBasedStateMachine):
    """A gateway, a network that delays and loses, and a provider that dedupes by reference and never lies.

    The provider's book is the model: when it debited, the payment may not end as failed; when it did not and
    never will, not as successful.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.payment = order(attempt=0)
        self.book = "nothing"  # then "waiting", then "debited" or "refused"
        self.in_flight: list[datetime] = []  # until when a request's bytes may still arrive
        self.answers: list[tuple[int, Outcome]] = []  # attempts and their answers, to be told late or again
        self.reached = 0
        self.moments: list[Moment] = []

    def hear(self, outcome: Outcome | Finding, source: Source, attempt: int | None = None) -> None:
        ago = 0 if attempt is None else self.payment.attempt - attempt
        self.moments.append(tell(self.payment, Word(outcome, source, self.now, attempts_ago=ago)))
        self.payment = self.moments[-1].after

    def answer(self, outcome: Outcome, *, told: bool) -> None:
        """The answer to the attempt that was begun last. Untold, its commit was lost, or its process sleeps."""
        self.answers.append((self.payment.attempt, outcome))
        if told:
            self.hear(outcome, Source.SEND)

    def found(self) -> Finding:
        known: Mapping[str, Finding] = {
            "nothing": NotFound(),
            "waiting": Accepted(),
            "debited": Succeeded("TX1", OURS, PAYER),
            "refused": DECLINED,
        }
        return known[self.book]

    def may_send(self) -> bool:
        if self.payment.is_final:
            return False
        # The book may have changed since the provider was asked.
        return next_step(self.payment, self.now) is Step.SEND or send_again(self.payment, self.now)

    @rule(seconds=st.sampled_from([1, 10, 30, 59, 60, 120, 300, 600]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        for until in [until for until in self.in_flight if until <= self.now]:
            self.in_flight.remove(until)
            self.arrive(refused_unrecorded=False)

    def arrive(self, *, refused_unrecorded: bool) -> Outcome:
        if refused_unrecorded:
            return Declined(FailureCode.NOT_ALLOWED, "BUSY")
        if self.book == "nothing":
            self.book = "waiting"
        return Accepted()  # a duplicate tells no result

    @precondition(may_send)
    @rule(told=st.booleans())
    def send_is_not_sent(self, told: bool) -> None:
        self.payment = begin(self.payment, self.now)
        self.answer(NOT_SENT, told=told)

    @precondition(may_send)
    @rule(refused=st.booleans(), answered=st.booleans(), told=st.booleans())
    def send_arrives(self, refused: bool, answered: bool, told: bool) -> None:
        self.reached += 1
        self.payment = begin(self.payment, self.now)
        answer = self.arrive(refused_unrecorded=refused)
        self.answer(answer if answered else Unknown("reset"), told=told)

    @precondition(may_send)
    @rule(seconds=st.integers(1, 250), told=st.booleans())
    def send_is_under_way(self, seconds: int, told: bool) -> None:
        self.reached += 1
        self.payment = begin(self.payment, self.now)
        self.in_flight.append(self.now + timedelta(seconds=seconds))
        self.answer(Unknown("deadline"), told=told)

    @precondition(lambda self: self.book == "waiting")
    @rule(paid=st.booleans())
    def payer_decides(self, paid: bool) -> None:
        self.book = "debited" if paid else "refused"

    @rule()
    def worker_gives_up(self) -> None:
        if not self.payment.is_final and next_step(self.payment, self.now) is Step.GIVE_UP:
            self.hear(NotSent("too late"), Source.SEND)

    @precondition(lambda self: self.payment.attempt > 0)
    @rule(silent=st.booleans(), firm=st.booleans(), in_doubt=st.booleans())
    def worker_asks(self, silent: bool, firm: bool, in_doubt: bool = False) -> None:
        finding = self.found()
        # It may always be in doubt about what it refused. About what waits for its payer it is now and then.
        if in_doubt and (self.book == "refused" or (self.book == "waiting" and not self.payment.doubts)):
            finding = Doubtful(FailureCode.PAYER_DECLINED, "AMBIGUOUS")
        if firm and finding == NotFound():
            finding = NotFound(firm=True)  # it believes so, and has not looked into its own queue
        self.hear(Unknown("reset") if silent else finding, Source.CHECK)

    @precondition(lambda self: self.book != "nothing")
    @rule()
    def provider_calls_back(self) -> None:
        self.hear(self.found(), Source.CALLBACK)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def an_answer_is_told_again(self, data: st.DataObject) -> None:
        attempt, outcome = data.draw(st.sampled_from(self.answers))
        self.hear(outcome, Source.SEND, attempt)

    @invariant()
    def no_final_word_is_wrong(self) -> None:
        if self.payment.status is Status.SUCCESSFUL:
            assert self.book == "debited"
        if self.payment.status is Status.FAILED:
            assert self.book == "refused" or (self.book == "nothing" and not self.in_flight)
        if self.payment.surely_unsent or self.payment.failure_code == FailureCode.PROVIDER_UNAVAILABLE:
            assert self.reached == 0
        assert event_types(self.moments)["payment.contradicted"] == 0

    def teardown(self) -> None:
        """All is delivered, the payer decides, the worker goes on: the books agree."""
        self.time_passes(300)
        if self.book == "waiting":
            self.payer_decides(paid=True)
        for _ in range(4):
            self.time_passes(600)
            self.worker_gives_up()
            if self.payment.attempt:
                self.worker_asks(silent=False, firm=False)
            self.no_final_word_is_wrong()
        assert self.payment.status is (Status.SUCCESSFUL if self.book == "debited" else Status.FAILED)
        booked = [moment.change.movement for moment in self.moments if moment.change and moment.change.movement]
        assert booked == ([ledger.collected("mtn", OURS)] if self.book == "debited" else [])


TestHonestProvider = HonestProvider.TestCase
TestHonestProvider.settings = settings(max_examples=80, stateful_step_count=25)
