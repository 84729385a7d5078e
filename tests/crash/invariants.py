"""What must be true after every crash, seen from outside: the provider's books, the answers given, the tables."""

import json
from collections import Counter
from collections.abc import Iterable

import httpx

from tests.e2e.stack import Stack, eventually

RANK = {"PENDING": 0, "TIMEOUT": 1, "SUCCESSFUL": 2, "FAILED": 2}

UNBALANCED = "SELECT payment_id FROM ledger_entries GROUP BY payment_id, reason, currency HAVING sum(amount_minor) <> 0"

BOOKED = "SELECT payment_id, count(DISTINCT reason) AS times FROM ledger_entries GROUP BY payment_id"

STRANGERS = """
SELECT p.id FROM payments p LEFT JOIN idempotency_keys k ON k.tenant_id = p.tenant_id AND k.payment_id = p.id
GROUP BY p.id HAVING count(k.key) <> 1
"""

STATUS_OF = {"payment.timed_out": "TIMEOUT", "payment.succeeded": "SUCCESSFUL", "payment.failed": "FAILED"}


async def assert_invariants(stack: Stack, answers: Iterable[httpx.Response] = ()) -> None:
    """Call it when all is at rest. `answers`: everything that clients were told."""
    payments = {str(row["id"]): row for row in await stack.database.fetch("SELECT * FROM payments")}
    by_reference = {str(row["provider_reference"]): row for row in payments.values()}

    for movement in await stack.simulator.movements():
        assert movement["charged"] == 1, f"charged twice: {movement}"
        payment = by_reference[movement["reference"]]
        assert payment["status"] == "SUCCESSFUL", f"charged, and the merchant is told {payment['status']}"

    for answer in answers:
        if answer.status_code in (201, 202):
            told = answer.json()
            assert told["id"] in payments, f"acknowledged and lost: {told}"
            now = payments[told["id"]]["status"]
            assert RANK[told["status"]] <= RANK[now], f"was told {told['status']}, is {now}"
        else:
            assert answer.status_code in (409, 503, 504), f"{answer.status_code} {answer.text}"
            assert answer.json()["retryable"] is True, answer.text

    assert not await stack.database.fetch(UNBALANCED)
    booked = {str(row["payment_id"]): row["times"] for row in await stack.database.fetch(BOOKED)}
    paid = {payment_id for payment_id, row in payments.items() if row["status"] == "SUCCESSFUL"}
    assert booked == dict.fromkeys(paid, 1), "one booking for each payment that succeeded, no other"
    assert not await stack.database.fetch(STRANGERS), "one key, one payment"

    for payment_id, row in payments.items():
        history = await stack.history(payment_id)
        assert Counter(history)["payment.created"] == 1
        assert history[0] == "payment.created"
        path = ["PENDING", *(STATUS_OF[event] for event in history if event in STATUS_OF)]
        ranks = [RANK[status] for status in path]
        assert ranks == sorted(set(ranks)), f"a step back or a step twice: {history}"
        assert path[-1] == row["status"], f"the history {history} does not explain {row['status']}"
        if row["status"] in ("SUCCESSFUL", "FAILED"):
            assert row["lease_token"] is None
            assert row["next_run_at"] is None


async def assert_chain_intact(stack: Stack) -> None:
    """The audit chain verifies and holds every event. Needs a worker, which seals."""

    async def sealed() -> bool:
        return not await stack.database.fetch("SELECT FROM unsealed_events LIMIT 1")

    await eventually(sealed, "all events are sealed")
    code, output = await stack.command("events", "verify", "--json")
    assert code == 0, output
    chains = json.loads(output)["chains"]
    links = sum(chain["links"] for chain in chains)
    assert links == await stack.database.value("SELECT count(*) FROM events")
