"""Rows of `provider_switches`: what an operator switched off, for the whole installation."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from kobiri.store.db import PLATFORM, Tx


@dataclass(frozen=True, slots=True)
class Switch:
    provider: str
    is_open: bool
    reason: str
    changed_at: datetime


async def closed(tx: Tx) -> Mapping[str, str]:
    """The providers that are switched off, each with its reason. Needs a gate transaction."""
    return {row["provider"]: row["reason"] for row in await tx.fetch("SELECT provider, reason FROM closed_providers()")}


async def opened(tx: Tx) -> Mapping[str, datetime]:
    """The providers that an operator opened, and when last. Needs a gate transaction."""
    return {
        row["provider"]: row["changed_at"]
        for row in await tx.fetch("SELECT provider, changed_at FROM opened_providers()")
    }


async def list_all(tx: Tx) -> list[Switch]:
    """Every switch that was ever moved. Needs an operator's transaction."""
    rows = await tx.fetch(
        "SELECT provider, is_open, reason, changed_at FROM provider_switches WHERE tenant_id = $1 ORDER BY provider",
        PLATFORM,
    )
    return [Switch(row["provider"], row["is_open"], row["reason"], row["changed_at"]) for row in rows]


async def turn(tx: Tx, provider: str, reason: str, *, is_open: bool) -> None:
    """Switch a provider on or off. Needs an operator's transaction."""
    await tx.execute(
        """
        INSERT INTO provider_switches (tenant_id, provider, is_open, reason) VALUES ($1, $2, $3, $4)
        ON CONFLICT (tenant_id, provider)
        DO UPDATE SET is_open = excluded.is_open, reason = excluded.reason, changed_at = now()
        """,
        PLATFORM,
        provider,
        is_open,
        reason,
    )
