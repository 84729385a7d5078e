"""kobiri events: the audit log."""

from typing import Annotated

import typer
from rich.console import Console

from kobiri.app import database
from kobiri.cli.output import Json, emit, fail, run, table
from kobiri.config import Settings
from kobiri.services import housekeeping
from kobiri.services.housekeeping import Verdict

app = typer.Typer(help="The audit log: verify.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The audit log."""


@app.command()
def verify(
    tenant: Annotated[str | None, typer.Option(help="One merchant alone.")] = None,
    head: Annotated[str | None, typer.Option(help="A hash kept elsewhere that must still be in the chain.")] = None,
    json: Json = False,
) -> None:
    """Prove that nobody changed the audit log, or name the first broken link (exit code 1).

    Example: kobiri events verify --tenant kitwe-books --head 9f86d081884c7d65…
    """
    if head is not None and (len(head) != 64 or not set(head) <= set("0123456789abcdef")):
        fail(json, "bad_head", "--head: expected the 64 hexadecimal digits that an earlier verify printed.")
    if head is not None and tenant is None:
        fail(json, "bad_head", "--head needs --tenant: each merchant has a chain of its own.")

    async def work(settings: Settings) -> list[Verdict]:
        async with database(settings) as db:
            return await housekeeping.verify_events(db, tenant, head)

    verdicts = run(json, work)
    intact = not any(verdict.broken for verdict in verdicts)
    emit(json, {"intact": intact, "chains": verdicts}, lambda console: _tell(console, verdicts))
    if not intact:
        raise typer.Exit(1)


def _tell(console: Console, verdicts: list[Verdict]) -> None:
    rows = [(verdict.tenant, verdict.links, verdict.broken or "intact", verdict.head) for verdict in verdicts]
    table(console, ("TENANT", "LINKS", "VERDICT", "HEAD"), rows)
