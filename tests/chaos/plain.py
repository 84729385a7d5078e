"""In plain words: what each provider says of what is still open, once it speaks as usual and all is calm.

Asked so, a reader that does not understand a dialect cannot hide behind itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kobiri.config import Settings
from kobiri.domain.ids import ProviderReference
from kobiri.domain.outcome import Declined, Finding, Succeeded
from kobiri.providers import registry
from kobiri.providers.base import Provider
from tests.chaos.stack import Site
from tests.crash.invariants import Broken
from tests.e2e.stack import eventually

AN_ANSWER_SETTLES = "no payment is open that a status answer would settle"
OPEN = """
SELECT id::text, status, review, provider, kind, provider_reference::text FROM payments
WHERE status IN ('PENDING', 'TIMEOUT')
"""
CONTRADICTED = "status IN ('PENDING', 'TIMEOUT') AND review = 'contradicted'"
ASK_AGAIN = f"UPDATE payments SET next_run_at = now() WHERE {CONTRADICTED} AND lease_token IS NULL RETURNING id"
NOT_ASKED_YET = f"SELECT id FROM payments WHERE {CONTRADICTED} AND (next_run_at <= now() OR lease_token IS NOT NULL)"
ASK_WITHIN_S, ASKED_WITHIN_S = 10.0, 60.0


def unsettled(payments: Sequence[Mapping[str, Any]], said: Mapping[str, Finding]) -> list[Broken]:
    """The open payments about which their provider has a clear word.

    Another amount or payer is a person's, always, and so is a "failed" against a callback's "paid".
    """
    return [
        Broken(AN_ANSWER_SETTLES, payment["id"], f"{dict(payment)}, and asked in plain words: {said[payment['id']]}")
        for payment in payments
        if isinstance(word := said[payment["id"]], Succeeded | Declined) and not _is_a_persons(payment["review"], word)
    ]


def _is_a_persons(review: str | None, word: Finding) -> bool:
    return review == "mismatched" or (review == "contradicted" and isinstance(word, Declined))


async def asked_again(site: Site) -> None:
    """Let the worker ask once more, now, about the open payments that wait for a person after two different words."""
    if await site.stack.database.fetch(ASK_AGAIN):

        async def answered() -> bool:
            return not await site.stack.database.fetch(NOT_ASKED_YET)

        await eventually(answered, "those with two words against each other are asked about", ASKED_WITHIN_S)


async def ask(site: Site) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Finding]]:
    """The open payments, and by their ids what their providers say. The providers speak as usual afterwards."""
    payments = [dict(row) for row in await site.stack.database.fetch(OPEN)]
    said: dict[str, Finding] = {}
    for provider in {payment["provider"] for payment in payments}:
        await site.speak_as_usual(provider)
        adapter = _adapter(site, provider)
        try:
            for payment in payments:
                if payment["provider"] == provider:
                    reference = ProviderReference(payment["provider_reference"])
                    said[payment["id"]] = await adapter.find(payment["kind"], reference, within_s=ASK_WITHIN_S)
        finally:
            await adapter.close()
    return payments, said


def _adapter(site: Site, provider: str) -> Provider:
    entry = registry.BY_ID[provider]
    account = registry.account(
        Settings(),
        entry.spec,
        base_url=f"{site.stack.simulator.url}/{provider}",
        mode="both",
        values=registry.simulated_values()[provider],
        callback_url=None,
        webhook_secrets=(),
    )
    assert account is not None
    return entry.build(account)
