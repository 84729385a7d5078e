"""Receive a provider's callback: verify, match, keep, and apply it or look soon."""

import time
from dataclasses import replace

import structlog

from kobiri.domain.errors import NotFound, Unauthenticated, Unavailable, Unprocessable
from kobiri.domain.ids import PaymentId, TenantId, made_by_us, parse_id
from kobiri.domain.ledger import Arrival, Why
from kobiri.domain.msisdn import may_be
from kobiri.domain.outcome import Accepted, Declined, Source, Succeeded, Unknown
from kobiri.domain.payment import Mode, Payment, says_otherwise
from kobiri.domain.signature import is_genuine
from kobiri.providers.base import Authenticity, Callback, CallbackWord, Foreign, Provider, Unreadable
from kobiri.services import outcomes, suspense
from kobiri.services.access import Caller
from kobiri.services.accounts import token_hash
from kobiri.services.gateway import Gateway
from kobiri.services.roads import Road
from kobiri.store import accounts, attempts, callbacks, payments
from kobiri.store.arrivals import TransactionTaken
from kobiri.store.callbacks import Health, Verdict
from kobiri.store.db import PLATFORM
from kobiri.store.payments import Author, Match, Read

log = structlog.get_logger(__name__)

KEPT_HEADERS = (
    "content-type", "user-agent", "x-reference-id", "x-signature-256", "content-digest", "signature-date",
    "signature-input", "signature",
)  # fmt: skip
REFUSED_KEPT_EVERY_S = 1.0


class NotUnderstood(Unprocessable):
    """A genuine callback that cannot be read: the provider may post it again, and a newer reader may understand it."""


OUR_TROUBLE = (Unavailable, NotUnderstood)  # no fault of whoever calls back


class Refusals:
    """Counts what is refused and keeps a sample of it, one a second: strangers can fill no disk and no database."""

    def __init__(self) -> None:
        self._uncounted = 0
        self._kept_at = float("-inf")

    def take(self) -> int:
        """How many refusals the next stored sample stands for; 0: do not store this one."""
        self._uncounted += 1
        now = time.monotonic()
        if now - self._kept_at < REFUSED_KEPT_EVERY_S:
            return 0
        self._kept_at = now
        count, self._uncounted = self._uncounted, 0
        return count


async def receive(
    gateway: Gateway,
    refusals: Refusals,
    provider_id: str,
    token: str | None,
    callback: Callback,
    author: Author,
) -> bool:
    """Take one callback, by the platform's path or (with a token) by that of a merchant's own account.

    When this returns, what is genuine is stored and the provider may be told 200.

    False: nobody signed it and no payment of ours is meant, so it may be a stranger's.

    Raises NotFound (no such provider here), Unauthenticated (not signed as it must be), NotUnderstood (genuine, and
    cannot be read), Unprocessable (no callback).
    """
    received = await _receiver(gateway, provider_id, token)
    if received is None:
        raise NotFound("There is no such provider here.")
    road, owner = received
    provider = road.provider
    authenticity = await _authenticity(provider, callback)
    if authenticity is Authenticity.FORGED:
        await _keep_stray(gateway, refusals, provider, callback, "refused", owner)
        raise Unauthenticated("The signature is not right.")
    signed = authenticity is Authenticity.GENUINE
    word = await _understood(gateway, refusals, provider, callback, owner, signed=signed)
    if word is None:
        return True
    match = await _match(gateway, road, word)
    if signed:  # what a stranger, or a merchant, can write is no news of the provider's
        road.unlisted.note(word.finding)
    if match is None:
        await _unmatched(gateway, refusals, road, callback, word, author, owner, signed=signed)
        return signed
    tenant_id, payment_id = match.tenant_id, match.payment_id
    read = await _read(gateway, match)
    earlier = match.earlier or word.reference != read.payment.provider_reference  # it may be left by now
    clear = word.money is not None and word.payer is not None and not isinstance(word.finding, Unknown)
    believed = signed and clear and (not earlier or isinstance(word.finding, Succeeded))
    log.info("callback.received", provider=provider_id, tenant_id=tenant_id, payment_id=payment_id, believed=believed)
    # What it says is done first: who dies between the two, and is told nothing again, has lost no word then.
    try:
        if earlier:
            await _take_of_earlier_road(gateway, road, read, word, author, signed=signed)
        elif believed and _is_about(word, read.payment):
            if says_otherwise(read.payment, word.finding):
                await outcomes.look_soon(gateway.db, read.payment)
            after = await outcomes.apply(gateway.db, read.payment, word.finding, Source.CALLBACK, read.now, author)
            if not after.is_final:
                await outcomes.look_soon(gateway.db, after)
        else:
            await _take_hint(gateway, read, word, author, signed=signed)
    finally:
        verdict: Verdict = "applied" if believed else "hint"
        await _keep(gateway, provider, callback, verdict, tenant_id, payment_id, strays=not signed)
    return True


async def _take_hint(gateway: Gateway, read: Read, word: CallbackWord, author: Author, *, signed: bool) -> None:
    """Ask soon about what a callback alone does not settle, and keep what it proves all the same."""
    if not read.payment.is_final or says_otherwise(read.payment, word.finding):
        await outcomes.look_soon(gateway.db, read.payment)
    if signed and _goes_its_way(word, read.payment):  # whatever it says, its provider knows the reference
        said = word.finding if _is_about(word, read.payment) else Accepted()
        await outcomes.take_hint(gateway.db, read.payment, said, read.now, author)


async def _take_of_earlier_road(
    gateway: Gateway, road: Road, read: Read, word: CallbackWord, author: Author, *, signed: bool
) -> None:
    """Nothing was sent there, as far as we saw: ask. Where the provider knows it all the same, a person must look.

    Its enquiry may lag or say the contrary, so the person need not wait for that. A failure moved no money.
    """
    payment = read.payment
    known = signed and _goes_its_way(word, payment)
    async with gateway.db.tenant_transaction(payment.tenant_id) as tx:
        await attempts.hint(tx, payment.tenant_id, word.reference, known=known)
        account = await attempts.account_of(tx, payment.tenant_id, word.reference)
    if not known or isinstance(word.finding, Declined):
        return
    said = word.finding if isinstance(word.finding, Succeeded) else Accepted()
    if isinstance(said, Succeeded) and word.direction is None:  # nobody knows which way its money went
        said = replace(said, money=None, payer=None)
    await outcomes.suspect(
        gateway.db,
        payment,
        word.reference,
        road.spec.id,
        account,
        said,
        Source.CALLBACK,
        author,
    )


async def _understood(
    gateway: Gateway, refusals: Refusals, provider: Provider, callback: Callback, owner: TenantId, *, signed: bool
) -> CallbackWord | None:
    """What a callback says; None: it is genuine, and about an id that is none of ours.

    Raises NotUnderstood (genuine, and cannot be read), Unprocessable (a stranger's, as far as anybody knows).
    """
    try:
        return provider.read_callback(callback)
    except Unreadable as error:
        if not signed:
            await _keep_stray(gateway, refusals, provider, callback, "refused", owner)
            raise Unprocessable(f"{error}") from None
        await _keep(gateway, provider, callback, "unmatched", owner, None)
        if not isinstance(error, Foreign):
            log.warning("callback.not_understood", provider=provider.spec.id, why=f"{error}")
            raise NotUnderstood(f"{error}") from None
        log.warning("callback.unmatched", provider=provider.spec.id, signed=signed)
        return None


async def _unmatched(
    gateway: Gateway,
    refusals: Refusals,
    road: Road,
    callback: Callback,
    word: CallbackWord,
    author: Author,
    owner: TenantId,
    *,
    signed: bool,
) -> None:
    """A stranger learns nothing from the answer; a provider may post what a restored backup has lost."""
    if signed:
        await _keep(gateway, road.provider, callback, "unmatched", owner, None)
        await _book_unasked(gateway, road, word, author)
    else:
        await _keep_stray(gateway, refusals, road.provider, callback, "unmatched", owner)
    log.warning("callback.unmatched", provider=road.spec.id, signed=signed)


async def _receiver(gateway: Gateway, provider_id: str, token: str | None) -> tuple[Road, TenantId] | None:
    """Whose account it is that a callback came to, and whose what cannot be matched there."""
    if token is None:
        road = gateway.roads.receiver(provider_id)
        return None if road is None else (road, PLATFORM)
    async with gateway.db.gate_transaction() as tx:
        match = await accounts.match(tx, token_hash(token))
    if match is None:
        return None
    tenant_id, account_id = match
    road = await gateway.roads.of_account(tenant_id, provider_id, account_id)
    return None if road is None else (road, tenant_id)


async def _authenticity(provider: Provider, callback: Callback) -> Authenticity:
    """By X-Signature-256 where the account has a secret for it, else by what the provider itself signs."""
    secrets = provider.account.webhook_secrets
    if not secrets:
        return await provider.verify(callback)
    genuine = is_genuine(callback.values("x-signature-256"), callback.body, secrets)
    return Authenticity.GENUINE if genuine else Authenticity.FORGED


async def health(gateway: Gateway, caller: Caller, provider_id: str) -> tuple[Provider, Health]:
    """How the caller's callbacks from this provider arrive. Raises NotFound."""
    road = gateway.roads.receiver(provider_id)
    if road is None:
        raise NotFound("There is no such provider here.")
    async with gateway.db.tenant_transaction(caller.tenant_id) as tx:
        return road.provider, await callbacks.health(tx, caller.tenant_id, caller.mode, provider_id)


async def _match(gateway: Gateway, road: Road, word: CallbackWord) -> Match | None:
    """The payment that is meant, if it went by this very account: another's path proves nothing."""
    if parse_id(word.reference) is None:
        return None
    async with gateway.db.gate_transaction() as tx:
        match = await payments.match_callback(tx, road.spec.id, word.reference)
    return match if match is not None and match.account_id == road.account_id else None


async def _book_unasked(gateway: Gateway, road: Road, word: CallbackWord, author: Author) -> None:
    """Money under a reference of ours of which there is no payment, as after a backup was restored.

    What a merchant's own account holds is not the platform's, and another account's payment is a payment.
    """
    reference = made_by_us(word.reference)
    said = word.finding
    if reference is None or road.account_id is not None or not isinstance(said, Succeeded) or word.money is None:
        return
    if word.direction != "in":  # money that went out did not arrive, and who does not tell tells of no arrival
        return
    async with gateway.db.gate_transaction() as tx:
        if await payments.match_callback(tx, road.spec.id, reference) is not None:
            return
    account = road.provider.fingerprint_of("collection")
    arrival = Arrival(
        road.spec.id,
        account,
        word.money,
        Why.UNASKED,
        Source.CALLBACK,
        said.provider_transaction_id,
        "the unmatched callbacks",
    )
    try:
        mode: Mode = "live" if "live" in road.account.modes else "test"
        await suspense.book_unasked(gateway.db, PLATFORM, mode, reference, arrival, author)
    except TransactionTaken:
        log.warning("callback.transaction_of_a_payment", provider=road.spec.id)


async def _read(gateway: Gateway, match: Match) -> Read:
    async with gateway.db.tenant_transaction(match.tenant_id) as tx:
        read = await payments.get(tx, match.tenant_id, match.payment_id)
    assert read is not None, "it was matched, and payments are never deleted"
    return read


def _is_about(word: CallbackWord, payment: Payment) -> bool:
    """Whether what is said may be applied.

    A success that is not ours is quarantined by the state machine; a failure that is not ours says nothing.
    """
    is_anothers = word.money not in (None, payment.money) or (
        word.payer is not None and not may_be(word.payer, payment.payer.digits)
    )
    return _goes_its_way(word, payment) and not (is_anothers and isinstance(word.finding, Declined))


def _goes_its_way(word: CallbackWord, payment: Payment) -> bool:
    """A word about money that goes the other way says nothing of the payment."""
    return word.direction in (None, "in" if payment.kind == "collection" else "out")


async def _keep(
    gateway: Gateway,
    provider: Provider,
    callback: Callback,
    verdict: Verdict,
    tenant_id: TenantId,
    payment_id: PaymentId | None,
    strays: int = 0,
) -> None:
    headers = {name: ", ".join(callback.values(name))[:500] for name in KEPT_HEADERS if callback.values(name)}
    headers[":method"] = callback.method  # POST or PUT: what an operator uses is disputed
    async with gateway.db.tenant_transaction(tenant_id) as tx:
        await callbacks.keep(
            tx, tenant_id, provider.spec.id, verdict, payment_id, headers, callback.body, strays=strays
        )


async def _keep_stray(
    gateway: Gateway, refusals: Refusals, provider: Provider, callback: Callback, verdict: Verdict, owner: TenantId
) -> None:
    strays = refusals.take()
    if strays:
        await _keep(gateway, provider, callback, verdict, owner, None, strays)
