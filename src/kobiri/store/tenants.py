"""Rows of `tenants` and `api_keys`."""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from kobiri.domain.ids import TenantId, new_id
from kobiri.domain.payment import Mode
from kobiri.store.db import PLATFORM, Record, Tx, UniqueViolation

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Tenant:
    id: TenantId
    slug: str
    name: str
    status: str
    throttle_limit: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key as it is stored: its secret is there as an HMAC alone."""

    key_id: str
    name: str
    mode: Mode
    secret_hmac: bytes
    last4: str
    scopes: tuple[str, ...]
    allowed_addresses: tuple[Network, ...]
    throttle_limit: int | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class ListedKey:
    """What may be shown of an API key."""

    key_id: str
    name: str
    mode: Mode
    last4: str
    scopes: tuple[str, ...]
    allowed_addresses: tuple[str, ...]
    throttle_limit: int | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """What the API must know of a key to let its bearer in."""

    tenant_id: TenantId
    slug: str
    tenant_status: str
    tenant_throttle_limit: int | None
    mode: Mode
    secret_hmac: bytes
    scopes: frozenset[str]
    allowed_addresses: tuple[Network, ...]
    throttle_limit: int | None
    expires_at: datetime | None
    revoked_at: datetime | None


async def find_key(tx: Tx, key_id: str) -> KeyOwner | None:
    """Whose key this is. Needs a gate transaction."""
    row = await tx.fetchrow(
        "SELECT tenant_id, slug, tenant_status, tenant_throttle_limit, mode, secret_hmac, scopes, allowed_addresses,"
        " throttle_limit, expires_at, revoked_at FROM authenticate_key($1)",
        key_id,
    )
    if row is None:
        return None
    return KeyOwner(
        tenant_id=TenantId(str(row["tenant_id"])),
        slug=row["slug"],
        tenant_status=row["tenant_status"],
        tenant_throttle_limit=row["tenant_throttle_limit"],
        mode=row["mode"],
        secret_hmac=row["secret_hmac"],
        scopes=frozenset(row["scopes"]),
        allowed_addresses=tuple(row["allowed_addresses"]),
        throttle_limit=row["throttle_limit"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )


async def note_key_use(tx: Tx, key_ids: list[str]) -> None:
    """Remember that these keys were used. Needs a gate transaction."""
    await tx.execute("SELECT note_key_use($1)", key_ids)


# What follows is the operator's: it needs an operator's transaction.


TENANT = "id, slug, name, status, throttle_limit, created_at"


async def create_tenant(tx: Tx, slug: str, name: str, throttle_limit: int | None) -> Tenant | None:
    """Insert a tenant; None when the slug is taken."""
    try:
        row = await tx.fetchrow(
            f"INSERT INTO tenants (id, slug, name, throttle_limit) VALUES ($1, $2, $3, $4) RETURNING {TENANT}",  # noqa: S608
            new_id(),
            slug,
            name,
            throttle_limit,
        )
    except UniqueViolation:
        return None
    assert row is not None
    return _tenant(row)


async def get_tenant(tx: Tx, slug: str) -> Tenant | None:
    """A merchant by its slug; the platform is none."""
    row = await tx.fetchrow(f"SELECT {TENANT} FROM tenants WHERE slug = $1 AND id <> $2", slug, PLATFORM)  # noqa: S608
    return _tenant(row) if row else None


async def list_tenants(tx: Tx) -> list[Tenant]:
    """All merchants, oldest first."""
    rows = await tx.fetch(f"SELECT {TENANT} FROM tenants WHERE id <> $1 ORDER BY id", PLATFORM)  # noqa: S608
    return [_tenant(row) for row in rows]


async def set_status(tx: Tx, tenant_id: TenantId, status: str) -> None:
    """Suspend (`suspended`) or resume (`active`) a merchant."""
    await tx.execute("UPDATE tenants SET status = $2 WHERE id = $1", tenant_id, status)


async def insert_key(tx: Tx, tenant_id: TenantId, key: StoredKey) -> None:
    """Add an API key to a merchant."""
    await tx.execute(
        "INSERT INTO api_keys (tenant_id, key_id, name, mode, secret_hmac, last4, scopes, allowed_addresses,"
        " throttle_limit, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        tenant_id,
        key.key_id,
        key.name,
        key.mode,
        key.secret_hmac,
        key.last4,
        list(key.scopes),
        list(key.allowed_addresses),
        key.throttle_limit,
        key.expires_at,
    )


async def list_keys(tx: Tx, tenant_id: TenantId) -> list[ListedKey]:
    """A merchant's keys, oldest first, revoked ones included."""
    rows = await tx.fetch(
        "SELECT key_id, name, mode, last4, scopes, allowed_addresses, throttle_limit, expires_at, revoked_at,"
        " last_used_at, created_at FROM api_keys WHERE tenant_id = $1 ORDER BY created_at, key_id",
        tenant_id,
    )
    return [
        ListedKey(
            key_id=row["key_id"],
            name=row["name"],
            mode=row["mode"],
            last4=row["last4"],
            scopes=tuple(row["scopes"]),
            allowed_addresses=tuple(str(network) for network in row["allowed_addresses"]),
            throttle_limit=row["throttle_limit"],
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
            last_used_at=row["last_used_at"],
            created_at=row["created_at"],
        )
        for row in rows
    ]


async def revoke_key(tx: Tx, key_id: str) -> TenantId | None:
    """Revoke a key now; its merchant, or None when there is no such key. Revoking twice keeps the first time."""
    found = await tx.fetchval(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 RETURNING tenant_id", key_id
    )
    return TenantId(str(found)) if found else None


def _tenant(row: Record) -> Tenant:
    return Tenant(
        id=TenantId(str(row["id"])),
        slug=row["slug"],
        name=row["name"],
        status=row["status"],
        throttle_limit=row["throttle_limit"],
        created_at=row["created_at"],
    )
