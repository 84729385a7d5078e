"""Create, get and list payments."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from kobiri.domain.errors import (
    AmountOutOfLimits,
    Busy,
    CountryNotServed,
    IdempotencyKeyReused,
    KobiriError,
    NetworkUnknown,
    NoRoute,
    NotFound,
    ReferenceInUse,
    RequestInProgress,
    RouteClosed,
    TenantSuspended,
    Unavailable,
)
from kobiri.domain.ids import LeaseToken, PaymentId, new_id, new_provider_reference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.payment import EventDraft, Payment, Status, created
from kobiri.services import submission
from kobiri.services.access import Caller
from kobiri.services.gateway import Gateway
from kobiri.services.roads import Road
from kobiri.services.routing import Route, Wanted
from kobiri.store import events, idempotency, payments
from kobiri.store.db import CommitUnknown, LockTimeout
from kobiri.store.events import Event
from kobiri.store.idempotency import UsedKey
from kobiri.store.payments import Answer, Author, Filter, KeyUse

DONE, WAITING = 201, 202


@dataclass(frozen=True, slots=True)
class Order:
    """What a merchant asks for. `network` is None where the number shall tell.

    `id`: the payment's, where whoever asks must be able to name it whatever happens.
    """

    money: Money
    payer: Msisdn
    network: str | None = None
    reference: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] | None = None
    callback_url: str | None = None
    id: PaymentId | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the client gets. `status_code` None: the outcome is unknown yet, and nothing was stored as an answer."""

    payment: Payment
    status_code: int | None
    body: bytes
    replayed: bool = False


async def create(
    gateway: Gateway, caller: Caller, order: Order, use: KeyUse, author: Author, *, respond_async: bool
) -> Reply:
    """Record the payment (T1), call the provider, record what it said (T2). The same key does it once.

    Raises NetworkUnknown, NoRoute, CountryNotServed, AmountOutOfLimits, RouteClosed, TenantSuspended, ReferenceInUse,
    IdempotencyKeyReused, RequestInProgress, Busy, DatabaseUnavailable.
    """
    try:
        route = await _route(gateway, caller, order)
    except (NetworkUnknown, NoRoute, CountryNotServed, AmountOutOfLimits, RouteClosed, TenantSuspended) as refusal:
        return await _replay_or(refusal, gateway, caller, use)
    road = route.roads[0]
    payment = _new_payment(caller, order, road, sends_now=not respond_async)
    event = created(payment, "caller" if order.network else "prefix", route.passed_over)
    first_run_in = timedelta(0) if respond_async else submission.lease(road)
    recorded = await _record(gateway, caller, _Entry(payment, use, event, author, first_run_in))
    if isinstance(recorded, UsedKey):
        return _replay(gateway, recorded, use)
    if respond_async:
        return Reply(recorded.payment, WAITING, gateway.render(recorded.payment))
    sending = gateway.calls.start(
        submission.submit(
            gateway,
            road,
            recorded.payment,
            committed_at=recorded.committed_at,
            now=recorded.payment.created_at,
            author=author,
            answer=lambda after: _answer(gateway, use, after),
        )
    )
    if any(map(submission.outlives_the_client, route.roads)):
        # The payer may type the PIN while that call hangs: it goes on, the client is told that it is on its way.
        await asyncio.wait({sending}, timeout=road.account.answer_within_s)
        if not sending.done():
            return await _answer_meanwhile(gateway, use, recorded.payment)
    after = await asyncio.shield(sending)
    given = _answer(gateway, use, after)
    return Reply(after, given.status_code if given else None, given.body if given else b"")


async def get(gateway: Gateway, caller: Caller, payment_id: PaymentId | None) -> Payment:
    """One payment of the caller's tenant and mode. Raises NotFound, whoever else may have it."""
    if payment_id is not None:
        async with gateway.db.tenant_transaction(caller.tenant_id) as tx:
            read = await payments.get(tx, caller.tenant_id, payment_id)
        if read is not None and read.payment.mode == caller.mode:
            return read.payment
    raise NotFound("There is no payment with this id.")


async def list_page(
    gateway: Gateway, caller: Caller, wanted: Filter, before_id: PaymentId | None, limit: int
) -> list[Payment]:
    """Up to `limit` payments of the caller's tenant and mode, newest first."""
    async with gateway.db.tenant_transaction(caller.tenant_id) as tx:
        return await payments.list_page(tx, caller.tenant_id, caller.mode, wanted, before_id, limit)


async def list_with_events(
    gateway: Gateway, caller: Caller, wanted: Filter, before_id: PaymentId | None, limit: int
) -> list[tuple[Payment, list[Event]]]:
    """Like `list_page`, each payment with its history."""
    async with gateway.db.tenant_transaction(caller.tenant_id) as tx:
        found = await payments.list_page(tx, caller.tenant_id, caller.mode, wanted, before_id, limit)
        history = await events.of_subjects(tx, caller.tenant_id, [payment.id for payment in found])
    return [(payment, history[payment.id]) for payment in found]


@dataclass(frozen=True, slots=True)
class _Entry:
    """What T1 writes. `first_run_in`: how long the right to send lasts, or zero where the worker shall send at once."""

    payment: Payment
    use: KeyUse
    event: EventDraft
    author: Author
    first_run_in: timedelta


@dataclass(frozen=True, slots=True)
class _Recorded:
    payment: Payment
    committed_at: float


async def _route(gateway: Gateway, caller: Caller, order: Order) -> Route:
    if caller.suspended:
        raise TenantSuspended
    network = order.network or order.payer.network
    if network is None:
        raise NetworkUnknown("Name the wallet's operator in the field network.")
    wanted = Wanted(caller.tenant_id, "collection", network, caller.mode, order.money, order.payer)
    return await gateway.roads.route(wanted)


async def _answer_meanwhile(gateway: Gateway, use: KeyUse, payment: Payment) -> Reply:
    """Tell the client how the payment stands, once: a repeat of the key is told the same."""
    async with gateway.db.tenant_transaction(payment.tenant_id) as tx:
        read = await payments.get(tx, payment.tenant_id, payment.id)
        assert read is not None, "payments are never deleted"
        body = gateway.render(read.payment)
        if await idempotency.answer(tx, read.payment, Answer(use.key, WAITING, body)):
            return Reply(read.payment, WAITING, body)
        used = await idempotency.get(tx, payment.tenant_id, payment.mode, use.key)
    assert used is not None, "the key of an open payment is never purged"
    return Reply(used.payment, used.status_code, used.response_body or b"")


def _new_payment(caller: Caller, order: Order, road: Road, *, sends_now: bool) -> Payment:
    unset = datetime.min.replace(tzinfo=UTC)  # the database says when, see payments.insert_once
    return Payment(
        id=order.id or PaymentId(new_id()),
        tenant_id=caller.tenant_id,
        mode=caller.mode,
        kind="collection",
        status=Status.PENDING,
        money=order.money,
        payer=order.payer,
        network=order.network or order.payer.network or "",
        provider=road.spec.id,
        account_id=road.account_id,
        account_fingerprint=road.provider.fingerprint_of("collection"),
        provider_reference=new_provider_reference(),
        send_before=unset,
        expires_at=unset,
        created_at=unset,
        reference=order.reference,
        description=order.description,
        metadata=order.metadata,
        callback_url=order.callback_url,
        attempt=1 if sends_now else 0,
        lease_token=LeaseToken(new_provider_reference()) if sends_now else None,
    )


async def _record(gateway: Gateway, caller: Caller, entry: _Entry) -> _Recorded | UsedKey:
    payment, use = entry.payment, entry.use
    try:
        recorded = await _record_surely(gateway, entry)
    except LockTimeout:
        # A twin holds the key in an open transaction. By now it may have committed.
        used = await _used_key(gateway, caller, use)
        if used is None:
            raise Busy("Another request with this Idempotency-Key is being stored.", retry_after_s=1) from None
        return used
    except ReferenceInUse as error:
        async with gateway.db.tenant_transaction(caller.tenant_id) as tx:
            holder = await payments.get_by_reference(tx, caller.tenant_id, caller.mode, payment.reference or "")
        raise ReferenceInUse(error.detail, payment_id=holder) from None
    return recorded


async def _record_surely(gateway: Gateway, entry: _Entry) -> _Recorded | UsedKey:
    """T1. A lost COMMIT is answered by the same T1 with the same ids: either nothing happened, or the key is ours."""
    try:
        return await _record_once(gateway, entry)
    except CommitUnknown:
        try:
            recorded = await _record_once(gateway, entry)
        except Unavailable:
            if entry.payment.attempt:
                submission.take_back(gateway, entry.payment, entry.author)
            raise
    if isinstance(recorded, UsedKey) and _is_ours(recorded, entry.payment):
        # The lease may be nearly over by now: then the provider call is the worker's.
        elapsed = recorded.now - recorded.payment.created_at
        return _Recorded(recorded.payment, time.monotonic() - elapsed.total_seconds())
    return recorded


async def _record_once(gateway: Gateway, entry: _Entry) -> _Recorded | UsedKey:
    payment, use = entry.payment, entry.use
    began = time.monotonic()
    async with gateway.db.tenant_transaction(payment.tenant_id) as tx:
        created_at = await payments.insert_once(
            tx,
            payment,
            use,
            entry.event,
            entry.author,
            send_within=gateway.send_within,
            expires_after=gateway.expires_after,
            first_run_in=entry.first_run_in,
        )
        if created_at is None:
            used = await idempotency.get(tx, payment.tenant_id, payment.mode, use.key)
            if used is None:  # purged between the two statements
                raise Busy("This Idempotency-Key is being deleted.", retry_after_s=1)
            return used
        recorded = replace(
            payment,
            created_at=created_at,
            send_before=created_at + gateway.send_within,
            expires_at=created_at + gateway.expires_after,
            next_run_at=created_at + entry.first_run_in,
            sent_until=created_at + entry.first_run_in if payment.attempt else None,
        )
        if not payment.attempt:
            await idempotency.answer(tx, recorded, Answer(use.key, WAITING, gateway.render(recorded)))
    return _Recorded(recorded, began)


def _is_ours(used: UsedKey, payment: Payment) -> bool:
    stored = used.payment
    return stored.id == payment.id and stored.version == 1 and stored.lease_token == payment.lease_token


async def _used_key(gateway: Gateway, caller: Caller, use: KeyUse) -> UsedKey | None:
    async with gateway.db.tenant_transaction(caller.tenant_id) as tx:
        return await idempotency.get(tx, caller.tenant_id, caller.mode, use.key)


async def _replay_or(refusal: KobiriError, gateway: Gateway, caller: Caller, use: KeyUse) -> Reply:
    """What was answered once is answered again, whatever is closed by now."""
    used = await _used_key(gateway, caller, use)
    if used is None:
        raise refusal
    return _replay(gateway, used, use)


def _replay(gateway: Gateway, used: UsedKey, use: KeyUse) -> Reply:
    if (used.method, used.path, used.fingerprint) != (use.method, use.path, use.fingerprint):
        raise IdempotencyKeyReused("Use a new key for a new request; repeat a request without any change.")
    if used.status_code is not None and used.response_body is not None:
        return Reply(used.payment, used.status_code, used.response_body, replayed=True)
    payment = used.payment
    if _is_being_sent(payment, used.now):
        raise RequestInProgress("Repeat it in a moment: you will get its answer.", retry_after_s=1)
    return Reply(payment, DONE, gateway.render(payment), replayed=True)


def _is_being_sent(payment: Payment, now: datetime) -> bool:
    """Somebody holds the right to call the provider about a payment that nobody has heard of yet."""
    waits = payment.status is Status.PENDING and payment.accepted_at is None and payment.lease_token is not None
    return waits and payment.next_run_at is not None and payment.next_run_at > now


def _answer(gateway: Gateway, use: KeyUse, payment: Payment) -> Answer | None:
    """What the client is told about a payment that was just sent; None while its outcome is unknown."""
    if payment.status is Status.TIMEOUT:
        return None
    waiting = payment.status is Status.PENDING and payment.surely_unsent
    return Answer(use.key, WAITING if waiting else DONE, gateway.render(payment))
