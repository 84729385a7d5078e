"""What must be true when operators lie: the books tell what moved, the lies are known, and the rest is asked of us.

Each invariant is a pure question to a `LyingWorld`, as in `tests/crash/invariants.py`; those there that presume an
honest provider have their counterparts here.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from tests.crash import invariants
from tests.crash.invariants import FINAL, INVARIANTS, Broken, Found, World

IN_TIME = timedelta(seconds=20)  # a payment of which nobody lied is settled within
BACK_WITHIN_S = 60.0  # after the operator is sane

Word = Literal["paid", "failed"]

# Of the others our own code is the only cause, whatever providers say.
OF_AN_HONEST_WORLD = (invariants._debit_is_known, invariants._success_is_real, invariants._booked_once)
WHATEVER_IS_SAID = tuple(name for name, check in INVARIANTS.items() if check not in OF_AN_HONEST_WORLD)


@dataclass(frozen=True)
class Lie:
    """What met a payment at a provider. `word`: what was claimed; `signed`: as by the provider itself."""

    provider: str
    kind: str
    operation: str
    word: str | None
    signed: bool
    last_at: datetime

    @property
    def claims_success(self) -> bool:
        """Whether it is a firm word that the payment was paid: an answer, or a callback that may be believed."""
        return self.word == "paid" and (self.operation != "callback" or self.signed)


@dataclass(frozen=True)
class Heard:
    """A callback of ours to keep, by its provider's own word."""

    word: Word
    at: datetime


@dataclass(frozen=True)
class LyingWorld:
    """`unwell`: the providers that refused everybody at times. `missing_theirs`: what the statements do not have."""

    world: World
    lies: Mapping[str, Sequence[Lie]]  # by payment
    heard: Mapping[str, Sequence[Heard]]  # by payment, in order
    providers: Mapping[str, frozenset[str]]  # by payment: of all its roads
    unwell: frozenset[str]
    missing_theirs: frozenset[str] = frozenset()  # payments

    def moved(self, payment_id: str) -> int:
        return sum(debit["charged"] for debit in self.world.movements_of().get(payment_id, ()))


def _a_later_word_is_seen(lying: LyingWorld) -> Found:
    moved = lying.world.movements_of()
    for payment_id, row in lying.world.payments.items():
        # What is due is asked about once more, some day: nothing is lost.
        if row["status"] not in FINAL or row["review"] is not None or row["next_run_at"] is not None:
            continue
        true: Word = "paid" if moved.get(payment_id) else "failed"
        if true == ("paid" if row["status"] == "SUCCESSFUL" else "failed"):
            continue
        closed_at = row["completed_at"]
        told_so = any(heard.word == true and heard.at > closed_at for heard in lying.heard.get(payment_id, ()))
        lied_since = any(lie.last_at > closed_at for lie in lying.lies.get(payment_id, ()))
        if told_so and not lied_since:
            yield payment_id, f"{row['status']} and not in review, though it was {true} and we were told so afterwards"


def _the_statement_settles_it(lying: LyingWorld) -> Found:
    for payment_id, movements in lying.world.movements_of().items():
        if payment_id is None:
            yield None, f"debits of no payment: {movements}"
        elif (row := lying.world.payments[payment_id])["status"] != "SUCCESSFUL" and row["review"] is None:
            yield payment_id, f"debited, {row['status']}, and no review even after the statement: {movements}"


def _success_needs_a_word(lying: LyingWorld) -> Found:
    moved = lying.world.movements_of()
    for payment_id, row in lying.world.payments.items():
        if row["status"] != "SUCCESSFUL":
            continue
        lies = lying.lies.get(payment_id, ())
        if not moved.get(payment_id) and not any(lie.claims_success for lie in lies):
            yield payment_id, f"SUCCESSFUL, nothing moved, and the provider never said so: {lies}"
        for debit in moved.get(payment_id, ()):
            money = (Decimal(debit["amount"]) * 100, debit["currency"], debit["msisdn"][-9:])
            told_otherwise = any(lie.kind == "wrong_amount" for lie in lies) or row["review"] is not None
            if money != (row["amount_minor"], row["currency"], row["payer"][-9:]) and not told_otherwise:
                yield payment_id, f"SUCCESSFUL, and it was another payment than was asked for: {debit}"


def _the_statement_misses_it(lying: LyingWorld) -> Found:
    moved = lying.world.movements_of()
    for payment_id, row in lying.world.payments.items():
        unseen = row["status"] == "SUCCESSFUL" and not moved.get(payment_id) and row["review"] is None
        if unseen and payment_id not in lying.missing_theirs:
            yield payment_id, "SUCCESSFUL, nothing moved, no review, and the statement's report does not name it"


def _nobody_else_pays(lying: LyingWorld) -> Found:
    moved = lying.world.movements_of()
    for payment_id, row in lying.world.payments.items():
        if lying.lies.get(payment_id) or lying.providers[payment_id] & lying.unwell:
            continue
        right = "SUCCESSFUL" if moved.get(payment_id) else "FAILED"
        if row["status"] != right or row["review"] is not None:
            yield payment_id, f"nobody lied about it, and it is {row['status']}, review {row['review']}, not {right}"
        elif (took := row["completed_at"] - row["created_at"]) > IN_TIME:
            yield payment_id, f"nobody lied about it, and it took {took.total_seconds():.0f} s"


def _booked_as_it_stands(lying: LyingWorld) -> Found:
    reasons, amounts = defaultdict[str, set[str]](set), Counter[str]()
    for posting in lying.world.postings:
        payment_id = str(posting["payment_id"])
        reasons[payment_id].add(posting["reason"])
        if posting["reason"] == "collected":
            amounts[payment_id] += max(posting["amount_minor"], 0)
    for payment_id, row in lying.world.payments.items():
        paid = row["status"] == "SUCCESSFUL"
        if ("collected" in reasons[payment_id]) != paid or (paid and amounts[payment_id] != row["amount_minor"]):
            yield payment_id, f"{row['status']}, and booked is {sorted(reasons[payment_id])}: {amounts[payment_id]}"
        elif reasons[payment_id] - {"collected"} and not lying.lies.get(payment_id):
            yield payment_id, f"nobody lied about it, and booked is {sorted(reasons[payment_id])}"


LYING_INVARIANTS: Mapping[str, Callable[[LyingWorld], Found]] = {
    "what a provider says after the end is seen: money that moved is SUCCESSFUL or in review": _a_later_word_is_seen,
    "with the provider's statement all money that moved is SUCCESSFUL or in review": _the_statement_settles_it,
    "nothing is SUCCESSFUL that did not move, but by the provider's own firm word": _success_needs_a_word,
    "the statement names whatever is SUCCESSFUL and did not move": _the_statement_misses_it,
    "what one payment's nonsense costs, no other pays: the others end right and in time": _nobody_else_pays,
    "one booking for each successful payment; suspense only where somebody lied": _booked_as_it_stands,
}
BEFORE_THE_STATEMENT = frozenset(
    {"what a provider says after the end is seen: money that moved is SUCCESSFUL or in review"}
)


def broken_before_the_statement(lying: LyingWorld) -> list[Broken]:
    """What only holds while the statement has not been read."""
    return _broken(lying, {name: LYING_INVARIANTS[name] for name in BEFORE_THE_STATEMENT})


def broken_after_the_statement(lying: LyingWorld) -> list[Broken]:
    """All the rest, of an honest world too where providers have no part in it."""
    rest = {name: check for name, check in LYING_INVARIANTS.items() if name not in BEFORE_THE_STATEMENT}
    found = _broken(lying, rest)
    for name in WHATEVER_IS_SAID:
        found += [Broken(name, payment_id, detail) for payment_id, detail in INVARIANTS[name](lying.world)]
    return found


def _broken(lying: LyingWorld, invariants: Mapping[str, Callable[[LyingWorld], Found]]) -> list[Broken]:
    return [
        Broken(name, payment_id, detail) for name, check in invariants.items() for payment_id, detail in check(lying)
    ]


# --- the road back --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A new payment after the operator is sane: by which process, when (in seconds), and whether all went well."""

    process: str
    network: str
    at_s: float
    good: bool
    detail: str = ""


IN_A_ROW = 3  # so many good ones show that a road is back


def back_after_s(trials: Sequence[Trial]) -> float | None:
    """When the first of a last, unbroken row of good trials began; None: the row is too short."""
    row: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: trial.at_s):
        row = [*row, trial] if trial.good else []
    return row[0].at_s if len(row) >= IN_A_ROW else None


def not_back(trials: Sequence[Trial]) -> list[str]:
    """Which roads, in which processes, were not back in time."""
    found = []
    for process, network in sorted({(trial.process, trial.network) for trial in trials}):
        of_it = [trial for trial in trials if (trial.process, trial.network) == (process, network)]
        back = back_after_s(of_it)
        if back is None or back > BACK_WITHIN_S:
            last = [f"{trial.at_s:.0f} s: {trial.detail}" for trial in of_it if not trial.good][-3:]
            found.append(f"{network} by {process}: back after {back} s; {last}")
    return found
