"""Tenant B and A's objects: the same answer as for what does not exist; and behind the application, the database."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
from litestar.routes import HTTPRoute

from kobiri.domain.ids import PaymentId, TenantId, new_id
from kobiri.domain.payment import Status
from kobiri.services import housekeeping
from kobiri.store import callbacks, events, idempotency, payments
from kobiri.store.db import Tx
from tests.api.steps import callback, gateway, post_callback, until
from tests.conftest import Api, ApiFactory

# What each parameter of a path can name. An address with a parameter that is not here fails the test: add it.
NONSENSE = ["x", "0", "-1", "null", "%00", "%2e%2e", "'", "01935a1e", "a" * 300, "%F0%9F%8E%89", "*", "1;drop"]
IDS: dict[str, Callable[["Shops"], str]] = {"payment_id": lambda shops: shops.payment["id"]}
# A provider is the same for all; a token is a secret that opens its account's callbacks, whoever posts.
NOT_OF_A_TENANT = {"provider", "token"}


@dataclass
class Shops:
    """Tenant A with a whole history, and the keys of A and B."""

    api: Api
    payment: dict[str, Any]
    reader: str
    writer: str
    stranger: str
    stranger_id: str


@pytest.fixture
async def shops(make_api: ApiFactory) -> Shops:
    api = await make_api(mtn_webhook_secret=None)
    payment = (await api.pay("a-key", reference="a-reference", metadata={"a": "a"})).json()
    await until(api, payment["id"], "SUCCESSFUL")
    await post_callback(api, callback(payment), secret=None)
    await api.database.fetch(
        "INSERT INTO attempts (tenant_id, payment_id, attempt, provider, account_fingerprint, provider_reference,"
        " reason) SELECT tenant_id, id, 0, 'mtn', 'somewhere', gen_random_uuid(), 'no token' FROM payments"
    )
    await housekeeping.seal_events(gateway(api).db)
    stranger = await api.tenant("stranger")
    stranger_id = await api.database.value("SELECT id::text FROM tenants WHERE slug = 'stranger'")
    return Shops(api, payment, api.key, api.key, stranger, stranger_id)


def operations(api: Api) -> list[tuple[str, str]]:
    """Every method and address of the application, from its own table of routes."""
    found: list[tuple[str, str]] = []
    for route in api.app.routes:
        if isinstance(route, HTTPRoute):
            found += [(method, route.path_format) for method in sorted(route.methods)]
    return found


def essence(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """All of an answer but what tells one request from another."""
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    body = answer.json() if answer.content else None
    if isinstance(body, dict):
        body.pop("instance", None)
    return answer.status_code, headers, body


async def test_what_is_anothers_is_as_if_it_were_not_there(shops: Shops) -> None:
    seen = 0
    for method, path in operations(shops.api):
        names = set(re.findall(r"{(\w+)(?::\w+)?}", path)) - NOT_OF_A_TENANT
        if not names or method == "OPTIONS":
            continue
        assert names <= set(IDS), f"{path}: tell this test whose {names} are"

        async def ask(known: Callable[[str], str], key: str, method: str = method, path: str = path) -> Any:
            address = re.sub(r"{(\w+)(?::\w+)?}", lambda match: known(match[1]), path)
            return essence(await shops.api.client.request(method, address, headers={"x-api-key": key}))

        assert (await ask(lambda name: IDS[name](shops), shops.reader))[0] != 404
        foreign = await ask(lambda name: IDS[name](shops), shops.stranger)
        assert foreign[0] == 404
        assert await ask(lambda _: new_id(), shops.stranger) == foreign
        assert await ask(lambda name: IDS[name](shops).upper(), shops.stranger) == foreign
        for nonsense in NONSENSE:
            assert await ask(dict.fromkeys(names, nonsense).__getitem__, shops.stranger) == foreign, nonsense
        seen += 1
    assert seen >= 1


async def test_lists_and_filters_show_a_stranger_nothing_of_a(shops: Shops) -> None:
    ids = [shops.payment["id"], shops.payment["provider_reference"], shops.api.tenant_id]
    for path in ("payments", "transactions", "events", "webhooks/mtn/status"):
        answer = await shops.api.client.get(f"/api/v1/{path}", headers={"x-api-key": shops.stranger})
        assert answer.status_code == 200
        assert not [one for one in ids if one in answer.text]
    for query in (f"subject_id={shops.payment['id']}", f"subject_id={shops.api.tenant_id}"):
        answer = await shops.api.client.get(f"/api/v1/events?{query}", headers={"x-api-key": shops.stranger})
        assert answer.json()["data"] == []


async def test_as_key_and_reference_of_a_are_free_for_a_stranger(shops: Shops) -> None:
    answer = await shops.api.pay("a-key", reference="a-reference", amount="1", headers={"x-api-key": shops.stranger})
    assert answer.status_code == 201
    assert "idempotent-replayed" not in answer.headers
    assert answer.json()["id"] != shops.payment["id"]


async def test_a_strangers_key_does_not_pass_with_as_name(shops: Shops) -> None:
    for claimed in ("shop", shops.api.tenant_id):
        answer = await shops.api.client.get(
            "/api/v1/payments", headers={"x-api-key": shops.stranger, "x-tenant-id": claimed}
        )
        assert answer.status_code == 403


class Unfiltered:
    """A transaction whose statements have lost the application's own filter."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.stripped = 0

    def _strip(self, sql: str) -> str:
        # The parameter stays in use, so that it keeps a type.
        stripped, count = re.subn(r"\b((?:\w+\.)?tenant_id) = \$1\b", r"(\1 = $1::uuid OR true)", sql)
        self.stripped += count
        return stripped

    async def fetch(self, sql: str, *arguments: Any) -> Any:
        return await self._tx.fetch(self._strip(sql), *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> Any:
        return await self._tx.fetchrow(self._strip(sql), *arguments)

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self._tx.fetchval(self._strip(sql), *arguments)

    async def execute(self, sql: str, *arguments: Any) -> Any:
        return await self._tx.execute(self._strip(sql), *arguments)


async def look(tx: Any, tenant: TenantId, payment_id: PaymentId) -> list[Any]:
    """All that the store can tell a tenant about a payment and its traces."""
    health = await callbacks.health(tx, tenant, "test", "mtn")
    return [
        await payments.get(tx, tenant, payment_id),
        await payments.get_by_reference(tx, tenant, "test", "a-reference"),
        await payments.list_page(tx, tenant, "test", payments.Filter(), None, 10),
        await payments.list_page(tx, tenant, "test", payments.Filter(Status.SUCCESSFUL), None, 10),
        await payments.earlier_roads(tx, tenant, payment_id),
        await idempotency.get(tx, tenant, "test", "a-key"),
        (await events.of_subjects(tx, tenant, [payment_id]))[payment_id],
        await events.list_page(tx, tenant, "test", 0, None, payment_id, 10),
        await callbacks.of_payment(tx, tenant, payment_id),
        health.hints + health.applied,
    ]


async def test_without_the_databases_wall_the_application_shows_a_stranger_nothing(shops: Shops) -> None:
    """The two walls hide each other: here the application's stands alone, for a login that sees all rows."""
    a, b = TenantId(shops.api.tenant_id), TenantId(shops.stranger_id)
    payment_id = PaymentId(shops.payment["id"])
    owner = await asyncpg.connect(shops.api.database.owner_dsn)
    try:
        assert all(await look(owner, a, payment_id))
        assert not any(await look(owner, b, payment_id))
    finally:
        await owner.close()


async def test_without_the_applications_filter_the_database_shows_nothing(shops: Shops) -> None:
    """The store's own functions, as A and as B; then, stripped, as B: A's rows do not appear."""
    a, b = TenantId(shops.api.tenant_id), TenantId(shops.stranger_id)
    payment_id = PaymentId(shops.payment["id"])
    db = gateway(shops.api).db

    async with db.tenant_transaction(a) as tx:
        assert all(await look(tx, a, payment_id))
    async with db.tenant_transaction(b) as tx:
        assert not any(await look(tx, b, payment_id))
        stripped = Unfiltered(tx)
        assert not any(await look(stripped, b, payment_id))
        assert not any(await look(stripped, a, payment_id))
        assert stripped.stripped >= 16
        before = (await shops.api.database.fetch("SELECT * FROM payments"))[0]
        await payments.hint(stripped, a, payment_id)  # type: ignore[arg-type]
        for table in ("payments", "idempotency_keys", "callbacks"):
            assert await tx.fetchval(f"SELECT count(*) FROM {table}") == 0
            assert await tx.execute(f"UPDATE {table} SET tenant_id = tenant_id") == "UPDATE 0"
    assert (await shops.api.database.fetch("SELECT * FROM payments"))[0] == before
