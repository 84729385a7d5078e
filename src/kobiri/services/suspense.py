"""Money that arrived and is nobody's yet: booked once, listed with what it waits for, cleared by a person."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from kobiri.domain import ledger
from kobiri.domain.errors import Conflict, NotFound
from kobiri.domain.ids import PaymentId, ProviderReference, TenantId, new_id, parse_id
from kobiri.domain.ledger import Arrival, Why
from kobiri.domain.money import Money
from kobiri.domain.payment import Mode, Status
from kobiri.domain.reason import require
from kobiri.store import arrivals, events, payments
from kobiri.store.arrivals import StoredArrival
from kobiri.store.db import Database
from kobiri.store.payments import Author

Clearing: TypeAlias = Literal["returned", "merchant"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Money that waits. `booked` False: its payment is open, and is settled first. `id` is the arrival's."""

    id: str | None
    booked: bool
    why: Why
    tenant: str
    mode: Mode
    payment_id: PaymentId | None
    status: Status | None
    provider: str
    provider_reference: ProviderReference
    money: Money
    transaction_id: str | None
    other_id: str | None  # what the same money is called by a source whose ids are of another kind
    evidence: str
    since: datetime
    age_s: int
    next_step: str


async def waiting(db: Database, limit: int = 100) -> list[Entry]:
    """All that waits for a person, oldest first: money in suspense, and open payments of which other money came."""
    async with db.operator_transaction() as tx:
        booked = await arrivals.waiting(tx, limit)
        open_ = await payments.list_mismatched(tx, limit)
    found = [_booked(one) for one in booked]
    found += [
        Entry(
            id=None,
            booked=False,
            why=Why.MISMATCHED,
            tenant=slug,
            mode=payment.mode,
            payment_id=payment.id,
            status=payment.status,
            provider=payment.provider,
            provider_reference=payment.provider_reference,
            money=payment.received,
            transaction_id=None,
            other_id=None,
            evidence=f"kobiri payments show {payment.id}",
            since=payment.created_at,
            age_s=int((now - payment.created_at).total_seconds()),
            next_step=f"settle its payment: kobiri payments resolve {payment.id} --as failed",
        )
        for slug, payment, now in open_
        if payment.received is not None
    ]
    return sorted(found, key=lambda entry: entry.since)[:limit]


NEXT: dict[Why, str] = {
    Why.LATE: "pay it back, or let the merchant deliver",
    Why.MISMATCHED: "pay it back, or let the merchant deliver for it",
    Why.TWICE: "ask the provider for both transaction ids; pay one back",
    Why.EARLIER_ROAD: "ask both providers whether the payer paid twice; pay one back, or let the merchant deliver",
    Why.UNASKED: "find whose it is: another system's on this account, or a payment that a restored backup has lost",
}
SANDBOX = "it is a sandbox's money, so there is nothing to pay back: look at it"


def _booked(one: StoredArrival) -> Entry:
    arrival = one.arrival
    return Entry(
        id=one.id,
        booked=True,
        why=arrival.why,
        tenant=one.tenant,
        mode=one.mode,
        payment_id=one.payment_id,
        status=one.status,
        provider=arrival.provider,
        provider_reference=one.provider_reference,
        money=arrival.money,
        transaction_id=arrival.transaction_id,
        other_id=None if arrival.other_id == arrival.transaction_id else arrival.other_id,
        evidence=f"{arrival.source}: {arrival.told_in}" if arrival.told_in else arrival.source,
        since=one.created_at,
        age_s=one.age_s,
        next_step=f"{NEXT[arrival.why] if one.mode == 'live' else SANDBOX}; then kobiri ledger clear {one.id}",
    )


async def clear(db: Database, id_: str, clearing: Clearing, reason: str, actor: str) -> StoredArrival:
    """Book what became of money in suspense: it went back (or never was ours), or it is the merchant's.

    Raises NotFound, Unprocessable (no reason), Conflict (cleared already, or of no merchant).
    """
    require(reason, "it stands in the audit log")
    known = parse_id(id_)
    async with db.operator_transaction() as tx:
        found = await arrivals.find(tx, known) if known else None
    if found is None:
        raise NotFound("There is no money in suspense with this id; kobiri ledger suspense lists all.")
    if clearing == "merchant" and found.payment_id is None:
        raise Conflict("It is of no payment, so of no merchant: it can only go back.")
    movement = ledger.cleared(found.arrival, to_merchant=clearing == "merchant")
    facts = {"as": clearing, "reason": reason, "payment_id": found.payment_id}
    async with db.tenant_transaction(found.tenant_id) as tx:
        if not await arrivals.clear(tx, found.tenant_id, found.id, movement):
            raise Conflict("It was cleared already.")
        await events.insert(tx, found.tenant_id, "arrival.cleared", found.id, actor, facts)
    return found


async def book_unasked(
    db: Database, tenant_id: TenantId, mode: Mode, reference: ProviderReference, arrival: Arrival, author: Author
) -> bool:
    """Book money under a reference of ours of which there is no payment, once; whether it is new.

    `tenant_id`: whose the account is to which it came. Raises TransactionTaken.
    """
    id_ = new_id()
    movement = ledger.arrived_unexpectedly(arrival)
    async with db.tenant_transaction(tenant_id) as tx:
        known = ledger.booked_as(arrival, await arrivals.of_reference(tx, tenant_id, reference))
        if known is not None:
            if learned := ledger.learned(arrival, known):
                await arrivals.learn(tx, tenant_id, known, learned)
            return False
        await arrivals.book_unasked(tx, tenant_id, mode, id_, reference, movement)
        facts = {"provider": arrival.provider, "provider_reference": reference, "told_in": arrival.told_in}
        await events.insert(tx, tenant_id, "arrival.booked", id_, author.actor, facts)
    return True
