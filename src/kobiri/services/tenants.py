"""Tenants and their API keys: the operator's verbs. Each is written into the tenant's audit log."""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

from kobiri.domain import api_key
from kobiri.domain.api_key import ALPHABET, ID_LENGTH, SCOPES, SECRET_LENGTH, ApiKey
from kobiri.domain.errors import Conflict, NotFound, Unprocessable
from kobiri.domain.payment import Mode
from kobiri.store import events, tenants
from kobiri.store.db import Database, Tx
from kobiri.store.tenants import ListedKey, StoredKey, Tenant

SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a new key may do. `lasts` None: until it is revoked."""

    name: str
    mode: Mode
    scopes: tuple[str, ...] = SCOPES
    allowed_addresses: tuple[str, ...] = ()
    throttle_limit: int | None = None
    lasts: timedelta | None = None


async def create(db: Database, slug: str, name: str, throttle_limit: int | None, actor: str) -> Tenant:
    """Add a merchant. Raises Unprocessable (bad slug) or Conflict (slug taken)."""
    if not SLUG.fullmatch(slug) or not 2 <= len(slug) <= 48:
        raise Unprocessable(
            f"{slug!r}: use 2 to 48 lower-case letters, digits and single hyphens, such as kitwe-books."
        )
    if not 1 <= len(name) <= 200:
        raise Unprocessable("The name must have 1 to 200 characters.")
    async with db.operator_transaction() as tx:
        tenant = await tenants.create_tenant(tx, slug, name, throttle_limit)
        if tenant is None:
            raise Conflict(f"There is already a tenant {slug!r}.")
        await events.insert(tx, tenant.id, "tenant.created", tenant.id, actor, {"slug": slug})
    return tenant


async def list_all(db: Database) -> list[Tenant]:
    """All merchants, oldest first."""
    async with db.operator_transaction() as tx:
        return await tenants.list_tenants(tx)


async def suspend(db: Database, slug: str, actor: str) -> Tenant:
    """Refuse new payments; running ones finish. Raises NotFound."""
    return await _set_status(db, slug, "suspended", actor)


async def resume(db: Database, slug: str, actor: str) -> Tenant:
    """Take payments again. Raises NotFound."""
    return await _set_status(db, slug, "active", actor)


async def create_key(db: Database, pepper: bytes, slug: str, wanted: NewKey, actor: str) -> tuple[ApiKey, StoredKey]:
    """Give a merchant a key; this is the only time that its secret is there. Raises NotFound, Unprocessable."""
    unknown = sorted(set(wanted.scopes) - set(SCOPES))
    if unknown or not wanted.scopes:
        raise Unprocessable(f"Unknown scope {', '.join(unknown) or '(none)'}; there are {', '.join(SCOPES)}.")
    try:
        networks = tuple(ip_network(text) for text in wanted.allowed_addresses)
    except ValueError as error:
        raise Unprocessable(f"{error}: give addresses such as 192.0.2.7 or 192.0.2.0/24.") from None
    key = ApiKey(wanted.mode, _random(ID_LENGTH), _random(SECRET_LENGTH))
    stored = StoredKey(
        key_id=key.key_id,
        name=wanted.name,
        mode=wanted.mode,
        secret_hmac=api_key.secret_hmac(key, pepper),
        last4=key.text[-4:],
        scopes=wanted.scopes,
        allowed_addresses=networks,
        throttle_limit=wanted.throttle_limit,
        expires_at=datetime.now(UTC) + wanted.lasts if wanted.lasts else None,
    )
    async with db.operator_transaction() as tx:
        tenant = await _get(tx, slug)
        await tenants.insert_key(tx, tenant.id, stored)
        facts = {"mode": wanted.mode, "scopes": list(wanted.scopes)}
        await events.insert(tx, tenant.id, "api_key.created", key.key_id, actor, facts)
    return key, stored


async def list_keys(db: Database, slug: str) -> list[ListedKey]:
    """A merchant's keys, revoked ones included. Raises NotFound."""
    async with db.operator_transaction() as tx:
        tenant = await _get(tx, slug)
        return await tenants.list_keys(tx, tenant.id)


async def revoke_key(db: Database, key_id: str, actor: str) -> None:
    """Make a key worthless within five seconds. Raises NotFound."""
    async with db.operator_transaction() as tx:
        tenant_id = await tenants.revoke_key(tx, key_id)
        if tenant_id is None:
            raise NotFound(f"There is no key {key_id!r}.")
        await events.insert(tx, tenant_id, "api_key.revoked", key_id, actor, {})


async def _set_status(db: Database, slug: str, status: str, actor: str) -> Tenant:
    async with db.operator_transaction() as tx:
        tenant = await _get(tx, slug)
        if tenant.status != status:
            await tenants.set_status(tx, tenant.id, status)
            type_ = "tenant.suspended" if status == "suspended" else "tenant.resumed"
            await events.insert(tx, tenant.id, type_, tenant.id, actor, {})
        return await _get(tx, slug)


async def _get(tx: Tx, slug: str) -> Tenant:
    tenant = await tenants.get_tenant(tx, slug)
    if tenant is None:
        raise NotFound(f"There is no tenant {slug!r}; kobiri tenants list shows all.")
    return tenant


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
