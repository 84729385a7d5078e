"""kobiri keys: the merchants' API keys."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from kobiri.app import database, pepper
from kobiri.cli.output import ACTOR, Json, emit, run, table
from kobiri.config import Settings
from kobiri.domain.api_key import SCOPES, ApiKey
from kobiri.services import tenants
from kobiri.services.tenants import NewKey
from kobiri.store.tenants import ListedKey, StoredKey

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)

Slug = Annotated[str, typer.Argument(help="The merchant's short name.")]


class Mode(StrEnum):
    live = "live"
    test = "test"


@app.command()
def create(
    slug: Slug,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "default",
    mode: Annotated[Mode, typer.Option(help="live moves real money; test goes to sandbox accounts alone.")] = Mode.live,
    scope: Annotated[
        list[str] | None, typer.Option(help=f"Repeat for more; all by default: {', '.join(SCOPES)}.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Address or network that may use it; repeat for more.")
    ] = None,
    expires_in_days: Annotated[int | None, typer.Option(min=1, max=3650, help="Never by default.")] = None,
    throttle_limit: Annotated[
        int | None, typer.Option(min=1, help="Requests in one THROTTLE_TTL, for this key.")
    ] = None,
    json: Json = False,
) -> None:
    """Make an API key and show it, this once.

    Example: kobiri keys create kitwe-books --name "web shop" --allow 192.0.2.7
    """
    wanted = NewKey(
        name=name,
        mode=mode.value,
        scopes=tuple(scope) if scope else SCOPES,
        allowed_addresses=tuple(allow or ()),
        throttle_limit=throttle_limit,
        lasts=timedelta(days=expires_in_days) if expires_in_days else None,
    )

    async def work(settings: Settings) -> tuple[ApiKey, StoredKey]:
        async with database(settings) as db:
            return await tenants.create_key(db, pepper(settings), slug, wanted, ACTOR)

    key, stored = run(json, work)
    document = {
        "key_id": stored.key_id,
        "api_key": key.text,
        "tenant": slug,
        "name": stored.name,
        "mode": stored.mode,
        "scopes": stored.scopes,
        "expires_at": stored.expires_at,
    }
    emit(json, document, lambda console: _created(console, key))


@app.command("list")
def list_(slug: Slug, json: Json = False) -> None:
    """Show a merchant's keys, revoked ones included; secrets are kept nowhere.

    Example: kobiri keys list kitwe-books
    """

    async def work(settings: Settings) -> list[ListedKey]:
        async with database(settings) as db:
            return await tenants.list_keys(db, slug)

    found = run(json, work)
    rows = [(k.key_id, k.name, k.mode, k.scopes, k.last_used_at, k.expires_at, k.revoked_at) for k in found]
    columns = ("KEY ID", "NAME", "MODE", "SCOPES", "LAST USED", "EXPIRES", "REVOKED")
    emit(json, {"keys": found}, lambda console: table(console, columns, rows))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The twelve letters after kob_live_ or kob_test_.")], json: Json = False
) -> None:
    """Make a key worthless within five seconds.

    Example: kobiri keys revoke 4fTq0ZbW81Lx
    """

    async def work(settings: Settings) -> None:
        async with database(settings) as db:
            await tenants.revoke_key(db, key_id, ACTOR)

    run(json, work)
    emit(json, {"key_id": key_id, "revoked": True}, lambda console: console.print(f"Key {key_id} is revoked."))


def _created(console: Console, key: ApiKey) -> None:
    console.print("Keep this key now, it is shown once:")
    console.print(f"  {key.text}", highlight=False)
