"""What only a person can settle: the queue, its evidence, the decision, and the word to the operator."""

import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Literal, TypeAlias, assert_never

import msgspec
import structlog

from kobiri import net
from kobiri.domain import webhook
from kobiri.domain.errors import Conflict, NotFound, Unprocessable
from kobiri.domain.ids import PaymentId
from kobiri.domain.money import Money
from kobiri.domain.outcome import (
    Accepted,
    Declined,
    Doubtful,
    FailureCode,
    Finding,
    Outcome,
    Source,
    Succeeded,
    Unknown,
)
from kobiri.domain.outcome import NotFound as NotKnown
from kobiri.domain.payment import PROVIDERS_ANSWER, Payment, Status, agrees, is_doubt_proven, may_arrive_until
from kobiri.domain.reason import require
from kobiri.services import outcomes
from kobiri.services.gateway import Gateway
from kobiri.store import arrivals, callbacks, events, payments, tenants
from kobiri.store.callbacks import KeptCallback
from kobiri.store.db import Database
from kobiri.store.events import Event
from kobiri.store.payments import Author, Earlier, Read

log = structlog.get_logger(__name__)

Decision: TypeAlias = Literal["successful", "failed", "seen"]

MAX_TRANSACTION_ID = 100
# A provider that says "in progress" is believed for so long; MTN's sandbox has numbers that never end.
PATIENCE = timedelta(days=1)
TELL_WITHIN_S = 10.0
TOLD_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Case:
    """One payment in the queue, and whose it is."""

    tenant: str
    payment: Payment


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one payment."""

    tenant: str
    payment: Payment
    earlier: list[Earlier]
    history: list[Event]
    callbacks: list[KeptCallback]


async def queue(db: Database, slug: str | None = None, limit: int = 100) -> list[Case]:
    """The payments that wait for a person, oldest first. Raises NotFound (no such tenant)."""
    async with db.operator_transaction() as tx:
        tenant = await tenants.get_tenant(tx, slug) if slug else None
        if slug and tenant is None:
            raise NotFound(f"There is no tenant {slug!r}; kobiri tenants list shows all.")
        found = await payments.list_reviews(tx, tenant.id if tenant else None, limit)
        return [Case(slug, payment) for slug, payment in found]


async def evidence(db: Database, payment_id: PaymentId) -> Evidence:
    """What happened to one payment, for whoever must decide. Raises NotFound."""
    slug, payment = await _get(db, payment_id)
    async with db.operator_transaction() as tx:
        history = await events.of_subjects(tx, payment.tenant_id, [payment.id])
        return Evidence(
            tenant=slug,
            payment=payment,
            earlier=await payments.earlier_roads(tx, payment.tenant_id, payment.id),
            history=history[payment.id],
            callbacks=await callbacks.of_payment(tx, payment.tenant_id, payment.id),
        )


async def check(gateway: Gateway, payment_id: PaymentId, actor: str) -> tuple[Payment, Finding]:
    """Ask the provider about one payment now, and apply what it says. Raises NotFound."""
    _, payment = await _get(gateway.db, payment_id)
    finding = await _ask(gateway, payment)
    return await _apply_found(gateway, payment, finding, Author(actor)), finding


async def resolve(
    gateway: Gateway,
    payment_id: PaymentId,
    decision: Decision,
    reason: str,
    actor: str,
    their_id: str | None = None,
    arrived: str | None = None,
) -> tuple[Payment, Finding | None]:
    """Settle a payment by a person's word, which never overrules the provider's: that one is asked first.

    `their_id` is the provider's transaction id, where its answer now names none. `arrived` is an amount that came
    instead of the one that was asked for.
    Returns what the provider said too; None where nobody asked. Raises NotFound, Unprocessable (no reason, no such
    amount), Conflict (already final, the provider or the evidence says otherwise, the id is another payment's).
    """
    require(reason, "it stands in the audit log")
    _, payment = await _get(gateway.db, payment_id)
    their_id = None if their_id is None else their_id.strip()
    claim = _claim(payment, decision, their_id, arrived)
    author = Author(actor)
    if decision == "seen":
        return await outcomes.seen(gateway.db, payment, reason, author), None
    if payment.is_final:
        raise Conflict(f"This payment is {payment.status} already; a person can only mark it as seen.")
    if payment.status is not Status.TIMEOUT and payment.review is None:
        raise Conflict("This payment is on its way: its provider's word is expected, and a person's would be a guess.")
    await _refuse_taken(gateway.db, payment, their_id)
    finding = await _ask(gateway, payment)
    read = await _read(gateway, payment)
    refusal = contradiction(read.payment, decision, finding, read.now)
    if refusal is not None:
        await _apply_found(gateway, payment, finding, author)
        raise Conflict(refusal)
    try:
        word = await _word(gateway.db, read.payment, decision, finding, claim)
        return await outcomes.resolve(gateway.db, payment, word, reason, author), finding
    except Conflict:  # a person waits for what is on its way, the provider's word need not
        await _apply_found(gateway, payment, finding, author)
        raise


def _claim(payment: Payment, decision: Decision, their_id: str | None, arrived: str | None) -> Succeeded:
    """What the person says that came in. `money` None: nothing of an amount."""
    if their_id is not None and not (their_id.isprintable() and 1 <= len(their_id) <= MAX_TRANSACTION_ID):
        raise Unprocessable(f"A transaction id has 1 to {MAX_TRANSACTION_ID} printable characters.")
    if arrived is None:
        return Succeeded(their_id)
    if decision != "failed":
        raise Unprocessable("--arrived goes with --as failed: it is what came instead of the payment.")
    money = Money.read(arrived, payment.money.currency)
    if money == payment.money:
        raise Unprocessable(f"{money} {money.currency} is what was asked for: then it is successful, not failed.")
    return Succeeded(their_id, money, told_in="a person's word")


def contradiction(  # noqa: PLR0911  # one return for each word that a provider may say
    payment: Payment, decision: Decision, finding: Finding, now: datetime
) -> str | None:
    """Why a person may not decide this against what the provider says now; None: it says nothing against it."""
    is_old = now - payment.created_at >= PATIENCE
    match finding:
        case Succeeded() if agrees(payment, finding):
            return None if decision == "successful" else "The provider says that it was paid; that stands now."
        case Succeeded():
            return None if decision == "failed" else _another_amount(payment, finding.money or payment.money)
        case Declined():  # where it has said both, a person decides
            return (
                None
                if decision == "failed" or payment.told_paid
                else "The provider says that it failed; that stands now."
            )
        case NotKnown() if payment.accepted_at is not None:  # it has lost what it had: that speaks against neither
            return None if is_old else "The provider had it and does not know it now: wait a day for its word."
        case NotKnown() if decision == "successful":
            return "The provider does not know it."
        case NotKnown():
            until = may_arrive_until(payment, firm=finding.firm)
            return None if now >= until else f"It may still arrive at the provider: decide after {until:%H:%M:%S} UTC."
        case Accepted():
            return None if is_old else "The provider says that it is still in progress: wait for its word."
        case Doubtful():
            may = is_old or (decision == "failed" and is_doubt_proven(payment, now))
            wait = (
                "a day for its word"
                if decision == "successful"
                else "until it has said so three times over ten minutes"
            )
            return None if may else f"The provider says that it failed, but not surely: wait {wait}."
        case Unknown():
            return None
        case _:
            assert_never(finding)


async def _word(db: Database, payment: Payment, decision: Decision, finding: Finding, claim: Succeeded) -> Outcome:
    """The decision as a word about the payment. Raises Conflict where the evidence speaks against it."""
    agreed = isinstance(finding, Succeeded) and agrees(payment, finding)
    if decision == "successful":
        if payment.received is not None and not agreed:
            raise Conflict(_another_amount(payment, payment.received))
        said = finding.provider_transaction_id if isinstance(finding, Succeeded) else None
        return Succeeded(said, told_in=PROVIDERS_ANSWER) if said else Succeeded(claim.provider_transaction_id)
    arrived = await _arrived(db, payment, finding, claim)
    code = FailureCode.AMOUNT_MISMATCH if arrived else FailureCode.RESOLVED_BY_OPERATOR
    return Declined(code, arrived=arrived)


async def _arrived(db: Database, payment: Payment, finding: Finding, claim: Succeeded) -> Succeeded | None:
    """What came in instead: by the provider's word now, else the person's, else by what the provider said before."""
    if isinstance(finding, Succeeded) and not agrees(payment, finding):
        if claim.money is not None and finding.money is not None and claim.money != finding.money:
            raise Conflict(f"The provider says that {finding.money} {finding.money.currency} arrived.")
        their_id = finding.provider_transaction_id or claim.provider_transaction_id
        money = finding.money or payment.money
        return replace(finding, provider_transaction_id=their_id, money=money, told_in=PROVIDERS_ANSWER)
    if claim.money is not None:
        return claim
    if payment.received is None:
        return None
    async with db.operator_transaction() as tx:
        history = (await events.of_subjects(tx, payment.tenant_id, [payment.id]))[payment.id]
    told = [event for event in history if event.type == "payment.mismatched" and "received_amount" in event.data]
    last = told[-1].data if told else {}
    return Succeeded(
        claim.provider_transaction_id or last.get("provider_transaction_id"),
        payment.received,
        told_in=last.get("told_in") or f"payment.mismatched by {last.get('source')}",
    )


def _another_amount(payment: Payment, received: Money) -> str:
    return (
        f"The provider says that another amount or payer was charged: {received} {received.currency} arrived,"
        f" {payment.money} {payment.money.currency} was asked for. Resolve it as failed: what arrived is booked to"
        " suspense, to be paid back or delivered for."
    )


async def _refuse_taken(db: Database, payment: Payment, their_id: str | None) -> None:
    """Raises Conflict where a transaction id is another payment's. Two at once are told apart by the database."""
    if their_id is None:
        return
    async with db.operator_transaction() as tx:
        holder = await arrivals.holder(tx, payment.provider, payment.account_fingerprint, their_id)
    if holder is not None and holder.payment_id != payment.id:
        owner = f"payment {holder.payment_id}" if holder.payment_id else "money of no payment, in suspense"
        raise Conflict(f"The transaction id {their_id!r} is that of {owner} (tenant {holder.tenant}).")


async def _get(db: Database, payment_id: PaymentId) -> tuple[str, Payment]:
    async with db.operator_transaction() as tx:
        found = await payments.find(tx, payment_id)
    if found is None:
        raise NotFound("There is no payment with this id.")
    return found


async def _read(gateway: Gateway, payment: Payment) -> Read:
    async with gateway.db.tenant_transaction(payment.tenant_id) as tx:
        read = await payments.get(tx, payment.tenant_id, payment.id)
    assert read is not None, "payments are never deleted"
    return read


async def _ask(gateway: Gateway, payment: Payment) -> Finding:
    road = await gateway.roads.of_payment(payment)
    if road is None:
        return Unknown("its provider account is gone", outage=False)
    finding = await road.find(payment.kind, payment.provider_reference)
    if isinstance(finding, NotKnown) and road.provider.fingerprint_of(payment.kind) != payment.account_fingerprint:
        return Unknown("its provider account points elsewhere now", outage=False)
    return finding


async def _apply_found(gateway: Gateway, payment: Payment, finding: Finding, author: Author) -> Payment:
    if isinstance(finding, Unknown):
        return payment
    read = await _read(gateway, payment)
    unheld = replace(read.payment, lease_token=None)  # the lease that may stand there is a worker's
    return await outcomes.apply(gateway.db, unheld, finding, Source.CHECK, read.now, author)


# --- the word to the operator ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Operator:
    """Where the operator wants to hear of new cases: an address, and the key that signs what is posted there."""

    url: str = field(repr=False)
    key: bytes = field(repr=False)
    session: net.Session = field(repr=False)

    async def tell(self, payment: Payment) -> bool:
        """Post one case; whether it was taken. The same case has the same webhook-id at each attempt."""
        said = {
            "type": "payment.review_needed",
            "data": {
                "payment_id": payment.id,
                "tenant_id": payment.tenant_id,
                "mode": payment.mode,
                "provider": payment.provider,
                "status": payment.status,
                "review": payment.review,
            },
        }
        body = msgspec.json.encode(said)
        signed = webhook.headers(self.key, f"review_{payment.id}_{payment.review}", int(time.time()), body)
        try:
            answer = await net.ask(
                self.session,
                "POST",
                self.url,
                headers={"content-type": "application/json", **signed},
                body=body,
                deadline_s=TELL_WITHIN_S,
            )
        except (net.NotSent, net.MaybeSent) as error:
            log.warning("operator.not_told", payment_id=payment.id, reason=str(error))
            return False
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            log.warning("operator.not_told", payment_id=payment.id, reason=f"HTTP {answer.status}")
            return False
        return True


async def tell_new_cases(db: Database, operator: Operator) -> int:
    """Tell the operator of what landed in the queue since; how many were taken. At least once each."""
    async with db.worker_transaction() as tx:
        untold = await payments.untold_reviews(tx, TOLD_AT_ONCE)
    told = 0
    for tenant_id, payment_id in untold:
        async with db.tenant_transaction(tenant_id) as tx:
            read = await payments.get(tx, tenant_id, payment_id)
        assert read is not None, "payments are never deleted"
        if read.payment.review is None or not await operator.tell(read.payment):
            continue
        async with db.tenant_transaction(tenant_id) as tx:
            await payments.note_review_told(tx, read.payment)
        told += 1
    return told
