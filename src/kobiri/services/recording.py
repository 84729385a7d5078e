"""Real exchanges with a provider, told without secrets and numbers, for its folder's `recordings/`.

Money moves as it does for every merchant: `payments.create` sends it, `reviews.check` asks about it. This only listens.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol, TypeAlias

from kobiri import net
from kobiri.domain.errors import Busy, DatabaseUnavailable, KobiriError, NotFound, Unprocessable
from kobiri.domain.ids import AccountId, PaymentId, ProviderReference, new_id
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Declined, Finding, Outcome, Succeeded
from kobiri.domain.outcome import NotFound as NotKnown
from kobiri.domain.payment import Kind, Mode, Payment
from kobiri.domain.redaction import Redactor
from kobiri.providers.base import (
    Account,
    Authenticity,
    Callback,
    CallbackWord,
    Checked,
    Field,
    Payout,
    Provider,
    ProviderSpec,
    Request,
    Unreadable,
    kind_of,
    secrets_of,
)
from kobiri.services import payments, reviews
from kobiri.services.access import Caller
from kobiri.services.gateway import Gateway
from kobiri.services.payments import Order
from kobiri.services.roads import Road
from kobiri.services.unlisted import OTHERS, code_of
from kobiri.store import accounts, tenants
from kobiri.store.callbacks import KeptCallback
from kobiri.store.db import Database
from kobiri.store.payments import Author, KeyUse
from kobiri.store.tenants import Tenant

CHECK_WITHIN_S = 15.0
ASK_EVERY_S = 3.0
CALLBACK_WITHIN_S = 10.0
STOP_WITHIN_S = 5.0
DESCRIPTION = "Trial payment"
MIN_IDENTITY = 6  # a value that is no secret and still tells whose account it is; shorter ones are words such as ZMW

# Why an exchange is in no file.
TELLING = "it would have shown a secret or an identity of the account, or what is spelt like one"
UNREADABLE = "a callback that cannot be read"

Operation: TypeAlias = Literal["token", "send", "find", "callback"]


@dataclass(frozen=True, slots=True)
class Recording:
    """One exchange as its file tells it. `label`: words for the file's name."""

    label: str
    document: dict[str, Any]

    @property
    def text(self) -> str:
        return json.dumps(self.document, indent=2, ensure_ascii=False) + "\n"


class Listener(Protocol):
    """Who is told of a recording while it goes on. None of it may raise: a payment is followed all the same."""

    def keep(self, recording: Recording) -> None:
        """Here is one."""

    def hold_back(self, why: str) -> None:
        """There was an exchange of which nothing is told."""

    def hear_new(self, code: str) -> None:
        """Here stood a code that no table lists. Its recording keeps the known words of it alone."""

    def may_exist(self, payment_id: PaymentId | None) -> None:
        """A payment with this id may be there from now on; None: it is not, and will not be."""

    def see(self, payment: Payment) -> None:
        """How the payment stands now."""

    def say(self, line: str) -> None:
        """Something for a person who waits."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One call of the adapter: what it asked, what went over the wire for it, and what it made of that."""

    operation: Literal["token", "send", "find"]
    kind: Kind
    about: Request | ProviderReference | None = field(repr=False)
    exchanges: Sequence[net.Exchange]
    said: Outcome | Finding | Checked


class Recorder:
    """A provider that is listened to. It changes nothing of what its adapter does."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.steps: list[_Step] = []

    @property
    def spec(self) -> ProviderSpec:
        return self._provider.spec

    @property
    def account(self) -> Account:
        return self._provider.account

    @property
    def currencies(self) -> frozenset[str]:
        return self._provider.currencies

    @property
    def countries(self) -> frozenset[str] | None:
        return self._provider.countries

    def fingerprint_of(self, kind: Kind) -> str:
        return self._provider.fingerprint_of(kind)

    async def send(self, request: Request, *, within_s: float, first_byte_before: float | None) -> Outcome:
        with net.overheard() as heard:
            said = await self._provider.send(request, within_s=within_s, first_byte_before=first_byte_before)
        self.steps.append(_Step("send", kind_of(request), request, heard, said))
        return said

    async def find(self, kind: Kind, reference: ProviderReference, *, within_s: float) -> Finding:
        with net.overheard() as heard:
            said = await self._provider.find(kind, reference, within_s=within_s)
        self.steps.append(_Step("find", kind, reference, heard, said))
        return said

    async def check(self, kind: Kind | None = None, *, within_s: float) -> Checked:
        with net.overheard() as heard:
            said = await self._provider.check(kind, within_s=within_s)
        self.steps.append(_Step("token", kind or "collection", None, heard, said))
        return said

    async def verify(self, callback: Callback) -> Authenticity:
        return await self._provider.verify(callback)

    def read_callback(self, callback: Callback) -> CallbackWord:
        return self._provider.read_callback(callback)

    async def close(self) -> None:
        await self._provider.close()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The account that is recorded. `tenant` None: the platform's, and no payment."""

    tenant: Tenant | None
    provider: str
    account_id: AccountId | None


async def choose(db: Database, slug: str | None, mode: Mode, name: str | None, platform: str | None) -> Chosen:
    """Find a merchant's own account by its name, or the platform's at a provider. Raises NotFound."""
    async with db.operator_transaction() as tx:
        tenant = await tenants.get_tenant(tx, slug) if slug else None
        if slug and tenant is None:
            raise NotFound(f"There is no tenant {slug!r}; kobiri tenants list shows all.")
        if platform is not None:
            return Chosen(tenant, platform, None)
        stored = await accounts.find(tx, tenant.id, mode, name or "") if tenant else None
    if tenant is None or stored is None:
        raise NotFound(f"There is no {mode} account {name!r}; kobiri accounts list shows all.")
    return Chosen(tenant, stored.provider, stored.id)


async def check(gateway: Gateway, chosen: Chosen, listener: Listener) -> str | None:
    """Record the account's check, which moves nothing. None: it is taken; else why not. Raises Unprocessable."""
    road = await _road(gateway, chosen)
    checked = await road.provider.check(within_s=max(CHECK_WITHIN_S, road.account.deadline_s))
    _Notebook(road, listener).write()
    return checked.trouble


async def currency(gateway: Gateway, chosen: Chosen) -> str:
    """The account's currency. Raises Unprocessable."""
    return min((await _road(gateway, chosen)).provider.currencies)


async def collect(
    gateway: Gateway,
    chosen: Chosen,
    order: Order,
    mode: Mode,
    listener: Listener,
    *,
    wait_s: float,
    actor: str,
) -> Payment:
    """Record a collection: an ordinary payment of this merchant by this account, followed until it is final.

    It goes by this account, now, or not at all: then it is FAILED, and nobody was asked for money.

    The payment as it stands then, or after `wait_s` seconds. A process that ends in the middle leaves it as any other
    would: the worker asks about it. Raises what `payments.create` raises, and NotFound, Unprocessable.
    """
    road = await _road(gateway, chosen)
    tenant = chosen.tenant
    if tenant is None:
        raise Unprocessable("A payment is a merchant's: name one.")
    notebook = _Notebook(road, listener)
    # Its time to be sent is over at once, for whoever sent it later would choose the road anew.
    gateway = replace(gateway, send_within=timedelta(0))
    key = f"accounts-record-{new_id()}"
    use = KeyUse(key, "POST", "kobiri accounts record", hashlib.sha256(key.encode()).digest(), gateway.key_life)
    order = replace(order, id=PaymentId(new_id()))
    listener.may_exist(order.id)
    try:
        reply = await payments.create(gateway, _caller(tenant, mode), order, use, Author(actor), respond_async=False)
        listener.see(reply.payment)
        listener.say(_told(reply.payment))
        while gateway.calls.running:  # noqa: ASYNC110  # a provider that cannot be asked answers when the payer has
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:  # somebody has enough: what is open ends as it does in any process that stops
        await gateway.calls.drain(STOP_WITHIN_S)
        if order.id is not None:
            with suppress(KobiriError):  # NotFound too: a commit may still be on its way
                listener.see((await reviews.evidence(gateway.db, order.id)).payment)
        raise
    except KobiriError as refusal:
        if not isinstance(refusal, DatabaseUnavailable | Busy):  # it was refused before anything was written
            listener.may_exist(None)
        raise
    finally:
        notebook.write()
    if reply.payment.surely_unsent:
        return reply.payment  # nobody was told of it, so there is nothing to ask about
    return await _follow(gateway, road, reply.payment, notebook, listener, wait_s=wait_s, actor=actor)


async def again(
    gateway: Gateway, payment_id: PaymentId, chosen: Chosen | None, listener: Listener, *, actor: str
) -> Payment:
    """Record one question about a payment, and the callbacks that came for it. Raises NotFound, Unprocessable.

    `chosen`: the account by which it must have gone.
    """
    evidence = await reviews.evidence(gateway.db, payment_id)
    payment = evidence.payment
    if chosen is not None and not _went_by(chosen, payment):
        raise Unprocessable("This payment did not go by this account.")
    road = await gateway.roads.of_payment(payment)
    if road is None:
        raise Unprocessable("The provider account of this payment is gone.")
    notebook = _Notebook(road, listener)
    notebook.about(payment)
    listener.see(payment)
    after, _ = await reviews.check(gateway, payment_id, actor)
    notebook.write()
    notebook.write_callbacks(evidence.callbacks)
    return after


def _went_by(chosen: Chosen, payment: Payment) -> bool:
    theirs = chosen.tenant is None or chosen.tenant.id == payment.tenant_id
    return theirs and (chosen.provider, chosen.account_id) == (payment.provider, payment.account_id)


async def _follow(
    gateway: Gateway,
    road: Road,
    payment: Payment,
    notebook: "_Notebook",
    listener: Listener,
    *,
    wait_s: float,
    actor: str,
) -> Payment:
    loop = asyncio.get_running_loop()
    notebook.about(payment)
    until, said = loop.time() + wait_s, ""
    askable = road.operation(payment.kind).status_query != "none"
    while askable and loop.time() < until:
        await asyncio.sleep(ASK_EVERY_S)
        payment, finding = await reviews.check(gateway, payment.id, actor)
        listener.see(payment)
        notebook.write()
        if (word := type(finding).__name__) != said:
            listener.say(f"{road.spec.name} says: {word}. The payment is {payment.status}.")
            said = word
        if payment.is_final and isinstance(finding, Succeeded | Declined | NotKnown):
            break
    until = loop.time() + (CALLBACK_WITHIN_S if road.account.callback_url and payment.is_final else 0.0)
    evidence = await reviews.evidence(gateway.db, payment.id)
    if loop.time() < until and not evidence.callbacks:
        listener.say("Waiting for a callback.")
    while not evidence.callbacks and loop.time() < until:
        await asyncio.sleep(1.0)
        evidence = await reviews.evidence(gateway.db, payment.id)
    notebook.write_callbacks(evidence.callbacks)
    return evidence.payment


def state(payment: Payment) -> str:
    """How a payment stands, in one sentence."""
    if payment.is_final:
        code = f" ({payment.failure_code})" if payment.failure_code else ""
        return f"Payment {payment.id} is {payment.status}{code}."
    if payment.surely_unsent:
        return f"Payment {payment.id}: nothing was sent, and nothing will be. The worker ends it as FAILED."
    return f"Payment {payment.id} is {payment.status}; the worker follows it."


def _told(payment: Payment) -> str:
    on_its_way = not payment.is_final and not payment.surely_unsent
    ringing = f"Payment {payment.id} is on its way. Approve or decline it on the phone."
    return ringing if on_its_way else state(payment)


async def _road(gateway: Gateway, chosen: Chosen) -> Road:
    if chosen.tenant is None:
        road = gateway.roads.receiver(chosen.provider)
    else:
        road = await gateway.roads.of_account(chosen.tenant.id, chosen.provider, chosen.account_id)
    if road is None:
        raise Unprocessable(
            "The platform has no account at this provider: set its variables."
            if chosen.account_id is None
            else "This account does not open: is its key in KOBIRI_MASTER_KEYS?"
        )
    return road


def _caller(tenant: Tenant, mode: Mode) -> Caller:
    return Caller(
        tenant_id=tenant.id,
        slug=tenant.slug,
        mode=mode,
        scopes=frozenset(),
        key_id="",
        suspended=tenant.status != "active",
        tenant_throttle_limit=None,
        key_throttle_limit=None,
    )


class _Notebook:
    """Writes down what a recorder has heard, redacted; equal exchanges once."""

    def __init__(self, road: Road, listener: Listener) -> None:
        assert isinstance(road.provider, Recorder), "the gateway was made with recorders"
        self._recorder = road.provider
        self._listener = listener
        self._written: set[str] = set()
        self._seen = 0
        self._reference: ProviderReference | None = None
        self._kind: Kind = "collection"
        self._redactor = self._new_redactor((), {}, ())

    def about(self, payment: Payment) -> None:
        """From now on it is about this payment, unless it was already."""
        self._kind = payment.kind
        self._about(payment.provider_reference, payment.payer, payment.money)

    def write(self) -> None:
        """Write down what was heard since."""
        steps = self._recorder.steps[self._seen :]
        self._seen += len(steps)
        for step in steps:
            if step.operation == "send" and step.about is not None and not isinstance(step.about, str):
                wallet = step.about.payee if isinstance(step.about, Payout) else step.about.payer
                self._about(step.about.reference, wallet, step.about.money)
            if step.operation == "find" and step.about != self._reference:
                continue  # a road asks about nobody's payment, to learn whether it is open again
            for exchange in step.exchanges:
                self._write_exchange(step, exchange)

    def write_callbacks(self, posted: Sequence[KeptCallback]) -> None:
        for kept in posted:
            if kept.provider != self._recorder.spec.id:
                continue
            body = self._redactor.body(kept.body)
            try:
                word = self._recorder.read_callback(Callback("POST", "", "/", [], kept.body))
            except Unreadable:
                word = None
            if word is None or "body" not in body:
                self._listener.hold_back(UNREADABLE)
                continue
            heads = kept.headers
            request = {
                "method": heads.get(":method", "POST"),
                "path": "/",
                "headers": self._redactor.answered_headers({"Content-Type": heads.get("content-type", "")}),
                **body,
            }
            self._write("callback", self._kind, request, None, self._means(word.finding))

    def _about(self, reference: ProviderReference, wallet: Msisdn, money: Money) -> None:
        if reference != self._reference:
            self._reference = reference
            self._redactor = self._new_redactor((wallet,), {reference: "{reference}"}, (money,))

    def _new_redactor(
        self, wallets: Sequence[Msisdn], references: dict[ProviderReference, str], amounts: Sequence[Money]
    ) -> Redactor:
        return Redactor(
            secrets=_secrets(self._recorder),
            wallets=wallets,
            references=references,
            amounts=amounts,
            words={self._recorder.spec.id, *self._recorder.spec.networks},
        )

    def _write_exchange(self, step: _Step, exchange: net.Exchange) -> None:
        account, redactor = self._recorder.account, self._redactor
        if exchange.answer is None:
            self._listener.hold_back(f"no whole answer came: {exchange.lost}")
            return
        url = exchange.url.removeprefix(account.base_url.rstrip("/"))
        request: dict[str, Any] = {
            "method": exchange.method,
            "path": redactor.path(url if url.startswith("/") else "/"),
            "headers": redactor.sent_headers(exchange.headers, but=account.callback_url),
        }
        sent = redactor.body(exchange.body or b"", ours=True)
        if "body" in sent:
            request["body"] = sent["body"]
        answer = {
            "status": exchange.answer.status,
            "headers": redactor.answered_headers(exchange.answer.headers),
            **redactor.body(exchange.answer.body),
        }
        operation = _operation(step, exchange)
        last = exchange is step.exchanges[-1]
        means: dict[str, Any] = {}
        if operation == "token":
            refused = isinstance(step.said, Checked) and step.said.trouble is not None
            if exchange.answer.status < 400 and not refused:
                means = {"outcome": "Taken"}
            elif refused and last:
                means = {"outcome": "Refused"}
        elif last and not isinstance(step.said, Checked):
            means = self._means(step.said)
        self._write(operation, step.kind, request, answer, means)

    def _means(self, said: Outcome | Finding) -> dict[str, Any]:
        """What the adapter made of it, as far as a replay makes the same of what is left."""
        told: dict[str, Any] = {"outcome": type(said).__name__}
        for name in ("outage", "askable", "firm"):
            if hasattr(said, name):
                told[name] = getattr(said, name)
        if (unlisted := getattr(said, "unlisted", None)) is not None:
            told["unlisted"] = self._redactor.text("code", unlisted)
        if (code := code_of(said)) is not None:
            self._listener.hear_new(code if self._redactor.is_harmless(code) else OTHERS)
        match said:
            case Succeeded():
                their_id = said.provider_transaction_id
                told["provider_transaction_id"] = None if their_id is None else self._redactor.text("id", their_id)
            case Declined():
                told["code"] = said.code.value
                if said.provider_code is not None:
                    told["provider_code"] = self._redactor.text("code", said.provider_code)
            case _:
                pass
        return told

    def _write(
        self,
        operation: Operation,
        kind: Kind,
        request: dict[str, Any],
        answer: dict[str, Any] | None,
        means: dict[str, Any],
    ) -> None:
        spec, account = self._recorder.spec, self._recorder.account
        status = f"-{answer['status']}" if answer else ""
        values = {
            one.name: account.values[one.name]
            for one in spec.fields
            if _is_setting(one) and account.values.get(one.name, "").replace("-", "").isalnum()
        }
        document: dict[str, Any] = {
            "name": _title(operation, kind, answer),
            "source": f"{spec.name}, heard by kobiri accounts record on {datetime.now(UTC):%Y-%m-%d}",
            "sure": "O",
            "operation": operation,
            "kind": kind,
            "values": values,
            "request": request,
            **({"answer": answer} if answer else {}),
            "means": means,
        }
        what = operation if operation == "token" else f"{kind}-{operation}"
        recording = Recording(f"{spec.id}-{what}{status}", document)
        same = json.dumps([operation, kind, request, answer], sort_keys=True)
        if same in self._written:
            return
        self._written.add(same)
        if self._redactor.leaks(recording.text):
            self._listener.hold_back(TELLING)
        else:
            self._listener.keep(recording)


def _operation(step: _Step, exchange: net.Exchange) -> Operation:
    """What an exchange was: of a step that moves money the one that may, of a question the last one."""
    if step.operation == "send":
        return "send" if exchange.once else "token"
    return "find" if step.operation == "find" and exchange is step.exchanges[-1] else "token"


def _title(operation: Operation, kind: Kind, answer: dict[str, Any] | None) -> str:
    what = {"token": "Token or key", "send": f"The {kind}, asked for", "find": f"The {kind}, asked about"}
    return f"{what[operation]}: HTTP {answer['status']}" if answer else f"A callback about the {kind}"


def _is_setting(one: Field) -> bool:
    """Whether a field says how an account works, and not whose it is."""
    return not one.secret and (one.default is not None or bool(one.choices))


def _secrets(provider: Provider) -> list[str]:
    """All that is secret of an account, or tells whose it is."""
    account = provider.account
    found = [secret.decode(errors="replace") for secret in account.webhook_secrets]
    found += secrets_of(provider.spec, account)
    found += [
        value
        for one in provider.spec.fields
        if not _is_setting(one) and len(value := account.values.get(one.name, "")) >= MIN_IDENTITY
    ]
    if account.callback_url is not None:
        found.append(account.callback_url)
        token = account.callback_url.rpartition("/")[2]
        found += [token] if token != provider.spec.id else []  # the platform's path ends in no secret
    return [secret for secret in found if secret]
