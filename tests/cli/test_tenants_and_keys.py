"""kobiri tenants, kobiri keys: what an operator sees, and what stays nowhere."""

import asyncio
import hashlib
import hmac
import re
from typing import Any

import pytest

from kobiri.domain import api_key
from kobiri.domain.api_key import SCOPES
from kobiri.domain.errors import AddressNotAllowed, Unauthenticated
from kobiri.services.access import Access, Caller
from kobiri.store.db import Database
from tests.cli.conftest import Cli
from tests.conftest import PEPPER, TestDatabase

HERE = "192.0.2.7"


def fetch(database: TestDatabase, sql: str) -> list[Any]:
    return asyncio.run(database.fetch(sql))


def authenticate(database: TestDatabase, key: str, address: str = HERE) -> Caller:
    """As an API process that has just started."""

    async def work() -> Caller:
        db = await Database.open(database.dsn, pool_size=1)
        try:
            return await Access(db, PEPPER.encode()).authenticate(key, address)
        finally:
            await db.close()

    return asyncio.run(work())


def everything_stored(database: TestDatabase) -> str:
    """All rows of all tables, as a dump would have them."""
    tables = fetch(
        database, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )
    rows = [fetch(database, f"SELECT t::text FROM {name} t") for (name,) in tables]
    return "\n".join(row[0] for table in rows for row in table)


# --- tenants --------------------------------------------------------------------------------------------------------


def test_a_tenant_is_created_listed_suspended_and_resumed(cli: Cli) -> None:
    assert "None yet." in cli.text("tenants", "list")
    said = cli.text("tenants", "create", "kitwe-books", "--name", "Kitwe Books Ltd", "--throttle-limit", "7")
    assert "kobiri keys create kitwe-books" in said
    [tenant] = cli.json("tenants", "list")["tenants"]
    assert (tenant["slug"], tenant["name"], tenant["throttle_limit"]) == ("kitwe-books", "Kitwe Books Ltd", 7)
    listed = cli.text("tenants", "list")
    assert "kitwe-books" in listed
    assert tenant["id"] in listed

    assert "suspended" in cli.text("tenants", "suspend", "kitwe-books")
    assert cli.json("tenants", "list")["tenants"][0]["status"] == "suspended"
    assert cli.json("tenants", "suspend", "kitwe-books")["status"] == "suspended"  # twice is once
    assert cli.json("tenants", "resume", "kitwe-books")["status"] == "active"


def test_json_of_a_new_tenant(cli: Cli) -> None:
    made = cli.json("tenants", "create", "kitwe-books")
    assert (made["slug"], made["name"], made["status"]) == ("kitwe-books", "kitwe-books", "active")
    assert re.fullmatch(r"[0-9a-f-]{36}", made["id"])


def test_what_an_operator_does_stands_in_the_audit_log(cli: Cli, database: TestDatabase) -> None:
    cli.text("tenants", "create", "kitwe-books")
    key_id = cli.json("keys", "create", "kitwe-books")["key_id"]
    for arguments in (
        ("tenants", "suspend", "kitwe-books"),
        ("tenants", "resume", "kitwe-books"),
        ("keys", "revoke", key_id),
    ):
        cli.text(*arguments)
    events = fetch(database, "SELECT type, actor, subject_id FROM events ORDER BY id")
    assert [event["type"] for event in events] == [
        "tenant.created",
        "api_key.created",
        "tenant.suspended",
        "tenant.resumed",
        "api_key.revoked",
    ]
    assert {event["actor"] for event in events} == {"operator:cli"}
    assert events[1]["subject_id"] == events[4]["subject_id"] == key_id


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("tenants", "create", "Kitwe Books"), "unprocessable", "lower-case letters"),
        (("tenants", "create", "x"), "unprocessable", "2 to 48"),
        (("tenants", "create", "shop", "--name", "x" * 201), "unprocessable", "1 to 200"),
        (("tenants", "create", "platform"), "conflict", "already"),
        (("tenants", "suspend", "nobody"), "not_found", "'nobody'"),
        (("tenants", "resume", "platform"), "not_found", "'platform'"),
        (("keys", "create", "nobody"), "not_found", "'nobody'"),
        (("keys", "list", "nobody"), "not_found", "'nobody'"),
        (("keys", "revoke", "AAAAAAAAAAAA"), "not_found", "'AAAAAAAAAAAA'"),
        (("events", "verify", "--tenant", "nobody"), "not_found", "'nobody'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(cli: Cli, arguments: tuple[str, ...], code: str, words: str) -> None:
    found, sentence = cli.refusal(*arguments)
    assert found == code
    assert words in sentence


def test_a_slug_is_taken_once(cli: Cli) -> None:
    cli.text("tenants", "create", "kitwe-books")
    assert cli.refusal("tenants", "create", "kitwe-books")[0] == "conflict"


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(cli: Cli) -> Cli:
    """`kobiri` with a tenant named shop."""
    cli.text("tenants", "create", "shop")
    return cli


def test_a_key_is_shown_once_and_stored_as_its_hmac_alone(shop: Cli, database: TestDatabase) -> None:
    said = shop.text("keys", "create", "shop", "--mode", "test")
    [text] = re.findall(r"kob_test_\w+", said)
    key = api_key.parse(text)
    assert key is not None
    assert "once" in said

    stored = everything_stored(database)
    assert key.key_id in stored  # so the search would find what is there
    assert text not in stored
    assert key.secret not in stored
    assert PEPPER not in stored
    [row] = fetch(database, "SELECT secret_hmac, last4 FROM api_keys")
    message = f"test.{key.key_id}.{key.secret}".encode()
    assert row["secret_hmac"] == hmac.digest(PEPPER.encode(), message, hashlib.sha256)
    assert row["last4"] == text[-4:]
    for shown in (shop.text("keys", "list", "shop"), str(shop.json("keys", "list", "shop"))):
        assert key.key_id in shown
        assert key.secret not in shown
        assert row["secret_hmac"].hex() not in shown


def test_a_key_lets_its_bearer_in_until_it_is_revoked(shop: Cli, database: TestDatabase) -> None:
    made = shop.json("keys", "create", "shop", "--name", "web shop", "--mode", "test", "--scope", "payments:read")
    caller = authenticate(database, made["api_key"])
    assert (caller.slug, caller.mode, set(caller.scopes)) == ("shop", "test", {"payments:read"})

    assert shop.json("keys", "revoke", made["key_id"]) == {"key_id": made["key_id"], "revoked": True}
    with pytest.raises(Unauthenticated):
        authenticate(database, made["api_key"])
    [listed] = shop.json("keys", "list", "shop")["keys"]
    assert listed["revoked_at"] is not None
    shop.text("keys", "revoke", made["key_id"])
    assert shop.json("keys", "list", "shop")["keys"][0]["revoked_at"] == listed["revoked_at"]


def test_a_key_has_live_mode_all_scopes_and_no_end_unless_told_otherwise(shop: Cli) -> None:
    made = shop.json("keys", "create", "shop")
    assert made["api_key"].startswith(f"kob_live_{made['key_id']}_")
    assert (made["mode"], made["scopes"], made["expires_at"]) == ("live", list(SCOPES), None)


def test_a_key_has_what_it_was_given(shop: Cli, database: TestDatabase) -> None:
    made = shop.json(
        *("keys", "create", "shop", "--name", "till", "--throttle-limit", "9", "--expires-in-days", "2"),
        *("--allow", HERE, "--allow", "2001:db8::/32", "--scope", "payments:read", "--scope", "events:read"),
    )
    [listed] = shop.json("keys", "list", "shop")["keys"]
    assert listed["name"] == "till"
    assert listed["throttle_limit"] == 9
    assert listed["scopes"] == ["payments:read", "events:read"]
    assert listed["allowed_addresses"] == [f"{HERE}/32", "2001:db8::/32"]
    assert listed["expires_at"] == made["expires_at"] is not None
    assert authenticate(database, made["api_key"]).key_throttle_limit == 9
    assert authenticate(database, made["api_key"], "2001:db8::1").slug == "shop"
    with pytest.raises(AddressNotAllowed):
        authenticate(database, made["api_key"], "192.0.2.8")
    fetch(database, "UPDATE api_keys SET expires_at = now()")
    with pytest.raises(Unauthenticated):
        authenticate(database, made["api_key"])


def test_a_tenant_has_several_keys_at_once(shop: Cli, database: TestDatabase) -> None:
    made = [shop.json("keys", "create", "shop", "--mode", mode)["api_key"] for mode in ("test", "test", "live")]
    assert [authenticate(database, key).mode for key in made] == ["test", "test", "live"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--scope", "payments:all"), "payments:read"),
        (("--allow", "192.0.2.300"), "192.0.2.7"),
        (("--allow", "192.0.2.7/24"), "192.0.2.7"),  # bits of a host in a network
    ],
)
def test_a_key_that_cannot_be(shop: Cli, option: tuple[str, str], words: str) -> None:
    code, sentence = shop.refusal("keys", "create", "shop", *option)
    assert code == "unprocessable"
    assert words in sentence
    assert shop.json("keys", "list", "shop") == {"keys": []}


def test_another_pepper_opens_nothing(shop: Cli, database: TestDatabase) -> None:
    shop.environment["API_KEY_PEPPER"] = "another pepper that is long enough, too"
    made = shop.json("keys", "create", "shop")
    with pytest.raises(Unauthenticated):
        authenticate(database, made["api_key"])
