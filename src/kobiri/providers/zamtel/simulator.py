"""Zamtel Kwacha's REST calls on the wire, third-party-derived. How well they are known: docs/simulator.md."""

import asyncio
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from kobiri.simulator import faults as f
from kobiri.simulator.answers import Refused, header_text, json_answer, same
from kobiri.simulator.dialects import Dialect
from kobiri.simulator.prompts import Requests, Verdict, Words, faulted
from kobiri.simulator.stage import HANG_POLL_S, CallbackOrder, OrderError, Outgoing, Stage, drop

CURRENCY: Final = "ZMW"
OPERATIONS: Final[Mapping[str, str]] = {"collection": "create", "payout": "payout"}
BASES: Final = ("", "/ZampayRest", "/ZampayRestProd")

PAID: Final = "0"
INTERNAL: Final = "-1"
UNABLE: Final = "E8027"
WRONG_INITIATOR: Final = "2001"

MESSAGES: Final[Mapping[str, str]] = {
    PAID: "Success",
    INTERNAL: "Internal error",
    WRONG_INITIATOR: "Initiator authentication error",
    "2005": "Rule limited",
    "2006": "Balance insufficient",
    "E8003": "Wrong PIN",
    UNABLE: "System is unable to process the request",
}

# Test numbers are this block and the three digits of one of the tables below.
BLOCK: Final = "260950000"
NEVER: Final = "999"
FAILING_PAYERS: Final[Mapping[str, str]] = {"001": INTERNAL, "006": "2006", "027": UNABLE, "803": "E8003"}
FAILING_PAYEES: Final[Mapping[str, str]] = {"005": "2005", "006": "2006", "027": UNABLE, "201": WRONG_INITIATOR}

# Of what the payer may do, the sources tell the codes of approval, wrong PIN and too little money alone.
PAYER_WORDS: Final = Words(
    paid=(PAID, None),
    rejected=("E8003", None),
    expired=(UNABLE, None),
    no_funds=("2006", None),
    broken=(UNABLE, None),
    pending=UNABLE,
)
PAYEE_WORDS: Final = Words(
    paid=(PAID, None),
    rejected=("2005", None),
    expired=(UNABLE, None),
    no_funds=("2006", None),
    broken=(UNABLE, None),
    pending=UNABLE,
)

AMOUNT: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,2})?", re.ASCII)
MSISDN: Final = re.compile(r"260[0-9]{9}", re.ASCII)
CONVERSATION_ID: Final = re.compile(r"[!-~]{1,100}", re.ASCII)

# An account that this simulator takes in any setting; demos and tests use it.
ACCOUNT_VALUES: Final[Mapping[str, str]] = {
    "third_party_id": "Simulated_Caller",
    "password": "simulated+password/0123456789=",
    "shortcode": "000001",
    "identifier": "SimulatedOperator",
    "credential": "simulated+credential/0123456789=",
}
# Options under which it refuses that account: nothing but moving money would show it.
REFUSING: Final[Mapping[str, object] | None] = None
# Account values with which callbacks must be signed: there are none.
SIGNED_VALUES: Final[Mapping[str, str]] = {}

# How Zamtel may behave: the usual way, the other side of each dispute, and the strangest that can hold together.
DIALECTS: Final[Mapping[str, Dialect]] = {
    "usual": Dialect(),
    "nobody is charged who hung up": Dialect({"charge_after_hangup": False}),
    "a code is a number": Dialect({"code_as": "number"}),
    # Seen in payouts alone; nobody knows whether a collection's answer may have it.
    "a code is called StatusCode": Dialect({"code_as": "StatusCode"}, unread=frozenset({"collection"})),
    "no code at all": Dialect({"code_as": "message"}, unread=frozenset({"collection", "payout"})),
    "strangest": Dialect({"code_as": "number"}),  # who hung up and is charged is the usual way
}


def callbacks_to(_url: str) -> None:
    """It sends no callbacks."""


Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]


class ZamtelOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this Zamtel behaves; where the sources disagree, both behaviours can be chosen."""

    open_credentials: bool = True
    prompt_ms: Milliseconds = 400
    charge_after_hangup: bool = True
    code_as: Literal["text", "number", "StatusCode", "message"] = "text"


@dataclass(slots=True, eq=False)
class Movement:
    """A request whose client hangs on until it is answered. `client` is the connection, None where it has gone."""

    kind: Literal["collection", "payout"]
    reference: str
    amount: str
    msisdn: str
    client: asyncio.BaseTransport | None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    code: str | None = None
    transaction_id: str | None = None

    @property
    def hung_up(self) -> bool:
        return self.client is None or self.client.is_closing()


def build(stage: Stage) -> web.Application:
    return ZamtelSimulator(stage).application()


class ZamtelSimulator:
    """One Zamtel. It remembers nothing by the caller's id: whoever asks twice is charged twice."""

    error_shapes = frozenset({"status", "html", "empty"})

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._options = stage.options(ZamtelOptions)
        self._movements = Requests(stage.settings.max_payments, self._settle)
        self._forgotten = asyncio.Event()
        self._numbers = count(1)
        self._transactions = count(1_000_000_000 + secrets.randbelow(1_000_000_000))
        stage.actor = self

    def application(self) -> web.Application:
        app = web.Application()
        for base in BASES:
            app.router.add_get(f"{base}/Req", self._collect, allow_head=False)
            app.router.add_get(f"{base}/B2CReq", self._pay_out, allow_head=False)
            app.router.add_get(base, self._front_page)
            app.router.add_get(f"{base}/", self._front_page)
        app.router.add_route("*", "/{rest:.*}", _no_such_call)
        return app

    async def _front_page(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:
            return _page(200)

        return await self._stage.play(request, self._stage.cue("check"), process)

    async def _collect(self, request: web.Request) -> web.Response:
        return await self._move(request, "collection")

    async def _pay_out(self, request: web.Request) -> web.Response:
        return await self._move(request, "payout")

    async def _move(self, request: web.Request, kind: Literal["collection", "payout"]) -> web.Response:
        given = _parameters(request)
        reference, msisdn = given.get("ConversationId"), given.get("Msisdn")
        product = "collection" if kind == "collection" else "disbursement"
        cue = self._stage.cue(OPERATIONS[kind], reference=reference, msisdn=msisdn, product=product)

        async def process() -> web.Response:
            self._admit(given, kind)
            movement = Movement(
                kind, given["ConversationId"], given["Amount"], given["Msisdn"], client=request.transport
            )
            # A key of its own for each request: the same ConversationId twice is two movements.
            self._movements.add(f"{movement.reference} {next(self._numbers)}", movement, self._verdicts(movement, cue))
            return await self._answered(request, movement, cue)

        return await self._stage.play(request, cue, process)

    def _admit(self, given: Mapping[str, str], kind: str) -> None:
        """Look at the parameters. Raises Refused."""
        values = dict(ACCOUNT_VALUES)
        named = {"ThirdPartyID": "third_party_id", "Password": "password", "Shortcode": "shortcode"}
        if (wrong := _wrong_with(given)) is not None:
            raise Refused(self._refusal(INTERNAL, wrong))
        if any(not self._good(given.get(name, ""), values[value]) for name, value in named.items()):
            raise Refused(self._refusal(INTERNAL, "ThirdPartyID, Password or Shortcode are missing or wrong"))
        initiator = ("identifier", "credential")
        if kind == "payout" and any(not self._good(given.get(name, ""), values[name]) for name in initiator):
            raise Refused(self._refusal(WRONG_INITIATOR, "identifier or credential are missing or wrong"))

    def _good(self, given: str, expected: str) -> bool:
        return bool(given) and (self._options.now.open_credentials or same(given, expected))

    def _refusal(self, code: str, why: str) -> web.Response:
        """Answer with a code, and with a header of the simulator's own that says what was wrong."""
        answer = self._answer(code, None)
        answer.headers["X-Simulator-Reason"] = header_text(why)
        return answer

    def _verdicts(self, movement: Movement, cue: f.Cue) -> list[Verdict]:
        """What will happen to a movement: its faults first, then its test number, and success otherwise."""
        prompt_ms = self._options.now.prompt_ms
        collects = movement.kind == "collection"
        told = faulted(self._stage.faults, cue, prompt_ms, PAYER_WORDS if collects else PAYEE_WORDS)
        if told is not None:
            return told
        digits = movement.msisdn.removeprefix(BLOCK)
        if digits == NEVER:
            return []
        return [Verdict(prompt_ms, (FAILING_PAYERS if collects else FAILING_PAYEES).get(digits, PAID))]

    def _settle(self, movement: Movement, verdict: Verdict) -> None:
        code = verdict.reason or verdict.status
        if code == PAID:
            if movement.code is None and movement.hung_up and not self._options.now.charge_after_hangup:
                return
            movement.transaction_id = str(next(self._transactions))
            self._stage.charge(
                self._stage.cue(OPERATIONS[movement.kind], reference=movement.reference, msisdn=movement.msisdn),
                amount=movement.amount,
                currency=CURRENCY,
                msisdn=movement.msisdn,
                kind=movement.kind,
            )
        if movement.code is None:  # only the first word is an answer; what comes later moves money unheard
            movement.code = code
        movement.answered.set()

    async def _answered(self, request: web.Request, movement: Movement, cue: f.Cue) -> web.Response:
        """Wait for the payer as long as the client does."""
        forgotten = self._forgotten
        while not movement.answered.is_set():
            if movement.hung_up or forgotten.is_set() or self._stage.closing.is_set():
                return drop(request, "hung")
            with suppress(TimeoutError):
                await asyncio.wait_for(movement.answered.wait(), HANG_POLL_S)
        words = PAYER_WORDS if movement.kind == "collection" else PAYEE_WORDS
        code, _ = words.told(self._stage.faults.word(cue), movement.code or UNABLE, None)
        transaction_id = movement.transaction_id if code == PAID else None
        if (fault := self._stage.faults.take(cue, f.WrongTransaction)) is not None:
            transaction_id = fault.told
        return self._answer(code, transaction_id)

    def _answer(self, code: str, transaction_id: str | None) -> web.Response:
        answer: dict[str, Any] = {"message": MESSAGES.get(code, code)}
        match self._options.now.code_as:
            case "text":
                answer["status"] = code
            case "number":
                answer["status"] = int(code) if code.lstrip("-").isdecimal() else code
            case "StatusCode":
                answer["StatusCode"] = code
            case "message":
                pass
        if transaction_id is not None:
            answer["TransactionId"] = transaction_id
        return json_answer(200, answer)

    # What the stage and the control API ask of a provider.

    def error(self, fault: f.ErrorAnswer) -> web.Response:
        match fault.shape:
            case "html":
                return _page(fault.status)
            case "empty":
                return web.Response(status=fault.status)
            case _:
                code = fault.code or INTERNAL
                return json_answer(fault.status, {"status": code, "message": fault.message or MESSAGES.get(code, code)})

    def callback(self, order: CallbackOrder) -> Outgoing | None:
        if order.provider == self._stage.provider:
            raise OrderError("Zamtel Kwacha sends no callbacks.")
        return None

    def restart(self) -> None:
        self._movements.forget()
        self._forgotten.set()
        self._forgotten = asyncio.Event()


def _parameters(request: web.Request) -> dict[str, str]:
    """The query; of several values of one name the last, for an old client sends ConversationId twice."""
    return {name: request.query.getall(name)[-1] for name in request.query}


def _wrong_with(given: Mapping[str, str]) -> str | None:
    amount = given.get("Amount", "")
    if AMOUNT.fullmatch(amount) is None or not amount.strip("0."):
        return "Amount is decimal digits with two decimals at most, above zero"
    if MSISDN.fullmatch(given.get("Msisdn", "")) is None:
        return "Msisdn is 260 and nine digits"
    if CONVERSATION_ID.fullmatch(given.get("ConversationId", "")) is None:
        return "ConversationId is missing, too long or has strange characters"
    return None


async def _no_such_call(_: web.Request) -> web.Response:
    return _page(404)


def _page(status: int) -> web.Response:
    return web.Response(status=status, text=f"<html><body><h1>{status}</h1></body></html>", content_type="text/html")
