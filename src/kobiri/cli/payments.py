"""kobiri payments: what needs a person, and that person's word."""

import json as jsonlib
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console

from kobiri.app import database, operating
from kobiri.cli.output import ACTOR, UNLISTED, Json, emit, fail, run, table
from kobiri.config import Settings
from kobiri.domain.ids import PaymentId, parse_id
from kobiri.domain.outcome import Finding, Succeeded, Unknown
from kobiri.domain.payment import Payment
from kobiri.services import reviews
from kobiri.services.reviews import Case, Evidence
from kobiri.services.unlisted import code_of

app = typer.Typer(help="Payments in review: list, show, check, resolve.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The payment's id.")]


class Decision(StrEnum):
    successful = "successful"
    failed = "failed"
    seen = "seen"


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="One merchant alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    json: Json = False,
) -> None:
    """Show the payments that wait for a person, oldest first.

    unresolved: its outcome is unknown for too long, or its provider cannot be asked. mismatched: the provider speaks of
    another amount, payer or reference. contradicted: the provider's word came against a final status, or against its
    own callback.

    Example: kobiri payments list --tenant kitwe-books
    """

    async def work(settings: Settings) -> list[Case]:
        async with database(settings) as db:
            return await reviews.queue(db, tenant, limit)

    found = run(json, work)
    rows = [
        (c.payment.id, c.tenant, c.payment.review, c.payment.status, _amount(c.payment), c.payment.provider,
         c.payment.created_at)
        for c in found
    ]  # fmt: skip
    columns = ("PAYMENT", "TENANT", "REVIEW", "STATUS", "AMOUNT", "PROVIDER", "CREATED")
    document = {"payments": [{"tenant": case.tenant, **_facts(case.payment)} for case in found]}
    emit(json, document, lambda console: table(console, columns, rows))


@app.command()
def show(payment_id: Id, json: Json = False) -> None:
    """Show all evidence about one payment: its history, the roads that were left, what its provider posted.

    Example: kobiri payments show 019b76da-8c3c-7f20-8000-0a1b2c3d4e5f
    """
    known = _parse(json, payment_id)

    async def work(settings: Settings) -> Evidence:
        async with database(settings) as db:
            return await reviews.evidence(db, known)

    evidence = run(json, work)
    emit(json, _evidence(evidence), lambda console: _print(console, evidence))


@app.command()
def check(payment_id: Id, json: Json = False) -> None:
    """Ask the provider about one payment now, and apply what it says.

    Example: kobiri payments check 019b76da-8c3c-7f20-8000-0a1b2c3d4e5f
    """
    known = _parse(json, payment_id)

    async def work(settings: Settings) -> tuple[Payment, Finding]:
        async with operating(settings) as gateway:
            return await reviews.check(gateway, known, ACTOR)

    payment, finding = run(json, work)
    said = type(finding).__name__
    reason = getattr(finding, "reason", None)
    unlisted = code_of(finding)
    document = {"provider_says": said, "reason": reason, "unlisted": unlisted, "payment": _facts(payment)}
    told = f"{said} ({reason})" if reason else said

    def human(console: Console) -> None:
        console.print(f"{payment.provider} says: {told}. It is {payment.status}.")
        _tell_unlisted(console, unlisted)

    emit(json, document, human)


@app.command()
def resolve(
    payment_id: Id,
    as_: Annotated[Decision, typer.Option("--as", help="seen: a final payment needs no more attention.")],
    reason: Annotated[str, typer.Option(help="It stands in the merchant's audit log.")],
    transaction_id: Annotated[str | None, typer.Option(help="The provider's id, where it names none itself.")] = None,
    arrived: Annotated[
        str | None, typer.Option(help="With --as failed: the amount that came instead; it is booked to suspense.")
    ] = None,
    json: Json = False,
) -> None:
    """Settle a payment by your word. Its provider is asked first, and its firm word is never overruled.

    Where the provider spoke of another amount before, that amount is booked to suspense without --arrived.

    Example: kobiri payments resolve 019b76da-8c3c-7f20-8000-0a1b2c3d4e5f --as failed --reason "not in June's statement"
    """
    known = _parse(json, payment_id)

    async def work(settings: Settings) -> tuple[Payment, Finding | None]:
        async with operating(settings) as gateway:
            return await reviews.resolve(gateway, known, as_.value, reason, ACTOR, transaction_id, arrived)

    payment, finding = run(json, work)
    asked = finding is not None and not isinstance(finding, Unknown)
    unasked = finding.reason if isinstance(finding, Unknown) else None
    overruled = _overruled(payment, finding, transaction_id)
    unlisted = code_of(finding) if finding is not None else None
    document = {
        **_facts(payment),
        "provider_asked": asked,
        "not_asked_because": unasked,
        "transaction_id_not_taken": overruled,
        "unlisted": unlisted,
    }

    def human(console: Console) -> None:
        _tell_resolved(console, payment, unasked, overruled)
        _tell_unlisted(console, unlisted)

    emit(json, document, human)


def _tell_unlisted(console: Console, code: str | None) -> None:
    if code is not None:
        console.print(f"{UNLISTED}: {code}")


def _overruled(payment: Payment, finding: Finding | None, transaction_id: str | None) -> str | None:
    """The id that a person gave, where the provider names another; a receipt is another name of the same."""
    named = finding.provider_transaction_id if isinstance(finding, Succeeded) else None
    is_taken = named is None or transaction_id in (None, named, payment.provider_receipt)
    return None if is_taken else transaction_id


def _tell_resolved(console: Console, payment: Payment, unasked: str | None, overruled: str | None) -> None:
    if unasked is not None:
        console.print(f"{payment.provider} could not be asked ({unasked}): your word decided.")
    if overruled is not None:
        console.print(f"{payment.provider} names another transaction id than {overruled!r}: its own stands.")
    console.print(f"{payment.id} is {payment.status}.")
    if payment.received is not None:
        money = f"{payment.received} {payment.received.currency}"
        console.print(f"{money} arrived and waits in suspense: kobiri ledger suspense")


def _parse(json: bool, text: str) -> PaymentId:
    known = parse_id(text)
    if known is None:
        fail(json, "bad_id", f"{text[:60]!r} is not a payment's id.")
    return PaymentId(known or "")


def _amount(payment: Payment) -> str:
    return f"{payment.money} {payment.money.currency}"


def _facts(payment: Payment) -> dict[str, Any]:
    return {
        "id": payment.id,
        "status": payment.status,
        "review": payment.review,
        "amount": str(payment.money),
        "currency": payment.money.currency,
        "payer": payment.payer.masked,
        "network": payment.network,
        "provider": payment.provider,
        "account_id": payment.account_id,
        "provider_reference": payment.provider_reference,
        "provider_transaction_id": payment.provider_transaction_id,
        "provider_receipt": payment.provider_receipt,
        "received_amount": str(payment.received) if payment.received else None,
        "received_currency": payment.received.currency if payment.received else None,
        "failure_code": payment.failure_code,
        "attempt": payment.attempt,
        "created_at": payment.created_at,
        "completed_at": payment.completed_at,
    }


def _evidence(evidence: Evidence) -> dict[str, Any]:
    return {
        "tenant": evidence.tenant,
        "payment": _facts(evidence.payment),
        "earlier_roads": evidence.earlier,
        "history": [
            {"at": e.created_at, "type": e.type, "actor": e.actor, "data": dict(e.data)} for e in evidence.history
        ],
        "callbacks": [
            {"at": c.received_at, "provider": c.provider, "verdict": c.verdict, "times": c.times,
             "body": c.body.decode(errors="replace")}
            for c in evidence.callbacks
        ],
    }  # fmt: skip


def _print(console: Console, evidence: Evidence) -> None:
    for name, value in {"tenant": evidence.tenant, **_facts(evidence.payment)}.items():
        console.print(f"{name:24} {'-' if value is None else value}", highlight=False)
    console.print("\nHistory", style="bold")
    rows = [(e.created_at, e.type, e.actor, jsonlib.dumps(dict(e.data))) for e in evidence.history]
    table(console, ("AT", "EVENT", "BY", "FACTS"), rows)
    if evidence.earlier:
        console.print("\nRoads that were left, for nothing was sent on them", style="bold")
        left = [(e.created_at, e.provider, e.provider_reference, e.reason) for e in evidence.earlier]
        table(console, ("LEFT AT", "PROVIDER", "REFERENCE", "REASON"), left)
    console.print("\nCallbacks", style="bold")
    posted = [(c.received_at, c.verdict, c.times, c.body.decode(errors="replace")) for c in evidence.callbacks]
    table(console, ("AT", "VERDICT", "TIMES", "BODY"), posted)
