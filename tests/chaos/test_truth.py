"""Each invariant of a lying world finds what it is there for: all is well, and one thing is made wrong."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.chaos import truth
from tests.chaos.truth import BACK_WITHIN_S, IN_TIME, LYING_INVARIANTS, Heard, Lie, LyingWorld, Trial
from tests.crash import test_invariants as honest

ID, NOW = honest.ID, honest.NOW
ROW = honest.ROW | {"completed_at": NOW, "created_at": NOW - timedelta(seconds=2)}
LIE = Lie("mtn", "wrong_word", "status", "paid", signed=True, last_at=NOW - timedelta(seconds=1))
LATER = NOW + timedelta(seconds=1)

WELL = LyingWorld(
    world=replace(honest.WELL, payments={ID: ROW}),
    lies={},
    heard={},
    providers={ID: frozenset({"mtn"})},
    unwell=frozenset({"airtel"}),
)
LATER_WORD, STATEMENT, NEEDS_WORD, MISSES, OTHERS, BOOKED = LYING_INVARIANTS


def with_row(debits: Any = None, **changes: Any) -> LyingWorld:
    """Paid unless told otherwise, and lied about."""
    world = replace(WELL.world, payments={ID: ROW | changes})
    world = world if debits is None else replace(world, movements=debits)
    if changes.get("status", "SUCCESSFUL") != "SUCCESSFUL":
        world = replace(world, postings=[])
    return replace(WELL, world=world, lies={ID: [replace(LIE, word="failed")]})


FAILED = with_row(status="FAILED")
LIED = {ID: [LIE]}

WRONG = {
    "debited, closed, and told so afterwards": (LATER_WORD, replace(FAILED, heard={ID: [Heard("paid", LATER)]})),
    "not debited, SUCCESSFUL, and told so afterwards": (
        LATER_WORD,
        replace(with_row([]), lies=LIED, heard={ID: [Heard("failed", LATER)]}),
    ),
    "debited, FAILED, and no review after the statement": (STATEMENT, FAILED),
    "debited, TIMEOUT, and no review after the statement": (STATEMENT, with_row(status="TIMEOUT")),
    "debited and nobody knows": (STATEMENT, with_row([honest.DEBIT, honest.DEBIT | {"reference": "cd"}])),
    "no debit and nobody said so": (NEEDS_WORD, with_row([])),
    "no debit, by an unsigned callback": (
        NEEDS_WORD,
        replace(with_row([]), lies={ID: [replace(LIE, operation="callback", signed=False)]}),
    ),
    "another amount": (NEEDS_WORD, with_row([honest.DEBIT | {"amount": "11"}])),
    "another payer": (NEEDS_WORD, with_row([honest.DEBIT | {"msisdn": "260961234568"}])),
    "no debit, and the statement's report says nothing": (MISSES, replace(with_row([]), lies=LIED)),
    "an honest payment that is not settled": (OTHERS, replace(with_row(status="TIMEOUT"), lies={})),
    "an honest payment that is FAILED": (OTHERS, replace(FAILED, lies={})),
    "an honest payment in review": (OTHERS, replace(with_row(review="unresolved"), lies={})),
    "an honest payment that took long": (
        OTHERS,
        replace(with_row(created_at=NOW - IN_TIME - timedelta(seconds=1)), lies={}),
    ),
    "not booked": (BOOKED, replace(WELL, world=replace(WELL.world, postings=[]))),
    "booked and FAILED": (BOOKED, replace(FAILED, world=replace(FAILED.world, postings=honest.WELL.postings))),
    "another amount booked": (
        BOOKED,
        replace(WELL, world=replace(WELL.world, postings=[honest.posting(900), honest.posting(-900)])),
    ),
    "suspense without a lie": (
        BOOKED,
        replace(
            WELL, world=replace(WELL.world, postings=[*honest.WELL.postings, honest.posting(5, "arrived_unexpectedly")])
        ),
    ),
}
FINE = {
    "all is well": WELL,
    "closed before the word came, and nobody said so since": replace(
        FAILED, heard={ID: [Heard("paid", NOW - timedelta(seconds=1))]}
    ),
    "told so, in review": replace(with_row(status="FAILED", review="contradicted"), heard={ID: [Heard("paid", LATER)]}),
    "told so, and about to be asked": replace(
        with_row(status="FAILED", next_run_at=LATER), heard={ID: [Heard("paid", LATER)]}
    ),
    "told so, and lied about since": replace(
        FAILED,
        lies={ID: [replace(LIE, last_at=LATER)]},
        heard={ID: [Heard("paid", LATER)]},
    ),
    "an honest payment of one who was unwell": replace(
        with_row(status="TIMEOUT"), lies={}, unwell=frozenset({"mtn"}), providers={ID: frozenset({"mtn", "pawapay"})}
    ),
    "SUCCESSFUL by a lie, and the statement's report names it": replace(
        with_row([]), lies=LIED, missing_theirs=frozenset({ID})
    ),
}


def _found(lying: LyingWorld) -> set[str]:
    found = truth.broken_before_the_statement(lying) + truth.broken_after_the_statement(lying)
    return {each.invariant for each in found} & set(LYING_INVARIANTS)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(what: str) -> None:
    invariant, lying = WRONG[what]
    assert invariant in _found(lying)


@pytest.mark.parametrize("what", FINE)
def test_what_is_right_is_left_alone(what: str) -> None:
    allowed = {STATEMENT} if what.startswith(("closed", "told so, and", "an honest payment of")) else set()
    assert _found(FINE[what]) <= allowed


def test_every_invariant_has_a_world_in_which_it_is_broken() -> None:
    assert {invariant for invariant, _ in WRONG.values()} == set(LYING_INVARIANTS)


@pytest.mark.parametrize("what", honest.WRONG)
def test_what_holds_in_an_honest_world_too_is_asked_here(what: str) -> None:
    invariant, world = honest.WRONG[what]
    rows = {payment_id: {**ROW, **row} for payment_id, row in world.payments.items()}
    lying = replace(
        WELL,
        world=replace(world, payments=rows),
        lies={payment_id: [LIE] for payment_id in rows},
        providers={payment_id: frozenset({"mtn"}) for payment_id in rows},
    )
    found = {each.invariant for each in truth.broken_after_the_statement(lying)}
    assert invariant in found or invariant not in truth.WHATEVER_IS_SAID


# --- the road back --------------------------------------------------------------------------------------------------


def _trials(*good: bool, first_s: float = 0.0) -> list[Trial]:
    return [Trial("a", "mtn", first_s + number, each) for number, each in enumerate(good)]


def test_a_road_is_back_with_the_first_of_its_last_good_row() -> None:
    assert truth.back_after_s(_trials(True, True, True)) == 0
    assert truth.back_after_s(_trials(False, True, False, True, True, True)) == 3
    assert truth.back_after_s(_trials(True, True, True, False, True, True)) is None
    assert truth.back_after_s([]) is None


def test_a_road_that_is_not_back_in_one_process_is_told() -> None:
    well = _trials(True, True, True)
    assert truth.not_back(well) == []
    (late,) = truth.not_back([*well, *_trials(False, True, True, True, first_s=BACK_WITHIN_S)])
    assert "mtn by a" in late
    other = [replace(trial, process="b", good=False, detail="503") for trial in well]
    (never,) = truth.not_back([*well, *other])
    assert "mtn by b: back after None s" in never
    assert "503" in never
