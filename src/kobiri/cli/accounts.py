"""kobiri accounts: the merchants' own accounts at the providers."""

import json as jsonlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kobiri import app as wiring
from kobiri.cli.output import ACTOR, Json, emit, fail, plain_errors, run, table
from kobiri.config import Settings
from kobiri.domain.errors import NotFound
from kobiri.domain.money import Money
from kobiri.providers.base import Checked, Field, ProviderSpec
from kobiri.services import accounts
from kobiri.services.accounts import TenantAccount, Wish
from kobiri.store.accounts import StoredAccount

app = typer.Typer(
    help="Merchants' accounts at providers: fields, set, list, check, record, disable, enable, rotate.",
    no_args_is_help=True,
)

MAX_FILE_BYTES = 65_536


class Mode(StrEnum):
    live = "live"
    test = "test"


Slug = Annotated[str, typer.Argument(help="The merchant's short name.")]
Provider = Annotated[str, typer.Argument(help="Such as mtn.")]
Name = Annotated[str, typer.Argument(help="The account's name.")]
ModeOption = Annotated[Mode, typer.Option(help="live moves real money; test serves test keys alone.")]
Reason = Annotated[str, typer.Option(help="The merchant sees it.")]


@app.command()
def fields(provider: Provider, json: Json = False) -> None:
    """Show what an account at a provider needs.

    Example: kobiri accounts fields mtn
    """
    with plain_errors(json):
        spec = spec_of(provider)
        rows = [(f.name, _need(f), ", ".join(f.choices) or None, f.label) for f in spec.fields]
        document = {
            "provider": spec.id,
            "base_url": spec.base_url,
            "fields": [
                {"name": f.name, "label": f.label, "secret": f.secret, "default": f.default, "choices": list(f.choices),
                 "required": f.default is None and not f.optional}
                for f in spec.fields
            ],
        }  # fmt: skip
        emit(json, document, lambda console: table(console, ("FIELD", "NEED", "CHOICES", "WHAT IT IS"), rows))


@app.command("set")
def set_(
    slug: Slug,
    provider: Provider,
    mode: ModeOption = Mode.live,
    name: Annotated[str, typer.Option(help="Its name; an account of this name is replaced.")] = "main",
    file: Annotated[
        str | None, typer.Option(help="A JSON object of the fields, or - for standard input; else you are asked.")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="The provider's own default when left out at first: mostly a sandbox, for --mode test."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=0, max=10_000, help="The lowest is tried first; 100 at first.")
    ] = None,
    minimum: Annotated[
        str | None, typer.Option("--min", help='The smallest amount of one payment, 5.00; "" for none.')
    ] = None,
    maximum: Annotated[
        str | None, typer.Option("--max", help='The largest amount of one payment, 5000.00; "" for none.')
    ] = None,
    currency: Annotated[str | None, typer.Option(help="The provider's own when left out at first.")] = None,
    unchecked: Annotated[
        str | None, typer.Option(help="Store it without asking the provider, for this reason: it is down.")
    ] = None,
    json: Json = False,
) -> None:
    """Store a merchant's account, sealed, once the provider has taken its credentials. Secrets are shown never again.

    Of an account that is replaced, the address, currency, priority and limits stay where they are left out.

    The file may hold "webhook_secret" beside the fields: then callbacks must carry X-Signature-256.

    Example: kobiri accounts set kitwe-books mtn --base-url https://proxy.momoapi.mtn.com --file mtn.json
    """
    with plain_errors(json):
        spec = spec_of(provider)
        given = _read(json, file) if file is not None else _ask(json, spec)
        wish = Wish(
            provider=provider,
            mode=mode.value,
            name=name,
            webhook_secret=given.pop("webhook_secret", None),
            values=given,
            base_url=base_url,
            currency=currency,
            minimum=minimum,
            maximum=maximum,
            priority=priority,
        )

    async def work(settings: Settings) -> tuple[TenantAccount, str | None]:
        async with wiring.database(settings) as db:
            saved = await accounts.save(
                db,
                wiring.master_keys(settings),
                wiring.provider_specs(),
                wiring.account_maker(settings),
                slug,
                wish,
                ACTOR,
                unchecked_because=unchecked,
            )
            return saved, wiring.callback_url(settings, saved)

    account, callback_url = run(json, work)
    document = {
        "id": account.id, "tenant": slug, "provider": account.provider, "mode": account.mode, "name": account.name,
        "version": account.version, "currency": account.currency, "callback_url": callback_url,
    }  # fmt: skip
    emit(json, document, lambda console: _saved(console, account, callback_url))


@app.command("list")
def list_(slug: Slug, json: Json = False) -> None:
    """Show a merchant's accounts; secrets are shown nowhere.

    Example: kobiri accounts list kitwe-books
    """

    async def work(settings: Settings) -> list[StoredAccount]:
        async with wiring.database(settings) as db:
            return await accounts.list_all(db, slug)

    found = run(json, work)
    document = [
        {"id": a.id, "provider": a.provider, "mode": a.mode, "name": a.name, "base_url": a.base_url,
         "currency": a.currency, "min": _amount(a.min_minor, a), "max": _amount(a.max_minor, a),
         "priority": a.priority, "enabled": a.enabled, "disabled_reason": a.disabled_reason, "version": a.version,
         "master_key": a.envelope.key_id}
        for a in found
    ]  # fmt: skip
    rows = [
        (a.name, a.provider, a.mode, a.currency, a.priority, a.disabled_reason or "enabled", a.envelope.key_id, a.id)
        for a in found
    ]
    columns = ("NAME", "PROVIDER", "MODE", "CURRENCY", "PRIORITY", "STATE", "MASTER KEY", "ID")
    emit(json, {"accounts": document}, lambda console: table(console, columns, rows))


@app.command()
def check(
    slug: Annotated[str | None, typer.Argument(help="The merchant's short name.")] = None,
    name: Annotated[str | None, typer.Argument(help="The account's name.")] = None,
    mode: ModeOption = Mode.live,
    platform: Annotated[
        str | None, typer.Option(help="Check the platform's own account at this provider, as the environment has it.")
    ] = None,
    json: Json = False,
) -> None:
    """Ask the provider whether it takes this account (exit code 1 when it does not). Nothing moves.

    It shows what the account uses (address, versions, keys, paddings) and what the provider said; no secrets.

    Example: kobiri accounts check kitwe-books main

    Example: kobiri accounts check --platform airtel
    """

    async def work(settings: Settings) -> Checked:
        if platform is not None:
            return await accounts.ask(wiring.platform_provider(settings, platform))
        async with wiring.database(settings) as db:
            return await accounts.check(
                db, wiring.master_keys(settings), wiring.account_maker(settings), slug or "", mode.value, name or ""
            )

    if (slug is None, name is None) != (platform is not None,) * 2:
        fail(json, "usage", "Name a merchant and an account, or a provider by --platform.")
    checked = run(json, work)
    trouble = checked.trouble
    detail = None if trouble is None else f"The provider does not take this account: {trouble.rstrip('.')}."
    error = {} if detail is None else {"error": {"code": "account_refused", "detail": detail}}
    emit(json, {"taken": detail is None, **error, "facts": checked.facts}, lambda console: _facts(console, checked))
    if detail is not None:
        if not json:
            typer.echo(detail, err=True)
        raise typer.Exit(1)


@app.command()
def disable(slug: Slug, name: Name, reason: Reason, mode: ModeOption = Mode.live, json: Json = False) -> None:
    """Let no new payment use an account, within five seconds; running ones are followed.

    Example: kobiri accounts disable kitwe-books main --reason "credentials are being changed"
    """
    _turn(slug, name, mode, reason, json, enabled=False)


@app.command()
def enable(slug: Slug, name: Name, reason: Reason, mode: ModeOption = Mode.live, json: Json = False) -> None:
    """Let payments use an account again.

    Example: kobiri accounts enable kitwe-books main --reason "changed"
    """
    _turn(slug, name, mode, reason, json, enabled=True)


@app.command()
def rotate(json: Json = False) -> None:
    """Wrap every account's data key by the first of KOBIRI_MASTER_KEYS. Safe to repeat, while everything runs.

    Example: KOBIRI_MASTER_KEYS=2027:…,2026:… kobiri accounts rotate
    """

    async def work(settings: Settings) -> int:
        async with wiring.database(settings) as db:
            return await accounts.rotate(db, wiring.master_keys(settings), ACTOR)

    count = run(json, work)
    emit(json, {"rotated": count}, lambda console: console.print(f"{count} accounts have the new master key now."))


def _turn(slug: str, name: str, mode: Mode, reason: str, json: bool, *, enabled: bool) -> None:
    async def work(settings: Settings) -> None:
        async with wiring.database(settings) as db:
            await accounts.turn(db, slug, mode.value, name, reason, ACTOR, enabled=enabled)

    run(json, work)
    word = "enabled" if enabled else "disabled"
    emit(json, {"name": name, "enabled": enabled}, lambda console: console.print(f"Account {name} is {word}."))


def spec_of(provider: str) -> ProviderSpec:
    """The provider of this name. Raises NotFound, which names all."""
    specs = wiring.provider_specs()
    if provider not in specs:
        raise NotFound(f"There is no provider {provider!r}; there are {', '.join(specs)}.")
    return specs[provider]


def _need(field: Field) -> str:
    need = "optional" if field.optional else "needed" if field.default is None else f"{field.default} by default"
    return f"{need}, secret" if field.secret else need


def _read(json: bool, file: str) -> dict[str, str]:
    """A JSON object of texts. Ends with one sentence otherwise, which shows nothing of it."""
    source = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if file == "-" else Path(file).read_bytes()[: MAX_FILE_BYTES + 1]
    try:
        found = jsonlib.loads(source) if len(source) <= MAX_FILE_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        fail(json, "bad_file", f'{file}: expected a JSON object of texts, such as {{"api_key": "…"}}, up to 64 KiB.')
    return dict(found or {})


def _ask(json: bool, spec: ProviderSpec) -> dict[str, str]:
    if json or not sys.stdin.isatty():
        fail(json, "no_file", "Give the fields by --file (or --file - for standard input): secrets are no arguments.")
    given = {}
    for field in spec.fields:
        wanted = field.default if field.default is not None else "" if field.optional else None
        value = typer.prompt(
            field.label, default=wanted, hide_input=field.secret, show_default=not field.secret, err=True
        )
        if value:
            given[field.name] = str(value)
    return given


def _facts(console: Console, checked: Checked) -> None:
    table(console, ("FACT", "VALUE"), list(checked.facts.items()))
    if checked.trouble is None:
        console.print("The provider takes this account.")


def _amount(minor: int | None, account: StoredAccount) -> str | None:
    return None if minor is None else str(Money(minor, account.currency))


def _saved(console: Console, account: TenantAccount, callback_url: str | None) -> None:
    console.print(f"Account {account.name} at {account.provider} is stored (version {account.version}).")
    if callback_url:
        console.print("Where the provider shall post what became of payments; its end is a secret:")
        console.print(f"  {callback_url}", highlight=False, soft_wrap=True)
