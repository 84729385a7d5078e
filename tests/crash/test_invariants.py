"""Each invariant finds what it is there for: a world in which all is well, and one thing made wrong in it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.crash.invariants import INVARIANTS, Told, World, broken

ID, REFERENCE = "01a", "8c5f5a5e-0000-4000-8000-000000000001"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANSWER = msgspec.json.encode({"id": ID, "status": "PENDING"})
ROW: dict[str, Any] = {
    "id": ID,
    "status": "SUCCESSFUL",
    "review": None,
    "amount_minor": 1000,
    "currency": "ZMW",
    "payer": "260961234567",
    "lease_token": None,
    "next_run_at": None,
}
DEBIT = {"reference": REFERENCE, "charged": 1, "amount": "10", "currency": "ZMW", "msisdn": "260961234567"}
TOLD = Told("caller", "key", 201, ANSWER, replayed=False)
HISTORY = ("payment.created", "payment.timed_out", "payment.succeeded")


def posting(minor: int, reason: str = "collected") -> dict[str, Any]:
    facts = {"payment_id": ID, "movement_id": ID, "arrival_id": None, "account": "an account"}
    return facts | {"reason": reason, "currency": "ZMW", "amount_minor": minor}


ARRIVAL = {"id": "0a", "payment_id": ID, "currency": "ZMW", "amount_minor": 900, "cleared_at": None}
SUSPENDED = [
    posting(minor, "arrived_unexpectedly") | {"movement_id": "0a", "arrival_id": "0a", "account": account}
    for account, minor in (("provider:mtn", 900), ("suspense", -900))
]


WELL = World(
    payments={ID: ROW},
    roads={REFERENCE.replace("-", ""): ID},
    movements=[DEBIT],
    histories={ID: HISTORY},
    postings=[posting(1000), posting(-1000)],
    arrivals=[],
    keys=[{"payment_id": ID, "key": "key", "status_code": 201, "response_body": ANSWER}],
    strangers=[],
    told=[TOLD],
)


def with_row(**changes: Any) -> World:
    return replace(WELL, payments={ID: ROW | changes})


def told(status_code: int = 201, **document: Any) -> World:
    return replace(
        WELL, told=[replace(TOLD, status_code=status_code, body=msgspec.json.encode(document), replayed=True)]
    )


ONCE, KNOWN, REAL, THERE, HONEST, STAYS, KEY, ANSWERED, ZERO, SUSPENSE, BOOKED, EXPLAINED, LEASED, TENANT = INVARIANTS

PAID_TWICE = replace(
    with_row(review="contradicted"),
    postings=[*WELL.postings, *SUSPENDED],
    arrivals=[ARRIVAL],
    histories={ID: (*HISTORY, "payment.contradicted")},
)

WRONG = {
    "debited twice under one reference": (ONCE, replace(WELL, movements=[DEBIT | {"charged": 2}])),
    "debited by two roads": (
        ONCE,
        replace(WELL, roads={**WELL.roads, "ab": ID}, movements=[DEBIT, DEBIT | {"reference": "a-b"}]),
    ),
    "debited and failed": (KNOWN, with_row(status="FAILED")),
    "debited and nobody knows": (KNOWN, replace(WELL, movements=[DEBIT, DEBIT | {"reference": "cd"}])),
    "successful without a debit": (REAL, replace(WELL, movements=[])),
    "another amount": (REAL, replace(WELL, movements=[DEBIT | {"amount": "11"}])),
    "another payer": (REAL, replace(WELL, movements=[DEBIT | {"msisdn": "260961234568"}])),
    "acknowledged and lost": (THERE, told(id="01b", status="PENDING")),
    "named in a 504 and lost": (THERE, told(504, payment_id="01b", retryable=True)),
    "a defect": (HONEST, told(500, retryable=True)),
    "never to be repeated": (HONEST, told(503, retryable=False)),
    "told that it failed": (STAYS, told(id=ID, status="FAILED")),
    "told more than is true now": (STAYS, replace(with_row(status="TIMEOUT"), told=told(id=ID, status="FAILED").told)),
    "two payments of one key": (KEY, replace(WELL, told=[TOLD, *told(id="01b", status="PENDING").told])),
    "another's key": (ANSWERED, replace(WELL, told=[replace(TOLD, key="other")])),
    "not what was stored": (ANSWERED, replace(WELL, told=[replace(TOLD, body=ANSWER + b" ")])),
    "a payment without a key": (KEY, replace(WELL, keys=[])),
    "half a movement": (ZERO, replace(WELL, postings=[posting(1000)])),
    "half of what arrived": (ZERO, replace(PAID_TWICE, postings=[*WELL.postings, SUSPENDED[0]])),
    "arrived and not booked": (SUSPENSE, replace(PAID_TWICE, postings=WELL.postings)),
    "booked and not arrived": (SUSPENSE, replace(PAID_TWICE, arrivals=[])),
    "cleared, and still there": (SUSPENSE, replace(PAID_TWICE, arrivals=[ARRIVAL | {"cleared_at": NOW}])),
    "in suspense, and nobody looks": (SUSPENSE, replace(PAID_TWICE, payments=WELL.payments)),
    "not booked": (BOOKED, replace(WELL, postings=[])),
    "booked for nothing": (BOOKED, with_row(status="FAILED")),
    "another amount booked": (BOOKED, replace(WELL, postings=[posting(999), posting(-999)])),
    "no creation": (EXPLAINED, replace(WELL, histories={ID: HISTORY[1:]})),
    "a step back": (EXPLAINED, replace(WELL, histories={ID: (*HISTORY, "payment.timed_out")})),
    "another status": (EXPLAINED, replace(WELL, histories={ID: HISTORY[:1]})),
    "a review out of nowhere": (EXPLAINED, with_row(review="contradicted")),
    "a lease at rest": (LEASED, with_row(lease_token="token")),
    "open and never due": (LEASED, with_row(status="TIMEOUT")),
    "another tenant's row": (TENANT, replace(WELL, strangers=[("attempts", ID)])),
}


def test_where_all_is_well_nothing_is_broken() -> None:
    assert broken(WELL) == []
    assert broken(PAID_TWICE) == []


@pytest.mark.parametrize(("invariant", "world"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_found_by_its_invariant(invariant: str, world: World) -> None:
    assert invariant in {each.invariant for each in broken(world)}


def test_every_invariant_is_seen_to_fail() -> None:
    assert {invariant for invariant, _ in WRONG.values()} == set(INVARIANTS)
