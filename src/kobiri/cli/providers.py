"""kobiri providers: the operators' switches."""

from typing import Annotated

import typer

from kobiri.app import database, provider_ids
from kobiri.cli.output import ACTOR, Json, emit, run, table
from kobiri.config import Settings
from kobiri.services import switching
from kobiri.store.switches import Switch

app = typer.Typer(help="Providers: list, open, close.", no_args_is_help=True)

Provider = Annotated[str, typer.Argument(help="Such as mtn.")]
Reason = Annotated[str, typer.Option(help="Merchants see it.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """Show each provider, and whether an operator has closed it.

    Each process keeps its own circuits; how calls go now is told by GET /api/v1/providers and by circuit.opened in the
    log.

    Example: kobiri providers list
    """

    async def work(settings: Settings) -> list[Switch]:
        async with database(settings) as db:
            return await switching.list_all(db)

    turned = {switch.provider: switch for switch in run(json, work)}
    shown = [
        {
            "provider": provider,
            "open": turned[provider].is_open if provider in turned else True,
            "reason": turned[provider].reason if provider in turned else None,
            "changed_at": turned[provider].changed_at if provider in turned else None,
        }
        for provider in provider_ids()
    ]
    rows = [(row["provider"], "open" if row["open"] else "closed", row["reason"], row["changed_at"]) for row in shown]
    columns = ("PROVIDER", "STATE", "REASON", "SINCE")
    emit(json, {"providers": shown}, lambda console: table(console, columns, rows))


@app.command()
def close(provider: Provider, reason: Reason, json: Json = False) -> None:
    """Let no new payment go by this provider, within five seconds; running ones are followed.

    Example: kobiri providers close mtn --reason "MTN announced maintenance until 06:00"
    """
    _turn(provider, reason, json, is_open=False)


@app.command("open")
def open_(provider: Provider, reason: Reason, json: Json = False) -> None:
    """Let payments go by this provider again, and forget what went badly.

    Within five seconds every process closes its circuits for it: outages, refused credentials, wishes for rest. That
    holds for a provider that no operator had closed, too.

    Example: kobiri providers open mtn --reason "maintenance is over"
    """
    _turn(provider, reason, json, is_open=True)


def _turn(provider: str, reason: str, json: bool, *, is_open: bool) -> None:
    async def work(settings: Settings) -> None:
        async with database(settings) as db:
            await switching.turn(db, provider_ids(), provider, reason, ACTOR, is_open=is_open)

    run(json, work)
    word = "open" if is_open else "closed"
    emit(
        json,
        {"provider": provider, "open": is_open, "reason": reason},
        lambda console: console.print(f"{provider} is {word} for new payments."),
    )
