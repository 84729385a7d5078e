"""Send one payment to its provider. No transaction is open meanwhile."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from kobiri.domain.outcome import Accepted, NotSent, Outcome, Source, Unknown
from kobiri.domain.payment import Payment
from kobiri.providers.base import Collection, Provider
from kobiri.services import outcomes
from kobiri.services.gateway import LEASE_MARGIN_S, Gateway
from kobiri.store.payments import Answer, Author

log = structlog.get_logger(__name__)

# From the commit that allows a send to its first byte. Who was held up for longer may find that the lease is
# another's by the time the bytes leave, so he sends nothing.
SEND_AT_ONCE_S = 2.0


async def submit(
    gateway: Gateway,
    provider: Provider,
    payment: Payment,
    *,
    committed_at: float,
    now: datetime,
    author: Author,
    answer: Callable[[Payment], Answer | None] = lambda _payment: None,
) -> Payment:
    """Make the provider call that a commit has just allowed, and apply its outcome; the payment as it then stands.

    `committed_at` is the monotonic time just before that commit, `now` the database's clock at it.
    """
    outcome = await _call(gateway, provider, payment, committed_at)
    elapsed_s = time.monotonic() - committed_at
    # The ordinary word is in the audit log as payment.accepted, and its request has a line already.
    write = log.debug if isinstance(outcome, Accepted) else log.info
    write(
        "provider.answered",
        provider=provider.spec.id,
        operation="collect",
        payment_id=payment.id,
        tenant_id=payment.tenant_id,
        attempt=payment.attempt,
        outcome=type(outcome).__name__,
        detail=getattr(outcome, "reason", None),
        duration_ms=round(elapsed_s * 1000, 1),
    )
    return await outcomes.apply(
        gateway.db, payment, outcome, Source.SEND, now + timedelta(seconds=elapsed_s), author, answer
    )


def lease(provider: Provider) -> timedelta:
    """How long the right to call this provider lasts."""
    return timedelta(seconds=provider.account.deadline_s + LEASE_MARGIN_S)


async def _call(gateway: Gateway, provider: Provider, payment: Payment, committed_at: float) -> Outcome:
    if gateway.calls.stopped:
        return NotSent("this process is stopping")
    if time.monotonic() - committed_at > SEND_AT_ONCE_S:
        return NotSent("this process was held up")
    try:
        async with gateway.calls.track():
            return await provider.send(
                _collection(payment), within_s=provider.account.deadline_s, first_byte_before=None
            )
    except TimeoutError:
        return Unknown("this process was stopped")


def _collection(payment: Payment) -> Collection:
    return Collection(
        reference=payment.provider_reference,
        money=payment.money,
        payer=payment.payer,
        network=payment.network,
        description=payment.description,
    )
