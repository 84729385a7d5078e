"""The payment and its whole state machine: `transition` decides, `next_step` says what the worker does.

PENDING ──▶ SUCCESSFUL ──▶ REVERSED      (reversals arrive with the refunds)
   │ ├────▶ FAILED
   ▼ │
TIMEOUT ──▶ SUCCESSFUL | FAILED          never back to PENDING
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, assert_never

from kobiri.domain import ledger, schedule
from kobiri.domain.ids import AccountId, LeaseToken, PaymentId, ProviderReference, TenantId
from kobiri.domain.ledger import Arrival, Movement, Why
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn, may_be
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

SEND_MARGIN = timedelta(minutes=1)  # a provider may queue what it was sent for so long
# So many not-founds over so much time, counted from the end of the last possible send, mean that nothing arrived.
SOFT_PROOF = (3, timedelta(minutes=10))
FIRM_PROOF = (2, timedelta(minutes=15))  # pawaPay's word, and it asks for such a time: pawapay/README 3
DOUBTFUL_PROOF = SOFT_PROOF  # so many failures in doubt, counted likewise, with no other word between, are a failure
UNSETTLED_QUESTIONS = 6  # after so many about a final payment without a firm word a person must look, and so on
REVIEW_AFTER = timedelta(hours=1)  # an outcome unknown for so long is given to a person


class Status(StrEnum):
    PENDING = "PENDING"
    TIMEOUT = "TIMEOUT"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    REVERSED = "REVERSED"


FINAL = frozenset({Status.SUCCESSFUL, Status.FAILED, Status.REVERSED})

# These words are ours: the provider itself never said that no money would move.
OUR_OWN_FAILURES = frozenset(
    {FailureCode.NOT_RECEIVED, FailureCode.PROVIDER_UNAVAILABLE, FailureCode.RESOLVED_BY_OPERATOR}
)

# Where a provider's answers come from: their transaction ids are of one kind.
ANSWERS = frozenset({Source.SEND, Source.CHECK, Source.CALLBACK})
ANOTHER_TRANSACTION = "another transaction"
PROVIDERS_ANSWER = "the provider's answer"  # where a person read the number
AGAINST = frozenset({"payment.contradicted", "payment.mismatched"})  # events of words against a payment
TRANSACTION_TOLD, RECEIPT_TOLD = "payment.transaction_told", "payment.receipt_told"
LEARNT = frozenset({TRANSACTION_TOLD, RECEIPT_TOLD})  # events of numbers that did not settle the payment
SUCCEEDED = "payment.succeeded"
NUMBERED = frozenset({SUCCEEDED, TRANSACTION_TOLD})  # events that name a transaction of the payment

Mode = Literal["live", "test"]
Kind = Literal["collection", "payout", "refund"]


class Review(StrEnum):
    """Why a person must look. It stands beside the status and does not stop the checks."""

    UNRESOLVED = "unresolved"
    MISMATCHED = "mismatched"
    CONTRADICTED = "contradicted"


@dataclass(frozen=True, slots=True)
class Payment:
    """One row of `payments`. Times are the database's clock."""

    id: PaymentId
    tenant_id: TenantId
    mode: Mode
    kind: Kind
    status: Status
    money: Money
    payer: Msisdn
    network: str
    provider: str
    account_fingerprint: str
    provider_reference: ProviderReference
    send_before: datetime
    expires_at: datetime
    created_at: datetime
    sent_until: datetime | None = None  # no byte of a send that was allowed leaves later; None: none was
    account_id: AccountId | None = None  # None: the platform's account
    reference: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] | None = None
    callback_url: str | None = None
    provider_transaction_id: str | None = None
    provider_receipt: str | None = None  # the number that the wallet's SMS and statements show, where it is another one
    received: Money | None = None  # what arrived, by the provider's word, beside what the payment was settled with
    failure_code: str | None = None
    failure_provider_code: str | None = None
    review: Review | None = None
    version: int = 1
    attempt: int = 0  # raised by the commit that precedes each send
    unsent: bool = False  # this attempt ended as NotSent
    sent_before: bool = False  # an earlier attempt may have reached the provider
    checks: int = 0
    not_founds: int = 0
    first_not_found_at: datetime | None = None
    doubts: int = 0  # failures of which the provider is not sure, one after the other (Doubtful)
    first_doubt_at: datetime | None = None
    told_paid: bool = False  # by a genuine callback that names too little to settle it
    accepted_at: datetime | None = None
    completed_at: datetime | None = None
    next_run_at: datetime | None = None
    lease_token: LeaseToken | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def surely_unsent(self) -> bool:
        """No attempt can have reached the provider."""
        return (self.attempt == 0 or self.unsent) and not self.sent_before and self.accepted_at is None


@dataclass(frozen=True, slots=True)
class EventDraft:
    """A fact about a payment; ids and codes only, no personal data."""

    type: str
    data: Mapping[str, str | int | list[str] | None]


@dataclass(frozen=True, slots=True)
class Change:
    """All that one commit writes: the payment as it will stand, its events, its ledger movement."""

    after: Payment
    events: tuple[EventDraft, ...] = ()
    movement: Movement | None = None
    keeps_schedule: bool = False  # the row's own `next_run_at` and lease stay, whatever `after` says


def created(payment: Payment, network_from: str, passed_over: tuple[str, ...]) -> EventDraft:
    """The first event of every payment: what is asked, by which road it goes, and why by no other.

    `network_from`: who said whose wallet it is ("caller" or "prefix"). `passed_over`: each road that was not taken.
    """
    return EventDraft(
        "payment.created",
        {
            "amount": str(payment.money),
            "currency": payment.money.currency,
            "network": payment.network,
            "network_from": network_from,
            "provider": payment.provider,
            "account_id": payment.account_id,
            "provider_reference": payment.provider_reference,
            "passed_over": list(passed_over),
        },
    )


def rerouted(before: Payment, after: Payment, reason: str, passed_over: tuple[str, ...]) -> EventDraft:
    """Nothing was sent by the road before, so another is taken, under a new reference."""
    return EventDraft(
        "payment.rerouted",
        {
            "reason": reason,
            "from_provider": before.provider,
            "from_reference": before.provider_reference,
            "provider": after.provider,
            "account_id": after.account_id,
            "provider_reference": after.provider_reference,
            "passed_over": list(passed_over),
        },
    )


def transition(
    payment: Payment, outcome: Outcome | Finding, source: Source, now: datetime, jitter: float, *, attempt: int
) -> Change | None:
    """What `outcome` makes of `payment`, or None where it changes nothing.

    `now` is the database's clock, `jitter` a random number from 0 to 1. `attempt` is the one whose answer this is
    (for Source.SEND; the payment may have gone on to another since).
    """
    change = _with_numbers(payment, outcome, source, _transition(payment, outcome, source, now, jitter, attempt))
    return _doubts_anew(payment, change) if payment.doubts and _is_another_word(outcome) else change


def _transition(  # noqa: PLR0911  # one return for each word that a provider may say
    payment: Payment, outcome: Outcome | Finding, source: Source, now: datetime, jitter: float, attempt: int
) -> Change | None:
    if payment.is_final:
        return _after_the_end(payment, outcome, source, now, jitter)
    answers_this_attempt = source is Source.SEND and attempt == payment.attempt
    match outcome:
        case Succeeded():
            return _succeed(payment, outcome, source, now, jitter)
        case Declined():
            return _decline(payment, outcome, source, now, jitter, answers_this_attempt=answers_this_attempt)
        case Accepted():
            return _accept(payment, outcome, source, now, jitter)
        case NotSent():
            return _not_sent(payment, outcome, source, now, jitter) if answers_this_attempt else None
        case NotFound():
            return _not_found(payment, outcome, source, now, jitter)
        case Doubtful():
            return _doubtful(payment, outcome, source, now, jitter)
        case Unknown():
            return _unknown(payment, outcome, source, now, jitter)
        case _:
            assert_never(outcome)


def _with_numbers(payment: Payment, outcome: Outcome | Finding, source: Source, change: Change | None) -> Change | None:
    """The change with the numbers that a provider's answer tells, of those that we lack: no later one may repeat them.

    What was settled without a transaction id learns it from a success that agrees.
    """
    after = change.after if change else replace(payment, version=payment.version + 1)
    if source not in ANSWERS or after.status in (Status.FAILED, Status.REVERSED):
        return change
    if isinstance(outcome, Succeeded) and (
        not agrees(payment, outcome) or _another_transaction(payment, outcome, source) is not None
    ):
        return change
    events: tuple[EventDraft, ...] = ()
    their_id = outcome.provider_transaction_id if isinstance(outcome, Succeeded) else None
    if their_id not in (None, after.provider_receipt) and after.provider_transaction_id is None:
        after = replace(after, provider_transaction_id=their_id)
        events += (EventDraft(TRANSACTION_TOLD, {"source": source, "provider_transaction_id": their_id}),)
    receipt = outcome.receipt if isinstance(outcome, Accepted | Succeeded) else None
    if receipt is not None and after.provider_receipt is None:
        after = replace(after, provider_receipt=receipt)
        events += (EventDraft(RECEIPT_TOLD, {"source": source, "provider_receipt": receipt}),)
    if not events:
        return change
    change = change or Change(after, keeps_schedule=True)
    return replace(change, after=after, events=(*change.events, *events))


class Step(StrEnum):
    """What the worker does with a payment that is due."""

    SEND = "send"
    GIVE_UP = "give_up"
    ASK = "ask"


def next_step(payment: Payment, now: datetime) -> Step:
    """Send what surely was not sent while it is wanted; ask about everything else."""
    if payment.is_final or not payment.surely_unsent:
        return Step.ASK
    return Step.SEND if now < payment.send_before else Step.GIVE_UP


def may_send_again(
    payment: Payment, *, dedupes: bool, repeats: bool, account_fingerprint: str, asked_at: datetime, now: datetime
) -> bool:
    """Whether a payment that the provider did not know at `asked_at` may be sent once more under its reference.

    Only the same reference, only to where the first one went, only where the operation dedupes by our reference,
    and only while the order is wanted. Without `repeats` no earlier request may be open any more when the provider is
    asked. With the usual times the order is not wanted by then, so nothing is sent again.
    """
    none_is_open = payment.sent_until is not None and asked_at >= payment.sent_until + SEND_MARGIN
    return (
        dedupes
        and (repeats or none_is_open)
        and not payment.is_final
        and payment.accepted_at is None
        and payment.account_fingerprint == account_fingerprint
        and now < payment.send_before
    )


def may_take_another_road(payment: Payment, outcome: Outcome, now: datetime) -> bool:
    """Whether this attempt's outcome leaves no doubt that no road was told anything yet, and the order is wanted."""
    return (
        isinstance(outcome, NotSent)
        and not payment.is_final
        and replace(payment, unsent=True).surely_unsent
        and now < payment.send_before
    )


def sends_end(payment: Payment) -> datetime:
    """From when on nothing that was sent, or may still be sent, can arrive at the provider for the first time."""
    return max(payment.send_before, payment.sent_until or payment.send_before) + SEND_MARGIN


def may_arrive_until(payment: Payment, *, firm: bool) -> datetime:
    """From when on a not-found can prove that nothing arrived. `firm`: as in NotFound."""
    _, span = FIRM_PROOF if firm else SOFT_PROOF
    return sends_end(payment) + span


def person_waits_until(payment: Payment) -> datetime:
    """From when on a person may decide: no send is open or allowed any more, and nobody has the right to call."""
    if payment.lease_token is None or payment.next_run_at is None:
        return sends_end(payment)
    return max(sends_end(payment), payment.next_run_at)


def agrees(payment: Payment, said: Succeeded) -> bool:
    """Whether a success is this payment's own: its amount and payer, as far as they are named."""
    return _mismatch(payment, said) is None


def unless_booked(payment: Payment, change: Change, booked: Sequence[Arrival]) -> Change | None:
    """The change with an arrival that is not among `booked`, those of this payment. None: it tells nothing new."""
    arrival = change.movement.arrival if change.movement else None
    if arrival is None:
        return change
    if ledger.booked_as(arrival, booked):
        if change.after.status is not payment.status:
            return replace(change, movement=None)
        return _end_question(payment) if change.after.next_run_at is None else None
    if not change.after.is_final:  # what an earlier road brought is no word of the road that is open
        return change
    before = sum(other.money.minor for other in booked if other.money.currency == arrival.money.currency)
    received = Money(before + arrival.money.minor, arrival.money.currency)
    movement = ledger.arrived_unexpectedly(ledger.apart(arrival, booked))
    return replace(change, after=replace(change.after, received=received), movement=movement)


def unless_told(payment: Payment, change: Change, history: Sequence[EventDraft]) -> Change | None:
    """The change with those words against the payment alone that do not stand in `history` (oldest first) yet.

    None: it tells nothing new. What a person has seen stays seen, whoever repeats it.
    """
    told = {_gist(event) for event in history}
    learns = change.after.provider_transaction_id != payment.provider_transaction_id
    once = AGAINST if learns else AGAINST | {TRANSACTION_TOLD}
    compared = (_compared(payment, event, history) for event in change.events)
    news = tuple(event for event in compared if event and not (event.type in once and _gist(event) in told))
    if news == change.events:
        return change
    if payment.is_final and not any(event.type in AGAINST for event in news):
        change = replace(change, after=replace(change.after, review=payment.review))
    after = change.after
    stands = (after.status, after.received, after.doubts) == (payment.status, payment.received, payment.doubts)
    stands = stands and change.movement is None and (payment.is_final or change.keeps_schedule)
    if news or not stands:
        return replace(change, events=news)
    return _end_question(payment) if change.after.next_run_at is None else None


def _compared(payment: Payment, event: EventDraft, history: Sequence[EventDraft]) -> EventDraft | None:
    """The event, where it tells of another transaction also when numbers of one kind alone are compared.

    A statement or a person may have settled the payment with a number of another kind than answers name. The first
    one that an answer names then contradicts nothing: it is learnt, as an event alone. None: there is nothing to tell.
    """
    if event.data.get("provider_says") != ANOTHER_TRANSACTION:
        return event
    known = next(iter(_numbers(history, NUMBERED, ANSWERS)), None)
    named, receipt = event.data.get("provider_transaction_id"), event.data.get("provider_receipt")
    is_answer = event.data["source"] in ANSWERS
    if _is_another((known, payment.provider_receipt), (named, receipt) if is_answer else (None, named)):
        return event
    if known is None and named is not None and is_answer:
        return EventDraft(TRANSACTION_TOLD, {"source": event.data["source"], "provider_transaction_id": named})
    return None


def told_otherwise(payment: Payment, change: Change, history: Sequence[EventDraft]) -> Change:
    """The change, against which numbers stand that genuine callbacks named before it, if any do.

    Of a change that settles the payment, or brings its number. A statement or a person may name a number of another
    kind: then the callbacks are compared with the first one alone.
    """
    after, known = change.after, {_gist(event) for event in history}
    told = _numbers(history, {TRANSACTION_TOLD}, {Source.CALLBACK})
    sources = {event.data["source"] for event in change.events if event.type in NUMBERED}
    if after.status is not Status.SUCCESSFUL or not told or not sources:
        return change
    number = after.provider_transaction_id
    is_of_their_kind = number in told or (number is not None and sources <= ANSWERS)
    ours = {number if is_of_their_kind else told[0], after.provider_receipt}
    against = tuple(
        event
        for other in told
        if other not in ours
        and _gist(event := _against(payment, ANOTHER_TRANSACTION, Source.CALLBACK, Succeeded(other))) not in known
    )
    if not against:
        return change
    return replace(change, after=replace(after, review=Review.CONTRADICTED), events=(*change.events, *against))


def _numbers(history: Sequence[EventDraft], types: Container[str], sources: Container[object]) -> list[str]:
    """The different transaction numbers in events of these types and sources, in their order."""
    named = (
        event.data.get("provider_transaction_id")
        for event in history
        if event.type in types and event.data["source"] in sources
    )
    return list(dict.fromkeys(str(number) for number in named if number is not None))


def unless_in_suspense(payment: Payment, change: Change, booked: Sequence[Arrival]) -> Change:
    """The change without the numbers that it learns for a final payment, if it learns one of second money.

    `booked`: what came about this payment. Which of the two moneys is the payment's own, the number does not tell.
    """
    learnt = {change.after.provider_transaction_id, change.after.provider_receipt} - {
        payment.provider_transaction_id, payment.provider_receipt
    }  # fmt: skip
    if not learnt & {number for one in booked for number in (one.transaction_id, one.other_id)}:
        return change
    ours = (payment.provider_transaction_id, payment.provider_receipt)
    after = replace(change.after, provider_transaction_id=ours[0], provider_receipt=ours[1])
    return replace(change, after=after, events=tuple(event for event in change.events if event.type not in LEARNT))


def _gist(event: EventDraft) -> tuple[object, ...]:
    """What an event says, whoever brought it and wherever it stands."""
    names = ("detail", "provider_says", "provider_reference", "provider_transaction_id", "provider_receipt",
        "received_amount", "received_currency")  # fmt: skip
    return (event.type, *(event.data.get(name) for name in names))


def anothers_money(payment: Payment, outcome: Succeeded, source: Source, now: datetime, jitter: float) -> Change | None:
    """What becomes of a success whose transaction id belongs to another payment: a person looks, nothing is settled."""
    detail = "its transaction id belongs to another payment"
    if not payment.is_final:
        return _quarantine(payment, detail, outcome, payment.received, source, now, jitter)
    change = _contradicted(payment, detail, source, outcome)
    return _end_question(payment, change) if source is Source.CHECK else change


def resolved(payment: Payment, outcome: Outcome, reason: str, now: datetime, jitter: float) -> Change | None:
    """A person settles what is not final, and says why."""
    change = transition(payment, outcome, Source.PERSON, now, jitter, attempt=payment.attempt)
    if payment.is_final or change is None:
        return None
    events = change.events
    if isinstance(outcome, Succeeded) and outcome.told_in == PROVIDERS_ANSWER:  # its number is of the kind of answers
        events = tuple(EventDraft(event.type, {**event.data, "source": Source.CHECK}) for event in events)
    return replace(change, events=(*events, EventDraft("payment.resolved", {"reason": reason})))


def seen(payment: Payment, reason: str) -> Change | None:
    """A person has looked at a final payment, and needs to look no more. The provider is asked on, if it was."""
    if payment.review is None or not payment.is_final:
        return None
    event = EventDraft("payment.review_closed", {"review": payment.review, "reason": reason})
    return Change(replace(payment, review=None, version=payment.version + 1), (event,), keeps_schedule=True)


def _succeed(payment: Payment, outcome: Succeeded, source: Source, now: datetime, jitter: float) -> Change | None:
    said_otherwise = _mismatch(payment, outcome) or _another_transaction(payment, outcome, source)
    if said_otherwise:
        received = outcome.money or payment.money
        return _quarantine(payment, said_otherwise, outcome, received, source, now, jitter)
    # A statement, or a person, names what people see: that is no other number.
    is_receipt = outcome.provider_transaction_id == payment.provider_receipt
    their_id = None if is_receipt else outcome.provider_transaction_id
    after = replace(
        payment,
        status=Status.SUCCESSFUL,
        provider_transaction_id=their_id or payment.provider_transaction_id,
        received=None,
        review=_review_after(payment, source),
        completed_at=now,
        checks=0,
        next_run_at=None,
        lease_token=None,
        version=payment.version + 1,
    )
    event = EventDraft(SUCCEEDED, {"source": source, "provider_transaction_id": after.provider_transaction_id})
    return Change(after, (event,), ledger.collected(payment.provider, payment.money))


def _decline(
    payment: Payment,
    outcome: Declined,
    source: Source,
    now: datetime,
    jitter: float,
    *,
    answers_this_attempt: bool,
) -> Change | None:
    # The refusal of a repeated request says nothing about the first one, which may be on its way: ask.
    if source is Source.SEND and (payment.sent_before or not answers_this_attempt):
        return _unknown(payment, Unknown(f"repeat refused: {outcome.provider_code}"), source, now, jitter)
    if payment.told_paid and source is not Source.PERSON:  # of two words of one provider nobody guesses the true one
        after = replace(payment, review=Review.CONTRADICTED)
        return _wait(after, (_against(payment, "failed", source),), source, now, jitter)
    change = _fail(payment, outcome.code, outcome.provider_code, source, now)
    arrived = outcome.arrived
    if arrived is None and payment.received is not None:  # a later word does not undo what came
        arrived = Succeeded(money=payment.received, told_in="the payment's events")
    if arrived is None:
        return change
    movement = _arrived(payment, arrived, Why.MISMATCHED, source)
    return replace(change, movement=movement, after=replace(change.after, received=arrived.money))


def _fail(payment: Payment, code: FailureCode, provider_code: str | None, source: Source, now: datetime) -> Change:
    after = replace(
        _uncounted(payment),
        status=Status.FAILED,
        failure_code=code,
        failure_provider_code=provider_code,
        received=None,
        review=_review_after(payment, source),
        completed_at=now,
        checks=0,
        next_run_at=sends_end(payment) if _may_be_on_its_way(payment, source, now) else None,
        lease_token=None,
        version=payment.version + 1,
    )
    event = EventDraft("payment.failed", {"source": source, "code": code, "provider_code": provider_code})
    return Change(after, (event,))


def _may_be_on_its_way(payment: Payment, source: Source, now: datetime) -> bool:
    """Whether a send of which nobody has told anything yet may still arrive: then the provider is asked afterwards.

    The send's own word may be lost, with its process or with the database. What was acknowledged has arrived.
    """
    is_told = source is Source.SEND or payment.accepted_at is not None or payment.surely_unsent
    return not is_told and now < sends_end(payment)


def _review_after(payment: Payment, source: Source) -> Review | None:
    """What is settled needs no person any more; a mismatch does, until a person has said so."""
    settled = source is Source.PERSON or payment.review is Review.UNRESOLVED
    return None if settled else payment.review


def _accept(payment: Payment, outcome: Accepted, source: Source, now: datetime, jitter: float) -> Change | None:
    event = EventDraft("payment.accepted", {"source": source, "provider_reference": payment.provider_reference})
    after = _acknowledged(payment, now)
    events = (event,) if payment.accepted_at is None else ()
    return _wait(after, events, source, now, jitter, calls_back=outcome.calls_back)


def _not_sent(payment: Payment, outcome: NotSent, source: Source, now: datetime, jitter: float) -> Change | None:
    known = payment.unsent or payment.attempt == 0
    after = replace(payment, unsent=True)
    if not after.surely_unsent:
        # Another attempt may be on its way, so this one's failing to leave settles nothing.
        return None if known else _unknown(after, Unknown(outcome.reason), source, now, jitter)
    if now >= payment.send_before:
        return _fail(after, FailureCode.PROVIDER_UNAVAILABLE, None, source, now)
    after = replace(
        after,
        next_run_at=min(now + schedule.send_delay(payment.attempt - 1, jitter), payment.send_before),
        lease_token=None,
        version=payment.version + 1,
    )
    event = EventDraft("payment.not_sent", {"reason": outcome.reason, "attempt": payment.attempt})
    return Change(after, () if known else (event,))


def _not_found(payment: Payment, outcome: NotFound, source: Source, now: datetime, jitter: float) -> Change | None:
    if source is not Source.CHECK or payment.accepted_at is not None:
        return _wait(payment, (), source, now, jitter)  # nobody had asked, or it was acknowledged: it proves nothing
    if now < sends_end(payment):
        return _wait(payment, (), source, now, jitter, at_latest=sends_end(payment))
    after, proves_at, proven = _one_not_found_more(payment, outcome, now)
    if proven:
        return _fail(after, FailureCode.NOT_RECEIVED, None, source, now)
    return _wait(after, (), source, now, jitter, at_latest=proves_at)


def _one_not_found_more(payment: Payment, outcome: NotFound, now: datetime) -> tuple[Payment, datetime, bool]:
    """The payment with it counted, when enough time has passed for a proof, and whether this one completes it.

    What was not found before the sends had ended does not count, whoever counted it.
    """
    proof = FIRM_PROOF if outcome.firm else SOFT_PROOF
    count, first = _one_more(payment, payment.not_founds, payment.first_not_found_at, now)
    after = replace(payment, not_founds=count, first_not_found_at=first)
    return after, first + proof[1], _proves(proof, count, first, now)


def _doubtful(payment: Payment, outcome: Doubtful, source: Source, now: datetime, jitter: float) -> Change | None:
    if source is not Source.CHECK:
        return _wait(payment, (), source, now, jitter)  # nobody had asked: it counts for nothing
    if now < sends_end(payment):
        return _wait(_acknowledged(payment, now), (), source, now, jitter, at_latest=sends_end(payment))
    after, proves_at, proven = _one_doubt_more(payment, now)
    if payment.told_paid:  # one word of the provider's against its own doubt: a person must find out
        return _wait(after, (), source, now, jitter)
    if proven:
        return _decline(after, outcome.proven, source, now, jitter, answers_this_attempt=False)
    return _wait(after, (), source, now, jitter, at_latest=proves_at)


def is_doubt_proven(payment: Payment, now: datetime) -> bool:
    """Whether a failure in doubt that the provider tells now is the last one that proves it."""
    return _one_doubt_more(payment, now)[2]


def _one_doubt_more(payment: Payment, now: datetime) -> tuple[Payment, datetime, bool]:
    """As _one_not_found_more, for a failure in doubt: whoever says so knows the reference."""
    count, first = _one_more(payment, payment.doubts, payment.first_doubt_at, now)
    after = replace(_acknowledged(payment, now), doubts=count, first_doubt_at=first)
    return after, first + DOUBTFUL_PROOF[1], _proves(DOUBTFUL_PROOF, count, first, now)


def _one_more(payment: Payment, before: int, first: datetime | None, now: datetime) -> tuple[int, datetime]:
    """How many there are with this one, and since when. What was said before the sends had ended does not count."""
    return (1, now) if first is None or first < sends_end(payment) else (before + 1, first)


def _proves(proof: tuple[int, timedelta], count: int, first: datetime, now: datetime) -> bool:
    times, span = proof
    return count >= times and now - first >= span


def _is_another_word(outcome: Outcome | Finding) -> bool:
    """Whether a provider that said "failed, and I do not know" says something else now. Silence says nothing."""
    match outcome:
        case Doubtful():
            return False
        case Unknown():
            return outcome.asked and not outcome.outage
        case NotSent():
            return False
        case _:
            return True


def _doubts_anew(payment: Payment, change: Change | None) -> Change:
    """The change with the failures in doubt forgotten: another word came between."""
    if change is None:
        change = Change(replace(payment, version=payment.version + 1), keeps_schedule=True)
    return replace(change, after=replace(change.after, doubts=0, first_doubt_at=None))


def _unknown(payment: Payment, outcome: Unknown, source: Source, now: datetime, jitter: float) -> Change | None:
    if not outcome.askable:
        return _unaskable(payment, outcome, source, now, jitter)
    # A provider that acknowledged it to another in the meantime leaves no doubt.
    if source is Source.SEND and payment.status is Status.PENDING and payment.accepted_at is None:
        event = EventDraft("payment.timed_out", {"source": source, "reason": outcome.reason})
        return _wait(replace(payment, status=Status.TIMEOUT), (event,), source, now, jitter)
    unasked = None if outcome.asked else schedule.unasked_delay(jitter, outcome.retry_after_s)
    return _wait(payment, (), source, now, jitter, unasked=unasked if source is Source.CHECK else None)


def _unaskable(payment: Payment, outcome: Unknown, source: Source, now: datetime, jitter: float) -> Change:
    """No question will ever tell: a person or a statement must, from now on."""
    events: tuple[EventDraft, ...] = ()
    if payment.status is Status.PENDING:
        events += (EventDraft("payment.timed_out", {"source": source, "reason": outcome.reason}),)
    if payment.review is None:
        events += (EventDraft("payment.review_needed", {"reason": Review.UNRESOLVED}),)
    after = replace(
        payment,
        status=Status.TIMEOUT,
        review=payment.review or Review.UNRESOLVED,
        version=payment.version + 1,
        next_run_at=now + schedule.unaskable_delay(jitter),
        lease_token=None,
    )
    return Change(after, events)


def _wait(
    payment: Payment,
    events: tuple[EventDraft, ...],
    source: Source,
    now: datetime,
    jitter: float,
    *,
    calls_back: bool = False,
    unasked: timedelta | None = None,
    at_latest: datetime | None = None,
) -> Change | None:
    """Not final: set the next check, and notice what has lasted too long.

    `unasked`: the question never left, and may be tried again in so long. `at_latest`: when the next one can tell
    more than this one could.
    """
    checks = payment.checks + 1 if source is Source.CHECK and unasked is None else payment.checks
    status, review = payment.status, payment.review
    if status is Status.PENDING and now >= payment.expires_at:
        status = Status.TIMEOUT
        events += (EventDraft("payment.timed_out", {"source": source, "reason": "expired"}),)
    if review is None and now - payment.created_at >= REVIEW_AFTER:
        review = Review.UNRESOLVED
        events += (EventDraft("payment.review_needed", {"reason": review}),)
    delay = schedule.check_delay(checks, jitter, acknowledged=payment.accepted_at is not None, calls_back=calls_back)
    delay = delay if unasked is None else unasked
    due = now + delay if at_latest is None or at_latest <= now else min(now + delay, at_latest)
    # A callback, a statement or a person may come while a lease is held, which they must not cut short.
    keeps_schedule = source not in (Source.SEND, Source.CHECK)
    after = replace(
        payment,
        status=status,
        review=review,
        checks=checks,
        version=payment.version + 1,
        next_run_at=payment.next_run_at if keeps_schedule else due,
        lease_token=payment.lease_token if keeps_schedule else None,
    )
    return None if keeps_schedule and not events else Change(after, events, keeps_schedule=keeps_schedule)


def _mismatch(payment: Payment, outcome: Succeeded) -> str | None:
    if outcome.money is not None and outcome.money != payment.money:
        return f"the provider says {outcome.money} {outcome.money.currency}"
    if outcome.payer is not None and not may_be(outcome.payer, payment.payer.digits):
        return "the provider names another payer"
    return None


def _quarantine(
    payment: Payment,
    detail: str,
    said: Succeeded,
    received: Money | None,
    source: Source,
    now: datetime,
    jitter: float,
) -> Change | None:
    """Nothing is settled on a success that is not ours; the provider is asked again, a person looks.

    `received`: what arrived by this word, for whoever decides.
    """
    event = EventDraft("payment.mismatched", {"source": source, "detail": detail, **_evidence(said)})
    after = replace(_acknowledged(payment, now), review=Review.MISMATCHED, received=received)
    return _wait(after, (event,), source, now, jitter)


def earlier_road_speaks(
    payment: Payment,
    reference: ProviderReference,
    provider: str,
    account: str,
    said: Accepted | Succeeded,
    source: Source,
    *,
    is_anothers: bool = False,
) -> Change | None:
    """A provider knows a reference of which nothing was sent, as far as we saw: perhaps the payer paid twice.

    `provider` and `account` (its fingerprint) are the earlier road's. Money that arrived there waits in suspense. A
    callback that does not name how much came from whom books nothing. Nor does money that `is_anothers`: its
    transaction id belongs to another payment.
    """
    facts: dict[str, str] = {"source": source, "detail": "an earlier road knows it", "provider_reference": reference}
    movement = None
    if isinstance(said, Succeeded):
        facts |= {"provider_says": "successful"} | _evidence(said)
        if not is_anothers and (source is not Source.CALLBACK or None not in (said.money, said.payer)):
            arrival = ledger.arrival_of(said, payment.money, provider, account, Why.EARLIER_ROAD, source)
            movement = ledger.arrived_unexpectedly(arrival)
    after = replace(payment, review=Review.MISMATCHED, version=payment.version + 1)
    return Change(after, (EventDraft("payment.mismatched", facts),), movement, keeps_schedule=True)


def paid_twice(payment: Payment, said: Succeeded, source: Source) -> Change | None:
    """A success beside the one that settled the payment: the second money waits in suspense."""
    if payment.status is not Status.SUCCESSFUL:
        return None
    return _contradicted(payment, "paid twice", source, said, _arrived(payment, said, Why.TWICE, source))


def reversed_there(
    payment: Payment, transaction_id: str | None, told_in: str, source: Source, *, arrived: bool
) -> Change | None:
    """The provider lists a reversal: what it means for money that is in our books, a person must find out.

    `arrived`: money of this payment was booked to suspense.
    """
    if payment.status is Status.FAILED and not arrived:
        return None
    said = Succeeded(transaction_id, told_in=told_in)
    if payment.is_final:
        return _contradicted(payment, "reversed", source, said)
    facts = {"source": source, "detail": "the provider reversed it"}
    after = replace(payment, review=Review.MISMATCHED, version=payment.version + 1)
    return Change(after, (EventDraft("payment.mismatched", facts | _evidence(said)),), keeps_schedule=True)


def _arrived(payment: Payment, said: Succeeded, why: Why, source: Source) -> Movement:
    """The movement of money that arrived by the payment's own road."""
    arrival = ledger.arrival_of(said, payment.money, payment.provider, payment.account_fingerprint, why, source)
    return ledger.arrived_unexpectedly(arrival)


def _evidence(said: Succeeded) -> dict[str, str]:
    """What a success says, for the audit log: no more than it named."""
    told = {
        "provider_transaction_id": said.provider_transaction_id,
        "provider_receipt": said.receipt,
        "told_in": said.told_in,
    }
    if said.money is not None:
        told |= {"received_amount": str(said.money), "received_currency": said.money.currency}
    return {name: value for name, value in told.items() if value is not None}


def _acknowledged(payment: Payment, now: datetime) -> Payment:
    """The provider knows the reference: that it is not found afterwards would be no proof of anything."""
    return replace(_uncounted(payment), accepted_at=payment.accepted_at or now)


def _uncounted(payment: Payment) -> Payment:
    """The payment without what was counted for a proof that it failed."""
    return replace(payment, not_founds=0, first_not_found_at=None, doubts=0, first_doubt_at=None)


def says_otherwise(payment: Payment, said: Accepted | Succeeded | Declined | Unknown) -> bool:
    """Whether somebody's word is against a final status, so that the provider must be asked once more."""
    match payment.status:
        case Status.SUCCESSFUL:
            if isinstance(said, Succeeded):
                return not agrees(payment, said) or _another_transaction(payment, said, Source.CALLBACK) is not None
            return isinstance(said, Declined | Unknown)
        case Status.FAILED:
            return not isinstance(said, Declined)
        case _:
            return False


def hinted(payment: Payment, said: Accepted | Succeeded | Declined | Unknown, now: datetime) -> Change | None:
    """What a genuine callback proves that names too little to settle anything.

    Its provider knows the reference, so no not-found proves anything. Where it says "paid", no failure is believed any
    more: a person decides. A firm word against what is final goes to a person at once, and books nothing.
    """
    match payment.status:
        case Status.SUCCESSFUL:
            change = _contradict(payment, said, Source.CALLBACK)
            change = _with_numbers(payment, said, Source.CALLBACK, change)
        case Status.FAILED if isinstance(said, Succeeded):
            known = _deny(payment, now)
            after = replace(known.after if known else payment, told_paid=True, review=Review.CONTRADICTED)
            against = _against(payment, "successful", Source.CALLBACK, said)
            change = Change(replace(after, version=payment.version + 1), (against,))
        case Status.FAILED if not isinstance(said, Declined):
            change = _deny(payment, now)
        case Status.PENDING | Status.TIMEOUT:
            change = _known(payment, now, said)
        case _:
            change = None
    return change and replace(change, keeps_schedule=True)


def _known(payment: Payment, now: datetime, said: Accepted | Succeeded | Declined | Unknown) -> Change | None:
    """The open payment as one that its provider speaks of.

    A number that settles nothing is kept as an event alone: it may be another payment's.
    """
    told_paid = isinstance(said, Succeeded)
    after = replace(_acknowledged(payment, now), told_paid=payment.told_paid or told_paid)
    if not told_paid:  # two words of the provider's that contradict each other are no other word
        after = replace(after, doubts=payment.doubts, first_doubt_at=payment.first_doubt_at)
    facts = {"source": Source.CALLBACK, "provider_reference": payment.provider_reference}
    events = [EventDraft("payment.accepted", facts)] if payment.accepted_at is None else []
    if isinstance(said, Succeeded) and said.provider_transaction_id is not None:
        numbers = {"source": Source.CALLBACK, "provider_transaction_id": said.provider_transaction_id}
        events.append(EventDraft(TRANSACTION_TOLD, numbers))
    if after == payment and not events:
        return None
    return Change(replace(after, version=payment.version + 1), tuple(events))


def raises_doubt(payment: Payment, outcome: Outcome | Finding, source: Source) -> bool:
    """Whether a word that came unasked shows that money may still move for a payment that is failed."""
    if payment.status is not Status.FAILED or source not in (Source.SEND, Source.CALLBACK):
        return False
    return isinstance(outcome, Accepted) or (isinstance(outcome, Unknown) and outcome.askable)


def _after_the_end(
    payment: Payment, outcome: Outcome | Finding, source: Source, now: datetime, jitter: float
) -> Change | None:
    """What is said about a final payment: it changes no status, and is never lost."""
    change = _contradict(payment, outcome, source)
    failed_by_us = payment.status is Status.FAILED and payment.failure_code in OUR_OWN_FAILURES
    has_it = isinstance(outcome, Accepted) or (isinstance(outcome, Doubtful) and failed_by_us)
    if change is None and has_it and source in ANSWERS:
        change = _deny(payment, now)
    if source is not Source.CHECK:
        return change
    # Who asked before it was final may answer late: silence about it asks for nothing then.
    doubts = payment.next_run_at is not None or (payment.status is Status.FAILED and has_it)
    doubts = doubts and payment.status is not Status.REVERSED
    if doubts and isinstance(outcome, Accepted | Unknown):
        after = change.after if change else replace(payment, version=payment.version + 1)
        after = _acknowledged(after, now) if isinstance(outcome, Accepted) else after
        return _ask_on(after, change.events if change else (), outcome, now, jitter)
    if doubts and isinstance(outcome, Doubtful):
        after, _, proven = _one_doubt_more(change.after if change else payment, now)
        if proven and not (payment.told_paid and payment.status is Status.FAILED):
            return _after_the_end(after, outcome.proven, source, now, jitter)
        after = replace(after, version=payment.version + 1)
        return _ask_on(after, change.events if change else (), outcome, now, jitter)
    if doubts and isinstance(outcome, NotFound):
        # Somebody spoke of it, and a provider's list may lag behind its callback: one not-found is no answer. About
        # what is failed and was acknowledged none is.
        after, _, proven = _one_not_found_more(payment, outcome, now)
        proven = proven and not _is_acknowledged_failure(payment)
        if not proven:
            return _ask_on(replace(after, version=payment.version + 1), (), outcome, now, jitter)
    if change is None and payment.review is Review.UNRESOLVED and not isinstance(outcome, NotFound | Doubtful):
        change = Change(replace(payment, review=None, version=payment.version + 1))  # it agrees: nobody need look
    return _end_question(payment, change)


def _end_question(payment: Payment, change: Change | None = None) -> Change | None:
    """The question about a final payment has its answer, which causes `change`."""
    if change is None and payment.next_run_at is None:
        return None
    after = change.after if change else replace(payment, version=payment.version + 1)
    after = replace(_uncounted(after), next_run_at=None, lease_token=None)
    return replace(change, after=after) if change else Change(after)


def _deny(payment: Payment, now: datetime) -> Change | None:
    """The provider has what is failed. Where we, and not it, declared that, a person looks, whatever comes of it."""
    if payment.status is not Status.FAILED or _is_known_after_the_end(payment):
        return None
    heard_at = max(now, payment.completed_at or now)  # the clock is an estimate
    after = replace(_acknowledged(payment, now), accepted_at=heard_at, version=payment.version + 1)
    if payment.failure_code not in OUR_OWN_FAILURES or payment.review is not None:
        return Change(after, keeps_schedule=True)
    event = EventDraft("payment.review_needed", {"reason": Review.UNRESOLVED})
    return Change(replace(after, review=Review.UNRESOLVED), (event,), keeps_schedule=True)


def _is_known_after_the_end(payment: Payment) -> bool:
    """Whether the provider has acknowledged a final payment since."""
    return (
        payment.accepted_at is not None
        and payment.completed_at is not None
        and payment.accepted_at >= payment.completed_at
    )


def _is_acknowledged_failure(payment: Payment) -> bool:
    return payment.status is Status.FAILED and payment.accepted_at is not None


def _ask_on(
    after: Payment,
    events: tuple[EventDraft, ...],
    outcome: Accepted | NotFound | Doubtful | Unknown,
    now: datetime,
    jitter: float,
) -> Change:
    """No firm word yet about a final payment: the question stays, slower each time; in the end a person looks too."""
    asked, delay = True, schedule.recheck_delay(after.checks, jitter)
    if isinstance(outcome, Unknown) and not outcome.asked:
        asked, delay = False, schedule.unasked_delay(jitter, outcome.retry_after_s)
    after = replace(after, checks=after.checks + asked, next_run_at=now + delay, lease_token=None)
    unsettled = asked and after.checks % UNSETTLED_QUESTIONS == 0
    proves = isinstance(outcome, NotFound) and not _is_acknowledged_failure(after)
    if unsettled and after.review is None and not proves:
        after = replace(after, review=Review.UNRESOLVED)
        events += (EventDraft("payment.review_needed", {"reason": Review.UNRESOLVED}),)
    return Change(after, events)


def _contradict(payment: Payment, outcome: Outcome | Finding, source: Source) -> Change | None:
    """A firm word against a final status changes no status. Stray money is booked.

    Each word is written down once (unless_told), also while a person has another one to look at.
    """
    if payment.status is Status.FAILED and isinstance(outcome, Succeeded):
        # Whether it is booked already, the books must tell (unless_booked), and not that a person knows.
        return _contradicted(payment, "successful", source, outcome, _arrived(payment, outcome, Why.LATE, source))
    # A declined repeat of a request is no word about the payment (see _decline).
    if payment.status is Status.SUCCESSFUL and isinstance(outcome, Declined) and source is not Source.SEND:
        return _contradicted(payment, "failed", source, None)
    if payment.status is Status.SUCCESSFUL and isinstance(outcome, Succeeded):
        said_otherwise = _mismatch(payment, outcome) or _another_transaction(payment, outcome, source)
        return _contradicted(payment, said_otherwise, source, outcome) if said_otherwise else None
    return None


def _another_transaction(payment: Payment, said: Succeeded, source: Source) -> str | None:
    """Whether a provider's answer, or its statement, names another transaction than the payment's own.

    Perhaps the payer paid twice. Nothing is booked on that: a statement tells of both, or of one. A receipt is one
    transaction's too: some providers make their id of ours, and it is the same for two.
    """
    ours = (payment.provider_transaction_id, payment.provider_receipt)
    of_statement = (None, said.provider_transaction_id)  # a statement shows what people see
    theirs = of_statement if source is Source.STATEMENT else (said.provider_transaction_id, said.receipt)
    return ANOTHER_TRANSACTION if source is not Source.PERSON and _is_another(ours, theirs) else None


def _is_another(ours: tuple[object, object], theirs: tuple[object, object]) -> bool:
    """Whether one of the numbers named, an id and a receipt, is none of ours, where we know one of its kind."""
    return any(None not in (known, named) and named not in ours for known, named in zip(ours, theirs, strict=True))


def _contradicted(
    payment: Payment, word: str, source: Source, said: Succeeded | None, movement: Movement | None = None
) -> Change:
    after = replace(payment, review=Review.CONTRADICTED, version=payment.version + 1)
    return Change(after, (_against(payment, word, source, said),), movement)


def _against(payment: Payment, word: str, source: Source, said: Succeeded | None = None) -> EventDraft:
    facts = {"source": source, "status": payment.status, "provider_says": word}
    return EventDraft("payment.contradicted", facts | (_evidence(said) if said else {}))
