"""The queue of what only a person can settle, and that a person never overrules a provider's firm word."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from kobiri import net
from kobiri.domain import webhook
from kobiri.domain.errors import Conflict, NotFound, Unprocessable
from kobiri.domain.ids import PaymentId, TenantId, new_id
from kobiri.domain.outcome import Declined, FailureCode, Succeeded
from kobiri.services import checking, outcomes, reviews
from kobiri.services.reviews import Decision, Operator
from kobiri.store import payments
from kobiri.store.payments import Author
from tests.api.steps import (
    ANOTHER_ACCOUNT,
    age,
    charged,
    check,
    eventually,
    gateway,
    history,
    ledger,
    make_due,
    read,
    until,
)
from tests.conftest import Api, ApiFactory, Simulator
from tests.worker.test_pipeline import failed_in_doubt
from tests.worker.test_unaskable import PAYER as ZAMTEL_PAYER
from tests.worker.test_unaskable import prompt, zamtel

ACTOR = "operator:test"
WHY = "June's statement, line 17"
PASSES = 4


async def resolve(api: Api, payment_id: str, decision: Decision, their_id: str | None = None) -> None:
    await reviews.resolve(gateway(api), PaymentId(payment_id), decision, WHY, ACTOR, their_id)


async def lost_at_zamtel(make_api: ApiFactory, simulator: Simulator) -> tuple[Api, str]:
    """A payment of which nobody but a statement can tell what became."""
    api = await zamtel(make_api, simulator)
    await prompt(simulator, 20)
    fault = {"provider": "zamtel", "operation": "create", "kind": "drop_after"}
    assert (await simulator.client.post("/_sim/faults", json=fault)).status_code == 201
    answer = await api.pay(payer=ZAMTEL_PAYER)
    assert answer.status_code == 504
    return api, answer.json()["payment_id"]


async def lost_at_mtn(api: Api, simulator: Simulator, **fault: Any) -> str:
    """A payment that MTN has, and whose answers were lost."""
    await simulator.fault(operation="create", **({"kind": "drop_after", "times": PASSES} | fault))
    answer = await api.pay()
    assert answer.status_code == 504, answer.text
    payment_id: str = answer.json()["payment_id"]
    return payment_id


@pytest.mark.parametrize(
    ("decision", "status", "booked"),
    [
        ("successful", "SUCCESSFUL", {"provider:zamtel": 1_000, "merchant_available": -1_000}),
        ("failed", "FAILED", {}),
    ],
)
async def test_a_person_settles_what_no_provider_can_tell(
    make_api: ApiFactory, simulator: Simulator, decision: Decision, status: str, booked: dict[str, int]
) -> None:
    api, payment_id = await lost_at_zamtel(make_api, simulator)
    (case,) = await reviews.queue(gateway(api).db)
    assert (case.tenant, case.payment.id, case.payment.review) == ("shop", payment_id, "unresolved")
    await age(api.database, "2 minutes")

    await resolve(api, payment_id, decision, "ZK-4711")

    done = await read(api, payment_id)
    assert (done["status"], done["review"]) == (status, None)
    assert done["provider_transaction_id"] == ("ZK-4711" if decision == "successful" else None)
    assert await ledger(api, payment_id) == booked
    assert (await history(api, payment_id))[-1] == "payment.resolved"
    event = (await api.database.fetch("SELECT actor, data FROM events WHERE type = 'payment.resolved'"))[0]
    assert (event["actor"], json.loads(event["data"])) == (ACTOR, {"reason": WHY})
    assert await reviews.queue(gateway(api).db) == []
    with pytest.raises(Conflict, match="already"):
        await resolve(api, payment_id, "failed" if decision == "successful" else "successful")


async def test_a_provider_that_says_paid_is_not_overruled(api: Api, simulator: Simulator) -> None:
    payment_id = await lost_at_mtn(api, simulator)
    await charged(simulator, (await read(api, payment_id))["provider_reference"])
    with pytest.raises(Conflict, match="it was paid"):
        await resolve(api, payment_id, "failed")
    assert (await read(api, payment_id))["status"] == "SUCCESSFUL"
    assert "payment.resolved" not in await history(api, payment_id)


async def test_the_transaction_id_that_the_provider_names_is_the_one(api: Api, simulator: Simulator) -> None:
    payment_id = await lost_at_mtn(api, simulator)
    reference = (await read(api, payment_id))["provider_reference"]
    await charged(simulator, reference)
    road = gateway(api).roads.receiver("mtn")
    assert road is not None
    said = await road.find("collection", reference)
    assert isinstance(said, Succeeded)
    await age(api.database, "2 minutes")
    await resolve(api, payment_id, "successful", "TYPO-1")
    assert (await read(api, payment_id))["provider_transaction_id"] == said.provider_transaction_id is not None


async def test_a_provider_that_says_failed_is_not_overruled(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="payer", decision="reject", prompt_ms=0)
    payment_id = await lost_at_mtn(api, simulator)
    with pytest.raises(Conflict, match="failed"):
        await resolve(api, payment_id, "successful")
    assert (await read(api, payment_id))["failure"]["code"] == "payer_declined"


@pytest.mark.parametrize("decision", ["successful", "failed"])
async def test_a_provider_that_has_said_both_leaves_it_to_a_person(
    api: Api, simulator: Simulator, decision: Decision
) -> None:
    await simulator.fault(kind="payer", decision="reject", prompt_ms=0)
    payment_id = await lost_at_mtn(api, simulator)
    await api.database.fetch("UPDATE payments SET told_paid = true, accepted_at = now()")
    await check(api)
    assert (await read(api, payment_id))["review"] == "contradicted"
    await age(api.database, "2 minutes")
    await resolve(api, payment_id, decision)
    done = await read(api, payment_id)
    assert (done["status"], done["review"]) == (decision.upper(), None)


@pytest.mark.parametrize("decision", ["successful", "failed"])
async def test_while_the_provider_waits_for_its_payer_a_person_waits_too(
    api: Api, simulator: Simulator, decision: Decision
) -> None:
    await simulator.fault(kind="payer", decision="ignore")
    payment_id = await lost_at_mtn(api, simulator)
    with pytest.raises(Conflict, match="still in progress"):
        await resolve(api, payment_id, decision)
    assert (await read(api, payment_id))["status"] == "TIMEOUT"
    await age(api.database, "1 day")
    await resolve(api, payment_id, decision)
    assert (await read(api, payment_id))["status"] == decision.upper()


@pytest.mark.parametrize("decision", ["successful", "failed"])
async def test_a_failure_of_which_the_provider_is_not_sure_a_person_may_confirm_and_not_overrule(
    make_api: ApiFactory, simulator: Simulator, decision: Decision
) -> None:
    api, payment = await failed_in_doubt(make_api, simulator)
    await api.database.fetch("UPDATE payments SET review = 'unresolved'")
    for _ in range(4):  # as often as a person may ask: seconds prove nothing
        asked, _ = await reviews.check(gateway(api), payment["id"], ACTOR)
    assert (asked.status, asked.doubts) == ("PENDING", 5)
    with pytest.raises(Conflict, match="not surely: wait"):
        await resolve(api, payment["id"], decision)
    if decision == "successful":
        await api.database.fetch("UPDATE payments SET created_at = created_at - interval '1 day'")
    else:
        await age(api.database, "10 minutes")
    await resolve(api, payment["id"], decision)
    assert (await read(api, payment["id"]))["status"] == decision.upper()


async def test_what_may_still_arrive_is_not_declared_failed(api: Api, simulator: Simulator) -> None:
    payment_id = await lost_at_mtn(api, simulator, kind="reset_before")
    with pytest.raises(Conflict, match="may still arrive"):
        await resolve(api, payment_id, "failed")
    with pytest.raises(Conflict, match="does not know it"):
        await resolve(api, payment_id, "successful")
    await age(api.database, "11 minutes")  # one to be sent, one in the provider's queue, ten more
    with pytest.raises(Conflict, match="may still arrive"):
        await resolve(api, payment_id, "failed")
    await age(api.database, "1 minute")
    await resolve(api, payment_id, "failed")
    assert (await read(api, payment_id))["failure"]["code"] == "resolved_by_operator"


@pytest.mark.parametrize("decision", ["successful", "failed"])
async def test_a_person_waits_for_what_may_be_on_its_way(api: Api, simulator: Simulator, decision: Decision) -> None:
    """The provider's status is mute, and a send is open, or the worker may begin one."""
    payment_id = await lost_at_mtn(api, simulator)
    await simulator.fault(kind="error_before", operation="status", status=503)
    for moment in ("send_before = now() + interval '1 s'", "sent_until = now() + interval '1 s'",
                   "sent_until = now() - interval '58 s'"):  # fmt: skip
        await api.database.fetch("UPDATE payments SET send_before = now() - interval '1 h', sent_until = NULL")
        await api.database.fetch(f"UPDATE payments SET {moment}")
        with pytest.raises(Conflict, match=r"decide after \d\d:\d\d:\d\d UTC"):
            await resolve(api, payment_id, decision)
    await api.database.fetch("UPDATE payments SET sent_until = now() - interval '61 s'")
    await make_due(api.database)
    (claim,) = await checking.claim_due(gateway(api), 10)
    with pytest.raises(Conflict, match="decide after"):  # a worker is about to ask
        await resolve(api, payment_id, decision)
    await checking.resume(gateway(api), claim)
    await resolve(api, payment_id, decision)
    assert (await read(api, payment_id))["status"] == decision.upper()


async def test_a_person_who_was_overtaken_by_a_send_waits_for_it(api: Api, simulator: Simulator) -> None:
    payment_id = await lost_at_mtn(api, simulator)
    await age(api.database, "2 minutes")
    tenant_id = TenantId(api.tenant_id)
    async with gateway(api).db.tenant_transaction(tenant_id) as tx:
        seen = await payments.get(tx, tenant_id, PaymentId(payment_id))
    assert seen is not None
    await api.database.fetch("UPDATE payments SET version = version + 1, sent_until = now() + interval '9 s'")
    failed = Declined(FailureCode.RESOLVED_BY_OPERATOR)
    with pytest.raises(Conflict, match="on its way"):
        await outcomes.resolve(gateway(api).db, seen.payment, failed, WHY, Author(ACTOR))
    assert (await read(api, payment_id))["status"] == "TIMEOUT"


@pytest.mark.parametrize("decision", ["successful", "failed"])
async def test_what_the_provider_had_and_lost_a_person_decides_after_a_day(
    api: Api, simulator: Simulator, decision: Decision
) -> None:
    await simulator.fault(kind="payer", decision="ignore")
    payment_id = (await api.pay()).json()["id"]
    await simulator.fault(kind="not_found_for", operation="status", ms=86_400_000)
    await age(api.database, "1 hour")
    await check(api)
    with pytest.raises(Conflict, match="wait a day"):
        await resolve(api, payment_id, decision)
    await age(api.database, "23 hours")
    await resolve(api, payment_id, decision)
    assert (await read(api, payment_id))["status"] == decision.upper()


@pytest.mark.parametrize("account", ANOTHER_ACCOUNT)
async def test_what_another_account_does_not_know_is_no_word_for_a_person_either(
    make_api: ApiFactory, simulator: Simulator, account: str
) -> None:
    first = await make_api()
    payment_id = await lost_at_mtn(first, simulator, kind="reset_before")
    other = await make_api(**ANOTHER_ACCOUNT[account])
    for _ in range(6):
        await age(first.database, "11 minutes")
        await reviews.check(gateway(other), PaymentId(payment_id), ACTOR)
    assert (await read(first, payment_id))["status"] == "TIMEOUT"
    await resolve(other, payment_id, "successful", "MTN-4711")  # nothing that was said speaks against it
    assert (await read(first, payment_id))["status"] == "SUCCESSFUL"


async def test_a_success_of_another_amount_is_no_success_and_its_money_waits_in_suspense(
    api: Api, simulator: Simulator
) -> None:
    await simulator.fault(kind="wrong_amount", operation="status", amount="9.00")
    payment = (await api.pay()).json()
    await charged(simulator, payment["provider_reference"])
    await check(api)
    assert (await read(api, payment["id"]))["review"] == "mismatched"
    with pytest.raises(Conflict, match="another amount"):
        await resolve(api, payment["id"], "successful")
    await age(api.database, "2 minutes")
    await resolve(api, payment["id"], "failed")
    assert (await read(api, payment["id"]))["status"] == "FAILED"
    assert await ledger(api, payment["id"]) == {"provider:mtn": 900, "suspense": -900}


async def test_the_queue_of_one_tenant_is_its_own(make_api: ApiFactory, simulator: Simulator) -> None:
    api, payment_id = await lost_at_zamtel(make_api, simulator)
    await api.tenant("other")
    assert [case.payment.id for case in await reviews.queue(gateway(api).db, "shop")] == [payment_id]
    assert await reviews.queue(gateway(api).db, "other") == []


async def test_what_is_on_its_way_needs_no_person(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="payer", decision="ignore")
    payment = (await api.pay()).json()
    with pytest.raises(Conflict, match="on its way"):
        await resolve(api, payment["id"], "failed")
    with pytest.raises(Conflict, match="final and in review"):
        await resolve(api, payment["id"], "seen")


async def test_a_settled_mismatch_is_closed_by_who_has_seen_it(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="wrong_amount", operation="status", amount="9.00", times=1)
    payment = (await api.pay()).json()
    await charged(simulator, payment["provider_reference"])
    await check(api)
    done = await until(api, payment["id"], "SUCCESSFUL")
    assert done["review"] == "mismatched"
    await resolve(api, payment["id"], "seen")
    after = await read(api, payment["id"])
    assert (after["status"], after["review"]) == ("SUCCESSFUL", None)
    assert (await history(api, payment["id"]))[-1] == "payment.review_closed"
    with pytest.raises(Conflict):
        await resolve(api, payment["id"], "seen")


async def test_of_two_persons_one_decides(make_api: ApiFactory, simulator: Simulator) -> None:
    api, payment_id = await lost_at_zamtel(make_api, simulator)
    await age(api.database, "2 minutes")
    decisions: list[Decision] = ["successful", "failed", "successful", "failed"]
    said = await asyncio.gather(*(resolve(api, payment_id, word) for word in decisions), return_exceptions=True)
    assert [type(one) for one in said if one is not None] == [Conflict] * 3
    assert (await history(api, payment_id)).count("payment.resolved") == 1


async def test_a_reason_and_a_payment_are_needed(make_api: ApiFactory, simulator: Simulator) -> None:
    api, payment_id = await lost_at_zamtel(make_api, simulator)
    for reason in ("", "  ", "x" * 501):
        with pytest.raises(Unprocessable):
            await reviews.resolve(gateway(api), PaymentId(payment_id), "failed", reason, ACTOR)
    with pytest.raises(NotFound):
        await resolve(api, new_id(), "failed")
    assert (await read(api, payment_id))["status"] == "TIMEOUT"


async def test_the_evidence_is_all_there_is(make_api: ApiFactory, simulator: Simulator) -> None:
    api, payment_id = await lost_at_zamtel(make_api, simulator)
    evidence = await reviews.evidence(gateway(api).db, PaymentId(payment_id))
    assert evidence.tenant == "shop"
    assert [event.type for event in evidence.history] == await history(api, payment_id)
    assert (evidence.earlier, evidence.callbacks) == ([], [])


# --- the word to the operator ---------------------------------------------------------------------------------------

KEY = b"operators share this key with us"


@dataclass
class Inbox:
    """An operator's own server."""

    url: str = ""
    status: int = 200
    posted: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.posted.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=self.status)


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    made = Inbox()
    server = web.Application()
    server.add_routes([web.post("/cases", made.take)])
    runner = web.AppRunner(server, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = "http://{}:{}/cases".format(*runner.addresses[0][:2])
    yield made
    await runner.cleanup()


@pytest.fixture
async def operator(inbox: Inbox) -> AsyncIterator[Operator]:
    made = Operator(inbox.url, KEY, net.provider_session(2))
    yield made
    await made.session.close()


async def test_the_operator_hears_of_each_case_once_and_until_it_was_taken(
    make_api: ApiFactory, simulator: Simulator, inbox: Inbox, operator: Operator
) -> None:
    api, payment_id = await lost_at_zamtel(make_api, simulator)
    inbox.status = 500
    assert await reviews.tell_new_cases(gateway(api).db, operator) == 0
    inbox.status = 204
    assert await reviews.tell_new_cases(gateway(api).db, operator) == 1
    assert await reviews.tell_new_cases(gateway(api).db, operator) == 0
    first, again = inbox.posted
    assert first[0]["webhook-id"] == again[0]["webhook-id"]
    headers, body = again
    said = json.loads(body)
    assert (said["type"], said["data"]["payment_id"], said["data"]["review"]) == (
        "payment.review_needed", payment_id, "unresolved",
    )  # fmt: skip
    assert ZAMTEL_PAYER[3:] not in body.decode()
    expected = webhook.headers(KEY, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
    assert headers["webhook-signature"] == expected["webhook-signature"]


async def test_another_reason_is_another_case(api: Api, simulator: Simulator, inbox: Inbox, operator: Operator) -> None:
    await simulator.fault(kind="wrong_amount", operation="status", amount="9.00", times=1)
    payment = (await api.pay()).json()
    await charged(simulator, payment["provider_reference"])
    await check(api)
    assert await reviews.tell_new_cases(gateway(api).db, operator) == 1
    await until(api, payment["id"], "SUCCESSFUL")
    await resolve(api, payment["id"], "seen")
    assert await reviews.tell_new_cases(gateway(api).db, operator) == 0

    async def one_post() -> bool:
        return len(inbox.posted) == 1

    await eventually(one_post)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The vector of the specification."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = webhook.headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
