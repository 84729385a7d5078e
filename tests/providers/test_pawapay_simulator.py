"""pawaPay's simulator, spoken to over real sockets."""

import asyncio
import base64
import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from kobiri.providers.pawapay import simulator
from kobiri.simulator.app import SimulatorSettings, build

DEADLINE_S = 10.0
PHONE = "260763456789"
ANY = "any"
FINAL = ("COMPLETED", "FAILED")
IDS = {"deposits": "depositId", "payouts": "payoutId", "refunds": "refundId"}


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """What `look` sees once it sees something."""
    ends = time.monotonic() + DEADLINE_S
    while not (seen := await look()):
        if time.monotonic() > ends:
            pytest.fail(f"not within {DEADLINE_S} s")
        await asyncio.sleep(0.01)
    return seen


@dataclass
class Answer:
    status: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        code: str = self.json["failureReason"]["failureCode"]
        return code


@dataclass
class Client:
    """A client of pawaPay, and the control API beside it."""

    url: str
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, token: str | None = ANY, **options: Any) -> Answer:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with self.http.request(method, self.url + path, headers=headers, **options) as answer:
            return Answer(answer.status, await answer.read(), answer.headers)

    async def ask(self, what: str, payment_id: str, **changes: Any) -> Answer:
        """Ask for a deposit, payout or refund; None leaves a field out."""
        wallet = {"type": "MMO", "accountDetails": {"phoneNumber": PHONE, "provider": "MTN_MOMO_ZMB"}}
        body: dict[str, Any] = {IDS[what]: payment_id, "amount": "15", "currency": "ZMW"}
        if what != "refunds":
            body["payer" if what == "deposits" else "recipient"] = wallet
        whole = {name: value for name, value in (body | changes).items() if value is not None}
        return await self.call("POST", f"/pawapay/v2/{what}", json=whole)

    async def take(self, what: str, **changes: Any) -> str:
        """Ask, and be accepted."""
        payment_id = new_id()
        answer = await self.ask(what, payment_id, **changes)
        assert (answer.status, answer.json["status"]) == (200, "ACCEPTED"), answer.body
        return payment_id

    async def pay(self, what: str, phone: str, provider: str) -> str:
        wallet = {"type": "MMO", "accountDetails": {"phoneNumber": phone, "provider": provider}}
        return await self.take(what, **{"payer" if what == "deposits" else "recipient": wallet})

    async def data(self, what: str, payment_id: str) -> Any:
        answer = await self.call("GET", f"/pawapay/v2/{what}/{payment_id}")
        assert (answer.status, answer.json["status"]) == (200, "FOUND")
        return answer.json["data"]

    async def settled(self, what: str, payment_id: str) -> Any:
        async def look() -> Any:
            data = await self.data(what, payment_id)
            return data if data["status"] in FINAL else None

        return await until(look)

    async def fault(self, kind: str, **parameters: Any) -> None:
        answer = await self.call("POST", "/_sim/faults", json={"kind": kind, "provider": "pawapay", **parameters})
        assert answer.status == 201, answer.body

    async def configure(self, **options: Any) -> None:
        answer = await self.call("PATCH", "/_sim/settings/pawapay", json=options)
        assert answer.status == 200, answer.body

    async def charged(self, reference: str) -> int:
        movements = (await self.call("GET", f"/_sim/books?reference={reference}")).json["movements"]
        return sum(one["charged"] for one in movements)


@dataclass
class Shop:
    """Takes callbacks."""

    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append((headers, await request.read()))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    async def wait(self, number: int = 1) -> list[dict[str, Any]]:
        async def look() -> bool:
            return len(self.got) >= number

        await until(look)
        return [json.loads(body) for _, body in self.got]


@contextlib.asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def sim() -> AsyncIterator[Client]:
    settings = SimulatorSettings(providers={"pawapay": {"prompt_ms": 20}})
    async with (
        listening(build({"pawapay": simulator.build}, settings=settings)) as url,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as http,
    ):
        yield Client(url, http)


@pytest.fixture
async def shop(sim: Client) -> AsyncIterator[Shop]:
    """A receiver of callbacks, which the simulator knows."""
    shop = Shop()
    app = web.Application()
    app.router.add_post("/hook", shop.receive)
    async with listening(app) as url:
        shop.url = f"{url}/hook"
        await sim.configure(**{f"{kind}_callback_url": shop.url for kind in ("deposit", "payout", "refund")})
        yield shop


def new_id() -> str:
    return str(uuid.uuid4())


# --- tokens -------------------------------------------------------------------------------------------------


async def test_a_token_is_wanted_and_only_the_known_ones_are_good(sim: Client) -> None:
    path = f"/pawapay/v2/deposits/{new_id()}"
    missing = await sim.call("GET", path, token=None)
    assert (missing.status, missing.code) == (401, "NO_AUTHENTICATION")
    assert (await sim.call("GET", path)).status == 200
    await sim.configure(api_tokens=["secret-one"])
    wrong = await sim.call("POST", "/pawapay/v2/payouts", token="any", json={})
    assert (wrong.status, wrong.code) == (403, "AUTHENTICATION_ERROR")
    assert (await sim.call("GET", path, token="secret-one")).status == 200
    assert "secret-one" not in (await sim.call("GET", "/_sim/settings")).body.decode()
    assert "secret-one" not in (await sim.call("GET", "/_sim/requests")).body.decode()


async def test_availability_is_for_everybody(sim: Client) -> None:
    answer = await sim.call("GET", "/pawapay/v2/availability", token=None)
    [country] = answer.json
    assert [one["provider"] for one in country["providers"]] == ["MTN_MOMO_ZMB", "AIRTEL_OAPI_ZMB", "ZAMTEL_ZMB"]
    assert {one["status"] for one in country["providers"][0]["operationTypes"]} == {"OPERATIONAL"}


# --- deposits and payouts -----------------------------------------------------------------------------------


async def test_a_deposit_is_taken_completed_and_charged_once(sim: Client) -> None:
    payment_id = new_id()
    answer = await sim.ask("deposits", payment_id, customerMessage="Order 7")
    assert answer.json == {"depositId": payment_id, "status": "ACCEPTED", "created": answer.json["created"]}
    data = await sim.settled("deposits", payment_id)
    assert data.pop("providerTransactionId")
    assert data.pop("created")
    assert data == {
        "depositId": payment_id,
        "status": "COMPLETED",
        "amount": "15",
        "currency": "ZMW",
        "country": "ZMB",
        "payer": {"type": "MMO", "accountDetails": {"phoneNumber": PHONE, "provider": "MTN_MOMO_ZMB"}},
        "customerMessage": "Order 7",
    }
    again = await sim.ask("deposits", payment_id, amount="99999999")
    assert (again.status, again.json["status"]) == (200, "DUPLICATE_IGNORED")
    assert await sim.charged(payment_id) == 1


NUMBERS = [
    *(("deposits", "MTN_MOMO_ZMB", f"260763456{end}", word) for end, word in (
        ("019", "PAYER_LIMIT_REACHED"), ("029", "PAYER_NOT_FOUND"), ("039", "PAYMENT_NOT_APPROVED"),
        ("069", "UNSPECIFIED_FAILURE"), ("129", "STUCK"), ("789", None), ("079", None),
    )),
    *(("payouts", "MTN_MOMO_ZMB", f"260763456{end}", word) for end, word in (
        ("079", "RECIPIENT_NOT_FOUND"), ("119", "UNSPECIFIED_FAILURE"), ("129", "STUCK"), ("789", None),
    )),
    *(("deposits", "AIRTEL_OAPI_ZMB", f"260973456{end}", word) for end, word in (
        ("019", "PAYER_LIMIT_REACHED"), ("039", "PAYMENT_NOT_APPROVED"), ("049", "INSUFFICIENT_BALANCE"),
        ("069", "UNSPECIFIED_FAILURE"), ("129", "STUCK"), ("789", None),
    )),
    *(("payouts", "AIRTEL_OAPI_ZMB", f"260973456{end}", word) for end, word in (
        ("089", "RECIPIENT_NOT_FOUND"), ("119", "UNSPECIFIED_FAILURE"), ("129", "STUCK"), ("789", None),
    )),
    *(("deposits", "ZAMTEL_ZMB", f"260953456{end}", word) for end, word in (
        ("704", "INSUFFICIENT_BALANCE"), ("712", "UNSPECIFIED_FAILURE"), ("789", "STUCK"), ("700", None),
    )),
    *(("payouts", "ZAMTEL_ZMB", f"260953456{end}", word) for end, word in (
        ("712", "UNSPECIFIED_FAILURE"), ("789", "STUCK"), ("700", None), ("704", None),
    )),
    ("deposits", "AIRTEL_OAPI_ZMB", "260971234129", None),
]  # fmt: skip


@pytest.mark.parametrize(("what", "provider", "phone", "word"), NUMBERS)
async def test_a_test_number_behaves(sim: Client, what: str, provider: str, phone: str, word: str | None) -> None:
    payment_id = await sim.pay(what, phone, provider)
    if word == "STUCK":

        async def look() -> bool:
            return bool((await sim.data(what, payment_id))["status"] == "PROCESSING")

        await until(look)
        assert await sim.charged(payment_id) == 0
        return
    data = await sim.settled(what, payment_id)
    assert data.get("failureReason", {}).get("failureCode") == word
    assert data["status"] == ("COMPLETED" if word is None else "FAILED")
    assert await sim.charged(payment_id) == (1 if word is None else 0)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"currency": "USD"}, "INVALID_CURRENCY"),
        ({"amount": "15.005"}, "INVALID_AMOUNT"),
        ({"amount": "015"}, "INVALID_AMOUNT"),
        ({"amount": "5."}, "INVALID_AMOUNT"),
        ({"amount": "-5"}, "INVALID_AMOUNT"),
        ({"amount": "0"}, "AMOUNT_OUT_OF_BOUNDS"),
        ({"amount": "1000000.01"}, "AMOUNT_OUT_OF_BOUNDS"),
        (
            {"payer": {"type": "MMO", "accountDetails": {"phoneNumber": "+26076", "provider": "MTN_MOMO_ZMB"}}},
            "INVALID_PHONE_NUMBER",
        ),
        (
            {"payer": {"type": "MMO", "accountDetails": {"phoneNumber": PHONE, "provider": "MTN"}}},
            "INVALID_PROVIDER",
        ),
    ],
)
async def test_a_business_refusal_is_200_and_leaves_nothing(sim: Client, changes: dict[str, Any], code: str) -> None:
    payment_id = new_id()
    answer = await sim.ask("deposits", payment_id, **changes)
    assert (answer.status, answer.json["status"], answer.code) == (200, "REJECTED", code)
    assert answer.json["depositId"] == payment_id
    assert (await sim.call("GET", f"/pawapay/v2/deposits/{payment_id}")).json == {"status": "NOT_FOUND"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"depositId": "order-7"}, "INVALID_PARAMETER"),
        ({"depositId": "8a3f0e52-6f43-1a0e-9a56-1d1f6f1a7a10"}, "INVALID_PARAMETER"),
        ({"amount": 15}, "INVALID_PARAMETER"),
        ({"amount": None}, "MISSING_PARAMETER"),
        ({"payer": None}, "MISSING_PARAMETER"),
        ({"correspondent": "MTN_MOMO_ZMB"}, "UNSUPPORTED_PARAMETER"),
        ({"customerMessage": "abc"}, "INVALID_PARAMETER"),
        ({"customerMessage": "x" * 23}, "INVALID_PARAMETER"),
        ({"customerMessage": "Bob's shop"}, "INVALID_PARAMETER"),
    ],
)
async def test_what_cannot_be_read_is_400(sim: Client, changes: dict[str, Any], code: str) -> None:
    answer = await sim.ask("deposits", new_id(), **changes)
    assert (answer.status, answer.code) == (400, code)


async def test_no_body_breaks_it(sim: Client) -> None:
    for body in (b"", b"{", b"[" * 60_000, b"\xff", b"null"):
        answer = await sim.call("POST", "/pawapay/v2/deposits", data=body)
        assert answer.status == 400
        assert answer.code in ("INVALID_INPUT", "INVALID_PARAMETER")
    assert (await sim.call("GET", "/pawapay/v2/unknown")).status == 404


async def test_an_outage_rejects_or_keeps_waiting(sim: Client) -> None:
    await sim.configure(availability="CLOSED")
    assert (await sim.ask("deposits", new_id())).code == "PROVIDER_TEMPORARILY_UNAVAILABLE"
    await sim.configure(availability="DELAYED")
    payment_id = await sim.take("payouts")
    assert (await sim.data("payouts", payment_id))["status"] == "ENQUEUED"
    await sim.settled("deposits", await sim.take("deposits"))
    assert (await sim.data("payouts", payment_id))["status"] == "ENQUEUED"


# --- refunds ------------------------------------------------------------------------------------------------


async def test_a_deposit_is_refunded_in_parts_and_never_more(sim: Client) -> None:
    deposit = await sim.take("deposits")
    await sim.settled("deposits", deposit)
    part = await sim.take("refunds", depositId=deposit, amount="5.50")
    data = await sim.settled("refunds", part)
    assert (data["amount"], data["recipient"]["accountDetails"]["phoneNumber"]) == ("5.50", PHONE)
    too_much = await sim.ask("refunds", new_id(), depositId=deposit, amount="9.51")
    assert (too_much.status, too_much.code) == (200, "AMOUNT_TOO_LARGE")
    rest = await sim.take("refunds", depositId=deposit, amount=None, currency=None)
    assert (await sim.settled("refunds", rest))["amount"] == "9.50"
    assert (await sim.ask("refunds", new_id(), depositId=deposit)).code == "DEPOSIT_ALREADY_REFUNDED"
    again = await sim.ask("refunds", rest, depositId=deposit)
    assert again.json["status"] == "DUPLICATE_IGNORED"
    assert [await sim.charged(one) for one in (deposit, part, rest)] == [1, 1, 1]
    kinds = {one["reference"]: one["kind"] for one in (await sim.call("GET", "/_sim/books")).json["movements"]}
    assert kinds == {deposit: "collection", part: "refund", rest: "refund"}


async def test_only_a_completed_deposit_is_refunded_and_one_refund_at_a_time(sim: Client) -> None:
    stuck = await sim.pay("deposits", "260763456129", "MTN_MOMO_ZMB")
    words = {"v2": ("NOT_FOUND", "INVALID_STATE"), "v1": ("DEPOSIT_NOT_FOUND", "DEPOSIT_NOT_COMPLETED")}
    for version, (unknown, open_) in words.items():
        await sim.configure(refund_words=version)
        assert (await sim.ask("refunds", new_id(), depositId=new_id())).code == unknown
        assert (await sim.ask("refunds", new_id(), depositId=stuck)).code == open_
    deposit = await sim.take("deposits")
    await sim.settled("deposits", deposit)
    await sim.fault("payer", operation="refund", decision="ignore", times=1)
    await sim.take("refunds", depositId=deposit, amount="1")
    assert (await sim.ask("refunds", new_id(), depositId=deposit, amount="1")).code == "REFUND_IN_PROGRESS"


@pytest.mark.parametrize(("kind", "what"), [("collection", "deposits"), ("payout", "payouts"), ("refund", "refunds")])
async def test_a_kind_of_movement_may_be_refused_also_to_a_repeat(sim: Client, kind: str, what: str) -> None:
    deposit = await sim.take("deposits")
    await sim.settled("deposits", deposit)
    more = {"depositId": deposit} if kind == "refund" else {}
    taken = await sim.take(what, **more)
    for status, at in (("403", 403), ("200", 200)):
        await sim.configure(not_allowed={kind: status})
        for reference in (taken, new_id()):
            answer = await sim.ask(what, reference, **more)
            assert (answer.status, answer.code) == (at, f"{what.upper()}_NOT_ALLOWED")
    assert (await sim.settled(what, taken))["status"] == "COMPLETED"


async def test_a_failed_refund_may_be_tried_again(sim: Client) -> None:
    deposit = await sim.take("deposits")
    await sim.settled("deposits", deposit)
    await sim.fault("payer", operation="refund", decision="no_funds", times=1)
    failed = await sim.settled("refunds", await sim.take("refunds", depositId=deposit))
    assert failed["failureReason"]["failureCode"] == "PAWAPAY_WALLET_OUT_OF_FUNDS"
    assert (await sim.settled("refunds", await sim.take("refunds", depositId=deposit)))["status"] == "COMPLETED"


# --- callbacks ----------------------------------------------------------------------------------------------


async def public_key(sim: Client, key_id: str) -> ec.EllipticCurvePublicKey:
    keys = {one["id"]: one["key"] for one in (await sim.call("GET", "/pawapay/v2/public-key/http")).json}
    key = load_pem_public_key(keys[key_id].encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


async def check_signature(sim: Client, shop: Shop, position: int = 0) -> None:
    """Verify by hand, line by line. Raises InvalidSignature."""
    headers, body = shop.got[position]
    algorithm, _, digest = headers["content-digest"].partition("=:")
    assert base64.b64decode(digest.rstrip(":")) == hashlib.new(algorithm.replace("-", ""), body).digest()
    parameters = headers["signature-input"].removeprefix("sig-pp=")
    values = headers | {"@method": "POST", "@authority": headers["host"], "@path": "/hook"}
    names = [name.strip('"') for name in parameters[1 : parameters.index(")")].split(" ")]
    base = "\n".join([*(f'"{name}": {values[name]}' for name in names), f'"@signature-params": {parameters}'])
    signature = base64.b64decode(headers["signature"].removeprefix("sig-pp=:").rstrip(":"))
    if len(signature) == 64:
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        signature = encode_dss_signature(r, s)
    key = await public_key(sim, parameters.partition('keyid="')[2].partition('"')[0])
    key.verify(signature, base.encode(), ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize(("form", "digest"), [("raw", "sha-512"), ("der", "sha-256")])
async def test_every_kind_calls_back_signed(sim: Client, shop: Shop, form: str, digest: str) -> None:
    await sim.configure(callback_signatures=form, callback_digest=digest)
    deposit = await sim.take("deposits")
    await shop.wait(1)
    payout = await sim.take("payouts")
    await shop.wait(2)
    refund = await sim.take("refunds", depositId=deposit)
    first, second, third = await shop.wait(3)
    assert (first["depositId"], second["payoutId"], third["refundId"]) == (deposit, payout, refund)
    assert {one["status"] for one in (first, second, third)} == {"COMPLETED"}
    assert first == await sim.data("deposits", deposit)
    for position in range(3):
        await check_signature(sim, shop, position)
        assert shop.got[position][0]["content-digest"].startswith(digest)
        length = len(base64.b64decode(shop.got[position][0]["signature"][len("sig-pp=:") : -1]))
        assert (length == 64) == (form == "raw")


async def test_a_stuck_payment_never_calls_back(sim: Client, shop: Shop) -> None:
    await sim.pay("deposits", "260763456129", "MTN_MOMO_ZMB")
    await sim.take("deposits")
    assert [one["status"] for one in await shop.wait(1)] == ["COMPLETED"]


async def test_callbacks_without_signature_are_plain(sim: Client, shop: Shop) -> None:
    await sim.configure(callback_signatures="off")
    await sim.take("deposits")
    await shop.wait()
    assert not {"signature", "signature-input", "content-digest"} & set(shop.got[0][0])
    signatures = (await sim.call("GET", "/pawapay/v2/active-conf")).json["signatureConfiguration"]
    assert signatures == {"signedRequestsOnly": False, "signedCallbacks": False}


async def test_a_key_is_replaced(sim: Client, shop: Shop) -> None:
    await sim.take("deposits")
    await shop.wait(1)
    old = await public_key(sim, "HTTP_EC_P256_KEY:1")
    await sim.configure(signing_key=2)
    await sim.take("deposits")
    await shop.wait(2)
    await check_signature(sim, shop, 1)
    assert await public_key(sim, "HTTP_EC_P256_KEY:2") != old
    assert len((await sim.call("GET", "/pawapay/v2/public-key/http")).json) == 1


async def test_a_forged_callback_is_signed_by_a_stranger(sim: Client, shop: Shop) -> None:
    await sim.fault("payer", decision="reject", prompt_ms=300)
    await sim.fault("forged", times=1)
    payment_id = await sim.take("deposits")
    forged, true = await shop.wait(2)
    assert (forged["status"], forged["depositId"]) == ("COMPLETED", payment_id)
    with pytest.raises(InvalidSignature):
        await check_signature(sim, shop, 0)
    assert true["failureReason"]["failureCode"] == "PAYMENT_NOT_APPROVED"
    await check_signature(sim, shop, 1)


async def test_callbacks_go_wrong_as_they_are_told(sim: Client, shop: Shop) -> None:
    await sim.fault("lost", times=1)
    await sim.settled("deposits", await sim.take("deposits"))
    await sim.fault("duplicated", times=1)
    await sim.fault("reordered", times=1)
    await sim.fault("wrong_amount", operation="callback", amount="1", times=1)
    await sim.take("deposits")
    told = await shop.wait(3)
    assert [(one["status"], one["amount"]) for one in told] == [
        ("COMPLETED", "1"),
        ("COMPLETED", "1"),
        ("PROCESSING", "1"),
    ]
    await sim.fault("unsigned", times=1)
    await sim.take("deposits")
    await shop.wait(4)
    assert "signature" not in shop.got[3][0]


async def test_a_callback_that_is_refused_comes_again(sim: Client, shop: Shop) -> None:
    await sim.configure(callback_retry_ms=[10, 10])
    shop.statuses = [500, 500]
    await sim.take("deposits")
    first, second, third = await shop.wait(3)
    assert first == second == third


async def test_a_callback_is_sent_again_when_asked_for(sim: Client, shop: Shop) -> None:
    payment_id = await sim.take("deposits")
    await shop.wait(1)
    answer = await sim.call("POST", f"/pawapay/v2/deposits/resend-callback/{payment_id}")
    assert answer.json == {"depositId": payment_id, "status": "ACCEPTED"}
    first, second = await shop.wait(2)
    assert first == second
    unknown = await sim.call("POST", f"/pawapay/v2/deposits/resend-callback/{new_id()}")
    assert (unknown.status, unknown.json["status"], unknown.code) == (200, "REJECTED", "NOT_FOUND")
    stuck = await sim.pay("payouts", "260763456129", "MTN_MOMO_ZMB")
    early = await sim.call("POST", f"/pawapay/v2/payouts/resend-callback/{stuck}")
    assert (early.json["status"], early.code) == ("REJECTED", "INVALID_STATE")


async def test_a_callback_is_sent_by_hand(sim: Client, shop: Shop) -> None:
    await sim.fault("lost")
    payment_id = await sim.take("payouts")
    await sim.settled("payouts", payment_id)
    order = {"reference": payment_id, "status": "FAILED", "reason": "RECIPIENT_NOT_FOUND", "payer": "260761111111"}
    assert (await sim.call("POST", "/_sim/callbacks", json=order)).json["answer"] == 200
    [told] = await shop.wait(1)
    assert told["recipient"]["accountDetails"]["phoneNumber"] == "260761111111"
    assert told["failureReason"]["failureCode"] == "RECIPIENT_NOT_FOUND"
    await check_signature(sim, shop)
    invented = {"reference": new_id(), "provider": "pawapay", "url": shop.url, "signed": "wrong"}
    assert (await sim.call("POST", "/_sim/callbacks", json=invented)).json["answer"] == 200
    with pytest.raises(InvalidSignature):
        await check_signature(sim, shop, 1)
    await sim.configure(payout_callback_url=None)
    assert (await sim.call("POST", "/_sim/callbacks", json={"reference": payment_id})).status == 400
    for url in ("nonsense", "ftp://x/y", "http://[x"):
        assert (await sim.call("POST", "/_sim/callbacks", json={**invented, "url": url})).status == 400


# --- faults -------------------------------------------------------------------------------------------------


async def test_an_answer_may_be_lost_after_the_money_moved(sim: Client) -> None:
    for what, operation in (("deposits", "create"), ("payouts", "payout")):
        await sim.fault("drop_after", operation=operation, times=1)
        payment_id = new_id()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await sim.ask(what, payment_id)
        assert (await sim.settled(what, payment_id))["status"] == "COMPLETED"
        assert await sim.charged(payment_id) == 1


@pytest.mark.parametrize(("what", "operation"), [("deposits", "create"), ("payouts", "payout"), ("refunds", "refund")])
async def test_without_dedupe_money_moves_twice(sim: Client, what: str, operation: str) -> None:
    changes = {}
    if what == "refunds":
        deposit = await sim.take("deposits")
        await sim.settled("deposits", deposit)
        changes = {"depositId": deposit, "amount": "1"}
    payment_id = await sim.take(what, **changes)
    await sim.settled(what, payment_id)
    await sim.fault("no_dedupe", operation=operation, times=1)
    assert (await sim.ask(what, payment_id, **changes)).json["status"] == "ACCEPTED"

    async def look() -> bool:
        return await sim.charged(payment_id) == 2

    await until(look)


async def test_faults_are_aimed_at_one_payment_or_one_wallet(sim: Client) -> None:
    payment_id = new_id()
    await sim.fault("error_before", operation="create", reference=payment_id.upper(), code="UNKNOWN_ERROR")
    await sim.fault("payer", operation="payout", msisdn="260763456999", decision="fail")
    answer = await sim.ask("deposits", payment_id)
    assert (answer.status, answer.code) == (500, "UNKNOWN_ERROR")
    assert (await sim.settled("deposits", await sim.take("deposits")))["status"] == "COMPLETED"
    failed = await sim.settled("payouts", await sim.pay("payouts", "260763456999", "MTN_MOMO_ZMB"))
    assert failed["failureReason"]["failureCode"] == "UNSPECIFIED_FAILURE"


async def test_a_late_success_overrules_a_failure(sim: Client) -> None:
    await sim.fault("late_success", ms=50, after_failure=True, times=1)
    payment_id = await sim.take("deposits")

    async def look() -> bool:
        data = await sim.data("deposits", payment_id)
        return data["status"] == "COMPLETED" and "failureReason" not in data

    await until(look)
    assert await sim.charged(payment_id) == 1


async def test_a_status_may_lie(sim: Client) -> None:
    payment_id = await sim.take("deposits")
    await sim.settled("deposits", payment_id)
    await sim.fault("wrong_payer", operation="status", payer="260761111111", times=1)
    await sim.fault("wrong_currency", operation="status", times=1)
    data = await sim.data("deposits", payment_id)
    assert (data["payer"]["accountDetails"]["phoneNumber"], data["currency"]) == ("260761111111", "USD")
    await sim.fault("not_found_for", ms=60_000, times=1)
    assert (await sim.call("GET", f"/pawapay/v2/deposits/{payment_id}")).json == {"status": "NOT_FOUND"}
    assert (await sim.data("deposits", payment_id))["currency"] == "ZMW"


@pytest.mark.parametrize("shape", ["pawapay", "html", "empty"])
async def test_errors_have_shapes(sim: Client, shape: str) -> None:
    await sim.fault("error_before", shape=shape, status=502, retry_after_s=3, times=1)
    answer = await sim.ask("deposits", new_id())
    assert (answer.status, answer.headers["Retry-After"]) == (502, "3")
    wrong = {"kind": "error_before", "provider": "pawapay", "shape": "momo"}
    assert (await sim.call("POST", "/_sim/faults", json=wrong)).status == 400


async def test_it_can_forget(sim: Client) -> None:
    deposit = await sim.take("deposits")
    await sim.settled("deposits", deposit)
    await sim.call("DELETE", "/_sim/payments")
    assert (await sim.call("GET", f"/pawapay/v2/deposits/{deposit}")).json == {"status": "NOT_FOUND"}
    assert (await sim.ask("refunds", new_id(), depositId=deposit)).code == "NOT_FOUND"


# --- the toolkit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "provider"),
    [
        ("+260 76 3456789", "MTN_MOMO_ZMB"),
        ("260971234567", "AIRTEL_OAPI_ZMB"),
        ("260-55-1234567", "ZAMTEL_ZMB"),
        ("260981234567", None),
        ("4673312345", None),
        ("", None),
    ],
)
async def test_a_provider_is_predicted(sim: Client, given: str, provider: str | None) -> None:
    answer = await sim.call("POST", "/pawapay/v2/predict-provider", json={"phoneNumber": given})
    if provider is None:
        assert (answer.status, answer.code) == (400, "INVALID_PHONE_NUMBER")
    else:
        digits = "".join(filter(str.isdigit, given))
        assert answer.json == {"country": "ZMB", "provider": provider, "phoneNumber": digits}


async def test_the_configuration_tells_limits_and_callback_urls(sim: Client, shop: Shop) -> None:
    async def operations() -> Any:
        [country] = (await sim.call("GET", "/pawapay/v2/active-conf?country=ZMB")).json["countries"]
        return country["providers"][0]["currencies"][0]["operationTypes"]

    told = await operations()
    assert list(told) == ["DEPOSIT", "PAYOUT", "REFUND"]
    limits = {name: told["DEPOSIT"][name] for name in ("minAmount", "maxAmount", "decimalsInAmount")}
    assert limits == {"minAmount": "0.01", "maxAmount": "1000000", "decimalsInAmount": "TWO_PLACES"}
    assert told["DEPOSIT"]["callbackUrl"] == shop.url
    await sim.configure(limits_as="list")
    listed = await operations()
    assert [next(iter(one)) for one in listed] == ["DEPOSIT", "PAYOUT", "REFUND"]
    assert listed[0]["DEPOSIT"]["maxTransactionLimit"] == "1000000"


async def test_money_that_moves_is_in_the_balance(sim: Client) -> None:
    async def balance() -> Any:
        [wallet] = (await sim.call("GET", "/pawapay/v2/wallet-balances?country=ZMB")).json["balances"]
        assert (wallet["country"], wallet["currency"]) == ("ZMB", "ZMW")
        return wallet["balance"]

    assert await balance() == "1000.00"
    deposit = await sim.take("deposits", amount="15")
    await sim.settled("deposits", deposit)
    await sim.settled("refunds", await sim.take("refunds", depositId=deposit, amount="5"))
    await sim.settled("payouts", await sim.take("payouts", amount="100.50"))
    assert await balance() == "909.50"
    assert (await sim.call("GET", "/pawapay/v2/wallet-balances?country=UGA")).json == {"balances": []}
    assert (await sim.call("GET", "/pawapay/v2/wallet-balances", token=None)).status == 401
