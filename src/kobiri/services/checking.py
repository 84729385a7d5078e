"""What the worker does with a payment that is due: ask about it, send it again, or give it up."""

import time
from datetime import timedelta

import structlog

from kobiri.domain.outcome import Finding, NotFound, NotSent, Source, Unknown
from kobiri.domain.payment import Payment, Step, may_send_again, next_step
from kobiri.providers.base import Provider
from kobiri.services import outcomes, submission
from kobiri.services.gateway import LEASE_MARGIN_S, Gateway
from kobiri.store import payments
from kobiri.store.payments import Author, Claim, Read

log = structlog.get_logger(__name__)

WORKER = Author("worker")


async def claim_due(gateway: Gateway, limit: int) -> list[Claim]:
    """Take up to `limit` due payments, each under a lease that outlasts one provider call."""
    lease_s = gateway.roads.longest_call_s + LEASE_MARGIN_S
    async with gateway.db.worker_transaction() as tx:
        return await payments.claim(tx, limit, lease_s)


async def resume(gateway: Gateway, claim: Claim) -> None:
    """Take one claimed payment a step further. Ends without a change where the claim was lost."""
    began = time.monotonic()
    async with gateway.db.tenant_transaction(claim.tenant_id) as tx:
        if gateway.calls.stopped:  # claimed just before a stop: the next worker need not wait for the lease's end
            await payments.release(tx, claim)
            return
        read = await payments.get(tx, claim.tenant_id, claim.payment_id)
    if read is None or read.payment.is_final or read.payment.lease_token != claim.lease_token:
        return
    payment = read.payment
    provider = gateway.roads.account_of(payment)
    step = next_step(payment, read.now)
    if step is Step.GIVE_UP:
        await _apply(gateway, read, began, NotSent("it was not sent in time"), Source.SEND)
    elif provider is None and step is Step.SEND:
        await _apply(gateway, read, began, NotSent("its provider account is gone"), Source.SEND)
    elif provider is None:
        # Another account's not-found would prove nothing about this payment.
        await _apply(gateway, read, began, Unknown("its provider account is gone"), Source.CHECK)
    elif step is Step.SEND:
        await _send(gateway, provider, payment)
    else:
        await _ask(gateway, provider, read, began)


async def _ask(gateway: Gateway, provider: Provider, read: Read, began: float) -> None:
    finding = await _find(gateway, provider, read.payment)
    now = read.now + timedelta(seconds=time.monotonic() - began)
    log.info(
        "provider.answered",
        provider=provider.spec.id,
        operation="find",
        payment_id=read.payment.id,
        tenant_id=read.payment.tenant_id,
        outcome=type(finding).__name__,
        detail=getattr(finding, "reason", None),
        duration_ms=round((time.monotonic() - began) * 1000, 1),
    )
    if isinstance(finding, NotFound) and may_send_again(
        read.payment,
        dedupes=provider.spec.operations[read.payment.kind].dedupes,
        account_fingerprint=provider.fingerprint,
        now=now,
    ):
        await _send(gateway, provider, read.payment)
        return
    await _apply(gateway, read, began, finding, Source.CHECK)


async def _find(gateway: Gateway, provider: Provider, payment: Payment) -> Finding:
    try:
        async with gateway.calls.track():
            return await provider.find(
                payment.kind, payment.provider_reference, within_s=provider.account.answer_within_s
            )
    except TimeoutError:
        return Unknown("this process was stopped")


async def _send(gateway: Gateway, provider: Provider, payment: Payment) -> None:
    committed_at = time.monotonic()
    async with gateway.db.tenant_transaction(payment.tenant_id) as tx:
        begun = await payments.begin_attempt(tx, payment, submission.lease(provider))
    if begun is None:
        log.info("payment.lease_lost", payment_id=payment.id)
        return
    await submission.submit(gateway, provider, begun.payment, committed_at=committed_at, now=begun.now, author=WORKER)


async def _apply(gateway: Gateway, read: Read, began: float, outcome: Finding | NotSent, source: Source) -> None:
    now = read.now + timedelta(seconds=time.monotonic() - began)
    await outcomes.apply(gateway.db, read.payment, outcome, source, now, WORKER)
