"""An operator's switch of each provider, for the whole installation. Roads see it within five seconds.

Opening, even what is open, clears what each process holds against the provider: circuits, rests, refusals.
"""

from collections.abc import Collection

from kobiri.domain.errors import NotFound
from kobiri.domain.reason import require
from kobiri.store import events, switches
from kobiri.store.db import PLATFORM, Database
from kobiri.store.switches import Switch


async def list_all(db: Database) -> list[Switch]:
    """Every switch that was ever moved."""
    async with db.operator_transaction() as tx:
        return await switches.list_all(tx)


async def turn(db: Database, known: Collection[str], provider: str, reason: str, actor: str, *, is_open: bool) -> None:
    """Open or close a provider for new payments; running ones are followed. Raises NotFound, Unprocessable."""
    if provider not in known:
        raise NotFound(f"There is no provider {provider!r}; there are {', '.join(known)}.")
    require(reason, "merchants see it")
    async with db.operator_transaction() as tx:
        await switches.turn(tx, provider, reason, is_open=is_open)
        type_ = "provider.opened" if is_open else "provider.closed"
        await events.insert(tx, PLATFORM, type_, provider, actor, {"reason": reason})
