"""The merchants' own provider accounts: stored sealed, checked by a real call, shown never."""

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias
from urllib.parse import urlsplit

import msgspec
import structlog

from kobiri.domain import envelope
from kobiri.domain.address import is_loopback
from kobiri.domain.credential import wrong_with_signing_secret
from kobiri.domain.envelope import CannotOpen, MasterKeys
from kobiri.domain.errors import Conflict, NotFound, Unprocessable
from kobiri.domain.ids import AccountId, TenantId, new_id
from kobiri.domain.money import Money
from kobiri.domain.payment import Mode
from kobiri.domain.reason import require
from kobiri.providers.base import Checked, Provider, ProviderSpec, kinds_of, refused_mode
from kobiri.store import accounts, events, tenants
from kobiri.store.accounts import StoredAccount
from kobiri.store.db import Database, Tx

log = structlog.get_logger(__name__)

CHECK_WITHIN_S = 15.0
REWRAPPED_AT_ONCE = 100
PRIORITY = 100
TOKEN_BYTES = 24
MAX_VALUE, MAX_NAME = 8_192, 100


@dataclass(frozen=True, slots=True)
class TenantAccount:
    """A merchant's account with its credentials open. Nothing secret shows. Amounts are minor units."""

    id: AccountId
    tenant_id: TenantId
    provider: str
    mode: Mode
    name: str
    base_url: str
    currency: str
    min_minor: int | None
    max_minor: int | None
    priority: int
    version: int
    values: Mapping[str, str] = field(repr=False)
    callback_token: str = field(repr=False)
    webhook_secrets: tuple[str, ...] = field(repr=False)
    disabled_reason: str | None = None


Make: TypeAlias = Callable[[TenantAccount], Provider | None]


class _Sealed(msgspec.Struct):
    """What is secret of an account."""

    values: dict[str, str]
    callback_token: str
    webhook_secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """An account as its owner describes it. What is None stays as it was, or is taken from the provider.

    The limits are major units of the account's currency, such as "5.00"; "" takes a limit away.
    """

    provider: str
    mode: Mode
    name: str
    values: Mapping[str, str] = field(repr=False)
    base_url: str | None = None
    currency: str | None = None
    minimum: str | None = None
    maximum: str | None = None
    priority: int | None = None
    webhook_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A merchant's accounts, the first to be tried first, disabled ones too.

    `unopened`: the modes of enabled ones that do not open. Money that was meant for those must go nowhere else.
    """

    accounts: list[TenantAccount]
    unopened: frozenset[Mode] = frozenset()


async def load(db: Database, keys: MasterKeys | None, tenant_id: TenantId) -> Loaded:
    """A merchant's accounts, their credentials open."""
    async with db.tenant_transaction(tenant_id) as tx:
        stored = await accounts.list_of(tx, tenant_id)
    found, unopened = [], set[Mode]()
    for account in stored:
        try:
            found.append(_open(keys, account))
        except CannotOpen as error:
            log.warning("account.unreadable", account_id=account.id, tenant_id=tenant_id, reason=str(error))
            if account.enabled:
                unopened.add(account.mode)
    return Loaded(found, frozenset(unopened))


async def list_all(db: Database, slug: str) -> list[StoredAccount]:
    """What may be shown of a merchant's accounts. Raises NotFound."""
    async with db.operator_transaction() as tx:
        return await accounts.list_of(tx, await _tenant_id(tx, slug))


async def save(
    db: Database,
    keys: MasterKeys | None,
    specs: Mapping[str, ProviderSpec],
    make: Make,
    slug: str,
    wish: Wish,
    actor: str,
    *,
    unchecked_because: str | None = None,
) -> TenantAccount:
    """Store an account, in place of the merchant's account of this name and mode where there is one.

    The provider is asked first whether it takes these credentials; `unchecked_because` leaves that out.
    Raises NotFound, Unprocessable (what is wrong with it), InvalidAmount, Conflict (somebody else was first).
    """
    spec = specs.get(wish.provider)
    if spec is None:
        raise NotFound(f"There is no provider {wish.provider!r}; there are {', '.join(specs)}.")
    if keys is None:
        raise Unprocessable("Credentials are stored sealed: set KOBIRI_MASTER_KEYS first (see .env.example).")
    _check_wish(spec, wish)
    async with db.operator_transaction() as tx:
        tenant_id = await _tenant_id(tx, slug)
        before = await accounts.find(tx, tenant_id, wish.mode, wish.name)
    if before is not None and before.provider != wish.provider:
        raise Conflict(f"{wish.name!r} is an account at {before.provider}: give the new one another name.")
    opened = _opened(keys, before) if before else None
    wished = _account(spec, wish, tenant_id, opened)
    if (contradiction := refused_mode(spec, wished.base_url, wished.mode)) is not None:
        raise Unprocessable(f"{contradiction} Give another --mode or --base-url.")
    account = await _checked(make, wished, wish, unchecked_because)
    stored = _seal(keys, account)
    async with db.operator_transaction() as tx:
        written = await (accounts.replace(tx, stored) if before else accounts.insert(tx, stored))
        if not written:
            raise Conflict("Somebody else has changed this account meanwhile: look again.")
        facts = {"provider": account.provider, "mode": account.mode, "name": account.name, "version": account.version}
        if unchecked_because is not None:
            facts["unchecked_because"] = unchecked_because
        type_ = "account.replaced" if before else "account.created"
        await events.insert(tx, tenant_id, type_, account.id, actor, facts)
    return account


async def check(db: Database, keys: MasterKeys | None, make: Make, slug: str, mode: Mode, name: str) -> Checked:
    """Ask the provider whether it takes a stored account. Raises NotFound, Unprocessable."""
    async with db.operator_transaction() as tx:
        stored = await _get(tx, await _tenant_id(tx, slug), mode, name)
    try:
        provider = make(_open(keys, stored))
    except CannotOpen as error:
        raise Unprocessable(str(error)) from None
    return Checked("some of its fields are missing") if provider is None else await ask(provider)


async def ask(provider: Provider) -> Checked:
    """Ask a provider whether it takes its account, whoever's that is, and close it."""
    try:
        checked = await provider.check(within_s=max(CHECK_WITHIN_S, provider.account.deadline_s))
    finally:
        await provider.close()
    account = provider.account
    facts = {
        "provider": provider.spec.id,
        "base_url": account.base_url,
        "mode": ", ".join(sorted(account.modes)) or "none: real money moves at this address",
        "kinds": ", ".join(sorted(kinds_of(provider.spec, account))),
        "waits": f"the client {account.answer_within_s:g} s, the provider gets {account.deadline_s:g} s",
        **checked.facts,
    }
    return replace(checked, facts=facts)


async def turn(db: Database, slug: str, mode: Mode, name: str, reason: str, actor: str, *, enabled: bool) -> None:
    """Enable or disable an account for new payments; running ones are followed. Raises NotFound, Unprocessable."""
    require(reason, "the merchant sees it")
    async with db.operator_transaction() as tx:
        tenant_id = await _tenant_id(tx, slug)
        stored = await _get(tx, tenant_id, mode, name)
        await accounts.set_enabled(tx, stored, None if enabled else reason)
        type_ = "account.enabled" if enabled else "account.disabled"
        await events.insert(tx, tenant_id, type_, stored.id, actor, {"name": name, "reason": reason})


async def rotate(db: Database, keys: MasterKeys | None, actor: str) -> int:
    """Wrap every data key by the first master key; how many were not yet. Safe to repeat and to interrupt.

    One that no key here opens keeps none of the others from it; raises Unprocessable at the end, then.
    """
    if keys is None:
        raise Unprocessable("Set KOBIRI_MASTER_KEYS first: the new key in front, the old one behind it.")
    count, left, after = 0, list[str](), None
    while True:
        async with db.operator_transaction() as tx:
            batch = await accounts.wrapped_otherwise(tx, keys.first, after, REWRAPPED_AT_ONCE)
            for stored in batch:
                try:
                    wrapped = envelope.rewrap(keys, stored.envelope, _belongs_to(stored), os.urandom)
                except CannotOpen as error:
                    left.append(f"account {stored.id} ({stored.name}): {error}")
                    continue
                await accounts.rewrap(tx, stored, wrapped)
                await events.insert(tx, stored.tenant_id, "account.rotated", stored.id, actor, {"key": keys.first})
                count += 1
        if len(batch) < REWRAPPED_AT_ONCE:
            break
        after = batch[-1].id
    if left:
        raise Unprocessable(f"{count} accounts have the new key; {len(left)} do not open, first {left[0]}")
    return count


def token_hash(token: str) -> bytes:
    """Under which an account is found by the path of a callback."""
    return hashlib.sha256(token.encode()).digest()


def _check_wish(spec: ProviderSpec, wish: Wish) -> None:
    fields = {known.name: known for known in spec.fields}
    unknown = sorted(set(wish.values) - set(fields))
    if unknown:
        raise Unprocessable(f"{spec.name} has no field {unknown[0][:40]!r}; there are {', '.join(fields)}.")
    for name, known in fields.items():
        given = wish.values.get(name)
        if given is None and known.default is None and not known.optional:
            raise Unprocessable(f"{spec.name} needs the field {name} ({known.label}).")
        if given is not None and known.choices and given not in known.choices:
            raise Unprocessable(f"{name} must be one of {', '.join(known.choices)}.")
        if given is not None and not 1 <= len(given) <= MAX_VALUE:
            raise Unprocessable(f"{name} must have 1 to {MAX_VALUE} characters.")
        if given is not None and (wrong := known.wrong(given)) is not None:
            raise Unprocessable(f"{name} {wrong}.")
    if wish.webhook_secret and (wrong := wrong_with_signing_secret(wish.webhook_secret)) is not None:
        raise Unprocessable(f"webhook_secret {wrong}.")
    if not 1 <= len(wish.name) <= MAX_NAME or not wish.name.isprintable():
        raise Unprocessable(f"The name must have 1 to {MAX_NAME} printable characters.")
    if wish.base_url is not None and not _is_safe_address(wish.base_url):
        raise Unprocessable("The base URL must be https, such as https://api.example.com, without a query.")


def _is_safe_address(url: str) -> bool:
    """Credentials travel encrypted; on this very machine (a simulator) they need not."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    plain = parts.scheme == "http" and is_loopback(host)
    # A password would be shown by every list; urlsplit takes line breaks out without a word.
    bare = bool(host) and port != 0 and url.isascii() and url.isprintable() and not set(url) & set("@?#% \\")
    return bare and len(url) <= 2048 and (parts.scheme == "https" or plain)


def _account(spec: ProviderSpec, wish: Wish, tenant_id: TenantId, before: TenantAccount | None) -> TenantAccount:
    old_secrets = before.webhook_secrets[:1] if before else ()
    new_secrets = (wish.webhook_secret,) if wish.webhook_secret else ()
    return TenantAccount(
        id=before.id if before else AccountId(new_id()),
        tenant_id=tenant_id,
        provider=spec.id,
        mode=wish.mode,
        name=wish.name,
        base_url=wish.base_url or (before.base_url if before else spec.base_url),
        currency=before.currency if before else "",
        min_minor=before.min_minor if before else None,
        max_minor=before.max_minor if before else None,
        priority=wish.priority if wish.priority is not None else before.priority if before else PRIORITY,
        version=before.version + 1 if before else 1,
        values=dict(wish.values),
        callback_token=before.callback_token if before else secrets.token_urlsafe(TOKEN_BYTES),
        # The one before stays good while the provider's side is changed.
        webhook_secrets=tuple(dict.fromkeys((*new_secrets, *old_secrets))),
    )


async def _checked(make: Make, account: TenantAccount, wish: Wish, unchecked_because: str | None) -> TenantAccount:
    """The account with its currency and limits, once the provider has taken its credentials."""
    provider = make(account)
    assert provider is not None, "its fields are complete"
    try:
        currencies = sorted(provider.currencies)
        currency = wish.currency or account.currency or currencies[0]
        if currency not in currencies:
            raise Unprocessable(f"This account takes {', '.join(currencies)}, not {currency[:8]}.")
        account = _within_limits(replace(account, currency=currency), wish, account.currency)
        if unchecked_because is None:
            checked = await provider.check(within_s=max(CHECK_WITHIN_S, provider.account.deadline_s))
            if checked.trouble is not None:
                why = checked.trouble.rstrip(".")
                raise Unprocessable(f"{provider.spec.name} does not take this account: {why}. Nothing was stored.")
    finally:
        await provider.close()
    return account


def _within_limits(account: TenantAccount, wish: Wish, currency_before: str) -> TenantAccount:
    """The account with its limits in minor units of its own currency. Raises InvalidAmount, Unprocessable."""

    def limit(text: str | None, before: int | None) -> int | None:
        if text is not None:
            return Money.parse(text, account.currency).minor if text else None
        if before is not None and account.currency != currency_before:
            raise Unprocessable("The limits are in another currency: give both anew.")
        return before

    least, most = limit(wish.minimum, account.min_minor), limit(wish.maximum, account.max_minor)
    if least is not None and most is not None and least > most:
        raise Unprocessable("The smallest amount is larger than the largest.")
    return replace(account, min_minor=least, max_minor=most)


def _belongs_to(account: TenantAccount | StoredAccount) -> tuple[str, ...]:
    """Where a secret is at home. Its destination is a part of it: an edited row cannot send it elsewhere."""
    return (account.tenant_id, account.provider, account.id, str(account.version), account.mode, account.base_url)


def _seal(keys: MasterKeys, account: TenantAccount) -> StoredAccount:
    secret = _Sealed(dict(account.values), account.callback_token, account.webhook_secrets)
    return StoredAccount(
        id=account.id,
        tenant_id=account.tenant_id,
        provider=account.provider,
        mode=account.mode,
        name=account.name,
        base_url=account.base_url,
        currency=account.currency,
        min_minor=account.min_minor,
        max_minor=account.max_minor,
        priority=account.priority,
        version=account.version,
        envelope=envelope.seal(keys, msgspec.json.encode(secret), _belongs_to(account), os.urandom),
        callback_token_hash=token_hash(account.callback_token),
    )


def _open(keys: MasterKeys | None, stored: StoredAccount) -> TenantAccount:
    if keys is None:
        raise CannotOpen("KOBIRI_MASTER_KEYS is not set.")
    opened = envelope.open_(keys, stored.envelope, _belongs_to(stored))
    try:
        secret = msgspec.json.decode(opened, type=_Sealed)
    except msgspec.DecodeError:
        raise CannotOpen("What was sealed is not what this version seals.") from None
    return TenantAccount(
        id=stored.id,
        tenant_id=stored.tenant_id,
        provider=stored.provider,
        mode=stored.mode,
        name=stored.name,
        base_url=stored.base_url,
        currency=stored.currency,
        min_minor=stored.min_minor,
        max_minor=stored.max_minor,
        priority=stored.priority,
        version=stored.version,
        values=secret.values,
        callback_token=secret.callback_token,
        webhook_secrets=secret.webhook_secrets,
        disabled_reason=stored.disabled_reason,
    )


def _opened(keys: MasterKeys, stored: StoredAccount) -> TenantAccount:
    """The account that shall be replaced: what it keeps (its callback path, its webhook secret) must be readable."""
    try:
        return _open(keys, stored)
    except CannotOpen as error:
        raise Unprocessable(
            f"{stored.name!r} does not open, so nothing of it can be kept: {error} Bring that key back, or disable"
            " the account and store the new one under another name."
        ) from None


async def _tenant_id(tx: Tx, slug: str) -> TenantId:
    tenant = await tenants.get_tenant(tx, slug)
    if tenant is None:
        raise NotFound(f"There is no tenant {slug!r}; kobiri tenants list shows all.")
    return tenant.id


async def _get(tx: Tx, tenant_id: TenantId, mode: Mode, name: str) -> StoredAccount:
    stored = await accounts.find(tx, tenant_id, mode, name)
    if stored is None:
        raise NotFound(f"There is no {mode} account {name!r}; kobiri accounts list shows all.")
    return stored
