"""Steps that the tests of the API, the services and the worker share."""

import hashlib
import hmac
import io
import json
import re
from asyncio import sleep
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

import httpx

from kobiri.services import checking
from kobiri.services.gateway import Gateway
from tests.conftest import Api, Simulator, TestDatabase

PAYMENTS = "/api/v1/payments"
CALLBACKS = "/api/v1/webhooks/mtn"
SECRET = "a secret that MTN's callbacks are signed with"

PATIENCE_S = 30

# Settings of a process whose platform account is no longer the one by which earlier payments went.
ANOTHER_ACCOUNT: dict[str, dict[str, Any]] = {
    "points elsewhere": {"mtn_collection_api_user": "8c5f5a5e-0000-4000-8000-000000000002"},
    "is gone": dict.fromkeys(
        ("mtn_base_url", "mtn_collection_api_user", "mtn_collection_api_key", "mtn_collection_subscription_key")
    ),
}

T = TypeVar("T")
REQUEST_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Log(io.TextIOBase):
    """What was logged, in pieces as they were written."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


LOG = Log()


def gateway(api: Api) -> Gateway:
    found: Gateway = api.app.state.api.gateway
    return found


async def make_due(database: TestDatabase) -> None:
    """Let the time pass until the next run of every payment that nobody holds."""
    await database.fetch(
        "UPDATE payments SET next_run_at = now() - interval '1 second'"
        " WHERE next_run_at IS NOT NULL AND lease_token IS NULL"
    )


async def end_leases(database: TestDatabase) -> None:
    """Let the time pass until every lease has ended."""
    await database.fetch("UPDATE payments SET next_run_at = now() - interval '1 second' WHERE next_run_at IS NOT NULL")


async def age(database: TestDatabase, interval: str) -> None:
    """Make every payment, and its key, older by an interval such as '11 minutes'."""
    await database.fetch(
        f"UPDATE payments SET created_at = created_at - interval '{interval}',"
        f" send_before = send_before - interval '{interval}', expires_at = expires_at - interval '{interval}',"
        f" sent_until = sent_until - interval '{interval}',"
        f" first_not_found_at = first_not_found_at - interval '{interval}',"
        f" first_doubt_at = first_doubt_at - interval '{interval}'"
    )
    await database.fetch(f"UPDATE idempotency_keys SET expires_at = expires_at - interval '{interval}'")


async def work(api: Api) -> int:
    """What the worker does in one round; how many payments it took."""
    claims = [*await checking.claim_due(gateway(api), 100), *await checking.claim_final(gateway(api), 100)]
    for claim in claims:
        await checking.resume(gateway(api), claim)
    return len(claims)


async def check(api: Api) -> None:
    """Let the worker take every open payment once."""
    await make_due(api.database)
    await work(api)


async def read(api: Api, payment_id: str) -> dict[str, Any]:
    answer = await api.client.get(f"{PAYMENTS}/{payment_id}")
    assert answer.status_code == 200, answer.text
    payment: dict[str, Any] = answer.json()
    return payment


async def until(api: Api, payment_id: str, status: str) -> dict[str, Any]:
    """Let the worker work until the payment stands like this."""
    deadline = monotonic() + PATIENCE_S
    while (payment := await read(api, payment_id))["status"] != status:
        assert monotonic() < deadline, payment
        await check(api)
        await sleep(0.02)
    return payment


async def eventually(condition: Callable[[], Awaitable[T]]) -> T:
    """Wait until it holds; what it then is."""
    deadline = monotonic() + PATIENCE_S
    while not (found := await condition()):
        assert monotonic() < deadline, "it never came true"
        await sleep(0.01)
    return found


async def asked_to_pay(simulator: Simulator) -> int:
    """How many requests to pay the provider has got, finished or not."""
    return len([one for one in await simulator.requests(path="requesttopay") if one["method"] == "POST"])


async def charged(simulator: Simulator, reference: str, *, times: int = 1) -> None:
    """Wait until the provider's books show this many charges; there are never more."""
    deadline = monotonic() + PATIENCE_S
    while (found := sum(m["charged"] for m in await simulator.movements(reference))) < times:
        assert monotonic() < deadline, "the payer was never charged"
        await sleep(0.02)
    assert found == times


async def sends(simulator: Simulator, reference: str) -> list[dict[str, Any]]:
    """The requests to pay that the provider got under a reference."""
    return [request for request in await simulator.requests(reference=reference) if request["method"] == "POST"]


async def history(api: Api, payment_id: str) -> list[str]:
    """The types of a payment's events, in order."""
    rows = await api.database.fetch("SELECT type FROM events WHERE subject_id = $1 ORDER BY id", payment_id)
    return [row["type"] for row in rows]


async def ledger(api: Api, payment_id: str) -> dict[str, int]:
    rows = await api.database.fetch(
        "SELECT account, sum(amount_minor)::bigint AS minor FROM ledger_entries WHERE payment_id = $1 GROUP BY account",
        payment_id,
    )
    return {row["account"]: row["minor"] for row in rows}


async def stored(database: TestDatabase) -> tuple[int, int]:
    """How many payments and keys there are."""
    row = (await database.fetch("SELECT (SELECT count(*) FROM payments), (SELECT count(*) FROM idempotency_keys)"))[0]
    return row[0], row[1]


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that the answer is this problem, whole and well-formed."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    request_id = answer.headers["x-request-id"]
    assert REQUEST_ID.fullmatch(request_id)
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"] == f"/docs/errors#{code}"
    assert body["instance"] == f"urn:request:{request_id}"
    assert body["title"]
    assert body["detail"]
    assert isinstance(body["retryable"], bool)
    return body


def callback(payment: dict[str, Any], **changes: Any) -> bytes:
    """What MTN posts about a payment that succeeded; None leaves a field out."""
    told = {
        "financialTransactionId": "4711",
        "externalId": payment["provider_reference"],
        "amount": payment["amount"],
        "currency": payment["currency"],
        "payer": {"partyIdType": "MSISDN", "partyId": payment["payer"]},
        "status": "SUCCESSFUL",
    } | changes
    return json.dumps({name: value for name, value in told.items() if value is not None}).encode()


def signature(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {"x-signature-256": "sha256=" + hmac.digest(secret.encode(), body, hashlib.sha256).hex()}


async def post_callback(api: Api, body: bytes, *, secret: str | None = SECRET, method: str = "POST") -> httpx.Response:
    """As the provider posts it: without any API key."""
    headers = {"content-type": "application/json", "x-api-key": ""}
    return await api.client.request(
        method, CALLBACKS, content=body, headers=headers | (signature(body, secret) if secret else {})
    )
