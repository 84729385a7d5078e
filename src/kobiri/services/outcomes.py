"""The only door through which a payment changes."""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import structlog

from kobiri.domain import ledger
from kobiri.domain.errors import Busy, Conflict
from kobiri.domain.ids import ProviderReference
from kobiri.domain.ledger import Arrival
from kobiri.domain.outcome import Accepted, Declined, Finding, Outcome, Source, Succeeded, Unknown
from kobiri.domain.payment import (
    AGAINST,
    LEARNT,
    NUMBERED,
    Change,
    EventDraft,
    Payment,
    anothers_money,
    earlier_road_speaks,
    hinted,
    person_waits_until,
    raises_doubt,
    resolved,
    told_otherwise,
    transition,
    unless_booked,
    unless_in_suspense,
    unless_told,
)
from kobiri.domain.payment import seen as close_review
from kobiri.store import arrivals, events, idempotency, payments
from kobiri.store.arrivals import TransactionTaken
from kobiri.store.db import CommitUnknown, Database, LockTimeout
from kobiri.store.payments import Answer, Author

log = structlog.get_logger(__name__)

TRIES = 3


def no_answer(_payment: Payment) -> Answer | None:
    """Nobody waits to be told."""
    return None


async def apply(
    db: Database,
    payment: Payment,
    outcome: Outcome | Finding,
    source: Source,
    now: datetime,
    author: Author,
    answer: Callable[[Payment], Answer | None] = no_answer,
) -> Payment:
    """Decide what `outcome` means and write it; the payment as it then stands.

    Fenced by `version`: when another writer came first, the payment is read again and decided again. `answer` builds
    what the client is told from the payment that is written, and is stored with it. Raises Busy, DatabaseUnavailable.
    """
    attempt, reference = payment.attempt, payment.provider_reference

    def decide(payment: Payment, now: datetime) -> Change | None:
        if source is Source.CALLBACK:
            _still_by(payment, reference)
        return transition(payment, outcome, source, now, random.random(), attempt=attempt)

    def decide_of_anothers(payment: Payment, now: datetime) -> Change | None:
        assert isinstance(outcome, Accepted | Succeeded), "nothing else names a transaction"
        if isinstance(outcome, Succeeded):
            return anothers_money(payment, outcome, source, now, random.random())
        return transition(payment, replace(outcome, receipt=None), source, now, random.random(), attempt=attempt)

    after, _ = await _write(db, payment, decide, source, now, author, answer, decide_of_anothers)
    if raises_doubt(after, outcome, source):
        await look_soon(db, after)
    return after


async def take_hint(
    db: Database, payment: Payment, said: Accepted | Succeeded | Declined | Unknown, now: datetime, author: Author
) -> Payment:
    """Keep what a genuine callback, which settles nothing, proves all the same. Raises Busy, DatabaseUnavailable."""
    reference = payment.provider_reference

    def decide(payment: Payment, now: datetime) -> Change | None:
        _still_by(payment, reference)
        return hinted(payment, said, now)

    def decide_of_anothers(payment: Payment, now: datetime) -> Change | None:
        assert isinstance(said, Succeeded), "nothing else names a transaction here"
        change = anothers_money(payment, said, Source.CALLBACK, now, random.random())
        return change and replace(change, keeps_schedule=True)

    after, _ = await _write(db, payment, decide, Source.CALLBACK, now, author, no_answer, decide_of_anothers)
    return after


def _still_by(payment: Payment, reference: ProviderReference) -> None:
    """A word about a road that was left meanwhile is none about the next. Raises Busy: it may be told again."""
    if payment.provider_reference != reference:
        raise Busy("It goes by another road by now.", retry_after_s=1)


async def look_soon(db: Database, payment: Payment) -> None:
    """Ask the provider soon, be the payment final or not. The wish outlives this process. Raises Busy."""
    for _ in range(TRIES):
        with suppress(LockTimeout):
            async with db.tenant_transaction(payment.tenant_id) as tx:
                await payments.hint(tx, payment.tenant_id, payment.id)
            return
    raise Busy("Too many things happen to this payment at once.", retry_after_s=1)


async def resolve(db: Database, payment: Payment, outcome: Outcome, reason: str, author: Author) -> Payment:
    """Settle a payment by a person's word, with the reason in the same commit.

    Raises Conflict: it is final by now, a send is open or may still begin, or the transaction id is another payment's.
    """
    async with db.tenant_transaction(payment.tenant_id) as tx:
        read = await payments.get(tx, payment.tenant_id, payment.id)
    assert read is not None, "payments are never deleted"

    def decide(payment: Payment, now: datetime) -> Change | None:
        until = person_waits_until(payment)
        if not payment.is_final and now < until:
            raise Conflict(f"A request may still be on its way to the provider: decide after {until:%H:%M:%S} UTC.")
        return resolved(payment, outcome, reason, now, random.random())

    def refuse(_payment: Payment, _now: datetime) -> Change | None:
        raise Conflict(
            "Its transaction id belongs to another payment, or to money in suspense: name its own (--transaction-id)."
        )

    after, written = await _write(db, read.payment, decide, Source.PERSON, read.now, author, no_answer, refuse)
    if not written:
        raise Conflict(f"This payment is {after.status} by now: look again.")
    return after


async def seen(db: Database, payment: Payment, reason: str, author: Author) -> Payment:
    """Close the review of a final payment. Raises Conflict (not final, or not in review)."""

    def decide(payment: Payment, _now: datetime) -> Change | None:
        return close_review(payment, reason)

    after, written = await _write(db, payment, decide, Source.PERSON, payment.created_at, author, no_answer)
    if not written:
        raise Conflict("Only a payment that is final and in review can be marked as seen.")
    return after


async def suspect(
    db: Database,
    payment: Payment,
    reference: ProviderReference,
    provider: str,
    account: str,
    said: Accepted | Succeeded,
    source: Source,
    author: Author,
) -> Payment:
    """Give a payment to a person, because a road on which nothing was sent knows its reference after all.

    `provider` and `account` (its fingerprint) are that road's. Money that arrived there is booked to suspense.
    """

    def decide(payment: Payment, _now: datetime) -> Change | None:
        return earlier_road_speaks(payment, reference, provider, account, said, source)

    def decide_of_anothers(payment: Payment, _now: datetime) -> Change | None:
        return earlier_road_speaks(payment, reference, provider, account, said, source, is_anothers=True)

    after, _ = await _write(db, payment, decide, source, payment.created_at, author, no_answer, decide_of_anothers)
    return after


async def note(db: Database, payment: Payment, decide: Callable[[Payment], Change | None], author: Author) -> Payment:
    """Write down what a statement shows beside a payment's own outcome, as `decide` has it."""

    def noted(payment: Payment, _now: datetime) -> Change | None:
        return decide(payment)

    def nothing(_payment: Payment, _now: datetime) -> Change | None:
        return None

    after, _ = await _write(db, payment, noted, Source.STATEMENT, payment.created_at, author, no_answer, nothing)
    return after


async def _write(
    db: Database,
    payment: Payment,
    decide: Callable[[Payment, datetime], Change | None],
    source: Source,
    now: datetime,
    author: Author,
    answer: Callable[[Payment], Answer | None],
    decide_of_anothers: Callable[[Payment, datetime], Change | None] | None = None,
) -> tuple[Payment, bool]:
    """The payment as it then stands, and whether this call changed it.

    `decide_of_anothers` decides where the transaction id that `decide` writes belongs to another payment.
    """
    lease_token = payment.lease_token
    for _ in range(TRIES):
        change, written = None, False
        try:
            change = await _unless_known(db, payment, decide(payment, now))
            if change is None:
                await _keep_answer(db, payment, answer(payment))
                return payment, False
            async with db.tenant_transaction(payment.tenant_id) as tx:
                written = await payments.write(tx, payment, change, author, answer(change.after))
        except TransactionTaken:
            assert decide_of_anothers is not None, "who names no transaction takes none"
            log.warning("payment.transaction_of_another", payment_id=payment.id, source=source)
            decide = decide_of_anothers
            continue
        except (CommitUnknown, LockTimeout):
            written = False  # perhaps it was: what is read next tells
        if change is not None and written:
            _tell(payment, change.after, source)
            return change.after, True
        log.info("payment.decided_again", payment_id=payment.id, version=payment.version)
        async with db.tenant_transaction(payment.tenant_id) as tx:
            read = await payments.get(tx, payment.tenant_id, payment.id)
        assert read is not None, "payments are never deleted"
        # The lease that may stand there by now is another's.
        payment, now = replace(read.payment, lease_token=lease_token), read.now
    raise Busy("Too many things happen to this payment at once.", retry_after_s=1)


async def _unless_known(db: Database, payment: Payment, change: Change | None) -> Change | None:
    """What is booked or told already is a fact: it is not booked again, and is no news. Raises TransactionTaken."""
    if change is not None and change.movement is not None and change.movement.arrival is not None:
        return await _unless_booked(db, payment, change, change.movement.arrival)
    if change is not None and payment.is_final and any(event.type in LEARNT for event in change.events):
        async with db.tenant_transaction(payment.tenant_id) as tx:
            change = unless_in_suspense(payment, change, await arrivals.of_payment(tx, payment.tenant_id, payment.id))
    if change is not None and _needs_history(change):
        async with db.tenant_transaction(payment.tenant_id) as tx:
            read = (await events.of_subjects(tx, payment.tenant_id, [payment.id]))[payment.id]
        history = [EventDraft(event.type, event.data) for event in read]
        change = unless_told(payment, change, history)
        return change and told_otherwise(payment, change, history)
    return change


def _needs_history(change: Change) -> bool:
    """Whether it says what may have been told before, or otherwise: the ordinary success does not."""
    types = {event.type for event in change.events}
    return bool(types & AGAINST) or (change.after.told_paid and bool(types & NUMBERED))


async def _unless_booked(db: Database, payment: Payment, change: Change, told: Arrival) -> Change | None:
    async with db.tenant_transaction(payment.tenant_id) as tx:
        booked = await arrivals.of_payment(tx, payment.tenant_id, payment.id)
        for _ in range(TRIES):
            known = ledger.booked_as(told, booked)
            own = ledger.apart(told, [other for other in booked if other is not known])
            if known is None or (learned := ledger.learned(own, known)) is None:
                return unless_booked(payment, change, booked)
            await arrivals.learn(tx, payment.tenant_id, known, learned)  # unless another came first: what is read tells
            booked = await arrivals.of_payment(tx, payment.tenant_id, payment.id)
    raise Busy("Too many things happen to this payment at once.", retry_after_s=1)


async def _keep_answer(db: Database, payment: Payment, given: Answer | None) -> None:
    if given is not None:
        with suppress(LockTimeout):  # without it a repeat is told how the payment stands by then
            async with db.tenant_transaction(payment.tenant_id) as tx:
                await idempotency.answer(tx, payment, given)


def _tell(before: Payment, after: Payment, source: Source) -> None:
    if (before.status, before.review) == (after.status, after.review):
        return
    level = log.warning if after.review is not before.review else log.info
    level(
        "payment.changed",
        payment_id=after.id,
        tenant_id=after.tenant_id,
        provider=after.provider,
        source=source,
        was=before.status,
        status=after.status,
        failure_code=after.failure_code,
        review=after.review,
        attempt=after.attempt,
    )
