"""kobiri tenants: the merchants."""

from typing import Annotated

import typer
from rich.console import Console

from kobiri.app import database
from kobiri.cli.output import ACTOR, Json, emit, run, table
from kobiri.config import Settings
from kobiri.services import tenants
from kobiri.store.tenants import Tenant

app = typer.Typer(help="Merchants: create, list, suspend, resume.", no_args_is_help=True)

Slug = Annotated[str, typer.Argument(help="The merchant's short name, such as kitwe-books.")]


@app.command()
def create(
    slug: Slug,
    name: Annotated[str | None, typer.Option(help="The full name; the slug when left out.")] = None,
    throttle_limit: Annotated[
        int | None, typer.Option(min=1, help="Requests in one THROTTLE_TTL, in place of THROTTLE_LIMIT.")
    ] = None,
    json: Json = False,
) -> None:
    """Add a merchant.

    Example: kobiri tenants create kitwe-books --name "Kitwe Books Ltd"
    """

    async def work(settings: Settings) -> Tenant:
        async with database(settings) as db:
            return await tenants.create(db, slug, name or slug, throttle_limit, ACTOR)

    tenant = run(json, work)
    emit(json, tenant, lambda console: _created(console, tenant))


@app.command("list")
def list_(json: Json = False) -> None:
    """Show all merchants, oldest first.

    Example: kobiri tenants list --json
    """

    async def work(settings: Settings) -> list[Tenant]:
        async with database(settings) as db:
            return await tenants.list_all(db)

    found = run(json, work)
    rows = [(t.slug, t.name, t.status, t.throttle_limit, t.created_at, t.id) for t in found]
    columns = ("SLUG", "NAME", "STATUS", "THROTTLE", "CREATED", "ID")
    emit(json, {"tenants": found}, lambda console: table(console, columns, rows))


@app.command()
def suspend(slug: Slug, json: Json = False) -> None:
    """Refuse new payments of a merchant within five seconds; running ones finish, reading goes on.

    Example: kobiri tenants suspend kitwe-books
    """

    async def work(settings: Settings) -> Tenant:
        async with database(settings) as db:
            return await tenants.suspend(db, slug, ACTOR)

    tenant = run(json, work)
    emit(json, tenant, lambda console: console.print(f"{tenant.slug} is suspended."))


@app.command()
def resume(slug: Slug, json: Json = False) -> None:
    """Take a suspended merchant's payments again.

    Example: kobiri tenants resume kitwe-books
    """

    async def work(settings: Settings) -> Tenant:
        async with database(settings) as db:
            return await tenants.resume(db, slug, ACTOR)

    tenant = run(json, work)
    emit(json, tenant, lambda console: console.print(f"{tenant.slug} is active."))


def _created(console: Console, tenant: Tenant) -> None:
    console.print(f"Tenant {tenant.slug} is there (id {tenant.id}).")
    console.print(f"Next: kobiri keys create {tenant.slug}")
