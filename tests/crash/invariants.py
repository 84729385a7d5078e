"""What must be true after every crash, seen from outside: the provider's books, the answers given, the tables.

`look` reads all of it once, each invariant is a pure question to what was read, `INVARIANTS` is the list of them.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self, TypeAlias

import httpx

from tests.e2e.stack import Stack, eventually

RANK = {"PENDING": 0, "TIMEOUT": 1, "SUCCESSFUL": 2, "FAILED": 2}
FINAL = ("SUCCESSFUL", "FAILED")
STATUS_OF = {"payment.timed_out": "TIMEOUT", "payment.succeeded": "SUCCESSFUL", "payment.failed": "FAILED"}
REVIEWS = {"payment.review_needed", "payment.mismatched", "payment.contradicted"}

# Every table that speaks of a payment, found in the catalogue: one that is added later is looked at too.
CHILDREN = (
    "SELECT table_name FROM information_schema.columns WHERE column_name = 'payment_id' AND table_schema = 'public'"
)
STRANGERS = """
SELECT c.payment_id FROM {table} c LEFT JOIN payments p ON p.id = c.payment_id
WHERE c.payment_id IS NOT NULL AND p.tenant_id IS DISTINCT FROM c.tenant_id
"""
# Of these the parent is named otherwise. An event's subject may be something else than a payment.
OTHER_STRANGERS = {
    "events": """
        SELECT e.subject_id FROM events e JOIN payments p ON p.id::text = e.subject_id
        WHERE (p.tenant_id, p.mode) IS DISTINCT FROM (e.tenant_id, e.mode)""",
    "idempotency_keys' modes": """
        SELECT k.payment_id FROM idempotency_keys k JOIN payments p ON p.id = k.payment_id WHERE p.mode <> k.mode""",
    "event_seals": """
        SELECT e.subject_id FROM event_seals s CROSS JOIN unnest(s.event_ids) AS sealed (id)
        JOIN events e ON e.id = sealed.id WHERE e.tenant_id <> s.tenant_id""",
    "unsealed_events": """
        SELECT e.subject_id FROM unsealed_events u JOIN events e ON e.id = u.event_id
        WHERE e.tenant_id <> u.tenant_id""",
}

Row: TypeAlias = Mapping[str, Any]
Found: TypeAlias = Iterator[tuple[str | None, str]]  # the payment's id, where it is about one, and what is wrong


@dataclass(frozen=True)
class Told:
    """What a client was told. `last`: when all was at rest. `caller`: by which key of the API it asked."""

    caller: str
    key: str
    status_code: int
    body: bytes
    replayed: bool
    last: bool = False

    @classmethod
    def by(cls, answer: httpx.Response, *, last: bool = False) -> Self:
        return cls(
            caller=answer.request.headers.get("x-api-key", ""),
            key=answer.request.headers["idempotency-key"],
            status_code=answer.status_code,
            body=answer.content,
            replayed="idempotent-replayed" in answer.headers,
            last=last,
        )

    @property
    def acknowledged(self) -> bool:
        return self.status_code in (201, 202)

    @property
    def document(self) -> dict[str, Any]:
        """Its JSON; empty where there is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def payment_id(self) -> str | None:
        """Whose payment it names, if any."""
        named = self.document.get("id" if self.acknowledged else "payment_id")
        return None if named is None else str(named)


@dataclass(frozen=True)
class World:
    """All that there is to see."""

    payments: Mapping[str, Row]
    roads: Mapping[str, str]  # provider reference, hex digits alone -> the payment's id; earlier roads too
    movements: Sequence[Mapping[str, Any]]
    histories: Mapping[str, Sequence[str]]  # the types of each payment's events, oldest first
    postings: Sequence[Row]
    arrivals: Sequence[Row]
    keys: Sequence[Row]
    strangers: Sequence[tuple[str, str]]  # table, payment id
    told: Sequence[Told]

    def movements_of(self) -> Mapping[str | None, Sequence[Mapping[str, Any]]]:
        """The provider's movements by our payment; None: of no payment that we know."""
        found = defaultdict[str | None, list[Mapping[str, Any]]](list)
        for movement in self.movements:
            found[self.roads.get(digits(movement["reference"]))].append(movement)
        return found


@dataclass(frozen=True)
class Broken:
    """One thing that is not as it must be."""

    invariant: str
    payment_id: str | None
    detail: str


def digits(reference: str) -> str:
    """A reference as every provider keeps it: some take no hyphens."""
    return re.sub("[^0-9a-f]", "", reference.lower())


async def look(stack: Stack, told: Iterable[Told]) -> World:
    """Read all of it. Call it when all is at rest."""
    database = stack.database
    payments = {str(row["id"]): dict(row) for row in await database.fetch("SELECT * FROM payments")}
    roads = {digits(str(row["provider_reference"])): payment_id for payment_id, row in payments.items()}
    for row in await database.fetch("SELECT payment_id, provider_reference FROM attempts"):
        roads[digits(str(row["provider_reference"]))] = str(row["payment_id"])
    histories = defaultdict[str, list[str]](list)
    for row in await database.fetch("SELECT subject_id, type FROM events ORDER BY created_at, id"):
        histories[row["subject_id"]].append(row["type"])
    strangers = list(OTHER_STRANGERS.items())
    strangers += [(row[0], STRANGERS.format(table=row[0])) for row in await database.fetch(CHILDREN)]
    return World(
        payments=payments,
        roads=roads,
        movements=await stack.simulator.movements(),
        histories=histories,
        postings=[dict(row) for row in await database.fetch("SELECT * FROM ledger_entries")],
        arrivals=[dict(row) for row in await database.fetch("SELECT * FROM arrivals")],
        keys=[dict(row) for row in await database.fetch("SELECT * FROM idempotency_keys")],
        strangers=[(name, str(row[0])) for name, sql in strangers for row in await database.fetch(sql)],
        told=tuple(told),
    )


def _debited_once(world: World) -> Found:
    for payment_id, movements in world.movements_of().items():
        charged = sum(movement["charged"] for movement in movements)
        if payment_id is not None and charged > 1:
            yield payment_id, f"debited {charged} times: {movements}"


def _debit_is_known(world: World) -> Found:
    for payment_id, movements in world.movements_of().items():
        if payment_id is None:
            yield None, f"debits of no payment: {movements}"
        elif (row := world.payments[payment_id])["status"] != "SUCCESSFUL" and row["review"] is None:
            yield payment_id, f"debited, and the merchant is told {row['status']}: {movements}"


def _success_is_real(world: World) -> Found:
    moved = world.movements_of()
    for payment_id, row in world.payments.items():
        if row["status"] != "SUCCESSFUL":
            continue
        debits = moved.get(payment_id, ())
        if not debits:
            yield payment_id, "SUCCESSFUL, and the provider moved nothing"
        for debit in debits:
            money = (Decimal(debit["amount"]) * 100, debit["currency"], debit["msisdn"][-9:])
            if money != (row["amount_minor"], row["currency"], row["payer"][-9:]):
                yield payment_id, f"another payment than was asked for: {debit}"


def _acknowledged_is_there(world: World) -> Found:
    for told in world.told:
        if (told.acknowledged or told.payment_id is not None) and told.payment_id not in world.payments:
            yield None, f"told {told.status_code} {told.body!r}, and there is no such payment"


def _refusals_are_honest(world: World) -> Found:
    for told in world.told:
        if not told.acknowledged and not (told.status_code in (409, 503, 504) and told.document.get("retryable")):
            yield told.payment_id, f"{told.key} was told {told.status_code} {told.body!r}"


def _told_status_stays(world: World) -> Found:
    for told in world.told:
        row = world.payments.get(told.payment_id or "") if told.acknowledged else None
        if row is None:
            continue
        then, now = told.document["status"], row["status"]
        if RANK[then] > RANK[now] or (then in FINAL and then != now):
            yield str(row["id"]), f"was told {then}, is {now}"


def _one_key_one_payment(world: World) -> Found:
    ids = defaultdict[tuple[str, str], set[str]](set)
    for told in world.told:
        if told.payment_id is not None:
            ids[told.caller, told.key].add(told.payment_id)
    for (_, key), several in ids.items():
        if len(several) > 1:
            yield min(several), f"the key {key} stands for {len(several)} payments: {sorted(several)}"
    uses = Counter(str(use["payment_id"]) for use in world.keys)
    yield from ((payment_id, f"has {uses[payment_id]} keys") for payment_id in world.payments if uses[payment_id] != 1)


def _one_stored_answer(world: World) -> Found:
    uses = {str(use["payment_id"]): use for use in world.keys}
    for told in world.told:
        use = uses.get(told.payment_id or "")
        if use is None:
            continue
        if told.key != use["key"]:
            yield told.payment_id, f"is of the key {use['key']} and was told to {told.key}"
        # What is told before an answer is stored says how the payment stands; what is told afterwards is it.
        binds = use["status_code"] is not None and told.acknowledged and (told.last or not told.replayed)
        stored = (use["status_code"], use["response_body"])
        if binds and (told.status_code, told.body) != stored:
            yield told.payment_id, f"stored {stored}, told {(told.status_code, told.body)}"


def _movements_balance(world: World) -> Found:
    sums = Counter[tuple[str, str, str]]()
    for posting in world.postings:
        sums[str(posting["movement_id"]), posting["reason"], posting["currency"]] += posting["amount_minor"]
    for (movement_id, reason, currency), amount_minor in sums.items():
        if amount_minor:
            yield movement_id, f"{reason} leaves {amount_minor} {currency}"


def _suspense_is_explained(world: World) -> Found:
    """What is in suspense is what arrived and was not cleared, each amount once, and a person is told of it."""
    booked = Counter[tuple[str, str]]()
    for posting in world.postings:
        if posting["account"] == "suspense":
            booked[str(posting["arrival_id"]), posting["currency"]] -= posting["amount_minor"]
    waiting = {
        (str(row["id"]), row["currency"]): row["amount_minor"] for row in world.arrivals if row["cleared_at"] is None
    }
    for entry in sorted(booked.keys() | waiting.keys()):
        if booked[entry] != waiting.get(entry, 0):
            yield None, f"the ledger has {booked[entry]} of {entry} in suspense, the arrivals {waiting.get(entry, 0)}"
    for row in world.arrivals:
        if row["payment_id"] is not None and world.payments[str(row["payment_id"])]["review"] is None:
            yield str(row["payment_id"]), "has money in suspense, and nobody is asked to look"


def _booked_once(world: World) -> Found:
    reasons, amounts = defaultdict[str, set[str]](set), Counter[str]()
    for posting in world.postings:
        if posting["arrival_id"] is None:
            reasons[str(posting["payment_id"])].add(posting["reason"])
            amounts[str(posting["payment_id"])] += max(posting["amount_minor"], 0)
    for payment_id, row in world.payments.items():
        paid = row["status"] == "SUCCESSFUL"
        booked = reasons[payment_id]
        if booked != ({"collected"} if paid else set()) or (paid and amounts[payment_id] != row["amount_minor"]):
            yield payment_id, f"{row['status']}, and booked is {sorted(booked)}: {amounts[payment_id]}"


def _history_explains(world: World) -> Found:
    for payment_id, row in world.payments.items():
        history = world.histories.get(payment_id, ())
        path = ["PENDING", *(STATUS_OF[event] for event in history if event in STATUS_OF)]
        ranks = [RANK[status] for status in path]
        if Counter(history)["payment.created"] != 1 or history[0] != "payment.created":
            yield payment_id, f"does not begin with its creation: {history}"
        elif ranks != sorted(set(ranks)):
            yield payment_id, f"a step back or a step twice: {history}"
        elif path[-1] != row["status"]:
            yield payment_id, f"the history {history} does not explain {row['status']}"
        elif row["review"] is not None and not REVIEWS & set(history):
            yield payment_id, f"the history {history} does not explain the review"


def _nothing_is_leased(world: World) -> Found:
    for payment_id, row in world.payments.items():
        final = row["status"] in FINAL
        if (final or row["review"] is not None) and row["lease_token"] is not None:
            yield payment_id, f"{row['status']} and leased"
        if not final and row["next_run_at"] is None:
            yield payment_id, f"{row['status']} and never due"


def _tenants_agree(world: World) -> Found:
    for table, payment_id in world.strangers:
        yield payment_id, f"{table} has a row of it under another tenant or mode"


INVARIANTS: Mapping[str, Callable[[World], Found]] = {
    "a payer is debited at most once for a payment, over all its roads": _debited_once,
    "every debit is of a payment that is successful or in review": _debit_is_known,
    "every successful payment has its debit: this amount, this payer": _success_is_real,
    "every acknowledged payment is there": _acknowledged_is_there,
    "every other answer says that it may be repeated": _refusals_are_honest,
    "no status goes back on what was told": _told_status_stays,
    "one key is one payment": _one_key_one_payment,
    "one payment has one stored answer, and it is what everybody is told": _one_stored_answer,
    "every ledger movement sums to zero": _movements_balance,
    "what is in suspense has arrived, was not cleared, and is told": _suspense_is_explained,
    "one booking for each successful payment, no other": _booked_once,
    "every payment's history begins with its creation, never steps back, and explains its status": _history_explains,
    "nothing is leased at rest, and what is open is due some day": _nothing_is_leased,
    "no row's tenant differs from its parent's": _tenants_agree,
}


def broken(world: World) -> list[Broken]:
    """All that is not as it must be."""
    return [
        Broken(name, payment_id, detail) for name, check in INVARIANTS.items() for payment_id, detail in check(world)
    ]


async def assert_invariants(stack: Stack, answers: Iterable[httpx.Response] = ()) -> None:
    """Call it when all is at rest. `answers`: everything that clients were told."""
    found = broken(await look(stack, (Told.by(answer) for answer in answers)))
    assert not found, "\n".join(f"{each.invariant}: {each.payment_id}: {each.detail}" for each in found)


async def broken_chain(stack: Stack) -> str | None:
    """Why the audit chain does not verify, or does not hold every event; None: it does. Needs a worker, which seals."""

    async def sealed() -> bool:
        return not await stack.database.fetch("SELECT FROM unsealed_events LIMIT 1")

    await eventually(sealed, "all events are sealed")
    code, output = await stack.command("events", "verify", "--json")
    if code != 0:
        return output
    links = sum(chain["links"] for chain in json.loads(output)["chains"])
    events = await stack.database.value("SELECT count(*) FROM events")
    return None if links == events else f"{events} events, {links} links"


async def assert_chain_intact(stack: Stack) -> None:
    assert (wrong := await broken_chain(stack)) is None, wrong
