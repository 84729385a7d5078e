"""Rows of `provider_accounts`. What is secret in them is sealed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from kobiri.domain.envelope import Envelope
from kobiri.domain.ids import AccountId, TenantId
from kobiri.domain.payment import Mode
from kobiri.store.db import Record, Tx, UniqueViolation


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """One account, its credentials sealed. Amounts are minor units of `currency`."""

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
    envelope: Envelope
    callback_token_hash: bytes
    enabled: bool = True
    disabled_reason: str | None = None
    updated_at: datetime | None = None


COLUMNS = """
    id, tenant_id, provider, mode, name, base_url, currency, min_minor, max_minor, priority, version, master_key_id,
    wrapped_key, sealed, callback_token_hash, enabled, disabled_reason, updated_at
"""

LIST_OF = f"SELECT {COLUMNS} FROM provider_accounts WHERE tenant_id = $1 ORDER BY priority, created_at, id"  # noqa: S608

FIND = f"SELECT {COLUMNS} FROM provider_accounts WHERE tenant_id = $1 AND mode = $2 AND name = $3"  # noqa: S608

WRAPPED_OTHERWISE = f"""
SELECT {COLUMNS} FROM provider_accounts WHERE master_key_id <> $1 AND ($2::uuid IS NULL OR id > $2)
ORDER BY id LIMIT $3 FOR UPDATE
"""  # noqa: S608


async def list_of(tx: Tx, tenant_id: TenantId) -> list[StoredAccount]:
    """A tenant's accounts, the first to be tried first."""
    return [_account(row) for row in await tx.fetch(LIST_OF, tenant_id)]


async def match(tx: Tx, token_hash: bytes) -> tuple[TenantId, AccountId] | None:
    """Whose account a callback's path names. Needs a gate transaction."""
    row = await tx.fetchrow("SELECT tenant_id, account_id FROM match_account($1)", token_hash)
    return (TenantId(str(row["tenant_id"])), AccountId(str(row["account_id"]))) if row else None


# --- the operator's: these need an operator's transaction ---


async def find(tx: Tx, tenant_id: TenantId, mode: Mode, name: str) -> StoredAccount | None:
    """An account by its name, which is unique in tenant and mode."""
    row = await tx.fetchrow(FIND, tenant_id, mode, name)
    return _account(row) if row else None


async def insert(tx: Tx, account: StoredAccount) -> bool:
    """Add an account. False: there is one of this name."""
    try:
        await tx.execute(
            """
            INSERT INTO provider_accounts (tenant_id, id, provider, mode, name, base_url, currency, min_minor,
                max_minor, priority, version, master_key_id, wrapped_key, sealed, callback_token_hash)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
            """,
            *_values(account),
        )
    except UniqueViolation:
        return False
    return True


async def replace(tx: Tx, account: StoredAccount) -> bool:
    """Write `account` in place of its earlier version. False: somebody else was first."""
    return bool(
        await tx.fetchval(
            """
            UPDATE provider_accounts
            SET provider = $3, mode = $4, name = $5, base_url = $6, currency = $7, min_minor = $8, max_minor = $9,
                priority = $10, version = $11, master_key_id = $12, wrapped_key = $13, sealed = $14,
                callback_token_hash = $15, updated_at = now()
            WHERE tenant_id = $1 AND id = $2 AND version = $11 - 1 RETURNING true
            """,
            *_values(account),
        )
    )


async def set_enabled(tx: Tx, account: StoredAccount, disabled_reason: str | None) -> None:
    """Disable an account for new payments, with a reason, or (None) enable it."""
    await tx.execute(
        "UPDATE provider_accounts SET enabled = $3::text IS NULL, disabled_reason = $3, updated_at = now()"
        " WHERE tenant_id = $1 AND id = $2",
        account.tenant_id,
        account.id,
        disabled_reason,
    )


async def wrapped_otherwise(tx: Tx, key_id: str, after: AccountId | None, limit: int) -> list[StoredAccount]:
    """Accounts whose data key is not wrapped by this master key, of any tenant, by id; they are locked."""
    return [_account(row) for row in await tx.fetch(WRAPPED_OTHERWISE, key_id, after, limit)]


async def rewrap(tx: Tx, account: StoredAccount, envelope: Envelope) -> None:
    """Keep the data key under another master key; nothing else of the account changes."""
    await tx.execute(
        "UPDATE provider_accounts SET master_key_id = $3, wrapped_key = $4 WHERE tenant_id = $1 AND id = $2",
        account.tenant_id,
        account.id,
        envelope.key_id,
        envelope.wrapped_key,
    )


def _values(account: StoredAccount) -> Sequence[object]:
    return (
        account.tenant_id,
        account.id,
        account.provider,
        account.mode,
        account.name,
        account.base_url,
        account.currency,
        account.min_minor,
        account.max_minor,
        account.priority,
        account.version,
        account.envelope.key_id,
        account.envelope.wrapped_key,
        account.envelope.sealed,
        account.callback_token_hash,
    )


def _account(row: Record) -> StoredAccount:
    return StoredAccount(
        id=AccountId(str(row["id"])),
        tenant_id=TenantId(str(row["tenant_id"])),
        provider=row["provider"],
        mode=row["mode"],
        name=row["name"],
        base_url=row["base_url"],
        currency=row["currency"],
        min_minor=row["min_minor"],
        max_minor=row["max_minor"],
        priority=row["priority"],
        version=row["version"],
        envelope=Envelope(row["master_key_id"], row["wrapped_key"], row["sealed"]),
        callback_token_hash=row["callback_token_hash"],
        enabled=row["enabled"],
        disabled_reason=row["disabled_reason"],
        updated_at=row["updated_at"],
    )
