"""Airtel's simulator, spoken to over real sockets."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kobiri.providers.airtel import simulator as airtel
from kobiri.simulator.app import SimulatorSettings, build
from kobiri.simulator.wallets import holder

DEADLINE_S = 10.0
KEY = "the portal's private key"
PAYER = "971234567"
TEST = "970000"


async def until(look: Callable[[], Awaitable[Any]], *, deadline_s: float = DEADLINE_S) -> Any:
    """What `look` sees once it sees something."""
    ends = time.monotonic() + deadline_s
    while True:
        if seen := await look():
            return seen
        if time.monotonic() > ends:
            pytest.fail(f"not within {deadline_s} s")
        await asyncio.sleep(0.01)


@dataclass
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The response code, or the older result code where there is none."""
        said = self.json["status"]
        told: str | None = said.get("response_code", said["result_code"])
        return told

    @property
    def word(self) -> Any:
        return self.json["data"]["transaction"]["status"]


@dataclass
class Airtel:
    """A client of Airtel, and the control API beside it."""

    url: str
    http: aiohttp.ClientSession
    token: str = ""

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        async with self.http.request(method, self.url + path, **options) as answer:
            return Answer(answer.status, await answer.read())

    async def log_in(self, client_id: str = "someone", secret: str = "any", **changes: Any) -> Answer:  # noqa: S107
        asked = {"client_id": client_id, "client_secret": secret, "grant_type": "client_credentials", **changes}
        answer = await self.call("POST", "/airtel/auth/oauth2/token", json=asked)
        if answer.status == 200:
            self.token = answer.json["access_token"]
        return answer

    def headers(self, **over: str | None) -> dict[str, str]:
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            "X-Country": "ZM",
            "X-Currency": "ZMW",
            **{name.replace("_", "-"): value for name, value in over.items()},
        }
        return {name: value for name, value in headers.items() if value is not None}

    async def post(self, path: str, content: Any, headers: dict[str, Any] | None = None) -> Answer:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        return await self.call("POST", f"/airtel{path}", data=data, headers=self.headers(**(headers or {})))

    async def get(self, path: str, **headers: str | None) -> Answer:
        return await self.call("GET", f"/airtel{path}", headers=self.headers(**headers))

    async def collect(
        self, reference: str | None = None, *, payer: str = PAYER, amount: Any = 10.5, headers: Any = None, **over: Any
    ) -> Answer:
        transaction = {"amount": amount, "country": "ZM", "currency": "ZMW", "id": reference or ref()}
        subscriber = {"country": "ZM", "currency": "ZMW", "msisdn": payer}
        ask = {"reference": "Order7", "subscriber": subscriber, "transaction": transaction, **over}
        return await self.post("/merchant/v1/payments/", ask, headers)

    async def pay_out(
        self, reference: str | None = None, *, payee: str = PAYER, pin: str | None = airtel.PIN, headers: Any = None
    ) -> Answer:
        sealed = {} if pin is None else {"pin": await self.sealed(pin.encode())}
        transaction = {"amount": 10.5, "id": reference or ref(), "type": "B2C"}
        ask = {
            "payee": {"currency": "ZMW", "msisdn": payee},
            "reference": "Wages",
            "transaction": transaction,
            **sealed,
        }
        return await self.post("/standard/v2/disbursements/", ask, headers)

    async def refund(self, airtel_money_id: str) -> Answer:
        return await self.post("/standard/v1/payments/refund", {"transaction": {"airtel_money_id": airtel_money_id}})

    async def status(self, reference: str) -> Answer:
        return await self.get(f"/standard/v1/payments/{reference}")

    async def payout_status(self, reference: str) -> Answer:
        return await self.get(f"/standard/v2/disbursements/{reference}?transactionType=B2C")

    async def settled(self, reference: str, word: str | None = None) -> Answer:
        async def look() -> Answer | None:
            answer = await self.status(reference)
            known = "data" in answer.json and answer.word != "TIP"
            return answer if known and word in (None, answer.word) else None

        found: Answer = await until(look)
        return found

    async def paid(self, payer: str = PAYER) -> str:
        """The Airtel Money id of a collection that succeeded."""
        reference = ref()
        await self.collect(reference, payer=payer)
        shown: str = (await self.settled(reference)).json["data"]["transaction"]["airtel_money_id"]
        return shown

    async def sealed(self, secret: bytes) -> str:
        key = load_der_public_key(base64.b64decode((await self.get("/v1/rsa/encryption-keys")).json["data"]["key"]))
        assert isinstance(key, rsa.RSAPublicKey)
        return base64.b64encode(key.encrypt(secret, padding.PKCS1v15())).decode()

    async def signature(self, body: bytes) -> dict[str, str]:
        key, iv, padder = bytes(range(32)), bytes(16), PKCS7(128).padder()
        encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        encrypted = encryptor.update(padder.update(body) + padder.finalize())
        sealed = await self.sealed(base64.b64encode(key) + b":" + base64.b64encode(iv))
        return {"x-signature": base64.b64encode(encrypted).decode(), "x-key": sealed}

    async def fault(self, kind: str, **parameters: Any) -> str:
        answer = await self.call("POST", "/_sim/faults", json={"kind": kind, "provider": "airtel", **parameters})

        assert answer.status == 201, answer.body

        name: str = answer.json["id"]
        return name

    async def books(self, query: str = "") -> Any:
        return (await self.call("GET", f"/_sim/books{query}")).json

    async def charged(self, reference: str) -> int:
        return sum(one["charged"] for one in (await self.books(f"?reference={reference}"))["movements"])

    async def configure(self, **options: Any) -> None:
        assert (await self.call("PATCH", "/_sim/settings/airtel", json=options)).status == 200


@dataclass
class Shop:
    """Takes callbacks. `statuses` are answered in turn, then 200 for ever."""

    url: str = ""
    got: list[tuple[str, bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        self.got.append((request.method, await request.read()))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    async def wait(self, number: int = 1) -> list[Any]:
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


Start = Callable[..., Awaitable[Airtel]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with contextlib.AsyncExitStack() as stack:

        async def begin(*, log_in: bool = True, **options: Any) -> Airtel:
            settings = SimulatorSettings(providers={"airtel": {"prompt_ms": 20, "slow_ms": 100, **options}})
            url = await stack.enter_async_context(listening(build({"airtel": airtel.build}, settings=settings)))
            http = await stack.enter_async_context(
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S))
            )
            client = Airtel(url, http)
            if log_in:
                await client.log_in()
            return client

        yield begin


@pytest.fixture
async def sim(start: Start) -> Airtel:
    return await start()


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    app = web.Application()
    app.router.add_route("*", "/hook", shop.receive)
    async with listening(app) as url:
        shop.url = f"{url}/hook"
        yield shop


def ref() -> str:
    return uuid.uuid4().hex


# Tokens and the key.


async def test_a_token_lives_three_minutes_told_as_text(start: Start) -> None:
    sim = await start(log_in=False)

    answer = await sim.log_in()

    assert answer.json == {"access_token": sim.token, "expires_in": "180", "token_type": "bearer"}
    await sim.configure(expires_in_as="number")
    assert (await sim.log_in()).json["expires_in"] == 180


async def test_a_client_needs_its_own_secret(start: Start) -> None:
    sim = await start(log_in=False, client_id="demo", client_secret="demo-secret", open_credentials=False)

    wrong = await sim.log_in("demo", "else")
    stranger = await sim.log_in()

    assert wrong.status == stranger.status == 400
    assert wrong.json == {"error": "invalid_client", "error_description": "Invalid client authentication"}
    assert (await sim.log_in("demo", "demo-secret")).status == 200
    assert (await sim.log_in("demo", "demo-secret", grant_type="password")).status == 400


@pytest.mark.parametrize("refusal", ["403", "401"])
async def test_an_expired_or_invented_token_is_refused(start: Start, refusal: str) -> None:
    sim = await start(token_ttl_s=1, token_refusal=refusal)
    assert (await sim.collect()).status == 200

    async def refused() -> Answer | None:
        answer = await sim.collect()
        return None if answer.status == 200 else answer

    answer = await until(refused)
    assert (answer.status, answer.json["error"]) == (int(refusal), "invalid_token")
    for token in ("", "nonsense", "é.é.é"):
        sim.token = token
        assert (await sim.collect()).status == int(refusal)


@pytest.mark.parametrize("bits", [1024, 2048])
async def test_the_key_is_the_base64_of_der_and_ends(start: Start, bits: int) -> None:
    sim = await start(key_bits=bits)

    told = (await sim.get("/v1/rsa/encryption-keys")).json

    key = load_der_public_key(base64.b64decode(told["data"]["key"]))
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == bits
    time.strptime(told["data"]["valid_upto"], "%d-%m-%Y %H:%M:%S")
    assert told["status"]["response_code"] == "DP02010001001"


# Collections.


async def test_a_collection_is_accepted_then_succeeds_and_moves_money_once(start: Start) -> None:
    sim = await start(prompt_ms=500)
    reference = ref()

    created = await sim.collect(reference)
    pending = await sim.status(reference)
    before = await sim.charged(reference)
    settled = await sim.settled(reference)

    assert created.json == {
        "data": {"transaction": {"id": reference, "status": "SUCCESS"}},
        "status": {
            "code": "200",
            "message": "SUCCESS",
            "result_code": "ESB000010",
            "response_code": "DP00800001006",
            "success": True,
        },
    }
    assert (pending.word, pending.code) == ("TIP", "DP00800001006")
    assert "airtel_money_id" not in pending.json["data"]["transaction"]
    assert before == 0
    assert (settled.word, settled.code) == ("TS", "DP00800001001")
    assert settled.json["data"]["transaction"]["airtel_money_id"].startswith("MP")
    (movement,) = (await sim.books(f"?reference={reference}&provider=airtel"))["movements"]
    assert (movement["kind"], movement["charged"], movement["amount"]) == ("collection", 1, "10.5")
    assert (movement["currency"], movement["msisdn"]) == ("ZMW", f"260{PAYER}")


async def test_the_disputed_can_be_chosen(start: Start) -> None:
    sim = await start(paid_code="1006", success_beside_ts=False, status_code_as="number", collection_versions=["v2"])
    assert (await sim.collect()).json == {"message": "no Route matched with those values"}
    transaction = {"amount": 1, "id": (reference := ref())}
    ask = {"reference": "Order7", "subscriber": {"msisdn": PAYER}, "transaction": transaction}

    assert (await sim.post("/merchant/v2/payments", ask)).word == "SUCCESS"
    settled = await sim.settled(reference)

    assert (settled.word, settled.code) == ("TS", "DP00800001006")
    assert (settled.json["status"]["success"], settled.json["status"]["code"]) == (False, 200)


async def test_what_was_seen_elsewhere_can_be_chosen(start: Start) -> None:
    sim = await start(
        prompt_ms=100, first_word="Success.", first_id="false", pending_as="bare", codes_of_success="result_code",
        success_beside_tf=True, success_beside_refund=False,
    )  # fmt: skip
    first = (await sim.collect(reference := ref())).json
    assert first["data"]["transaction"] == {"id": False, "status": "Success."}
    assert "response_code" not in first["status"]
    assert (await sim.status(reference)).json["data"]["transaction"] == {"id": reference, "status": "TIP"}
    paid = await sim.settled(reference)
    assert (paid.word, paid.code) == ("TS", "ESB000010")
    assert (await sim.pay_out()).code == "ESB000010"
    refunded = (await sim.refund(paid.json["data"]["transaction"]["airtel_money_id"])).json
    assert refunded["data"]["transaction"]["status"] == "SUCCESS"
    assert refunded["status"] == {"code": "200", "message": "SUCCESS", "result_code": "ESB000010", "success": False}
    await sim.collect(failed := ref(), payer=TEST + "407")
    told = (await sim.settled(failed)).json
    assert told["data"]["transaction"]["airtel_money_id"].startswith("MP")
    assert (told["status"]["success"], told["status"]["result_code"]) == (True, "ESB000010")


async def test_a_failure_may_have_the_ambiguous_code(start: Start) -> None:
    sim = await start()
    await sim.collect(one := ref(), payer=TEST + "421")
    assert ((await sim.settled(one)).word, (await sim.settled(one)).code) == ("TF", "DP00800001000")
    await sim.configure(failure_code="1000")
    await sim.collect(another := ref(), payer=TEST + "407")
    assert ((await sim.settled(another)).word, (await sim.settled(another)).code) == ("TF", "DP00800001000")
    assert (await sim.pay_out(payee=TEST + "407")).code == "DP00900001007"


@pytest.mark.parametrize(
    ("digits", "callback", "enquiry"),
    [
        ("001", "DP008001001", "DP00800001001"),
        ("402", "DP008001023", "DP008001013"),
        ("404", "DP008001013", "DP008001013"),
        ("407", "DP008001021", "DP00800001007"),
        ("408", "DP00800001008", "DP00800001008"),
        ("410", "DP008001016", "DP00800001010"),
    ],
)
async def test_the_short_numbering_is_played_where_it_was_seen(
    start: Start, shop: Shop, digits: str, callback: str, enquiry: str
) -> None:
    sim = await start(numbering="short", callback_url=shop.url)
    await sim.collect(reference := ref(), payer=TEST + digits)

    [told] = await shop.wait()

    assert told["transaction"]["code"] == callback
    assert (await sim.settled(reference)).code == enquiry


async def test_a_code_that_nobody_listed_can_stand_beside_a_success(start: Start, shop: Shop) -> None:
    sim = await start(paid_code="1099", callback_url=shop.url)
    await sim.collect(reference := ref())
    assert ((await sim.settled(reference)).word, (await sim.settled(reference)).code) == ("TS", "DP00800001099")
    assert (await sim.pay_out()).code == "DP00900001099"
    assert {one["transaction"]["code"] for one in await shop.wait(2)} == {"DP00800001099", "DP00900001099"}
    await sim.configure(callback_code=False)
    await sim.collect()
    assert "code" not in (await shop.wait(3))[2]["transaction"]


async def test_a_callback_may_be_about_an_id_of_nobodys(start: Start, shop: Shop) -> None:
    sim = await start(callback_key=KEY)
    ordered = {"provider": "airtel", "reference": "1784534223", "url": shop.url, "status": "TS"}
    assert (await sim.call("POST", "/_sim/callbacks", json=ordered)).status in (200, 201, 202)
    [told] = await shop.wait()
    assert told["transaction"]["id"] == "1784534223"
    assert told["hash"] == right(raw_transaction(shop.got[0][1]))


async def test_a_repeated_id_is_refused_and_moves_nothing(sim: Airtel) -> None:
    reference = ref()
    await sim.collect(reference)
    await sim.settled(reference)

    again = await sim.collect(reference, amount=99)

    assert (again.status, again.code, again.json["status"]["success"]) == (200, "ESB000041", False)
    assert await sim.charged(reference) == 1


@pytest.mark.parametrize(("operation", "kind"), [("create", "collection"), ("payout", "payout")])
async def test_without_dedupe_the_books_show_two(sim: Airtel, operation: str, kind: str) -> None:
    await sim.fault("no_dedupe", operation=operation)
    reference = ref()
    for _ in range(2):
        await (sim.collect if operation == "create" else sim.pay_out)(reference)

    async def twice() -> bool:
        return await sim.charged(reference) == 2

    await until(twice)
    (movement,) = (await sim.books("?min_charged=2"))["movements"]
    assert movement["kind"] == kind


NUMBERS = [
    *(
        (digits, "TF", f"DP008000010{digits[1:]}")
        for digits in ("402", "403", "404", "407", "408", "409", "410", "424")
    ),
    ("415", "TF", "DP00800001005"),
    ("429", "TE", "DP00800001029"),
    ("400", "TA", "DP00800001000"),
    ("454", "TS", "DP00800001001"),
    ("001", "TS", "DP00800001001"),
]


@pytest.mark.parametrize(("digits", "word", "code"), NUMBERS)
async def test_numbers_behave(sim: Airtel, digits: str, word: str, code: str) -> None:
    reference = ref()

    assert (await sim.collect(reference, payer=TEST + digits)).word == "SUCCESS"
    settled = await sim.settled(reference)

    assert (settled.word, settled.code) == (word, code)
    assert await sim.charged(reference) == (word == "TS")


async def test_numbers_that_are_refused_stay_open_or_change_their_mind(start: Start) -> None:
    sim = await start(slow_ms=2_000)  # long enough to be seen in between
    unknown, broken, lost, open_, doubtful = (ref() for _ in range(5))

    refused = await sim.collect(unknown, payer=TEST + "405")
    wrong = await sim.collect(broken, payer=TEST + "500")
    late = await sim.collect(lost, payer=TEST + "504")
    await sim.collect(open_, payer=TEST + "453")
    await sim.collect(doubtful, payer=TEST + "455")

    assert (refused.status, refused.code) == (400, "DP00800001005")
    assert refused.json["status"]["message"] == "Msisdn Not Found"
    assert (wrong.status, wrong.json["status"]["message"]) == (500, "Something Went Wrong")
    assert late.status == 504
    assert (await sim.status(unknown)).code == (await sim.status(broken)).code == "DP00800001025"
    await sim.settled(lost, "TS")
    await sim.settled(doubtful, "TA")
    await sim.settled(doubtful, "TS")
    assert (await sim.status(open_)).word == "TIP"
    assert [await sim.charged(one) for one in (unknown, broken, lost, open_, doubtful)] == [0, 0, 1, 0, 1]


# Validation.


async def test_headers_are_checked_as_airtel_does(sim: Airtel) -> None:
    assert (await sim.pay_out(headers={"Content-Type": "text/plain"})).status == 415

    nowhere = await sim.pay_out(headers={"X-Country": None})
    abroad = await sim.pay_out(headers={"X-Country": "UG"})
    no_currency = await sim.pay_out(headers={"X-Currency": None})
    empty = await sim.pay_out(headers={"X-Currency": ""})

    assert (nowhere.status, nowhere.json["status_code"]) == (400, "ROUTER110")
    assert (abroad.status, abroad.code) == (400, "DP00900001013")
    assert (no_currency.status, no_currency.code) == (200, "ESB000008")
    assert no_currency.json["status"]["code"] == "400"
    assert (empty.status, empty.code) == (200, "DP00900001013")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"payer": "0971234567"}, "ESB000033"),
        ({"payer": "260971234567"}, "ESB000033"),
        ({"amount": "10.50"}, "DP00800001004"),
        ({"amount": -1}, "DP00800001004"),
        ({"amount": 0}, "DP00800001004"),
        ({"amount": 1.0001}, "DP00800001004"),
        ({"amount": None}, "DP00800001004"),
        ({"subscriber": {}}, "ESB000008"),
        ({"transaction": {"amount": 1, "id": "8a3f0e52_6f43"}}, "ESB000008"),
        ({"transaction": {"amount": 1, "id": "abcd"}}, "ESB000008"),
    ],
)
async def test_a_wrong_collection_is_refused_with_200(sim: Airtel, changes: dict[str, Any], code: str) -> None:
    answer = await sim.collect(**changes)

    assert (answer.status, answer.code, answer.json["status"]["success"]) == (200, code, False)
    assert (await sim.books())["movements"] == []


async def test_ids_with_hyphens_and_amounts_as_text_are_disputed(sim: Airtel) -> None:
    assert (await sim.collect(str(uuid.uuid4()))).code == "DP00800001006"
    await sim.configure(id_hyphens="refused", text_amounts="accepted")
    assert (await sim.collect(str(uuid.uuid4()))).code == "ESB000008"
    assert (await sim.collect(amount="10.50")).code == "DP00800001006"
    assert (await sim.collect(amount="ten")).code == "DP00800001004"


async def test_names_are_told_by_number(sim: Airtel) -> None:
    await sim.log_in()
    given, family = holder(PAYER)

    async def ask(msisdn: str, path: str = "/standard/v2/kyc/users/") -> Answer:
        return await sim.get(path + msisdn)

    told = await ask(PAYER)
    assert told.json["data"] == {"user_name": f"{given} {family}", "msisdn": PAYER, "is_airtel_money_user": True}
    assert told.code == "DP02200000001"
    assert (await ask(TEST + "405")).json["data"]["is_airtel_money_user"] is False
    assert (await ask(TEST + "420")).json["data"]["user_name"] == ""
    old = (await ask(PAYER, "/standard/v1/users/")).json["data"]
    assert (old["first_name"], old["last_name"], old["is_barred"]) == (given, family, False)
    assert (await ask(TEST + "419", "/standard/v1/users/")).json["data"]["is_barred"] is True
    assert (await ask(TEST + "420", "/standard/v1/users/")).json["data"]["first_name"] == ""
    assert (await ask(TEST + "405", "/standard/v1/users/")).code == "DP02200000002"
    for path in ("/standard/v1/users/", "/standard/v2/kyc/users/"):
        assert (await ask(f"260{PAYER}", path)).code == "ESB000033"
        sim.token, token = "old", sim.token
        assert (await ask(PAYER, path)).status == 403
        sim.token = token


async def test_money_that_moves_is_in_the_balances(sim: Airtel) -> None:
    await sim.log_in()

    async def balance(path: str) -> Any:
        answer = await sim.get(f"/standard/{path}")
        assert (answer.code, answer.json["data"]["currency"]) == ("DP02100000001", "ZMW")
        return answer.json["data"]["balance"]

    shapes = ("v1/users/balance", "v2/users/balance?type=COLL", "v2/users/balance/COLL", "v2/users/balance?type=disb")
    assert [await balance(path) for path in shapes] == ["1000.00"] * 4
    refunded = await sim.paid()
    await sim.paid()
    await sim.pay_out()
    await sim.refund(refunded)
    assert [await balance(path) for path in shapes] == ["1000.00", "1010.50", "1010.50", "989.50"]
    assert await balance("v2/users/balance/CASHIN") == "1000.00"
    await sim.configure(balance="37600.00", balance_as="grouped")
    assert await balance("v2/users/balance/cashout") == "37,600.00"
    for path in ("/standard/v2/users/balance", "/standard/v2/users/balance/SHOE"):
        assert (await sim.get(path)).code == "ESB000008"


@pytest.mark.parametrize("raw", [b"", b"[", b"null", b'{"transaction":' * 4_000, b"\xff"])
async def test_what_is_no_request_is_refused(sim: Airtel, raw: bytes) -> None:
    for path in ("/merchant/v1/payments/", "/standard/v2/disbursements/", "/standard/v1/payments/refund"):
        assert (await sim.post(path, raw)).json["status"]["success"] is False


# Payouts.


async def test_a_payout_is_final_at_once(sim: Airtel) -> None:
    reference = ref()

    done = await sim.pay_out(reference)
    again = await sim.pay_out(reference)
    asked = await sim.payout_status(reference)

    assert (done.word, done.code, asked.word) == ("TS", "DP00900001001", "TS")
    first, later = done.json["data"]["transaction"], asked.json["data"]["transaction"]
    assert first["airtel_money_id"] == later["airtel_money_id"] == f"disbursement-SIMU-{reference}"
    assert first["reference_id"].startswith("CI")
    assert "reference_id" not in later
    assert (again.code, again.json["status"]["message"]) == ("DP00900001011", "Duplicate exttRID")
    (movement,) = (await sim.books(f"?reference={reference}"))["movements"]
    assert (movement["kind"], movement["charged"]) == ("payout", 1)
    assert (await sim.status(reference)).code == "DP00800001025"  # it is no collection
    assert (await sim.get(f"/standard/v2/disbursements/{reference}")).code == "DP00900001013"  # no transactionType


@pytest.mark.parametrize(
    ("pin", "message"), [("0000", "Incorrect Encrypted Pin"), (None, "Missing header/body params")]
)
async def test_the_pin_is_really_checked(sim: Airtel, pin: str | None, message: str) -> None:
    reference = ref()

    answer = await sim.pay_out(reference, pin=pin)

    assert (answer.status, answer.code, answer.json["status"]["message"]) == (200, "DP00900001013", message)
    assert await sim.charged(reference) == 0


@pytest.mark.parametrize("pin", ["nonsense", "é", "", base64.b64encode(b"2468").decode()])
async def test_a_pin_that_is_not_encrypted_is_refused(sim: Airtel, pin: str) -> None:
    payout = {"payee": {"msisdn": PAYER}, "reference": "x", "pin": pin, "transaction": {"amount": 1, "id": ref()}}

    assert (await sim.post("/standard/v2/disbursements/", payout)).code == "DP00900001013"


@pytest.mark.parametrize("digits", ["403", "404", "405", "407", "409", "410", "412", "413", "419"])
async def test_payouts_fail_by_number(sim: Airtel, digits: str) -> None:
    reference = ref()

    answer = await sim.pay_out(reference, payee=TEST + digits)

    assert (answer.word, answer.code) == ("TF", f"DP009000010{digits[1:]}")
    assert (await sim.payout_status(reference)).code == answer.code
    assert await sim.charged(reference) == 0


@pytest.mark.parametrize(
    ("digits", "word", "code", "moves"),
    [("400", "TA", "DP00900001000", False), ("406", "TIP", "DP00900001006", True),
     ("414", "TA", "DP00900001014", True), ("453", "TIP", "DP00900001006", False)],
)  # fmt: skip
async def test_payouts_may_be_open_at_first(sim: Airtel, digits: str, word: str, code: str, moves: bool) -> None:
    reference = ref()

    answer = await sim.pay_out(reference, payee=TEST + digits)

    assert (answer.word, answer.code) == (word, code)
    if moves:

        async def moved() -> bool:
            word: str = (await sim.payout_status(reference)).word
            return word == "TS"

        await until(moved)
    assert await sim.charged(reference) == moves


# Refunds.


async def test_a_refund_is_whole_and_once(sim: Airtel) -> None:
    airtel_money_id = await sim.paid()

    done = await sim.refund(airtel_money_id)
    again = await sim.refund(airtel_money_id)

    told = done.json["data"]["transaction"]
    assert (told["status"], told["airtel_money_id"][:2]) == ("SUCCESS", "CI")
    assert told["airtel_money_id"][2:] != airtel_money_id[2:], "it has a number of its own"
    assert done.code == "DP00800001006"
    assert (again.code, again.json["status"]["success"]) == ("DP00800001009", False)
    (movement,) = (await sim.books(f"?reference={airtel_money_id}"))["movements"]
    assert (movement["kind"], movement["charged"], movement["amount"]) == ("refund", 1, "10.5")


async def test_a_refund_may_have_the_number_that_was_asked_with(sim: Airtel) -> None:
    await sim.configure(refund_number="asked")
    airtel_money_id = await sim.paid()
    answer = (await sim.refund(airtel_money_id)).json
    assert answer["data"] == {"transaction": {"airtel_money_id": airtel_money_id, "status": "SUCCESS"}}


async def test_what_was_not_collected_is_not_refunded(sim: Airtel) -> None:
    payout = (await sim.pay_out()).json["data"]["transaction"]["airtel_money_id"]

    for airtel_money_id in ("MP000000.0000.L00000", payout, ""):
        assert (await sim.refund(airtel_money_id)).code == "DP00800001025"


async def test_refunds_fail_or_are_lost_by_the_payers_number(sim: Airtel) -> None:
    no_funds, lost = await sim.paid(TEST + "456"), await sim.paid(TEST + "457")

    assert (await sim.refund(no_funds)).code == "DP00800001007"
    assert (await sim.refund(lost)).status == 504
    assert (await sim.charged(no_funds), await sim.charged(lost)) == (0, 1)


@pytest.mark.parametrize("fault", [{"kind": "late_success", "ms": 50}, {"kind": "payer", "decision": "ignore"}])
async def test_a_refund_may_be_ambiguous(sim: Airtel, fault: dict[str, Any]) -> None:
    airtel_money_id = await sim.paid()
    await sim.fault(**fault, operation="refund", times=1)

    assert (await sim.refund(airtel_money_id)).code == "DP00800001000"
    if fault["kind"] == "late_success":

        async def moved() -> bool:
            return await sim.charged(airtel_money_id) == 1

        await until(moved)
    else:
        assert await sim.charged(airtel_money_id) == 0


async def test_without_dedupe_a_refund_is_done_twice(sim: Airtel) -> None:
    airtel_money_id = await sim.paid()
    await sim.fault("no_dedupe", operation="refund")

    for _ in range(2):
        assert (await sim.refund(airtel_money_id)).word == "SUCCESS"
    assert await sim.charged(airtel_money_id) == 2


# Signatures.


async def test_a_changed_byte_is_refused(start: Start) -> None:
    sim = await start(signing="required")
    payout = {"payee": {"msisdn": PAYER}, "reference": "x", "transaction": {"amount": 1, "id": "payout1"}}
    for path, code, ask in (
        ("/merchant/v1/payments/", "DP00800001026",
         {"reference": "x", "subscriber": {"msisdn": PAYER}, "transaction": {"amount": 1, "id": "collection1"}}),
        ("/standard/v2/disbursements/", "DP00900001016", {**payout, "pin": await sim.sealed(airtel.PIN.encode())}),
    ):  # fmt: skip
        body = json.dumps(ask).encode()
        headers = await sim.signature(body)
        signature = headers["x-signature"]

        for refused in (
            await sim.post(path, body),
            await sim.post(path, body.replace(b'"amount": 1', b'"amount": 9'), headers),
            await sim.post(path, body + b" ", headers),
            await sim.post(path, body, {**headers, "x-signature": signature[:-8] + "AAAAAAA="}),
            await sim.post(path, body, {**headers, "x-signature": "é"}),
            await sim.post(path, body, {**headers, "x-key": signature}),
            await sim.post(path, body, {**headers, "x-key": None}),
        ):
            assert refused.code == code
        moved = [movement["reference"] for movement in (await sim.books())["movements"]]
        assert ("collection1" if "payments" in path else "payout1") not in moved
        assert (await sim.post(path, body, headers)).code in ("DP00800001006", "DP00900001001")


async def test_a_signature_is_checked_where_there_is_one(sim: Airtel) -> None:
    assert (await sim.collect()).code == "DP00800001006"
    assert (await sim.collect(headers={"x-signature": "x", "x-key": "y"})).code == "DP00800001026"


# Callbacks.


def right(transaction: bytes, key: str = KEY) -> str:
    return base64.b64encode(hmac.new(key.encode(), transaction, hashlib.sha256).digest()).decode()


def raw_transaction(body: bytes) -> bytes:
    return body[body.index(b": ") + 2 : body.index(b"}") + 1]


async def test_callbacks_have_no_hash_until_there_is_a_key(start: Start, shop: Shop) -> None:
    sim = await start(callback_url=shop.url)
    reference = ref()
    await sim.collect(reference)

    [told] = await shop.wait()

    transaction = told["transaction"]
    assert shop.got[0][0] == "POST"
    assert set(told) == {"transaction"}
    assert list(transaction) == ["status_code", "code", "airtel_money_id", "id", "message"]
    assert transaction["code"] == "DP00800001001"
    assert (transaction["id"], transaction["status_code"]) == (reference, "TS")
    status = (await sim.status(reference)).json["data"]["transaction"]
    assert transaction["airtel_money_id"] == status["airtel_money_id"]


@pytest.mark.parametrize("over", ["raw", "compact"])
async def test_a_hash_is_of_the_transaction(start: Start, shop: Shop, over: str) -> None:
    sim = await start(callback_url=shop.url, callback_key=KEY, callback_hash=over)
    await sim.collect(payer=TEST + "407")

    [told] = await shop.wait()

    assert list(told) == ["transaction", "hash"]
    assert (told["transaction"]["status_code"], told["transaction"]["code"]) == ("TF", "DP00800001007")
    assert told["transaction"]["airtel_money_id"].startswith("MP")  # a failed one has a number too
    raw = raw_transaction(shop.got[0][1])
    compact = json.dumps(told["transaction"], separators=(",", ":")).encode()
    assert raw != compact
    assert told["hash"] == right(raw if over == "raw" else compact)


async def test_callbacks_may_tell_what_is_not_final(start: Start, shop: Shop) -> None:
    sim = await start(callback_url=shop.url, callback_on="all", prompt_ms=500)
    await sim.collect()

    told = await shop.wait(2)

    assert [one["transaction"]["status_code"] for one in told] == ["TIP", "TS"]


async def test_a_callback_is_tried_again_when_told_so(start: Start, shop: Shop) -> None:
    shop.statuses = [500, 503]
    sim = await start(callback_url=shop.url, callback_retry_ms=[1, 1, 1])
    await sim.collect(reference := ref())

    await shop.wait(3)

    async def three() -> bool:
        sent = (await sim.call("GET", f"/_sim/callbacks?reference={reference}")).json["callbacks"]
        return [one["answer"] for one in sent] == [500, 503, 200]

    await until(three)


async def test_callbacks_go_wrong_on_demand(start: Start, shop: Shop) -> None:
    sim = await start(callback_url=shop.url, callback_key=KEY)
    await sim.fault("lost", reference=(lost := ref()))
    await sim.collect(lost)
    await sim.settled(lost)
    await sim.fault("duplicated", reference=(twice := ref()))
    await sim.fault("reordered", reference=twice)
    await sim.fault("unsigned", reference=(unsigned := ref()))
    await sim.fault("forged", reference=(forged := ref()))
    await sim.fault("payer", decision="ignore", reference=forged)
    await sim.fault("late", reference=(late := ref()), ms=50)
    for one in (twice, unsigned, forged, late):
        await sim.collect(one)

    told = await shop.wait(6)

    def got(reference: str) -> list[tuple[str, bool]]:
        return [
            (one["transaction"]["status_code"], one.get("hash") == right(raw_transaction(body)))
            for one, (_, body) in zip(told, shop.got, strict=True)
            if one["transaction"]["id"] == reference
        ]

    assert got(lost) == []
    assert got(twice) == [("TS", True), ("TS", True), ("TIP", True)]
    assert got(unsigned) == [("TS", False)]
    assert got(forged) == [("TS", False)]
    assert got(late) == [("TS", True)]
    assert await sim.charged(forged) == 0


async def test_a_callback_can_be_sent_by_hand(start: Start, shop: Shop) -> None:
    sim = await start(callback_key=KEY)
    reference = ref()
    await sim.collect(reference, payer=TEST + "453")

    async def order(**order: Any) -> Answer:
        return await sim.call("POST", "/_sim/callbacks", json=order)

    assert (await order(reference=reference)).status == 400  # nowhere to send it
    assert (await order(reference=reference, url="nonsense")).status == 400
    assert (await order(reference="unknown")).status == 404
    assert (await order(reference=reference, url=shop.url, status="TS", signed="wrong")).json["answer"] == 200
    assert (await order(reference="invented", provider="airtel", url=shop.url)).json["answer"] == 200

    first, second = await shop.wait(2)
    assert (first["transaction"]["status_code"], first["transaction"]["id"]) == ("TS", reference)
    assert first["hash"] != right(raw_transaction(shop.got[0][1]))
    assert second["transaction"]["id"] == "invented"
    assert second["hash"] == right(raw_transaction(shop.got[1][1]))


# Faults.


@pytest.mark.parametrize(
    ("decision", "word", "code"),
    [("approve", "TS", "DP00800001001"), ("reject", "TF", "DP00800001008"), ("expire", "TE", "DP00800001029"),
     ("no_funds", "TF", "DP00800001007"), ("fail", "TF", "DP00800001009")],
)  # fmt: skip
async def test_the_payer_decides(sim: Airtel, decision: str, word: str, code: str) -> None:
    await sim.fault("payer", decision=decision, msisdn=f"260{PAYER}")
    await sim.collect(reference := ref())

    settled = await sim.settled(reference)

    assert (settled.word, settled.code) == (word, code)


async def test_a_failure_may_be_taken_back(start: Start, shop: Shop) -> None:
    sim = await start(callback_url=shop.url)
    await sim.fault("late_success", ms=50, after_failure=True)
    await sim.collect(reference := ref())

    told = await shop.wait(2)

    assert sorted(one["transaction"]["status_code"] for one in told) == ["TF", "TS"]
    await sim.settled(reference, "TS")
    assert await sim.charged(reference) == 1


async def test_a_transaction_may_be_hidden_or_told_wrong(sim: Airtel) -> None:
    reference = ref()
    await sim.collect(reference)
    await sim.settled(reference)
    await sim.fault("not_found_for", ms=86_400_000, times=1)
    await sim.fault("wrong_amount", amount="99")
    await sim.fault("wrong_currency", currency="USD")
    await sim.fault("wrong_payer", payer="260960000999")

    assert (await sim.status(reference)).code == "DP00800001025"
    assert (await sim.status(reference)).json["data"]["transaction"]["message"] == "Paid USD 99, 260960000999."
    (movement,) = (await sim.books(f"?reference={reference}"))["movements"]
    assert (movement["amount"], movement["msisdn"]) == ("10.5", f"260{PAYER}")


@pytest.mark.parametrize("operation", ["create", "payout"])
async def test_an_answer_is_lost_after_it_was_done(sim: Airtel, operation: str) -> None:
    reference = ref()
    await sim.fault("drop_after", operation=operation, times=1)

    with pytest.raises(aiohttp.ClientError):
        await (sim.collect if operation == "create" else sim.pay_out)(reference)

    async def moved() -> bool:
        return await sim.charged(reference) == 1

    await until(moved)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ("status", {"status": {"code": "503", "message": "No.", "result_code": "ESB000010", "success": False,
                               "response_code": "X"}}),
        ("status_code", {"status_code": "X", "status_message": "No."}),
        ("error", {"error": "X", "error_description": "No."}),
    ],
)  # fmt: skip
async def test_an_error_has_three_shapes(sim: Airtel, shape: str, told: Any) -> None:
    await sim.fault("error_before", operation="create", status=503, shape=shape, code="X", message="No.")

    answer = await sim.collect()

    assert (answer.status, answer.json) == (503, told)


@pytest.mark.parametrize("operation", ["token", "check", "create", "payout", "refund", "status"])
async def test_every_operation_can_break(sim: Airtel, operation: str) -> None:
    sealed = await sim.sealed(airtel.PIN.encode())
    payout = {"payee": {"msisdn": PAYER}, "reference": "x", "pin": sealed, "transaction": {"amount": 1, "id": ref()}}
    await sim.fault("error_before", operation=operation, status=500, shape="empty")
    calls = {
        "token": sim.log_in(),
        "check": sim.get("/v1/rsa/encryption-keys"),
        "create": sim.collect(),
        "payout": sim.post("/standard/v2/disbursements/", payout),
        "refund": sim.refund("x"),
        "status": sim.status("x"),
    }

    broken = {name: (await call).status for name, call in calls.items()}

    assert broken == {name: 500 if name == operation else 200 for name in calls}


async def test_a_restart_forgets_and_a_path_that_is_not_there_has_no_route(sim: Airtel) -> None:
    await sim.collect(reference := ref())
    await sim.settled(reference)
    airtel_money_id = await sim.paid()

    await sim.call("DELETE", "/_sim/payments")

    assert (await sim.status(reference)).code == "DP00800001025"
    assert (await sim.refund(airtel_money_id)).code == "DP00800001025"
    assert (await sim.get("/merchant/v3/payments/")).status == 404


async def test_a_pin_shows_nowhere(sim: Airtel) -> None:
    await sim.pay_out(pin="no digits")

    shown = (await sim.call("GET", "/_sim/requests")).body

    assert b'"pin":"[hidden]"' in shown
    assert b"no digits" not in shown
    assert sim.token.encode() not in shown


def test_the_portals_key_is_the_one_in_the_documents() -> None:
    der = airtel.static_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert base64.b64encode(der).decode() == airtel.STATIC_PIN_KEY
    page = Path(__file__).parents[2] / "docs" / "simulators" / "airtel.md"
    assert airtel.STATIC_PIN_KEY in "".join(page.read_text().split())


async def test_what_must_be_signed_and_name_its_wallet_moves_nothing_without(sim: Airtel) -> None:
    """v3's payouts and v2's refunds."""
    refund = {"transaction": {"airtel_money_id": await sim.paid()}}
    assert (await sim.post("/standard/v2/payments/refund", refund)).code == "DP00800001026"
    payout = {
        "payee": {"msisdn": PAYER}, "reference": "Wages", "pin": await sim.sealed(airtel.PIN.encode()),
        "transaction": {"amount": 10, "id": (reference := ref()), "type": "B2C"},
    }  # fmt: skip
    assert (await sim.post("/standard/v3/disbursements", payout)).code == "DP00900001016"
    signature = await sim.signature(json.dumps(payout).encode())
    assert (await sim.post("/standard/v3/disbursements", payout, signature)).code == "DP00900001013"
    assert await sim.charged(reference) == 0
    payout["payee"] = {"msisdn": PAYER, "wallet_type": "SALARY"}
    signature = await sim.signature(json.dumps(payout).encode())
    assert (await sim.post("/standard/v3/disbursements", payout, signature)).word == "TS"
    assert (await sim.get(f"/standard/v3/disbursements/{reference}")).word == "TS"
    assert await sim.charged(reference) == 1
