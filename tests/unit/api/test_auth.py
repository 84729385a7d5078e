"""The API-key guard, alone: keys from a list in memory, no database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar

from kobiri.api import routes
from kobiri.api.cursors import Cursors
from kobiri.api.schemas import render_payment
from kobiri.api.state import ApiState
from kobiri.api.throttle import Throttle
from kobiri.domain.api_key import ApiKey, secret_hmac
from kobiri.domain.ids import TenantId
from kobiri.services.access import Access
from kobiri.services.gateway import Gateway
from kobiri.services.routing import Roads
from kobiri.store.db import Database
from kobiri.store.tenants import KeyOwner

PEPPER = b"a pepper"
TENANT = TenantId("01935a1e-0000-7000-8000-000000000001")
KEY = ApiKey("test", "A" * 12, "b" * 43)
OWNER = KeyOwner(
    tenant_id=TENANT,
    slug="kitwe-books",
    tenant_status="active",
    tenant_throttle_limit=None,
    mode="test",
    secret_hmac=secret_hmac(KEY, PEPPER),
    scopes=frozenset({"payments:read"}),
    allowed_addresses=(),
    throttle_limit=None,
    expires_at=None,
    revoked_at=None,
)

# A guarded address whose handler needs no database: whoever is let in learns that there is no such provider.
GUARDED = "/api/v1/webhooks/nobody/status"
LET_IN = 404


class KnownKeys(Access):
    """Keys from a list, and a count of the questions that were asked."""

    def __init__(self, *owners: tuple[ApiKey, KeyOwner]) -> None:
        super().__init__(cast(Database, None), PEPPER)
        self.known = {key.key_id: owner for key, owner in owners}
        self.asked = 0

    async def _owner(self, key_id: str) -> KeyOwner | None:
        self.asked += 1
        return self.known.get(key_id)


def build(access: Access, **options: Any) -> Litestar:
    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        yield

    application = routes.build(lifespan)
    application.state.api = ApiState(
        gateway=Gateway(
            db=cast(Database, None),
            roads=Roads(cast(Database, None), ()),
            render=render_payment,
            send_within=timedelta(minutes=1),
            expires_after=timedelta(minutes=15),
            key_life=timedelta(days=1),
        ),
        access=access,
        throttle=Throttle(0, 60_000),
        cursors=Cursors(b"key"),
        newest_migration="0001",
        idempotency_required=True,
        callback_url_configured=False,
        **options,
    )
    return application


async def ask(
    headers: dict[str, str] | list[tuple[str, str]] | None,
    *,
    access: Access | None = None,
    owner: KeyOwner = OWNER,
    peer: str = "192.0.2.7",
    path: str = GUARDED,
    trusted_proxies: tuple[Any, ...] = (),
) -> httpx.Response:
    application = build(access or KnownKeys((KEY, owner)), trusted_proxies=trusted_proxies)
    transport = httpx.ASGITransport(app=cast(Any, application), client=(peer, 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
        return await client.get(path, headers=headers)


def code(answer: httpx.Response) -> str:
    found: str = answer.json()["code"]
    return found


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY.text},
        {"authorization": f"Bearer {KEY.text}"},
        {"authorization": f"bearer  {KEY.text} "},
        {"x-api-key": KEY.text, "x-tenant-id": "kitwe-books"},
        {"x-api-key": KEY.text, "x-tenant-id": TENANT},
    ],
    ids=["x-api-key", "bearer", "loose bearer", "tenant slug", "tenant id"],
)
async def test_a_good_key_is_let_in(headers: dict[str, str]) -> None:
    assert (await ask(headers)).status_code == LET_IN


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "nonsense"},
        {"authorization": KEY.text},
        {"authorization": f"Basic {KEY.text}"},
        {"authorization": "Bearer"},
        {"x-api-key": "", "authorization": f"Bearer {KEY.text}"},
        {"x-api-key": KEY.text + "\xe9"},
        {"x-api-key": KEY.text.swapcase()},
        {"x-api-key": KEY.text + " " + KEY.text},
    ],
)
async def test_without_a_good_key_nobody_is_let_in(headers: dict[str, str]) -> None:
    encoded = [(name, value.encode("latin-1")) for name, value in headers.items()]
    answer = await ask(cast(Any, encoded))
    assert (answer.status_code, code(answer)) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"]


async def test_a_key_in_the_query_is_refused_and_not_repeated() -> None:
    answer = await ask({}, path=f"{GUARDED}?api_key={KEY.text}")
    assert (answer.status_code, code(answer)) == (400, "invalid_query")
    assert KEY.text not in answer.text


async def test_a_typing_error_costs_no_query() -> None:
    access = KnownKeys((KEY, OWNER))
    wrong = KEY.text[:-1] + ("A" if KEY.text[-1] != "A" else "B")
    assert (await ask({"x-api-key": wrong}, access=access)).status_code == 401
    assert access.asked == 0


async def test_a_wrong_secret_an_unknown_id_and_a_wrong_mode_are_one_answer() -> None:
    answers = []
    for key in (
        replace(KEY, secret="c" * 43),
        replace(KEY, key_id="Z" * 12),
        replace(KEY, mode="live"),
    ):
        access = KnownKeys((KEY, OWNER))
        answer = await ask({"x-api-key": key.text}, access=access)
        assert access.asked == 1
        body = answer.json()
        del body["instance"]
        answers.append((answer.status_code, body))
    assert answers[0][0] == 401
    assert answers[0] == answers[1] == answers[2]


async def test_the_mode_of_the_row_must_be_that_of_the_key() -> None:
    """Even when somebody wrote a row whose HMAC fits."""
    live = replace(KEY, mode="live")
    owner = replace(OWNER, secret_hmac=secret_hmac(live, PEPPER))
    assert (await ask({"x-api-key": live.text}, owner=owner)).status_code == 401


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"revoked_at": datetime.now(UTC) - timedelta(days=1)}, 401),
        ({"expires_at": datetime.now(UTC) - timedelta(seconds=1)}, 401),
        ({"expires_at": datetime.now(UTC) + timedelta(days=1)}, LET_IN),
        ({"tenant_status": "suspended"}, LET_IN),
    ],
    ids=["revoked", "expired", "expires later", "suspended reads on"],
)
async def test_a_key_that_is_over_is_refused(change: dict[str, Any], status: int) -> None:
    assert (await ask({"x-api-key": KEY.text}, owner=replace(OWNER, **change))).status_code == status


@pytest.mark.parametrize("claimed", ["other", "", "kitwe-books ", "KITWE-BOOKS", TENANT.upper(), "\xe9"])
async def test_a_tenant_header_that_disagrees_is_forbidden(claimed: str) -> None:
    answer = await ask(cast(Any, [("x-api-key", KEY.text), ("x-tenant-id", f"x{claimed}".encode("latin-1"))]))
    assert (answer.status_code, code(answer)) == (403, "tenant_mismatch")


async def test_the_scope_of_the_route_is_needed() -> None:
    owner = replace(OWNER, scopes=frozenset({"payments:write", "events:read"}))
    answer = await ask({"x-api-key": KEY.text}, owner=owner)
    assert (answer.status_code, code(answer)) == (403, "scope_missing")
    assert "payments:read" in answer.json()["detail"]


ALLOWED = (ip_network("192.0.2.0/28"), ip_network("2001:db8:7::/48"))


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("192.0.2.7", LET_IN),
        ("192.0.2.16", 403),
        ("::ffff:192.0.2.7", LET_IN),
        ("::ffff:192.0.2.16", 403),
        ("2001:db8:7::1", LET_IN),
        ("2001:0db8:0007:0000:0000:0000:0000:0001", LET_IN),
        ("2001:db8:8::1", 403),
        ("::192.0.2.7", 403),
        ("", 403),
        ("/run/socket", 403),
    ],
)
async def test_a_key_is_good_from_its_addresses_alone(peer: str, status: int) -> None:
    answer = await ask({"x-api-key": KEY.text}, owner=replace(OWNER, allowed_addresses=ALLOWED), peer=peer)
    assert answer.status_code == status
    assert status == LET_IN or code(answer) == "address_not_allowed"


PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "lines", "status"),
    [
        ("10.0.0.1", ["192.0.2.7"], LET_IN),
        ("::ffff:10.0.0.1", ["192.0.2.7"], LET_IN),
        ("fd00::1", ["192.0.2.7, 10.1.1.1"], LET_IN),
        ("10.0.0.1", ["192.0.2.7, 198.51.100.9"], 403),
        ("10.0.0.1", ["192.0.2.7", "198.51.100.9"], 403),
        ("10.0.0.1", ["198.51.100.9", "192.0.2.7"], LET_IN),
        ("10.0.0.1", ["192.0.2.7, nonsense"], 403),
        ("10.0.0.1", ["192.0.2.7, "], 403),
        ("10.0.0.1", [], 403),
        ("198.51.100.9", ["192.0.2.7"], 403),
    ],
    ids=[
        "one proxy",
        "proxy as a mapped address",
        "two proxies",
        "made up in front, one line",
        "made up in front, a line of its own",
        "the last line counts",
        "nonsense last",
        "nothing last",
        "no header",
        "not from a proxy",
    ],
)
async def test_x_forwarded_for_is_believed_from_the_right(peer: str, lines: list[str], status: int) -> None:
    headers = [("x-api-key", KEY.text), *(("x-forwarded-for", line) for line in lines)]
    answer = await ask(headers, owner=replace(OWNER, allowed_addresses=ALLOWED), peer=peer, trusted_proxies=PROXIES)
    assert answer.status_code == status


async def test_no_proxy_is_trusted_by_default() -> None:
    headers = [("x-api-key", KEY.text), ("x-forwarded-for", "192.0.2.7")]
    answer = await ask(headers, owner=replace(OWNER, allowed_addresses=ALLOWED), peer="10.0.0.1")
    assert answer.status_code == 403


def test_a_key_does_not_show_its_secret() -> None:
    assert KEY.secret not in repr(KEY)
