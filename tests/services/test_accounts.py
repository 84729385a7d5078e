"""A merchant's own accounts: stored sealed, checked by a real call, used before the platform's, walled off."""

import asyncio
import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from kobiri import app as kobiri_app
from kobiri.domain import envelope
from kobiri.domain.envelope import MasterKeys
from kobiri.domain.errors import Conflict, NotFound, Unprocessable
from kobiri.domain.ids import TenantId, new_provider_reference
from kobiri.providers import registry
from kobiri.providers.airtel import simulator as airtel_simulator
from kobiri.providers.base import Account, Field, Provider
from kobiri.services import accounts, roads
from kobiri.services.accounts import Loaded, TenantAccount, Wish
from kobiri.services.routing import REMEMBER_S
from kobiri.store import accounts as store_accounts
from kobiri.store import callbacks as store_callbacks
from kobiri.store.db import Database
from tests.api.steps import (
    SECRET,
    callback,
    charged,
    check,
    eventually,
    gateway,
    post_callback,
    problem,
    read,
    signature,
    until,
)
from tests.conftest import Api, ApiFactory, Simulator, TestDatabase, make_settings, make_tenant

ACTOR = "operator:test"
OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
KEYS = MasterKeys.parse(f"old:{OLD}")
CANARIES = ("canary-user", "canary-key", "canary-subscription", "canary-webhook-secret")
VALUES = {
    "target_environment": "mtnzambia",
    "collection_api_user": "canary-user",
    "collection_api_key": "canary-key",
    "collection_subscription_key": "canary-subscription",
}


class Shop:
    """The verbs of an operator, for the merchant "shop"."""

    def __init__(self, db: Database, database: TestDatabase, simulator: Simulator) -> None:
        self.db, self.database, self.simulator = db, database, simulator
        self.settings = make_settings(database, simulator.url, public_base_url="https://pay.example.com")

    def wish(self, **over: Any) -> Wish:
        wish: dict[str, Any] = {
            "provider": "mtn", "mode": "test", "name": "main", "values": VALUES,
            "base_url": f"{self.simulator.url}/mtn",
        }  # fmt: skip
        return Wish(**(wish | over))

    async def save(self, slug: str = "shop", keys: MasterKeys | None = KEYS, **over: Any) -> TenantAccount:
        unchecked = over.pop("unchecked", None)
        specs = {provider: entry.spec for provider, entry in registry.BY_ID.items()}
        make = kobiri_app.account_maker(self.settings)
        return await accounts.save(
            self.db, keys, specs, make, slug, self.wish(**over), ACTOR, unchecked_because=unchecked
        )

    async def turn(self, *, enabled: bool, name: str = "main") -> None:
        await accounts.turn(self.db, "shop", "test", name, "keys are changed", ACTOR, enabled=enabled)

    async def stored(self) -> int:
        return int(await self.database.value("SELECT count(*) FROM provider_accounts"))


@pytest.fixture
async def shop(db: Database, database: TestDatabase, simulator: Simulator) -> Shop:
    await make_tenant(database, "shop")
    return Shop(db, database, simulator)


@pytest.fixture
async def api(make_api: ApiFactory) -> Api:
    """With the platform's MTN account, and the keys of the accounts."""
    return await make_api(kobiri_master_keys=f"old:{OLD}", public_base_url="https://pay.example.com")


def five_seconds_pass(api: Api) -> None:
    own = gateway(api).roads._own
    assert own is not None
    for known in own._known.values():
        known.read_at -= REMEMBER_S


async def used(api: Api, payment: dict[str, Any]) -> str | None:
    """The account by which a payment went."""
    found = await api.database.value("SELECT account_id FROM payments WHERE id = $1", payment["id"])
    return str(found) if found else None


# --- accounts of older versions -------------------------------------------------------------------------------------


async def older_airtel(shop: Shop, **values: str) -> TenantAccount:
    """An account as a version before pin_key and sign_key has stored it, opened by this one."""
    wrote = {"client_id": "c", "client_secret": "s", "pin": "2468", "sign_messages": "on", **values}
    sealed = {"values": wrote, "callback_token": "t" * 32, "webhook_secrets": []}
    await shop.save(
        provider="airtel", values={"client_id": "c", "client_secret": "s"}, base_url=f"{shop.simulator.url}/airtel"
    )
    async with shop.db.operator_transaction() as tx:
        tenant_id = TenantId(str(await shop.database.value("SELECT id FROM tenants WHERE slug = 'shop'")))
        stored = await store_accounts.find(tx, tenant_id, "test", "main")
    assert stored is not None
    belongs_to = accounts._belongs_to(stored)
    older = replace(stored, envelope=envelope.seal(KEYS, json.dumps(sealed).encode(), belongs_to, os.urandom))
    return accounts._open(KEYS, older)


@pytest.mark.parametrize("padding", ["pkcs1", "oaep-sha1"])
async def test_an_older_airtel_account_opens_and_seals_as_it_did(shop: Shop, padding: str) -> None:
    """One key and one padding served PIN and signature, and must go on doing so."""
    account = await older_airtel(shop, pin_padding=padding, public_key=airtel_simulator.STATIC_PIN_KEY)
    provider = kobiri_app.account_maker(shop.settings)(account)
    assert provider is not None, "it counts as closed else"
    facts = (await accounts.ask(provider)).facts
    assert {facts["pin_key"].split(" (")[0], facts["sign_key"].split(" (")[0]} == {"public_key"}
    assert (facts["pin_padding"], facts["sign_padding"]) == (padding, padding)
    assert (facts["payout_version"], facts["refund_version"]) == ("v2", "v1")


# --- storing --------------------------------------------------------------------------------------------------------


async def test_an_account_is_stored_once_its_provider_has_taken_it(shop: Shop) -> None:
    account = await shop.save()
    assert (account.version, account.currency) == (1, "ZMW")
    tokens = await shop.simulator.requests(path="token")
    assert tokens, "a real call was made"
    (event,) = await shop.database.fetch("SELECT type, data::text FROM events WHERE subject_id = $1", account.id)
    assert event["type"] == "account.created"
    assert not any(canary in event["data"] for canary in CANARIES)


async def test_a_slow_provider_takes_an_account_within_its_deadline(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "CHECK_WITHIN_S", 0.5)
    shop.settings = shop.settings.model_copy(update={"mtn_timeout_seconds": 0.5})
    await shop.simulator.fault(kind="latency_after", provider="mtn", operation="token", ms=1_000)
    with pytest.raises(Unprocessable, match="Nothing was stored"):
        await shop.save()
    shop.settings = shop.settings.model_copy(update={"mtn_deadline_seconds": 10})
    await shop.save()
    make = kobiri_app.account_maker(shop.settings)
    assert (await accounts.check(shop.db, KEYS, make, "shop", "test", "main")).trouble is None


async def test_credentials_that_are_refused_are_stored_nowhere(shop: Shop) -> None:
    await shop.simulator.fault(kind="error_before", operation="token", status=401)
    with pytest.raises(Unprocessable, match="does not take this account"):
        await shop.save()
    assert await shop.stored() == 0
    await shop.save(unchecked="MTN is down until six")
    assert await shop.stored() == 1


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"values": VALUES | {"colour": "red"}}, "no field 'colour'"),
        ({"values": {"target_environment": "mtnzambia"}}, "needs the field collection_api_user"),
        ({"values": VALUES | {"payout_call": "gift"}}, "payout_call must be one of"),
        ({"values": VALUES | {"collection_api_key": ""}}, "collection_api_key must have"),
        ({"values": VALUES | {"collection_api_key": "canary-key "}}, "collection_api_key begins or ends with a space"),
        ({"values": VALUES | {"collection_subscription_key": "canary\n"}}, "collection_subscription_key holds a line"),
        ({"webhook_secret": "canary-webhook-secret\n"}, "webhook_secret holds a line break"),
        ({"base_url": "https://proxy.momoapi.mtn.com", "unchecked": "it is not asked"}, "cannot serve test keys"),
        ({"mode": "live", "base_url": None, "unchecked": "it is not asked"}, "cannot serve live keys"),
        (
            {
                "provider": "airtel",
                "values": {"client_id": "c", "client_secret": "s", "pin": "12ab"},
                "unchecked": "it is down",
            },
            "pin must be 4 to 8 digits",
        ),
        ({"webhook_secret": "a"}, "webhook_secret must have at least 16 characters"),
        ({"base_url": "http://mtn.example.com"}, "must be https"),
        ({"base_url": "https://mtn.example.com/%50rod"}, "must be https"),
        ({"base_url": "https://user:pass@mtn.example.com"}, "must be https"),
        ({"base_url": "ftp://127.0.0.1"}, "must be https"),
        ({"base_url": "https://[x"}, "must be https"),
        ({"base_url": "https://:pass@mtn.example.com"}, "must be https"),
        ({"base_url": "https://mtn.example.com:99999"}, "must be https"),
        ({"base_url": "https://mtn.example.com/a\nb"}, "must be https"),
        ({"base_url": "https://mtn.example.com/?"}, "must be https"),
        ({"values": VALUES | {"collection_api_key": "a\x00b"}}, "cannot be printed"),
        ({"values": VALUES | {"collection_subscription_key": "a\nb"}}, "cannot be printed"),
        ({"minimum": "five"}, "decimal digits"),
        ({"name": ""}, "The name"),
        ({"minimum": "0.02", "maximum": "0.01"}, "smallest"),
        ({"currency": "EUR"}, "takes ZMW"),
    ],
)
async def test_what_is_wrong_with_it_is_told_in_one_sentence(shop: Shop, over: dict[str, Any], told: str) -> None:
    with pytest.raises(Unprocessable, match=told) as refused:
        await shop.save(**over)
    assert not any(canary in str(refused.value) for canary in CANARIES)
    assert await shop.stored() == 0


async def test_without_master_keys_nothing_is_stored(shop: Shop) -> None:
    with pytest.raises(Unprocessable, match="KOBIRI_MASTER_KEYS"):
        await shop.save(keys=None)
    with pytest.raises(NotFound):
        await shop.save(slug="nobody")
    with pytest.raises(NotFound):
        await shop.save(provider="nobody")


async def test_a_dump_of_the_database_holds_no_secret(shop: Shop) -> None:
    account = await shop.save(webhook_secret="canary-webhook-secret")
    tables = await shop.database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    dump = ""
    for table in tables:
        rows = await shop.database.fetch(f"SELECT t::text FROM {table['tablename']} t")
        dump += "".join(row[0] for row in rows)
    sealed = await shop.database.value("SELECT sealed || wrapped_key || callback_token_hash FROM provider_accounts")
    for secret in (*CANARIES, account.callback_token):
        assert secret not in dump
        assert secret.encode() not in bytes(sealed)
        assert secret.encode().hex() not in dump
    assert not any(secret in repr(account) for secret in (*CANARIES, account.callback_token))


async def test_a_sealed_secret_opens_in_no_other_row(shop: Shop) -> None:
    await make_tenant(shop.database, "thief")
    await shop.save()
    await shop.save("thief", values=VALUES | {"collection_api_user": "thief"})
    thief = TenantId(str(await shop.database.value("SELECT id FROM tenants WHERE slug = 'thief'")))
    assert len((await accounts.load(shop.db, KEYS, thief)).accounts) == 1
    await shop.database.fetch(
        "UPDATE provider_accounts t SET sealed = s.sealed, wrapped_key = s.wrapped_key"
        " FROM provider_accounts s WHERE t.tenant_id = $1 AND s.tenant_id <> $1",
        thief,
    )
    assert await accounts.load(shop.db, KEYS, thief) == Loaded([], frozenset({"test"}))


async def test_an_account_is_replaced_under_its_name_and_keeps_its_callback_path(shop: Shop) -> None:
    first = await shop.save(webhook_secret="the first secret")
    second = await shop.save(values=VALUES | {"collection_api_key": "changed"}, webhook_secret="the second secret")
    assert (second.id, second.version, second.callback_token) == (first.id, 2, first.callback_token)
    assert second.webhook_secrets == ("the second secret", "the first secret")
    assert await shop.stored() == 1
    with pytest.raises(Conflict, match="another name"):
        await shop.save(provider="zamtel", values={"third_party_id": "x", "password": "x", "shortcode": "1"})


async def test_what_is_left_out_of_a_replacement_stays_as_it_was(shop: Shop) -> None:
    await shop.save(priority=7, minimum="5.00", maximum="50.00")
    kept = await shop.save(base_url=None, maximum="60.00")
    assert (kept.base_url, kept.priority, kept.min_minor, kept.max_minor) == (
        f"{shop.simulator.url}/mtn", 7, 500, 6_000,
    )  # fmt: skip
    assert (await shop.save(minimum="")).min_minor is None


async def test_limits_are_read_in_the_accounts_own_currency(shop: Shop) -> None:
    """Uganda's shilling has no decimals: 5000 of them are 5000 minor units."""
    uganda = VALUES | {"target_environment": "mtnuganda", "currency": "UGX"}
    account = await shop.save(values=uganda, minimum="5000", unchecked="this simulator is of Zambia")
    assert (account.currency, account.min_minor) == ("UGX", 5_000)
    with pytest.raises(Unprocessable, match="another currency"):
        await shop.save(currency="ZMW", unchecked="the same")


async def test_an_account_that_does_not_open_is_not_replaced_blindly(shop: Shop) -> None:
    await shop.save(webhook_secret="the first secret")
    with pytest.raises(Unprocessable, match=r"does not open.*master key old.*another name"):
        await shop.save(keys=MasterKeys.parse(f"new:{NEW}"))


async def test_an_account_that_does_not_open_holds_no_other_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "REWRAPPED_AT_ONCE", 1)
    lost = MasterKeys.parse(f"lost:{base64.b64encode(bytes(32)).decode()}")
    await shop.save(name="first", keys=lost)
    await shop.save(name="second")
    both = MasterKeys.parse(f"new:{NEW},old:{OLD}")
    with pytest.raises(Unprocessable, match=r"1 accounts have the new key; 1 do not open.*first"):
        await accounts.rotate(shop.db, both, ACTOR)
    assert await shop.database.value("SELECT master_key_id FROM provider_accounts WHERE name = 'second'") == "new"


async def test_of_two_who_replace_it_at_once_one_is_told(shop: Shop) -> None:
    await shop.save()
    said = await asyncio.gather(*(shop.save() for _ in range(4)), return_exceptions=True)
    won = [one for one in said if isinstance(one, TenantAccount)]
    assert all(isinstance(one, TenantAccount | Conflict) for one in said), said
    assert await shop.database.value("SELECT version FROM provider_accounts") == 1 + len(won)


async def test_the_master_key_changes_while_everything_runs(shop: Shop) -> None:
    await shop.save()
    await shop.save(name="second")
    tenant_id = TenantId(str(await shop.database.value("SELECT id FROM tenants WHERE slug = 'shop'")))
    both = MasterKeys.parse(f"new:{NEW},old:{OLD}")
    stop = asyncio.Event()

    async def keep_loading() -> int:
        times = 0
        while not stop.is_set():
            assert len((await accounts.load(shop.db, both, tenant_id)).accounts) == 2
            times += 1
        return times

    loading = asyncio.create_task(keep_loading())
    assert await accounts.rotate(shop.db, both, ACTOR) == 2
    assert await accounts.rotate(shop.db, both, ACTOR) == 0
    stop.set()
    assert await loading > 0
    assert len((await accounts.load(shop.db, MasterKeys.parse(f"new:{NEW}"), tenant_id)).accounts) == 2
    assert (await accounts.load(shop.db, KEYS, tenant_id)).accounts == [], "the retired key opens nothing"
    with pytest.raises(Unprocessable, match="master key new"):
        await accounts.rotate(shop.db, KEYS, ACTOR)


async def test_what_is_done_to_one_account_is_done_to_no_other(shop: Shop) -> None:
    """One name in two modes, a second name beside it, and the name again at another tenant."""
    await make_tenant(shop.database, "other")
    meant = await shop.save()
    beside = [await shop.save(mode="live"), await shop.save(name="second"), await shop.save("other")]

    async def rows() -> dict[str, Any]:
        found = await shop.database.fetch("SELECT * FROM provider_accounts")
        return {str(row["id"]): dict(row) for row in found}

    before = await rows()
    await shop.turn(enabled=False)
    assert (await shop.save(priority=7)).id == meant.id
    after = await rows()
    assert (after[meant.id]["enabled"], after[meant.id]["version"]) == (False, 2)
    assert [after[one.id] for one in beside] == [before[one.id] for one in beside]


async def test_another_tenant_does_not_see_it(shop: Shop) -> None:
    await make_tenant(shop.database, "other")
    await shop.save()
    other = TenantId(str(await shop.database.value("SELECT id FROM tenants WHERE slug = 'other'")))
    assert await accounts.load(shop.db, KEYS, other) == Loaded([])
    assert await accounts.list_all(shop.db, "other") == []
    async with shop.db.tenant_transaction(other) as tx:
        assert await tx.fetch("SELECT * FROM provider_accounts") == []


# --- routing --------------------------------------------------------------------------------------------------------


async def test_a_merchants_own_account_is_used_and_the_platforms_is_not(api: Api, shop: Shop) -> None:
    payment = (await api.pay()).json()
    assert await used(api, payment) is None, "without one it is the platform's"
    account = await shop.save()
    five_seconds_pass(api)
    own = (await api.pay()).json()
    assert await used(api, own) == account.id
    event = await api.database.value(
        "SELECT data::text FROM events WHERE type = 'payment.created' AND subject_id = $1", own["id"]
    )
    assert "mtn: the merchant has accounts of its own" in event
    for one in (payment, own):
        done = await until(api, one["id"], "SUCCESSFUL")
        await charged(shop.simulator, done["provider_reference"])
    stranger = await api.tenant("stranger")
    other = (await api.pay(headers={"x-api-key": stranger})).json()
    assert await used(api, other) is None


async def test_an_account_that_is_down_is_no_reason_to_take_the_platforms(api: Api, shop: Shop) -> None:
    """The money must not land in somebody else's account."""
    await shop.save(base_url="http://127.0.0.1:9/mtn", unchecked="it is down")
    answer = await api.pay()
    assert answer.status_code == 202
    assert await shop.simulator.movements() == []


async def test_an_account_that_does_not_open_sends_its_money_nowhere_else(api: Api, shop: Shop) -> None:
    """A lost master key, or a row that somebody has edited to send credentials elsewhere."""
    await shop.save()
    await shop.database.fetch("UPDATE provider_accounts SET base_url = 'https://thief.example.com'")
    refused = problem(await api.pay(), 503, "route_closed")
    assert "an account of the merchant's own cannot be opened" in refused["detail"]
    assert await shop.simulator.movements() == []
    await shop.turn(enabled=False)
    five_seconds_pass(api)
    assert (await api.pay()).status_code == 201


MAKE_ACCOUNT, OPEN = registry.account, accounts._open


def _in_dollars(*given: Any) -> TenantAccount:
    return replace(OPEN(*given), currency="USD")


def _live_only(*given: Any, **named: Any) -> Account:
    made = MAKE_ACCOUNT(*given, **named)
    assert made is not None
    return replace(made, modes=frozenset({"live"}))


def _another_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.BY_ID["mtn"]
    spec = replace(known.spec, fields=(*known.spec.fields, Field("partner_code", "Needed since this version")))
    monkeypatch.setitem(registry.BY_ID, "mtn", replace(known, spec=spec))


def _raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_account: object) -> Provider:
        raise KeyError("a field that is read and not there")

    monkeypatch.setitem(registry.BY_ID, "mtn", replace(registry.BY_ID["mtn"], build=build))


class _SealedLater(msgspec.Struct):
    values: dict[str, str]
    callback_token: str
    region: str
    webhook_secrets: tuple[str, ...] = ()


UNOPENED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a field that is needed now": _another_spec,
    "a provider that is gone": lambda patch: patch.delitem(registry.BY_ID, "mtn"),
    "a provider that cannot be made": _raises,
    "a currency that it takes no more": lambda patch: patch.setattr(accounts, "_open", _in_dollars),
    "a provider of the other mode": lambda patch: patch.setattr(registry, "account", _live_only),
    "a provider that does nothing with it": lambda patch: patch.setattr(roads, "kinds_of", lambda *_: frozenset()),
    "a secret that is sealed otherwise": lambda patch: patch.setattr(accounts, "_Sealed", _SealedLater),
}


@pytest.mark.parametrize("way", UNOPENED)
async def test_in_whichever_way_an_account_does_not_open_its_money_goes_nowhere_else(
    make_api: ApiFactory, shop: Shop, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    api = await make_api(kobiri_master_keys=f"old:{OLD}", public_base_url="https://pay.example.com")
    await shop.save()
    with monkeypatch.context() as patch:
        UNOPENED[way](patch)
        refused = problem(await api.pay(), 503, "route_closed")
        assert "an account of the merchant's own cannot be opened" in refused["detail"]
        assert await shop.simulator.movements() == []
        other = await api.tenant("other")
        assert (await api.pay(headers={"x-api-key": other})).status_code == 201, "the others notice nothing"
    five_seconds_pass(api)
    paid = await api.pay()
    assert paid.status_code == 201
    assert await used(api, paid.json()) is not None


async def test_an_account_that_does_not_open_closes_its_own_mode_alone(api: Api, shop: Shop) -> None:
    await shop.save(mode="live")
    await shop.database.fetch("UPDATE provider_accounts SET base_url = 'https://thief.example.com'")
    assert (await api.pay()).status_code == 201
    problem(await api.pay(headers={"x-api-key": await api.tenant("shop", mode="live")}), 503, "route_closed")


async def test_a_disabled_account_gets_nothing_new_and_its_payments_are_followed(api: Api, shop: Shop) -> None:
    account = await shop.save()
    await shop.simulator.fault(kind="payer", decision="approve", prompt_ms=300, times=1)
    payment = (await api.pay()).json()
    await shop.turn(enabled=False)
    five_seconds_pass(api)
    assert await used(api, (await api.pay()).json()) is None
    done = await until(api, payment["id"], "SUCCESSFUL")
    assert await used(api, done) == account.id
    await shop.turn(enabled=True)
    five_seconds_pass(api)
    assert await used(api, (await api.pay()).json()) == account.id


async def test_the_lowest_priority_is_tried_first_and_limits_hold(api: Api, shop: Shop) -> None:
    await shop.save(name="large", priority=20, minimum="500.00")
    small = await shop.save(name="small", priority=10, maximum="100.00")
    assert await used(api, (await api.pay(amount="100.00")).json()) == small.id
    refused = problem(await api.pay(amount="250.00"), 422, "amount_out_of_limits")
    assert "takes 500.00 at least" in refused["detail"]
    assert "takes 100.00 at most" in refused["detail"]


async def test_the_installations_largest_amount_holds_for_a_merchants_own_account_too(
    api: Api, shop: Shop, make_api: ApiFactory
) -> None:
    own = await shop.save(maximum="900000.00")
    assert await used(api, (await api.pay(amount="100000.00")).json()) == own.id
    refused = problem(await api.pay(amount="100000.01"), 422, "amount_out_of_limits")
    assert "takes 100000.00 at most" in refused["detail"]
    small = await make_api(payment_max_amounts="ZMW:20", kobiri_master_keys=f"old:{OLD}")
    refused = problem(await small.pay(amount="20.01"), 422, "amount_out_of_limits")
    assert f"mtn:{own.id}: takes 20.00 at most" in refused["detail"]
    assert await used(small, (await small.pay(amount="20.00")).json()) == own.id


async def test_an_account_that_is_replaced_while_a_call_is_open_lets_it_end(api: Api, shop: Shop) -> None:
    await shop.save()
    await api.pay()
    await shop.simulator.fault(kind="latency_after", operation="create", ms=700, times=1)
    asking = asyncio.create_task(api.pay())

    async def asked() -> bool:
        return len(await shop.simulator.requests(path="requesttopay")) >= 2

    await eventually(asked)
    await shop.save(values=VALUES | {"collection_api_key": "changed"})
    five_seconds_pass(api)
    assert (await api.pay()).status_code == 201
    assert (await asking).status_code == 201


async def test_an_api_user_that_changes_sends_nothing_old(api: Api, shop: Shop) -> None:
    await shop.save()
    await shop.simulator.fault(kind="reset_before", operation="create")
    body = problem(await api.pay(), 504, "provider_timeout")
    await shop.simulator.clear_faults()
    reference = (await read(api, body["payment_id"]))["provider_reference"]
    before = len(await shop.simulator.requests(reference=reference))
    await shop.save(values=VALUES | {"collection_api_user": "another-user"})
    five_seconds_pass(api)
    for _ in range(3):
        await check(api)
    posts = [r for r in await shop.simulator.requests(reference=reference) if r["method"] == "POST"]
    assert len(posts) == before, "not sent again"
    assert (await read(api, body["payment_id"]))["status"] == "TIMEOUT"


# --- callbacks ------------------------------------------------------------------------------------------------------


async def post(api: Api, token: str, body: bytes, provider: str = "mtn") -> int:
    headers = {"content-type": "application/json", "x-api-key": ""}
    answer = await api.client.post(f"/api/v1/webhooks/{provider}/{token}", content=body, headers=headers)
    return answer.status_code


async def test_a_callback_comes_in_by_its_accounts_path_alone(
    api: Api, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    await make_tenant(shop.database, "other")
    ours, theirs = await shop.save(), await shop.save("other")
    payment = (await api.pay()).json()
    assert await used(api, payment) == ours.id
    body = callback(payment)

    async def kept() -> list[tuple[str, str | None]]:
        rows = await api.database.fetch("SELECT verdict, payment_id FROM callbacks ORDER BY received_at")
        return [(row["verdict"], str(row["payment_id"]) if row["payment_id"] else None) for row in rows]

    assert await post(api, theirs.callback_token, body) == 200
    assert await kept() == [("unmatched", None)], "another account's path proves nothing"
    headers = {"content-type": "application/json", "x-api-key": ""}
    await api.client.post("/api/v1/webhooks/mtn", content=body, headers=headers)
    assert ("hint", payment["id"]) not in await kept(), "nor does the platform's"
    assert await post(api, ours.callback_token, body) == 200
    assert ("hint", payment["id"]) in await kept()
    for token in ("x", ours.callback_token[:-1], ours.callback_token + "a"):
        assert await post(api, token, body) == 404
    assert await post(api, ours.callback_token, body, "airtel") == 404, "nor is it a path of another provider"
    captured = capsys.readouterr()
    assert ours.callback_token not in captured.out + captured.err


async def test_what_a_merchant_signs_for_its_own_account_fills_its_own_room_alone(
    make_api: ApiFactory, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_callbacks, "KEPT_OF_STRANGERS", 3)
    api = await make_api(kobiri_master_keys=f"old:{OLD}", mtn_webhook_secret=SECRET)
    account = await shop.save(webhook_secret="the merchant knows it")
    payment = (await api.pay()).json()
    for word in ("NEW_A", "NEW_B", "NEW_C", "NEW_D", "NEW_E"):
        body = callback(payment | {"provider_reference": new_provider_reference()}, status=word)
        headers = {"content-type": "application/json", "x-api-key": "", **signature(body, "the merchant knows it")}
        path = f"/api/v1/webhooks/mtn/{account.callback_token}"
        assert (await api.client.post(path, content=body, headers=headers)).status_code == 200
    genuine = callback(payment | {"provider_reference": new_provider_reference()}, status="NEW_F")
    assert (await post_callback(api, genuine)).status_code == 200
    rows = await api.database.fetch("SELECT t.slug, c.body FROM callbacks c JOIN tenants t ON t.id = c.tenant_id")
    assert sorted(row["slug"] for row in rows if row["body"] != genuine) == ["shop"] * 3
    assert [row["slug"] for row in rows if row["body"] == genuine] == ["platform"]
    road = gateway(api).roads.receiver("mtn")
    assert road is not None
    assert road.unlisted.seen == {"NEW_F": 1}, "nor does it hide the provider's own news"


async def test_each_of_a_merchants_accounts_hears_of_its_own_payments(api: Api, shop: Shop) -> None:
    """One that went by the platform's account, and one by each of two of the merchant's own at the same provider."""
    payments, paths = [(await api.pay()).json()], [""]
    for name in ("main", "second"):
        account = await shop.save(name=name)
        five_seconds_pass(api)
        payments.append((await api.pay()).json())
        assert await used(api, payments[-1]) == account.id
        paths.append(f"/{account.callback_token}")
        await shop.turn(enabled=False, name=name)
    for path in paths:
        for payment in payments:
            headers = {"content-type": "application/json", "x-api-key": ""}
            await api.client.post(f"/api/v1/webhooks/mtn{path}", content=callback(payment), headers=headers)
    heard = await api.database.fetch(
        "SELECT payment_id::text FROM callbacks WHERE verdict = 'hint' ORDER BY received_at"
    )
    assert [row["payment_id"] for row in heard] == [payment["id"] for payment in payments]


async def test_an_accounts_own_secret_signs_its_callbacks(api: Api, shop: Shop) -> None:
    account = await shop.save(webhook_secret="a secret of this account's own")
    payment = (await api.pay()).json()
    assert await post(api, account.callback_token, callback(payment)) == 401
    signed = callback(payment)
    headers = {"content-type": "application/json", "x-api-key": ""} | signature(
        signed, "a secret of this account's own"
    )
    answer = await api.client.post(f"/api/v1/webhooks/mtn/{account.callback_token}", content=signed, headers=headers)
    assert answer.status_code == 200
    assert (await read(api, payment["id"]))["status"] == "SUCCESSFUL"
