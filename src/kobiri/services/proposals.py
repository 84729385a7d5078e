"""What a statement's facts propose, a person accepts or rejects."""

from dataclasses import replace

from kobiri.domain.errors import Conflict, KobiriError, NotFound
from kobiri.domain.ids import parse_id
from kobiri.domain.outcome import Source, Succeeded
from kobiri.domain.payment import Payment, Status
from kobiri.domain.reason import require
from kobiri.services import outcomes, reviews
from kobiri.services.gateway import Gateway
from kobiri.store import events, payments, proposals
from kobiri.store.db import Database
from kobiri.store.payments import Author
from kobiri.store.proposals import LineTaken, Proposal


async def waiting(db: Database, limit: int = 100) -> list[Proposal]:
    """The proposals that nobody has decided on, oldest first."""
    async with db.operator_transaction() as tx:
        return await proposals.waiting(tx, limit)


async def accept(gateway: Gateway, id_: str, reason: str, actor: str) -> Payment:
    """Settle the payment with the line. Its provider is asked first, and its firm word is never overruled.

    Raises NotFound, Unprocessable (no reason), Conflict (decided already, the line is another payment's, or the
    payment cannot be settled so).
    """
    db = gateway.db
    proposal = await _get(db, id_, reason)
    payment = await _payment(db, proposal)
    is_settled = payment.status in (Status.SUCCESSFUL, Status.REVERSED)
    # Accepted, and not settled by it: an acceptance was interrupted, and is finished now.
    if proposal.accepted is False or (proposal.accepted and is_settled):
        raise Conflict(f"It was {'accepted' if proposal.accepted else 'rejected'} already.")
    if is_settled:
        raise Conflict(f"Its payment is {payment.status} already: reject the proposal.")
    await _decide(db, proposal, reason, actor, accepted=True)
    try:
        after = await _settle(gateway, proposal, payment, reason, actor)
    except KobiriError:
        if (await _payment(db, proposal)).status not in (Status.SUCCESSFUL, Status.REVERSED):
            await _decide(db, replace(proposal, accepted=True), reason, actor, accepted=None)
        raise
    if proposal.accepted and after.version == payment.version:
        raise Conflict("It was accepted already.")
    return after


async def _settle(gateway: Gateway, proposal: Proposal, payment: Payment, reason: str, actor: str) -> Payment:
    """By a person's word; a payment that is failed, perhaps by its provider's word just now, has late money."""
    draft = proposal.draft
    try:
        if not payment.is_final:
            return (await reviews.resolve(gateway, payment.id, "successful", reason, actor, draft.transaction_id))[0]
    except Conflict:
        payment = await _payment(gateway.db, proposal)
        if payment.status is not Status.FAILED:
            raise
    said = Succeeded(draft.transaction_id, draft.money, payment.payer.digits, draft.told_in)
    return await outcomes.apply(gateway.db, payment, said, Source.STATEMENT, payment.created_at, Author(actor))


async def reject(db: Database, id_: str, reason: str, actor: str) -> Proposal:
    """The line is not this payment's. Raises NotFound, Unprocessable (no reason), Conflict (decided already)."""
    proposal = await _get(db, id_, reason)
    if proposal.accepted is not None:
        raise Conflict(f"It was {'accepted' if proposal.accepted else 'rejected'} already.")
    await _decide(db, proposal, reason, actor, accepted=False)
    return proposal


async def _get(db: Database, id_: str, reason: str) -> Proposal:
    require(reason, "it stands in the audit log")
    known = parse_id(id_)
    async with db.operator_transaction() as tx:
        found = await proposals.find(tx, known) if known else None
    if found is None:
        raise NotFound("There is no proposal with this id.")
    return found


async def _payment(db: Database, proposal: Proposal) -> Payment:
    async with db.tenant_transaction(proposal.tenant_id) as tx:
        read = await payments.get(tx, proposal.tenant_id, proposal.draft.payment_id)
    assert read is not None, "payments are never deleted"
    return read.payment


async def _decide(db: Database, proposal: Proposal, reason: str, actor: str, *, accepted: bool | None) -> None:
    word = "reopened" if accepted is None else "accepted" if accepted else "rejected"
    facts = {"payment_id": proposal.draft.payment_id, "reason": reason, "told_in": proposal.draft.told_in}
    try:
        async with db.tenant_transaction(proposal.tenant_id) as tx:
            before = proposal.accepted
            if not await proposals.decide(tx, proposal.tenant_id, proposal.id, before=before, accepted=accepted):
                raise Conflict("Somebody else decided on it meanwhile: look again.")
            await events.insert(tx, proposal.tenant_id, f"proposal.{word}", proposal.id, actor, facts)
    except LineTaken:
        raise Conflict("This line was accepted for another payment: reject the proposal.") from None
