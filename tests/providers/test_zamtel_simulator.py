"""Zamtel's simulator, spoken to over real sockets, and the adapter against it."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from aiohttp import web

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Declined, FailureCode, Outcome, Succeeded, Unknown
from kobiri.providers.base import Account, Collection, Payout, Request
from kobiri.providers.zamtel import simulator as zamtel
from kobiri.providers.zamtel.adapter import SPEC, ZamtelProvider
from kobiri.simulator.app import SimulatorSettings, build

DEADLINE_S = 10.0
REQ, B2C = "/zamtel/ZampayRest/Req", "/zamtel/ZampayRest/B2CReq"


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
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Zamtel:
    """A client of Zamtel, and the control API beside it."""

    url: str
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        async with self.http.request(method, self.url + path, **options) as answer:
            return Answer(answer.status, await answer.read(), answer.headers)

    async def move(self, reference: str, path: str = REQ, **changes: str | None) -> Answer:
        return await self.call("GET", f"{path}?{query(reference, **changes)}")

    async def fault(self, kind: str, **parameters: Any) -> str:
        answer = await self.call("POST", "/_sim/faults", json={"kind": kind, "provider": "zamtel", **parameters})
        assert answer.status == 201, answer.body
        name: str = answer.json["id"]
        return name

    async def movements(self, reference: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.call("GET", f"/_sim/books?reference={reference}")).json["movements"]
        return found

    async def charged(self, reference: str) -> int:
        return sum(movement["charged"] for movement in await self.movements(reference))

    async def answered(self, reference: str) -> list[Any]:
        found = (await self.call("GET", f"/_sim/requests?reference={reference}")).json["requests"]
        return [entry["answered"] for entry in found]

    async def arrived(self, reference: str, number: int = 1) -> None:
        async def look() -> bool:
            return len(await self.answered(reference)) >= number

        await until(look)

    async def configure(self, **options: Any) -> None:
        assert (await self.call("PATCH", "/_sim/settings/zamtel", json=options)).status == 200


def query(reference: str, **changes: str | None) -> str:
    values = zamtel.ACCOUNT_VALUES
    parameters: dict[str, str | None] = {
        "ThirdPartyID": values["third_party_id"],
        "Password": values["password"],
        "Amount": "10.50",
        "Msisdn": "260951234567",
        "Shortcode": values["shortcode"],
        "identifier": values["identifier"],
        "credential": values["credential"],
        "ConversationId": reference,
        **changes,
    }
    return urlencode({name: value for name, value in parameters.items() if value is not None})


Start = Callable[..., Awaitable[Zamtel]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with contextlib.AsyncExitStack() as stack:

        async def begin(**options: Any) -> Zamtel:
            settings = SimulatorSettings(providers={"zamtel": {"prompt_ms": 20, **options}})
            app = build({"zamtel": zamtel.build}, settings=settings)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
            # A connection of its own for each request: aiohttp sends a GET again where a kept one is lost.
            connector = aiohttp.TCPConnector(force_close=True)
            http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout, connector=connector))
            return Zamtel(f"http://127.0.0.1:{runner.addresses[0][1]}", http)

        yield begin


@pytest.fixture
async def sim(start: Start) -> Zamtel:
    return await start()


def ref() -> str:
    return uuid.uuid4().hex


async def exchange(sim: Zamtel, request: bytes) -> bytes:
    """Write bytes, and read until the connection is closed; nothing is written twice."""
    host, port = sim.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), DEADLINE_S)
    finally:
        writer.close()


async def move_once(sim: Zamtel, reference: str, path: str = REQ, **changes: str | None) -> bytes:
    head = f"GET {path}?{query(reference, **changes)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    return await exchange(sim, head.encode())


async def hang_up(sim: Zamtel, reference: str, **changes: str | None) -> None:
    """Ask for money, and go away while the payer still thinks."""
    host, port = sim.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {REQ}?{query(reference, **changes)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await sim.arrived(reference)
    writer.close()
    await writer.wait_closed()


# --- the calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["/zamtel", "/zamtel/ZampayRest", "/zamtel/ZampayRestProd"])
@pytest.mark.parametrize(("call", "kind"), [("Req", "collection"), ("B2CReq", "payout")])
async def test_the_answer_comes_when_the_money_has_moved(sim: Zamtel, base: str, call: str, kind: str) -> None:
    reference = ref()
    answer = await sim.move(reference, f"{base}/{call}")

    assert answer.status == 200
    assert (answer.json["status"], answer.json["message"]) == ("0", "Success")
    assert answer.json["TransactionId"].isdigit()
    (movement,) = await sim.movements(reference)
    told = [movement[name] for name in ("kind", "amount", "currency", "msisdn", "charged")]
    assert told == [kind, "10.50", "ZMW", "260951234567", 1]


async def test_the_request_hangs_until_the_payer_has_decided(start: Start) -> None:
    sim = await start(prompt_ms=500)
    reference = ref()
    began = time.monotonic()
    asking = asyncio.create_task(sim.move(reference))
    await sim.arrived(reference)
    assert await sim.charged(reference) == 0
    assert (await asking).json["status"] == "0"
    assert time.monotonic() - began >= 0.5


async def test_the_same_reference_twice_is_charged_twice(sim: Zamtel) -> None:
    reference = ref()
    first, second = await asyncio.gather(sim.move(reference), sim.move(reference))
    assert first.json["TransactionId"] != second.json["TransactionId"]
    assert await sim.charged(reference) == 2


async def test_of_two_conversation_ids_the_last_counts(sim: Zamtel) -> None:
    reference = ref()
    answer = await sim.call("GET", f"{REQ}?ConversationId=12552&{query(reference)}")
    assert answer.json["status"] == "0"
    assert await sim.charged(reference) == 1


@pytest.mark.parametrize(
    ("path", "digits", "code"),
    [(REQ, digits, code) for digits, code in zamtel.FAILING_PAYERS.items()]
    + [(B2C, digits, code) for digits, code in zamtel.FAILING_PAYEES.items()]
    + [(REQ, "201", "0"), (B2C, "803", "0"), (REQ, "000", "0")],
)
async def test_test_numbers(sim: Zamtel, path: str, digits: str, code: str) -> None:
    reference = ref()
    answer = await sim.move(reference, path, Msisdn=zamtel.BLOCK + digits)
    assert (answer.status, answer.json["status"]) == (200, code)
    assert ("TransactionId" in answer.json) == (code == "0")
    assert await sim.charged(reference) == (code == "0")


@pytest.mark.parametrize(
    ("code_as", "success", "failure"),
    [
        ("text", {"status": "0"}, {"status": "2006"}),
        ("number", {"status": 0}, {"status": 2006}),
        ("StatusCode", {"StatusCode": "0"}, {"StatusCode": "2006"}),
        ("message", {}, {}),
    ],
)
async def test_the_code_comes_in_the_shapes_that_clients_expect(
    start: Start, code_as: str, success: dict[str, object], failure: dict[str, object]
) -> None:
    sim = await start(code_as=code_as)
    paid, refused = await sim.move(ref()), await sim.move(ref(), Msisdn=zamtel.BLOCK + "006")
    transaction_id = paid.json.pop("TransactionId")
    assert paid.json == {"message": "Success", "TransactionId": transaction_id, **success}
    assert refused.json == {"message": "Balance insufficient", **failure}


@pytest.mark.parametrize(
    "wrong",
    [
        {"Amount": None},
        {"Amount": "0.00"},
        {"Amount": "1.001"},
        {"Amount": "-1"},
        {"Amount": "1e3"},
        {"Msisdn": None},
        {"Msisdn": "0951234567"},
        {"Msisdn": "+260951234567"},
        {"ConversationId": None},
        {"ConversationId": "x" * 101},
        {"ThirdPartyID": None},
        {"Password": ""},
        {"Shortcode": None},
    ],
)
async def test_a_mistake_moves_nothing(sim: Zamtel, wrong: dict[str, Any]) -> None:
    answer = await sim.move(ref(), **wrong)
    assert (answer.status, answer.json["status"]) == (200, "-1")
    assert answer.headers["X-Simulator-Reason"]
    assert (await sim.call("GET", "/_sim/books")).json["movements"] == []


async def test_credentials_are_checked_where_that_is_wanted(start: Start) -> None:
    sim = await start(open_credentials=False)
    for name in ("ThirdPartyID", "Password", "Shortcode"):
        assert (await sim.move(ref(), **{name: "else"})).json["status"] == "-1"
    for name in ("identifier", "credential"):
        assert (await sim.move(ref(), B2C, **{name: "else"})).json["status"] == "2001"
    assert (await sim.move(ref(), B2C)).json["status"] == "0"
    assert (await sim.move(ref(), identifier=None, credential=None)).json["status"] == "0"


async def test_a_payout_without_an_initiator_moves_nothing(sim: Zamtel) -> None:
    reference = ref()
    assert (await sim.move(reference, B2C, credential=None)).json["status"] == "2001"
    assert await sim.charged(reference) == 0


async def test_only_a_get_moves_money(sim: Zamtel) -> None:
    reference = ref()
    for method in ("HEAD", "POST", "PUT"):
        assert (await sim.call(method, f"{REQ}?{query(reference)}")).status >= 400
    assert (await sim.call("GET", f"/zamtel/ZampayRest/Status?{query(reference)}")).status == 404
    assert await sim.charged(reference) == 0


# --- clients that go away -------------------------------------------------------------------------------------------


async def test_who_hangs_up_is_charged_all_the_same(start: Start) -> None:
    sim = await start(prompt_ms=600)
    reference = ref()
    await hang_up(sim, reference)
    assert await sim.charged(reference) == 0

    async def charged() -> bool:
        return await sim.charged(reference) == 1

    await until(charged)
    assert await sim.answered(reference) == ["hung"]


async def test_who_hangs_up_is_not_charged_where_that_is_wanted(start: Start) -> None:
    sim = await start(prompt_ms=600, charge_after_hangup=False)
    left, stayed = ref(), ref()
    await hang_up(sim, left)
    await sim.move(stayed)
    assert (await sim.charged(left), await sim.charged(stayed)) == (0, 1)


async def test_a_payer_who_never_answers_keeps_the_client_waiting(sim: Zamtel) -> None:
    reference = ref()
    await hang_up(sim, reference, Msisdn=zamtel.BLOCK + zamtel.NEVER)

    async def noted() -> bool:
        return await sim.answered(reference) == ["hung"]

    await until(noted)
    assert await sim.charged(reference) == 0


async def test_forgotten_requests_are_dropped_and_charge_nobody(start: Start) -> None:
    sim = await start(prompt_ms=600)
    forgotten, later = ref(), ref()
    asking = asyncio.gather(move_once(sim, forgotten), move_once(sim, forgotten))
    await sim.arrived(forgotten, 2)
    assert (await sim.call("DELETE", "/_sim/payments")).status == 204
    assert list(await asking) == [b"", b""]
    await sim.move(later)
    assert (await sim.charged(forgotten), await sim.charged(later)) == (0, 1)


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "operation"), [(REQ, "create"), (B2C, "payout")])
@pytest.mark.parametrize(
    ("kind", "parameters", "charges"),
    [
        ("drop_after", {}, 1),
        ("reset_after", {}, 1),
        ("reset_before", {}, 0),
        ("error_after", {"status": 500}, 1),
        ("error_before", {"status": 500}, 0),
        ("html_200", {"processed": True}, 1),
        ("html_200", {}, 0),
        ("outage", {}, 0),
        ("outage", {"mode": "reset"}, 0),
    ],
)
async def test_faults_lie_about_what_moved(
    sim: Zamtel, path: str, operation: str, kind: str, parameters: dict[str, Any], charges: int
) -> None:
    reference = ref()
    await sim.fault(kind, operation=operation, times=1, reference=reference, **parameters)
    with contextlib.suppress(ConnectionResetError):
        answer = await move_once(sim, reference, path)
        assert b'"status":"0"' not in answer
    assert await sim.charged(reference) == charges
    assert b'"status":"0"' in await move_once(sim, reference, path)  # the fault is spent


async def test_a_hang_after_the_charge(sim: Zamtel) -> None:
    reference = ref()
    fault = await sim.fault("hang", operation="create", processed=True)
    hanging = asyncio.create_task(move_once(sim, reference))

    async def charged() -> bool:
        return await sim.charged(reference) == 1

    await until(charged)
    assert not hanging.done()
    await sim.call("DELETE", f"/_sim/faults/{fault}")
    assert await hanging == b""


@pytest.mark.parametrize(
    ("decision", "path", "code"),
    [
        ("approve", REQ, "0"),
        ("reject", REQ, "E8003"),
        ("expire", REQ, "E8027"),
        ("no_funds", REQ, "2006"),
        ("fail", REQ, "E8027"),
        ("reject", B2C, "2005"),
        ("no_funds", B2C, "2006"),
    ],
)
async def test_the_payer_decides(sim: Zamtel, decision: str, path: str, code: str) -> None:
    reference = ref()
    await sim.fault("payer", operation="any", decision=decision)
    assert (await sim.move(reference, path)).json["status"] == code
    assert await sim.charged(reference) == (code == "0")


async def test_a_fault_may_choose_any_code(sim: Zamtel) -> None:
    await sim.fault("payer", decision="fail", reason="9999")
    assert (await sim.move(ref())).json["status"] == "9999"


async def test_unable_to_process_may_still_charge(sim: Zamtel) -> None:
    """Why E8027 is no firm word."""
    reference = ref()
    await sim.fault("late_success", ms=100, after_failure=True)
    answer = await sim.move(reference)
    assert answer.json == {"status": "E8027", "message": "System is unable to process the request"}

    async def charged() -> bool:
        return await sim.charged(reference) == 1

    await until(charged)


async def test_the_shapes_of_an_error(sim: Zamtel) -> None:
    for shape, body in (("status", b'{"status":"-1"'), ("html", b"<html>"), ("empty", b"")):
        await sim.fault("error_before", operation="create", status=503, shape=shape, times=1)
        answer = await sim.move(ref())
        assert answer.status == 503
        assert answer.body.startswith(body)


async def test_callbacks_by_hand_are_refused(sim: Zamtel) -> None:
    order = {"reference": ref(), "url": "http://127.0.0.1:9/hook"}
    refused = await sim.call("POST", "/_sim/callbacks", json={**order, "provider": "zamtel"})
    assert (refused.status, refused.json["detail"]) == (400, "Zamtel Kwacha sends no callbacks.")
    assert (await sim.call("POST", "/_sim/callbacks", json=order)).status == 404


# --- secrets and hostile input --------------------------------------------------------------------------------------


async def test_the_journal_shows_no_value_of_a_query(sim: Zamtel) -> None:
    reference = ref()
    await sim.move(reference, Password="hunter2", ThirdPartyID="hunter2", Amount="98765432109.50")  # like no time
    await sim.move(reference, B2C, credential="hunter2", identifier="hunter2")
    await sim.call("GET", f"/zamtel/Nowhere?{query(reference, Password='hunter2')}")

    answer = await sim.call("GET", "/_sim/requests")
    assert [entry["query"] for entry in answer.json["requests"]] == ["[hidden]"] * 3
    assert [entry["path"] for entry in answer.json["requests"]] == [REQ, B2C, "/zamtel/Nowhere"]
    assert answer.json["requests"][0]["reference"] == reference
    for secret in (b"hunter2", b"260951234567", b"98765432109.50", zamtel.ACCOUNT_VALUES["shortcode"].encode()):
        assert secret not in answer.body
    assert b"hunter2" not in (await sim.call("GET", "/_sim/settings")).body


async def test_bytes_that_are_not_text_break_nothing(sim: Zamtel) -> None:
    for junk in (
        b"Req?Amount=%ff&Msisdn=%ff&ConversationId=%00%ff",
        b"Req?" + b"&" * 1_000,
        b"B2CReq?Amount=1&Msisdn=260951234567&ConversationId=%ed%a0%80",
        b"Req?Amount=\xd9\xa1&Msisdn=260\xd9\xa1\xd9\xa1",
    ):
        answer = await exchange(sim, b"GET /zamtel/" + junk + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4", b"HTTP/1.0 4")), answer
        assert b"Traceback" not in answer
    assert (await sim.call("GET", "/_sim/requests")).status == 200
    assert (await sim.call("GET", "/_sim/books")).json["movements"] == []


# --- the adapter against it -----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def account_at(sim: Zamtel) -> AsyncIterator[ZamtelProvider]:
    account = Account(
        base_url=f"{sim.url}/zamtel/ZampayRest",
        modes=frozenset({"test"}),
        values=zamtel.ACCOUNT_VALUES,
        callback_url=None,
        webhook_secrets=(),
        answer_within_s=SPEC.answer_within_s,
        deadline_s=120,
        max_connections=20,
    )
    provider = ZamtelProvider(account)
    try:
        yield provider
    finally:
        await provider.close()


def asked(kind: str, digits: str = "000") -> Request:
    reference, number = ProviderReference(str(uuid.uuid4())), Msisdn(zamtel.BLOCK + digits)
    make = Collection if kind == "collection" else Payout
    return make(reference, Money(1_050, "ZMW"), number, "zamtel", None)


async def send(provider: ZamtelProvider, request: Request, within_s: float = DEADLINE_S) -> Outcome:
    return await provider.send(request, within_s=within_s, first_byte_before=None)


@pytest.mark.parametrize("kind", ["collection", "payout"])
async def test_the_adapter_is_understood(start: Start, kind: str) -> None:
    sim = await start(open_credentials=False)
    async with account_at(sim) as provider:
        assert (await provider.check(within_s=DEADLINE_S)).trouble is None
        request = asked(kind)
        assert isinstance(await send(provider, request), Succeeded)
        (movement,) = await sim.movements(request.reference.replace("-", ""))
        assert (movement["kind"], movement["amount"], movement["charged"]) == (kind, "10.50", 1)
        declined = Declined(FailureCode.INSUFFICIENT_FUNDS, "2006")
        assert await send(provider, asked(kind, "006")) == declined
        assert await send(provider, asked(kind, "027")) == Unknown("status E8027", askable=False)


@pytest.mark.parametrize("code_as", ["text", "number", "StatusCode", "message"])
@pytest.mark.parametrize("kind", ["collection", "payout"])
async def test_no_shape_of_an_answer_is_guessed_at(start: Start, kind: str, code_as: str) -> None:
    sim = await start(code_as=code_as)
    understood = code_as in ("text", "number") or (kind, code_as) == ("payout", "StatusCode")
    async with account_at(sim) as provider:
        assert isinstance(await send(provider, asked(kind)), Succeeded if understood else Unknown)
        assert isinstance(await send(provider, asked(kind, "006")), Declined if understood else Unknown)


@pytest.mark.parametrize("kind", ["collection", "payout"])
@pytest.mark.parametrize(
    ("fault", "parameters"),
    [
        ("drop_after", {}),
        ("reset_after", {}),
        ("reset_before", {}),
        ("error_after", {"status": 503}),
        ("error_before", {"status": 400, "shape": "empty"}),
        ("html_200", {"processed": True}),
        ("outage", {"mode": "reset"}),
        ("hang", {"processed": True}),
        ("latency_after", {"ms": 60_000}),
    ],
)
async def test_whatever_goes_wrong_the_adapter_sends_once_and_guesses_nothing(
    sim: Zamtel, kind: str, fault: str, parameters: dict[str, Any]
) -> None:
    async with account_at(sim) as provider:
        await provider.check(within_s=DEADLINE_S)
        await sim.fault(fault, operation="create" if kind == "collection" else "payout", **parameters)
        request = asked(kind)
        waits = fault in ("hang", "latency_after")
        outcome = await send(provider, request, within_s=1.5 if waits else DEADLINE_S)
        assert isinstance(outcome, Unknown)
        assert not outcome.askable
        reference = request.reference.replace("-", "")
        assert len(await sim.answered(reference)) == 1
        assert await sim.charged(reference) <= 1
