"""What the worker does with a payment that is due: ask about it, send it again, or give it up."""

import random
import time
from dataclasses import replace
from datetime import timedelta

import structlog

from kobiri.domain import schedule
from kobiri.domain.errors import KobiriError
from kobiri.domain.outcome import Accepted, Doubtful, Finding, NotFound, NotSent, Source, Succeeded, Unknown
from kobiri.domain.payment import Payment, Step, may_send_again, next_step
from kobiri.services import outcomes, submission
from kobiri.services.gateway import LEASE_MARGIN_S, Gateway
from kobiri.services.roads import Road
from kobiri.store import attempts, payments
from kobiri.store.attempts import EarlierRoad
from kobiri.store.payments import Author, Claim, Read

log = structlog.get_logger(__name__)

WORKER = Author("worker")

EARLIER_PER_S = 2.0  # with what the worker asks about final payments half of the slowest provider's pace
EARLIER_PLACES = 10  # a slow provider has one place for each question of its own, and others go by
EARLIER_UNPROVEN_AGAIN = 7  # with the delays of domain/schedule.py: about a quarter of an hour
EARLIER_DOUBTED_AGAIN = 30  # likewise: about a day


async def claim_due(gateway: Gateway, limit: int) -> list[Claim]:
    """Take up to `limit` due payments that are not final, each under a lease that outlasts one provider call."""
    lease_s = gateway.roads.longest_question_s + LEASE_MARGIN_S
    async with gateway.db.worker_transaction() as tx:
        return await payments.claim(tx, limit, lease_s)


async def claim_final(gateway: Gateway, limit: int) -> list[Claim]:
    """Take up to `limit` final payments of which somebody has spoken since, as `claim_due` does."""
    lease_s = gateway.roads.longest_question_s + LEASE_MARGIN_S
    async with gateway.db.worker_transaction() as tx:
        return await payments.claim_final(tx, limit, lease_s)


async def resume(gateway: Gateway, claim: Claim) -> None:
    """Take one claimed payment a step further. Ends without a change where the claim was lost."""
    began = time.monotonic()
    async with gateway.db.tenant_transaction(claim.tenant_id) as tx:
        if gateway.calls.stopped:  # claimed just before a stop: the next worker need not wait for the lease's end
            await payments.release(tx, claim)
            return
        read = await payments.get(tx, claim.tenant_id, claim.payment_id)
    if read is None or read.payment.lease_token != claim.lease_token:
        return
    road = await gateway.roads.of_payment(read.payment)
    match next_step(read.payment, read.now):
        case Step.GIVE_UP:
            await _apply(gateway, read, began, NotSent("it was not sent in time"), Source.SEND)
        case Step.SEND:
            await _send_by_any(gateway, road, read, began)
        case Step.ASK if road is None:
            # Another account's not-found would prove nothing about this payment.
            await _apply(gateway, read, began, Unknown("its provider account is gone"), Source.CHECK)
        case Step.ASK:
            await _ask(gateway, road, read, began)


async def ask_earlier_road(gateway: Gateway) -> int:
    """Ask about one road that was left, where somebody has spoken of it since; how many that were."""
    lease_s = gateway.roads.longest_question_s + LEASE_MARGIN_S
    async with gateway.db.worker_transaction() as tx:
        claimed = await attempts.claim(tx, 1, lease_s)
    for earlier in claimed:
        await _ask_there(gateway, earlier)
    return len(claimed)


async def _ask_there(gateway: Gateway, earlier: EarlierRoad) -> None:
    """Nothing was sent there, as far as we saw: where the provider knows it, a person must look."""
    try:
        async with gateway.db.tenant_transaction(earlier.tenant_id) as tx:
            read = await payments.get(tx, earlier.tenant_id, earlier.payment_id)
        assert read is not None, "payments are never deleted"
        road = await gateway.roads.of_account(earlier.tenant_id, earlier.provider, earlier.account_id)
        there = replace(
            read.payment,
            provider_reference=earlier.provider_reference,
            account_fingerprint=earlier.account_fingerprint,
        )
        finding = Unknown("its provider account is gone") if road is None else await _find(gateway, road, there)
        has_it = isinstance(finding, Accepted | Doubtful)
        if has_it or isinstance(finding, Succeeded):  # what was told already is no news
            await outcomes.suspect(
                gateway.db,
                read.payment,
                earlier.provider_reference,
                earlier.provider,
                earlier.account_fingerprint,
                finding if isinstance(finding, Succeeded) else Accepted(),
                Source.CHECK,
                WORKER,
            )
        again_in = None
        if _asks_on(earlier, finding):
            again_in = schedule.earlier_delay(earlier.checks, random.random())
        if isinstance(finding, Unknown) and not finding.asked:
            again_in = schedule.unasked_delay(random.random(), finding.retry_after_s)
        asked = not isinstance(finding, Unknown) or finding.asked
        now_known = replace(earlier, checks=earlier.checks + asked, known=earlier.known or has_it)
        async with gateway.db.tenant_transaction(earlier.tenant_id) as tx:
            await attempts.answered(tx, now_known, again_in)
    except KobiriError as error:  # it is due again when its lease ends
        log.warning("worker.earlier_road_failed", payment_id=earlier.payment_id, code=error.code)


def _asks_on(earlier: EarlierRoad, finding: Finding) -> bool:
    """Whether there is no firm word yet about a road that was left. A provider's list may lag behind its callback."""
    match finding:
        case Accepted():
            return True
        case Unknown():
            return finding.askable
        case NotFound():
            return earlier.known or earlier.checks < EARLIER_UNPROVEN_AGAIN
        case Doubtful():
            return earlier.checks < EARLIER_DOUBTED_AGAIN  # one is no verdict, and a barred payer's comes for ever
        case _:
            return False


async def _send_by_any(gateway: Gateway, road: Road | None, read: Read, began: float) -> None:
    """Send what nobody was told of yet: by its road where that is open, else by another."""
    payment = read.payment
    reason = await _left_because(gateway, road, payment)
    if road is not None and reason is None:
        await _send(gateway, road, payment)
        return
    route = await gateway.roads.another(payment, [])
    if not route.roads:
        await _apply(gateway, read, began, NotSent(reason or "no road is open", outage=False), Source.SEND)
        return
    committed_at = time.monotonic()
    switched = await submission.switch(
        gateway, route.roads[0], payment, reason or "no road is open", route.passed_over, WORKER
    )
    if switched is None:
        log.info("payment.lease_lost", payment_id=payment.id)
        return
    await submission.submit(
        gateway, route.roads[0], switched.payment, committed_at=committed_at, now=switched.now, author=WORKER
    )


async def _left_because(gateway: Gateway, road: Road | None, payment: Payment) -> str | None:
    """Why a payment of which nothing was sent cannot go by its road; None: it can."""
    if road is None:
        return "its provider account is gone"
    if road.provider.fingerprint_of(payment.kind) != payment.account_fingerprint:
        return "its provider account points elsewhere now"
    switched_off = await gateway.roads.switched_off()
    return switched_off.get(road.spec.id) or road.closed_because(payment.kind)


async def _ask(gateway: Gateway, road: Road, read: Read, began: float) -> None:
    finding = await _find(gateway, road, read.payment)
    now = read.now + timedelta(seconds=time.monotonic() - began)
    log.info(
        "provider.answered",
        provider=road.spec.id,
        operation="find",
        payment_id=read.payment.id,
        tenant_id=read.payment.tenant_id,
        outcome=type(finding).__name__,
        detail=getattr(finding, "reason", None),
        duration_ms=round((time.monotonic() - began) * 1000, 1),
    )
    operation = road.operation(read.payment.kind)
    wanted_again = isinstance(finding, NotFound) and may_send_again(
        read.payment,
        dedupes=operation.dedupes,
        repeats=operation.repeats,
        account_fingerprint=road.provider.fingerprint_of(read.payment.kind),
        asked_at=read.now,
        now=now,
    )
    if wanted_again and await _left_because(gateway, road, read.payment) is None:
        await _send(gateway, road, read.payment)
        return
    await _apply(gateway, read, began, finding, Source.CHECK)


async def _find(gateway: Gateway, road: Road, payment: Payment) -> Finding:
    try:
        async with gateway.calls.track():
            finding = await road.find(payment.kind, payment.provider_reference)
    except TimeoutError:
        return Unknown("this process was stopped", outage=False, asked=False)
    if isinstance(finding, NotFound) and road.provider.fingerprint_of(payment.kind) != payment.account_fingerprint:
        return Unknown("its provider account points elsewhere now", outage=False)
    return finding


async def _send(gateway: Gateway, road: Road, payment: Payment) -> None:
    committed_at = time.monotonic()
    begun = await submission.begin(gateway, road, payment, WORKER)
    if begun is None:
        log.info("payment.lease_lost", payment_id=payment.id)
        return
    await submission.submit(gateway, road, begun.payment, committed_at=committed_at, now=begun.now, author=WORKER)


async def _apply(gateway: Gateway, read: Read, began: float, outcome: Finding | NotSent, source: Source) -> None:
    now = read.now + timedelta(seconds=time.monotonic() - began)
    await outcomes.apply(gateway.db, read.payment, outcome, source, now, WORKER)
