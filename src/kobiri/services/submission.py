"""Send one payment to its provider, and to the next one where nothing was sent. No transaction is open meanwhile."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from kobiri.domain.errors import Unavailable
from kobiri.domain.ids import new_provider_reference
from kobiri.domain.outcome import Accepted, NotSent, Outcome, Source, Unknown
from kobiri.domain.payment import Payment, may_take_another_road, rerouted
from kobiri.providers.base import Collection
from kobiri.services import outcomes
from kobiri.services.gateway import LEASE_MARGIN_S, Gateway
from kobiri.services.roads import Road
from kobiri.store import payments
from kobiri.store.db import CommitUnknown, LockTimeout
from kobiri.store.payments import Answer, Author, Read

log = structlog.get_logger(__name__)

# From the commit that allows a send to its first byte. Who was held up for longer may find that the lease is
# another's by the time the bytes leave, so he sends nothing.
SEND_AT_ONCE_S = 2.0
# With less time than this left, the next road is the worker's to try.
SENSE_IN_SWITCHING_S = 1.5
# How long the only word that a provider will ever say is held on to while the database is away.
STORE_FOR_S = 60.0
STORE_PAUSE_S = 0.5
# When to look whether a lost COMMIT allowed a send that was then never made.
TAKE_BACK_AFTER_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


async def submit(
    gateway: Gateway,
    road: Road,
    payment: Payment,
    *,
    committed_at: float,
    now: datetime,
    author: Author,
    answer: Callable[[Payment], Answer | None] | None = None,
) -> Payment:
    """Make the provider call that a commit has just allowed, and apply its outcome; the payment as it then stands.

    `committed_at` is the monotonic time just before that commit, `now` the database's clock at it. A road on which
    nothing was sent is left for the next one that is open. `answer` builds what a client is told who waits: for no
    longer than the first road's time. Where nobody waits (None) each road gets its own.
    """
    tried = [road]
    patience_s = road.account.answer_within_s
    ends_at = time.monotonic() + patience_s
    while True:
        outcome = await _call(gateway, road, payment, committed_at, ends_at)
        elapsed_s = time.monotonic() - committed_at
        _log(road, payment, outcome, elapsed_s)
        then = now + timedelta(seconds=elapsed_s)
        if not isinstance(outcome, NotSent) or not may_take_another_road(payment, outcome, then):
            break
        if answer is None:
            ends_at = time.monotonic() + patience_s
        if gateway.calls.stopped or ends_at - time.monotonic() < SENSE_IN_SWITCHING_S:
            break
        route = await gateway.roads.another(payment, tried)
        if not route.roads:
            break
        road, committed_at = route.roads[0], time.monotonic()
        switched = await switch(gateway, road, payment, outcome.reason, route.passed_over, author)
        if switched is None:
            break
        payment, now = switched.payment, switched.now
        tried.append(road)
    return await _store(gateway, road, payment, outcome, then, author, answer or outcomes.no_answer)


async def _store(
    gateway: Gateway,
    road: Road,
    payment: Payment,
    outcome: Outcome,
    now: datetime,
    author: Author,
    answer: Callable[[Payment], Answer | None],
) -> Payment:
    """Apply what the provider said. Where it cannot be asked again, its word is not given up for a busy database."""
    give_up_at = time.monotonic()
    if road.operation(payment.kind).status_query == "none" and not isinstance(outcome, NotSent):
        give_up_at += STORE_FOR_S
    while True:
        try:
            return await outcomes.apply(gateway.db, payment, outcome, Source.SEND, now, author, answer)
        except Unavailable:
            if time.monotonic() >= give_up_at:
                raise
            await asyncio.sleep(STORE_PAUSE_S)


async def switch(
    gateway: Gateway, road: Road, payment: Payment, reason: str, passed_over: tuple[str, ...], author: Author
) -> Read | None:
    """Commit that a payment of which nothing was sent goes by another road, under a new reference, and may be sent now.

    None: somebody else came first. A lost COMMIT is read, never assumed.
    """
    after = replace(
        payment,
        provider=road.spec.id,
        account_id=road.account_id,
        account_fingerprint=road.provider.fingerprint_of(payment.kind),
        provider_reference=new_provider_reference(),
    )
    event = rerouted(payment, after, reason, passed_over)
    try:
        async with gateway.db.tenant_transaction(payment.tenant_id) as tx:
            return await payments.switch_road(tx, payment, after, reason, event, author, lease(road))
    except (CommitUnknown, LockTimeout):
        try:
            async with gateway.db.tenant_transaction(payment.tenant_id) as tx:
                read = await payments.get(tx, payment.tenant_id, payment.id)
        except Unavailable:
            take_back(gateway, replace(payment, attempt=payment.attempt + 1, version=payment.version + 1), author)
            raise
    if read is None:
        return None
    found = read.payment
    is_ours = found.provider_reference == after.provider_reference and found.lease_token == payment.lease_token
    return read if is_ours and found.version == payment.version + 1 else None


async def begin(gateway: Gateway, road: Road, payment: Payment, author: Author) -> Read | None:
    """Commit that a payment may be sent now by its road. None: somebody else came first, or the lease ended."""
    try:
        async with gateway.db.tenant_transaction(payment.tenant_id) as tx:
            return await payments.begin_attempt(tx, payment, lease(road))
    except CommitUnknown:
        take_back(gateway, replace(payment, attempt=payment.attempt + 1, version=payment.version + 1), author)
        raise


def take_back(gateway: Gateway, allowed: Payment, author: Author) -> None:
    """Nothing is sent after a COMMIT that was lost. Where it happened all the same, write that down as soon as one can.

    Else nobody would know, and what cannot be asked about would be a person's. `allowed`: the payment as that commit
    left it.
    """

    async def write() -> None:
        for pause_s in TAKE_BACK_AFTER_S:
            await asyncio.sleep(pause_s)
            with suppress(Unavailable):
                async with gateway.db.tenant_transaction(allowed.tenant_id) as tx:
                    read = await payments.get(tx, allowed.tenant_id, allowed.id)
                if read is None or read.payment.version < allowed.version:
                    continue  # it did not happen, or its transaction is still open somewhere
                found = read.payment
                if found.version == allowed.version and found.lease_token == allowed.lease_token:
                    unsent = NotSent("the commit that allows it was lost", outage=False)
                    await outcomes.apply(gateway.db, found, unsent, Source.SEND, read.now, author)
                return

    gateway.calls.start(write())


def lease(road: Road) -> timedelta:
    """How long the right to send a payment by this road lasts."""
    return timedelta(seconds=road.account.deadline_s + LEASE_MARGIN_S)


def outlives_the_client(road: Road) -> bool:
    """Whether a call goes on after the client was answered.

    It must where the provider cannot be asked afterwards; elsewhere a late answer may be wanted for a firm word.
    """
    return road.account.deadline_s > road.account.answer_within_s


async def _call(gateway: Gateway, road: Road, payment: Payment, committed_at: float, ends_at: float) -> Outcome:
    if gateway.calls.stopped:
        return NotSent("this process is stopping", outage=False)
    if time.monotonic() - committed_at > SEND_AT_ONCE_S:
        return NotSent("this process was held up", outage=False)
    within_s = road.account.deadline_s if outlives_the_client(road) else ends_at - time.monotonic()
    # What dedupes may be repeated for a while, and still not after the time that the commit told.
    dedupes, lease_s = road.operation(payment.kind).dedupes, lease(road).total_seconds()
    try:
        async with gateway.calls.track():
            return await road.send(
                _collection(payment),
                within_s=within_s,
                first_byte_before=committed_at + (lease_s if dedupes else SEND_AT_ONCE_S),
            )
    except TimeoutError:
        askable = road.operation(payment.kind).status_query != "none"
        return Unknown("this process was stopped", outage=False, askable=askable)


def _collection(payment: Payment) -> Collection:
    return Collection(
        reference=payment.provider_reference,
        money=payment.money,
        payer=payment.payer,
        network=payment.network,
        description=payment.description,
    )


def _log(road: Road, payment: Payment, outcome: Outcome, elapsed_s: float) -> None:
    # The ordinary word is in the audit log as payment.accepted, and its request has a line already.
    write = log.debug if isinstance(outcome, Accepted) else log.info
    write(
        "provider.answered",
        provider=road.spec.id,
        operation=payment.kind,
        payment_id=payment.id,
        tenant_id=payment.tenant_id,
        attempt=payment.attempt,
        outcome=type(outcome).__name__,
        detail=getattr(outcome, "reason", None),
        duration_ms=round(elapsed_s * 1000, 1),
    )
