"""Callbacks in, through the door: who is believed, who is a hint, who is refused; nobody charges or fills a disk."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from kobiri import app as kobiri_app
from kobiri.domain.errors import Busy
from kobiri.domain.ids import new_provider_reference
from kobiri.domain.outcome import Accepted
from kobiri.providers.base import Callback, CallbackWord
from kobiri.providers.mtn.adapter import MtnProvider
from kobiri.services import callbacks as service
from kobiri.services import checking, housekeeping, outcomes, reviews
from kobiri.store import callbacks as store
from tests.api.steps import (
    CALLBACKS,
    SECRET,
    age,
    callback,
    charged,
    check,
    eventually,
    gateway,
    history,
    ledger,
    make_due,
    post_callback,
    problem,
    read,
    signature,
    until,
    work,
)
from tests.conftest import Api, ApiFactory, Simulator
from tests.providers import test_pawapay_signatures as pawapay

OLD_SECRET = "the secret of last year, still good during the rotation"
SETTLED = {"provider:mtn": 1_000, "merchant_available": -1_000}


@pytest.fixture
async def signed(make_api: ApiFactory) -> Api:
    """MTN's callbacks are signed here; two secrets are good."""
    return await make_api(mtn_webhook_secret=SECRET, mtn_webhook_secret_previous=OLD_SECRET)


async def unpaid(api: Api, simulator: Simulator) -> dict[str, Any]:
    """A payment that nobody approves, so that only callbacks move it."""
    await simulator.fault(kind="payer", decision="ignore", times=1)
    answer = await api.pay()
    assert answer.status_code == 201, answer.text
    payment: dict[str, Any] = answer.json()
    return payment


async def kept(api: Api) -> dict[str, int]:
    rows = await api.database.fetch("SELECT verdict, sum(times)::bigint AS n FROM callbacks GROUP BY verdict")
    return {row["verdict"]: row["n"] for row in rows}


async def row(api: Api, payment: dict[str, Any]) -> dict[str, Any]:
    return dict((await api.database.fetch("SELECT * FROM payments WHERE id = $1", payment["id"]))[0])


def seen_at(api: Api) -> dict[str, int]:
    road = gateway(api).roads.receiver("mtn")
    assert road is not None
    return dict(road.unlisted.seen)


async def test_a_code_that_nobody_listed_is_noted_where_the_provider_signed_it(
    api: Api, signed: Api, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = MtnProvider.read_callback

    def reading(provider: MtnProvider, callback: Callback) -> CallbackWord:
        return replace(reads(provider, callback), finding=Accepted(unlisted="NEW_WORD"))

    monkeypatch.setattr(MtnProvider, "read_callback", reading)
    payment = await unpaid(api, simulator)
    unknown = callback(payment | {"provider_reference": new_provider_reference()})
    await post_callback(api, unknown, secret=None)
    await post_callback(api, callback(payment), secret=None)  # the merchant knows the reference too
    await post_callback(signed, unknown)
    assert [seen_at(one) for one in (api, signed)] == [{}, {"NEW_WORD": 1}]


# --- believed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET], ids=["current", "previous"])
async def test_a_signed_success_settles_at_once(signed: Api, simulator: Simulator, method: str, secret: str) -> None:
    payment = await unpaid(signed, simulator)
    asked = len(await simulator.requests())
    body = callback(payment)
    answer = await post_callback(signed, body, secret=secret, method=method)
    assert answer.status_code == 200
    done = await read(signed, payment["id"])
    assert (done["status"], done["provider_transaction_id"]) == ("SUCCESSFUL", "4711")
    assert await ledger(signed, payment["id"]) == SETTLED
    assert len(await simulator.requests()) == asked
    found = await signed.database.fetch("SELECT verdict, body, payment_id::text FROM callbacks")
    assert [tuple(one) for one in found] == [("applied", body, payment["id"])]


VARIANTS: list[dict[str, Any]] = [
    {"payer": "260961234567"},
    {"payer": "+260961234567"},
    {"amount": 10},
    {"amount": 10.00},
    {"amount": "10"},
    {"amount": "10.0000"},
    {"financialTransactionId": 4711},
    {"financialTransactionId": None},
    {"payerMessage": "Paid\u2019s ok", "unknown": {"deep": [1]}},
]


async def test_the_shapes_that_mtn_may_use_are_read(signed: Api, simulator: Simulator) -> None:
    for n, change in enumerate(VARIANTS):  # one transaction id settles one payment
        payment = await unpaid(signed, simulator)
        await post_callback(signed, callback(payment, **{"financialTransactionId": str(n), **change}))
        assert (await read(signed, payment["id"]))["status"] == "SUCCESSFUL", change


@pytest.mark.parametrize("reason", ["APPROVAL_REJECTED", {"code": "APPROVAL_REJECTED", "message": "no"}])
async def test_a_signed_failure_ends_it(signed: Api, simulator: Simulator, reason: object) -> None:
    payment = await unpaid(signed, simulator)
    await post_callback(signed, callback(payment, status="FAILED", reason=reason))
    done = await read(signed, payment["id"])
    assert (done["status"], done["failure"]["code"]) == ("FAILED", "payer_declined")


async def test_replayed_it_has_no_second_effect(signed: Api, simulator: Simulator) -> None:
    payment = await unpaid(signed, simulator)
    for _ in range(5):
        assert (await post_callback(signed, callback(payment))).status_code == 200
    assert (await history(signed, payment["id"])).count("payment.succeeded") == 1
    assert await ledger(signed, payment["id"]) == SETTLED
    assert await kept(signed) == {"applied": 5}
    assert await signed.database.value("SELECT count(*) FROM callbacks") == 1


async def test_many_at_once_settle_once(signed: Api, simulator: Simulator) -> None:
    payment = await unpaid(signed, simulator)
    bodies = [callback(payment, payerMessage=str(n)) for n in range(10)]
    answers = await asyncio.gather(*(post_callback(signed, body) for body in bodies))
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert (await history(signed, payment["id"])).count("payment.succeeded") == 1
    assert await ledger(signed, payment["id"]) == SETTLED


@pytest.mark.parametrize("stale", [{"status": "PENDING"}, {"status": "CREATED"}])
async def test_a_stale_word_after_the_final_one_changes_nothing(
    signed: Api, simulator: Simulator, stale: dict[str, Any]
) -> None:
    payment = await unpaid(signed, simulator)
    await post_callback(signed, callback(payment))
    before = await row(signed, payment)
    assert (await post_callback(signed, callback(payment, **stale))).status_code == 200
    assert await row(signed, payment) == before


async def test_failed_after_success_is_a_contradiction(signed: Api, simulator: Simulator) -> None:
    payment = await unpaid(signed, simulator)
    await post_callback(signed, callback(payment))
    for _ in range(2):
        await post_callback(signed, callback(payment, status="FAILED", reason="EXPIRED"))
    after = await read(signed, payment["id"])
    assert (after["status"], after["review"]) == ("SUCCESSFUL", "contradicted")
    assert (await history(signed, payment["id"])).count("payment.contradicted") == 1
    assert await ledger(signed, payment["id"]) == SETTLED


async def test_success_after_failure_goes_to_suspense(signed: Api, simulator: Simulator) -> None:
    payment = await unpaid(signed, simulator)
    await post_callback(signed, callback(payment, status="FAILED", reason="EXPIRED"))
    for _ in range(2):
        await post_callback(signed, callback(payment))
    after = await read(signed, payment["id"])
    assert (after["status"], after["review"]) == ("FAILED", "contradicted")
    assert (await history(signed, payment["id"])).count("payment.contradicted") == 1
    assert await ledger(signed, payment["id"]) == {"provider:mtn": 1_000, "suspense": -1_000}


@pytest.mark.parametrize(
    "wrong", [{"amount": "9.99"}, {"amount": "1000"}, {"currency": "KES"}, {"payer": "260961234568"}], ids=str
)
async def test_a_signed_success_that_is_not_ours_is_not_settled(
    signed: Api, simulator: Simulator, wrong: dict[str, Any]
) -> None:
    payment = await unpaid(signed, simulator)
    for _ in range(2):
        assert (await post_callback(signed, callback(payment, **wrong))).status_code == 200
    held = await read(signed, payment["id"])
    assert (held["status"], held["review"]) == ("PENDING", "mismatched")
    assert (await history(signed, payment["id"])).count("payment.mismatched") == 1
    assert await ledger(signed, payment["id"]) == {}


@pytest.mark.parametrize("wrong", [{"amount": "9.99"}, {"currency": "KES"}, {"payer": "260961234568"}], ids=str)
async def test_a_signed_failure_that_is_not_ours_ends_nothing_and_makes_us_ask(
    signed: Api, simulator: Simulator, wrong: dict[str, Any]
) -> None:
    """Whoever believes it tells the merchant to ask again, and the payer may pay twice."""
    payment = await unpaid(signed, simulator)
    answer = await post_callback(signed, callback(payment, status="FAILED", reason="EXPIRED", **wrong))
    assert answer.status_code == 200
    assert await work(signed) == 1, "due now"
    after = await read(signed, payment["id"])
    assert (after["status"], after["failure"]) == ("PENDING", None)
    assert "payment.failed" not in await history(signed, payment["id"])


async def test_a_callback_that_overtakes_the_answer_is_not_overwritten(signed: Api, simulator: Simulator) -> None:
    await signed.pay()
    await simulator.fault(kind="payer", decision="ignore")
    await simulator.fault(kind="latency_after", operation="create", ms=700)
    running = asyncio.create_task(signed.pay("k"))
    found = await eventually(lambda: signed.database.fetch("SELECT id::text FROM payments WHERE accepted_at IS NULL"))
    payment = await read(signed, found[0]["id"])
    await post_callback(signed, callback(payment))
    assert not running.done()
    answer = await running
    assert (answer.status_code, answer.json()["status"]) == (201, "SUCCESSFUL")
    assert answer.json() == await read(signed, payment["id"])
    assert (await signed.pay("k")).content == answer.content
    assert await history(signed, payment["id"]) == ["payment.created", "payment.succeeded"]


# --- a hint ---------------------------------------------------------------------------------------------------------


async def test_unsigned_it_makes_us_ask_now_and_moves_nothing(api: Api, simulator: Simulator) -> None:
    payment = await unpaid(api, simulator)
    await post_callback(api, callback(payment), secret=None)
    assert (await read(api, payment["id"]))["status"] == "PENDING"
    assert await work(api) == 1  # due now
    assert (await read(api, payment["id"]))["status"] == "PENDING"  # the provider knows of no success
    assert await kept(api) == {"hint": 1}
    assert await ledger(api, payment["id"]) == {}


async def test_hints_count_once_in_five_seconds(api: Api, simulator: Simulator) -> None:
    payment = await unpaid(api, simulator)
    await post_callback(api, callback(payment), secret=None)
    assert await work(api) == 1
    await post_callback(api, callback(payment), secret=None)
    assert await work(api) == 0
    (kept,) = await api.database.fetch("SELECT hinted, next_run_at - now() AS wait FROM payments")
    assert kept["hinted"], "it is not dropped, but later"
    assert kept["wait"].total_seconds() <= 5
    await make_due(api.database)
    assert await work(api) == 1


async def test_a_hint_does_not_cut_a_lease(api: Api, simulator: Simulator) -> None:
    payment = await unpaid(api, simulator)
    await api.database.fetch("UPDATE payments SET next_run_at = now() - interval '1 second'")
    (claim,) = await checking.claim_due(gateway(api), 10)
    held = await row(api, payment)
    await post_callback(api, callback(payment), secret=None)
    after = await row(api, payment)
    assert (after["lease_token"], after["next_run_at"]) == (held["lease_token"], held["next_run_at"])
    assert await work(api) == 0
    await checking.resume(gateway(api), claim)


async def test_a_hint_with_a_signed_body_that_is_not_whole(signed: Api, simulator: Simulator) -> None:
    not_whole: list[dict[str, Any]] = [
        {"amount": None}, {"payer": None}, {"currency": None}, {"amount": "a lot"}, {"status": None}, {"status": False},
        {"status": "\ud800"}, {"status": "FAILED", "reason": []},
    ]  # fmt: skip
    for missing in not_whole:
        payment = await unpaid(signed, simulator)
        assert (await post_callback(signed, callback(payment, **missing))).status_code == 200
        assert (await read(signed, payment["id"]))["status"] == "PENDING", missing
        assert await work(signed) == 1
    assert await kept(signed) == {"hint": 8}
    mine = await signed.database.fetch("SELECT DISTINCT payment_id FROM callbacks WHERE payment_id IS NOT NULL")
    assert len(mine) == 8, "each is kept with its payment"


async def test_a_word_that_nobody_knows_is_a_hint_and_no_attack(make_api: ApiFactory, simulator: Simulator) -> None:
    api = await make_api(throttle_limit=30)
    payment = await unpaid(api, simulator)
    for word in ("EXPIRED", "REJECTED", "TIMEOUT", "ONGOING", "a sentence") * 7:
        assert (await post_callback(api, callback(payment, status=word), secret=None)).status_code == 200
    assert await work(api) == 1
    assert (await read(api, payment["id"]))["status"] == "PENDING"
    paid = (await api.pay()).json()
    await charged(simulator, paid["provider_reference"])
    await until(api, paid["id"], "SUCCESSFUL")
    assert (await row(api, paid))["next_run_at"] is None
    assert (await post_callback(api, callback(paid, status="EXPIRED"), secret=None)).status_code == 200
    assert (await row(api, paid))["next_run_at"], "it may be against what we hold"
    assert await kept(api) == {"hint": 36}


async def test_signed_a_word_that_nobody_knows_settles_nothing(signed: Api, simulator: Simulator) -> None:
    payment = await unpaid(signed, simulator)
    assert (await post_callback(signed, callback(payment, status="WON"))).status_code == 200
    assert await work(signed) == 1
    after = await read(signed, payment["id"])
    assert (after["status"], after["review"]) == ("PENDING", None)
    assert await kept(signed) == {"hint": 1}


async def test_of_a_callback_that_comes_once_no_trouble_loses_the_word(
    signed: Api, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its provider may post nothing again. What it says is done before it is kept, and asked for before that."""
    whole, thin = await unpaid(signed, simulator), await unpaid(signed, simulator)

    async def fails(*_: object, **__: object) -> None:
        raise Busy("another was faster", retry_after_s=1)

    with monkeypatch.context() as patch:
        patch.setattr(store, "keep", fails)
        problem(await post_callback(signed, callback(whole)), 503, "busy")
    assert ((await read(signed, whole["id"]))["status"], await kept(signed)) == ("SUCCESSFUL", {})
    with monkeypatch.context() as patch:
        patch.setattr(outcomes, "take_hint", fails)
        problem(await post_callback(signed, callback(thin, amount=None)), 503, "busy")
    assert ((await row(signed, thin))["hinted"], await kept(signed)) == (True, {"hint": 1})
    failed = await unpaid(signed, simulator)
    await post_callback(signed, callback(failed, status="FAILED", reason="EXPIRED"))
    assert (await row(signed, failed))["next_run_at"] is None
    with monkeypatch.context() as patch:
        patch.setattr(outcomes, "apply", fails)
        problem(await post_callback(signed, callback(failed)), 503, "busy")
    assert (await row(signed, failed))["next_run_at"], "it is asked about all the same"


async def test_unsigned_ones_that_lie_do_no_harm(api: Api, simulator: Simulator) -> None:
    payment = (await api.pay()).json()
    await charged(simulator, payment["provider_reference"])
    for lie in ({"status": "FAILED", "reason": "EXPIRED"}, {"amount": "999"}, {"payer": "260961234568"}):
        await post_callback(api, callback(payment, **lie), secret=None)
    await until(api, payment["id"], "SUCCESSFUL")
    for lie in ({"status": "FAILED", "reason": "EXPIRED"}, {"status": "PENDING"}):
        await post_callback(api, callback(payment, **lie), secret=None)
    await check(api)
    after = await read(api, payment["id"])
    assert (after["status"], after["review"]) == ("SUCCESSFUL", None)
    assert await ledger(api, payment["id"]) == SETTLED


@pytest.mark.parametrize("first", ["callback", "answer"])
async def test_a_failure_against_a_genuine_callback_that_says_paid_comes_to_a_person(
    make_api: ApiFactory, simulator: Simulator, first: str
) -> None:
    """Airtel's callback names no amount, so it settles nothing; but nobody may just ask the payer again."""
    api = await with_accounts(make_api, simulator, airtel_callback_key=SECRET)
    payer = {"provider": AIRTEL, "kind": "payer", "decision": "reject", "prompt_ms": 0, "times": 1}
    await simulator.fault(**payer)
    payment = (await api.pay(payer="260971234567", reference="INV-1")).json()
    told = {"status_code": "TS", "id": payment["provider_reference"].replace("-", ""), "airtel_money_id": "MP1"}
    if first == "answer":
        await until(api, payment["id"], "FAILED")
    assert (await post_to(api, AIRTEL, *by_hash(AIRTEL, told))).status_code == 200
    for _ in range(3):
        await check(api)
    held = await read(api, payment["id"])
    assert (held["status"], held["review"]) == ("FAILED" if first == "answer" else "PENDING", "contradicted")
    assert (await history(api, payment["id"])).count("payment.contradicted") == 1
    again = await api.pay("another", payer="260971234567", reference="INV-1")
    assert (again.status_code == 409) == (first == "callback"), "the reference is free of what is failed alone"


@pytest.mark.parametrize("settled_by", ["worker", "person"])
async def test_another_number_that_airtel_told_before_the_enquiry_comes_to_a_person(
    make_api: ApiFactory, simulator: Simulator, settled_by: str
) -> None:
    """Perhaps the payer paid twice: Airtel's callbacks tell of both, and its enquiry of one."""
    api = await with_accounts(make_api, simulator, airtel_callback_key=SECRET)
    await simulator.fault(provider=AIRTEL, kind="payer", decision="approve", prompt_ms=0, times=1)
    payment = (await api.pay(payer="260971234567")).json()
    for number in ("MP1", "MP1", "MP2"):
        told = {"status_code": "TS", "id": payment["provider_reference"].replace("-", ""), "airtel_money_id": number}
        assert (await post_to(api, AIRTEL, *by_hash(AIRTEL, told))).status_code == 200
    if settled_by == "worker":
        await check(api)
    else:  # who is shown the enquiry's number, and decides by it
        await api.database.fetch("UPDATE payments SET status = 'TIMEOUT'")
        await age(api.database, "5 minutes")
        await reviews.resolve(gateway(api), payment["id"], "successful", "the dashboard shows it", "operator:me")
    paid = await read(api, payment["id"])
    assert (paid["status"], paid["review"]) == ("SUCCESSFUL", "contradicted")
    assert paid["provider_transaction_id"] not in ("MP1", "MP2"), "the enquiry's own"
    assert [event for event in await history(api, payment["id"]) if event != "payment.accepted"] == [
        "payment.created",
        *2 * ["payment.transaction_told"],
        "payment.succeeded",
        *(["payment.resolved"] if settled_by == "person" else []),
        *2 * ["payment.contradicted"],
    ]


@pytest.mark.parametrize("amount", ["10.00", None], ids=["whole", "no amount"])
async def test_a_genuine_word_about_money_that_goes_out_is_none_about_a_collection(
    signed: Api, simulator: Simulator, amount: str | None
) -> None:
    payment = await unpaid(signed, simulator)
    payee = {"payer": None, "payee": {"partyIdType": "MSISDN", "partyId": payment["payer"]}}
    assert (await post_callback(signed, callback(payment, amount=amount, **payee))).status_code == 200
    after = await row(signed, payment)
    assert (after["status"], after["told_paid"]) == ("PENDING", False)
    assert await work(signed) == 1, "asked about soon"


# --- refused --------------------------------------------------------------------------------------------------------


def bad_signatures(body: bytes) -> dict[str, list[tuple[bytes, bytes]]]:
    good = hmac.digest(SECRET.encode(), body, hashlib.sha256).hex()
    name = b"x-signature-256"

    def one(text: str) -> list[tuple[bytes, bytes]]:
        return [(name, text.encode("latin-1"))]

    return {
        "missing": [],
        "empty": one(""),
        "of another secret": one(signature(body, "another")["x-signature-256"]),
        "of an empty secret": one("sha256=" + hmac.digest(b"", body, hashlib.sha256).hex()),
        "of another body": one(signature(body + b" ")["x-signature-256"]),
        "two good ones": one(f"sha256={good}") * 2,
        "good and bad": one(f"sha256={good}") + one("sha256=" + "0" * 64),
        "two in one": one(f"sha256={good}, sha256={good}"),
        "upper case": one(f"sha256={good.upper()}"),
        "upper case name": one(f"SHA256={good}"),
        "other algorithm": one(f"sha512={good}"),
        "too short": one(f"sha256={good[:-1]}"),
        "too long": one(f"sha256={good}0"),
        "spaces inside": one(f"sha256={good[:32]} {good[32:]}"),
        "not ascii": one(f"sha256={good[:-1]}\xe9"),
        "base64": one("sha256=" + hmac.digest(SECRET.encode(), body, hashlib.sha256).hex()[:44]),
    }


async def test_a_wrong_signature_is_refused_whatever_it_is(signed: Api, simulator: Simulator) -> None:
    payment = await unpaid(signed, simulator)
    body = callback(payment)
    before = await row(signed, payment)
    for name, headers in bad_signatures(body).items():
        answer = await signed.client.post(CALLBACKS, content=body, headers=headers)
        assert answer.status_code == 401, name
        problem(answer, 401, "unauthenticated")
    assert await row(signed, payment) == before
    assert await work(signed) == 0


async def test_the_refused_are_counted_and_one_a_second_is_kept(
    signed: Api, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = await unpaid(signed, simulator)
    monkeypatch.setattr(service, "REFUSED_KEPT_EVERY_S", 3_600.0)
    for n in range(20):
        await post_callback(signed, callback(payment, n=n), secret="forged")
    assert await kept(signed) == {"refused": 1}
    monkeypatch.setattr(service, "REFUSED_KEPT_EVERY_S", 0.0)
    await post_callback(signed, callback(payment, n=99), secret="forged")
    assert await kept(signed) == {"refused": 21}
    owner = await signed.database.fetch("SELECT DISTINCT tenant_id::text, payment_id FROM callbacks")
    assert [tuple(one) for one in owner] == [("00000000-0000-7000-8000-000000000000", None)]


async def test_strangers_fill_no_disk(api: Api, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "REFUSED_KEPT_EVERY_S", 0.0)
    monkeypatch.setattr(store, "KEPT_OF_STRANGERS", 5)
    monkeypatch.setattr(store, "KEPT_PER_PAYMENT", 3)
    payment = await unpaid(api, simulator)
    for n in range(12):
        unknown = {"provider_reference": new_provider_reference()}
        assert (await post_callback(api, callback(payment | unknown), secret=None)).status_code == 200
        assert (await post_callback(api, b"junk %d" % n, secret=None)).status_code == 422
        assert (await post_callback(api, callback(payment, n=n), secret=None)).status_code == 200
    found = await api.database.fetch("SELECT verdict, count(*) AS n FROM callbacks GROUP BY verdict")
    assert {one["verdict"]: one["n"] for one in found} == {"unmatched": 5, "refused": 5, "hint": 3}


async def test_of_an_unknown_reference_nothing_is_learned(api: Api, simulator: Simulator) -> None:
    payment = await unpaid(api, simulator)
    known = await post_callback(api, callback(payment), secret=None)
    unknown = await post_callback(
        api, callback(payment | {"provider_reference": new_provider_reference()}), secret=None
    )
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content) == (200, known.content)
    own = {"x-request-id"}
    assert {k: v for k, v in known.headers.items() if k not in own} == {
        k: v for k, v in unknown.headers.items() if k not in own
    }


JUNK: list[tuple[bytes, int]] = [
    (b"", 422),
    (b"{", 422),
    (b"[]", 422),
    (b"null", 422),
    (b"{}", 422),
    (b'{"externalId": [7], "status": "SUCCESSFUL"}', 422),
    (b'{"externalId": "", "status": "SUCCESSFUL"}', 422),
    (b'{"status": "SUCCESSFUL", "status": "FAILED", "externalId": "01935a1e-0000-4000-8000-000000000000"}', 422),
    (b'{"externalId": "01935a1e-0000-4000-8000-000000000000", "status": "SUCCESSFUL", "amount": NaN}', 422),
    (b"\xff\xfe{}", 422),
    (b"[" * 60_000, 422),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 422),
    (b"x" * 65_537, 413),
]


async def test_what_is_no_callback_is_refused(signed: Api) -> None:
    for body, status in JUNK:
        answer = await post_callback(signed, body)
        problem(answer, status, "unprocessable" if status == 422 else "body_too_large")


async def test_other_providers_and_methods_have_no_door(api: Api) -> None:
    problem(await api.client.post("/api/v1/webhooks/airtel", content=b"{}"), 404, "not_found")
    answer = await api.client.delete(CALLBACKS)
    problem(answer, 405, "method_not_allowed")
    assert {"POST", "PUT"} <= set(answer.headers["allow"].split(", "))


# --- signed, and about an id that is none of ours -------------------------------------------------------------------

MTN, AIRTEL, PAWAPAY = "mtn", "airtel", "pawapay"
FOREIGN_ID = "1784534223"  # a time in seconds, as of a payment that was made at the operator's till
FOREIGN: dict[str, dict[str, Any]] = {
    MTN: {"externalId": FOREIGN_ID, "status": "SUCCESSFUL"},
    AIRTEL: {"id": FOREIGN_ID, "status_code": "TS", "airtel_money_id": "BP260728.1001.A00007"},
    PAWAPAY: {"depositId": FOREIGN_ID, "status": "COMPLETED"},
}
Sign = Callable[[str, dict[str, Any]], tuple[bytes, dict[str, str]]]


def body_of(provider: str, told: dict[str, Any]) -> bytes:
    return json.dumps({"transaction": told} if provider == AIRTEL else told).encode()


def by_x_signature(provider: str, told: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    body = body_of(provider, told)
    return body, signature(body)


def by_hash(_provider: str, told: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    content = json.dumps(told).encode()
    mac = base64.b64encode(hmac.digest(SECRET.encode(), content, hashlib.sha256))
    return b'{"transaction":' + content + b',"hash":"' + mac + b'"}', {}


def by_message_signature(provider: str, told: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    now = int(time.time())
    signer = pawapay.Signer(created=now, expires=now + 60, authority="api.test", body=body_of(provider, told))
    sent = signer.callback()
    return sent.body, dict(sent.headers)


SIGNERS: list[Any] = [
    pytest.param(MTN, {"mtn_webhook_secret": SECRET}, by_x_signature, id="mtn"),
    pytest.param(AIRTEL, {"airtel_webhook_secret": SECRET}, by_x_signature, id="airtel"),
    pytest.param(PAWAPAY, {"pawapay_webhook_secret": SECRET}, by_x_signature, id="pawapay"),
    pytest.param(AIRTEL, {"airtel_callback_key": SECRET}, by_hash, id="airtel's hash"),
    pytest.param(
        PAWAPAY,
        {
            "pawapay_callback_signatures": "required",
            "pawapay_callback_public_key": pawapay.pem(pawapay.KEY.public_key()),
        },
        by_message_signature,
        id="pawapay's signature",
    ),
]


async def with_accounts(make_api: ApiFactory, simulator: Simulator, **overrides: Any) -> Api:
    """An account at each provider, and an address that is throttled after five bad callbacks."""
    values = {name.lower(): value for name, value in kobiri_app.simulated_environment(simulator.url).items()}
    accounts = {name: value for name, value in values.items() if name.startswith((MTN, AIRTEL, PAWAPAY))}
    return await make_api(throttle_limit=5, **(accounts | overrides))


async def post_to(api: Api, provider: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return await api.client.post(
        f"/api/v1/webhooks/{provider}", content=body, headers={"content-type": "application/json"} | headers
    )


@pytest.mark.parametrize(("provider", "settings", "sign"), SIGNERS)
async def test_a_genuine_word_about_a_foreign_id_is_kept_and_counts_against_nobody(
    make_api: ApiFactory, simulator: Simulator, provider: str, settings: dict[str, str], sign: Sign
) -> None:
    api = await with_accounts(make_api, simulator, **settings)
    strange = {"status": "WON"} if provider != AIRTEL else {"status_code": "WON"}
    for n in range(8):
        body, headers = sign(provider, FOREIGN[provider] | {"n": n} | (strange if n % 2 else {}))
        answer = await post_to(api, provider, body, headers)
        assert (answer.status_code, answer.json()) == (200, {"status": "taken"})
    assert await kept(api) == {"unmatched": 8}


@pytest.mark.parametrize(("provider", "settings", "sign"), SIGNERS)
async def test_a_genuine_word_that_cannot_be_read_is_kept_and_counts_against_nobody(
    make_api: ApiFactory, simulator: Simulator, provider: str, settings: dict[str, str], sign: Sign
) -> None:
    """The provider is told so: it may post it again, when we can."""
    api = await with_accounts(make_api, simulator, **settings)
    for n in range(8):
        body, headers = sign(provider, {"n": n})
        problem(await post_to(api, provider, body, headers), 422, "unprocessable")
    assert await kept(api) == {"unmatched": 8}


@pytest.mark.parametrize("provider", [MTN, AIRTEL, PAWAPAY])
async def test_who_signs_nothing_and_names_a_foreign_id_is_a_stranger(
    make_api: ApiFactory, simulator: Simulator, provider: str
) -> None:
    unsigned = {"pawapay_callback_signatures": "off", "airtel_callback_key": None}
    api = await with_accounts(make_api, simulator, **unsigned)
    answers = [await post_to(api, provider, body_of(provider, FOREIGN[provider]), {}) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [422] * 5 + [429] * 2
    assert await kept(api) == {"refused": 1}


# --- throttle -------------------------------------------------------------------------------------------------------


async def test_good_callbacks_are_not_throttled_and_bad_ones_are(make_api: ApiFactory, simulator: Simulator) -> None:
    api = await make_api(throttle_limit=5, mtn_webhook_secret=SECRET)
    payment = await unpaid(api, simulator)
    for n in range(15):
        assert (await post_callback(api, callback(payment, status="PENDING", n=n))).status_code == 200
    answers = [await post_callback(api, callback(payment), secret="forged") for _ in range(10)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 5
    assert int(answers[-1].headers["retry-after"]) >= 1


# --- their health ---------------------------------------------------------------------------------------------------


async def status(api: Api, key: str | None = None) -> httpx.Response:
    return await api.client.get(f"{CALLBACKS}/status", headers={"x-api-key": key or api.key})


async def test_the_tenant_sees_how_its_callbacks_arrive(signed: Api, simulator: Simulator) -> None:
    fresh = (await status(signed)).json()
    assert (fresh["provider"], fresh["signed"], fresh["last_received_at"]) == ("mtn", True, None)
    payment = await unpaid(signed, simulator)
    await post_callback(signed, callback(payment, amount=None))
    await post_callback(signed, callback(payment))
    await post_callback(signed, callback(payment))
    await post_callback(signed, callback(payment), secret="forged")
    seen = (await status(signed)).json()
    assert (seen["applied_24h"], seen["hints_24h"]) == (2, 1)
    assert seen["last_received_at"].endswith("Z")
    other = (await status(signed, await signed.tenant("other"))).json()
    assert (other["applied_24h"], other["hints_24h"], other["last_received_at"]) == (0, 0, None)
    live = (await status(signed, await signed.tenant("shop", mode="live"))).json()
    assert (live["applied_24h"], live["hints_24h"], live["last_received_at"]) == (0, 0, None)
    for passed_by in ("provider = 'airtel'", "provider = 'mtn', last_received_at = now() - interval '25 hours'"):
        await signed.database.fetch(f"UPDATE callbacks SET {passed_by}")
        none = (await status(signed)).json()
        assert (none["applied_24h"], none["hints_24h"], none["last_received_at"]) == (0, 0, None), passed_by


async def test_old_callbacks_are_deleted(signed: Api, simulator: Simulator) -> None:
    payment = await unpaid(signed, simulator)
    await post_callback(signed, callback(payment))
    db = gateway(signed).db
    assert await housekeeping.purge_callbacks(db, timedelta(days=90)) == 0
    await signed.database.fetch("UPDATE callbacks SET last_received_at = now() - interval '91 days'")
    assert await housekeeping.purge_callbacks(db, timedelta(days=90)) == 1


async def test_headers_are_kept_without_secrets(signed: Api, simulator: Simulator) -> None:
    payment = await unpaid(signed, simulator)
    body = callback(payment)
    await signed.client.post(
        CALLBACKS, content=body, headers=signature(body) | {"cookie": "c", "user-agent": "x" * 900}
    )
    headers = json.loads(await signed.database.value("SELECT headers::text FROM callbacks"))
    assert sorted(headers) == [":method", "user-agent", "x-signature-256"]
    assert headers["user-agent"] == "x" * 500


async def test_a_row_that_somebody_holds_makes_a_callback_wait_and_is_no_crash(api: Api) -> None:
    """The provider posts again: it was told 503, and not 500 nor 200."""
    payment = (await api.pay()).json()
    body = callback(payment)
    await post_callback(api, body, secret=None)
    holder = await asyncpg.connect(api.database.owner_dsn)
    try:
        await holder.execute("BEGIN; UPDATE callbacks SET times = times + 1")
        answer = await post_callback(api, body, secret=None)
    finally:
        await holder.close()
    problem(answer, 503, "busy")
    assert int(answer.headers["retry-after"]) > 0
