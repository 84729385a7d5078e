"""kobiri ledger: money that arrived and is nobody's yet."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from kobiri.app import database
from kobiri.cli.output import ACTOR, Json, emit, run, table
from kobiri.config import Settings
from kobiri.services import suspense as services
from kobiri.services.suspense import Entry
from kobiri.store.arrivals import StoredArrival

app = typer.Typer(help="The ledger: suspense, clear.", no_args_is_help=True)

HOUR_S, DAY_S = 3_600, 86_400


class Clearing(StrEnum):
    returned = "returned"
    merchant = "merchant"


@app.callback()
def _group() -> None:
    """The ledger."""


@app.command()
def suspense(limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100, json: Json = False) -> None:
    """Show the money that arrived and is nobody's yet, oldest first, and what each amount waits for.

    late: its payment had been told as failed. mismatched: another amount or payer. twice: its payment was paid already.
    earlier_road: by a road on which nothing was sent. unasked: under a reference of ours of no payment here. MODE test:
    a sandbox's money, which nobody has.

    Example: kobiri ledger suspense --json
    """

    async def work(settings: Settings) -> list[Entry]:
        async with database(settings) as db:
            return await services.waiting(db, limit)

    found = run(json, work)
    emit(json, {"suspense": [_facts(one) for one in found]}, lambda console: _tell(console, found))


@app.command()
def clear(
    arrival_id: Annotated[str, typer.Argument(help="The id of the money, as kobiri ledger suspense shows it.")],
    as_: Annotated[
        Clearing,
        typer.Option("--as", help="returned: it went back, or never was ours. merchant: the merchant keeps it."),
    ],
    reason: Annotated[str, typer.Option(help="It stands in the audit log.")],
    json: Json = False,
) -> None:
    """Book what became of money in suspense. It moves no money: pay it back first.

    Example: kobiri ledger clear 019b76da-8c3c-7f20-8000-0a1b2c3d4e5f --as returned --reason "paid back, MTN 4711"
    """

    async def work(settings: Settings) -> StoredArrival:
        async with database(settings) as db:
            return await services.clear(db, arrival_id, as_.value, reason, ACTOR)

    found = run(json, work)
    money = f"{found.arrival.money} {found.arrival.money.currency}"
    document = {"id": found.id, "cleared_as": as_.value, "amount": str(found.arrival.money)}
    emit(json, document, lambda console: console.print(f"{money}: cleared as {as_.value}.", highlight=False))


def _facts(one: Entry) -> dict[str, object]:
    return {
        "id": one.id,
        "booked": one.booked,
        "why": one.why,
        "tenant": one.tenant,
        "mode": one.mode,
        "payment_id": one.payment_id,
        "status": one.status,
        "provider": one.provider,
        "provider_reference": one.provider_reference,
        "amount": str(one.money),
        "currency": one.money.currency,
        "transaction_id": one.transaction_id,
        "other_transaction_id": one.other_id,
        "evidence": one.evidence,
        "since": one.since,
        "age_seconds": one.age_s,
        "next_step": one.next_step,
    }


def _tell(console: Console, found: list[Entry]) -> None:
    columns = (
        "AGE", "WHY", "MODE", "TENANT", "PAYMENT", "PROVIDER", "AMOUNT", "THEIR ID", "BOOKED", "EVIDENCE", "NEXT STEP"
    )  # fmt: skip
    rows = [
        (_age(one.age_s), one.why, one.mode, one.tenant, one.payment_id, one.provider,
         f"{one.money} {one.money.currency}", " / ".join(filter(None, (one.transaction_id, one.other_id))),
         "yes" if one.booked else "no", one.evidence, one.next_step)
        for one in found
    ]  # fmt: skip
    table(console, columns, rows)


def _age(seconds: int) -> str:
    return f"{seconds // DAY_S} d" if seconds >= DAY_S else f"{seconds // HOUR_S} h {seconds % HOUR_S // 60} min"
