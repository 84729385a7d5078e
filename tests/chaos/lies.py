"""What operators say that is not so, drawn by the plan's dice. Pure.

Lies about single payments are told all the time and by everybody: no other payment may pay for them. Some providers are
unwell besides: for a few seconds at a time they refuse or confuse every request, and their payments may wait or fail.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LIES_EVERY_S, UNWELL_EVERY_S = 0.25, 4.0
A_DOZEN = 12
SHORT_QUEUE_S = 5.0

Fault = dict[str, Any]
Draw = Callable[[random.Random], Fault]

WORDS = (["failed"], ["paid"], ["pending"], ["failed", "pending", "paid"], ["paid", "failed"], ["REVERSED"], [" "])
ABSURD_RESTS = ("86400", "99999999999999999999", "-1", "NaN", "Fri, 31 Dec 9999 23:59:59 GMT")
STRANGE = ("bom", "nan", "deep", "duplicate_keys")
UNREADABLE = ("truncated", "array", "null", "empty", "bytes")


def _view(dice: random.Random) -> Fault:
    return {"operation": dice.choice(("status", "status", "callback"))}


def _claim(dice: random.Random) -> Fault:
    return {"claimed": dice.choice(("paid", "failed")), "ms": dice.choice((0, dice.randint(0, 3_000)))} | {
        "signed": dice.choice((True, True, False, "wrong"))
    }


def _decision(dice: random.Random) -> Fault:
    return {"decision": dice.choice(("reject", "no_funds")), "prompt_ms": dice.randint(0, 2_000)}


# One payment at a time, or a dozen answers in a row, which may be about a few. What is no JSON object is told in
# callbacks only: in an answer to a request it looks like an outage to anybody.
ABOUT_A_PAYMENT: Mapping[str, Draw] = {
    "wrong_word": lambda dice: {"operation": "status", "words": dice.choice(WORDS)},
    "wrong_word by the dozen": lambda dice: {"words": ["REVERSED"], "times": dice.randint(A_DOZEN, 2 * A_DOZEN)},
    "wrong_reference by the dozen": lambda dice: {"operation": "status", "times": dice.randint(A_DOZEN, 2 * A_DOZEN)},
    "wrong_word in the answer": lambda dice: {"operation": "create", "words": dice.choice((["failed"], ["PARKED"]))},
    "wrong_word in callbacks": lambda dice: {"operation": "callback", "words": dice.choice(WORDS)},
    "wrong_amount": lambda dice: {**_view(dice), "amount": dice.choice(("0.01", "999999999", "NaN", "1e3", "-5"))},
    "wrong_currency": lambda dice: {**_view(dice), "currency": dice.choice(("USD", "EUR", "zmw", "?"))},
    "wrong_payer": lambda dice: {**_view(dice), "payer": dice.choice(("260961111111", "46733123450", "someone"))},
    "payer_as": lambda dice: {**_view(dice), "style": dice.choice(("masked", "national", "number", "absent"))},
    "wrong_reference": lambda dice: {**_view(dice), "told": dice.choice((None, "another", "0" * 32))},
    "wrong_transaction": lambda dice: {"operation": dice.choice(("status", "create", "callback", "any"))},
    "charged_amount": lambda dice: {"amount": dice.choice(("0.01", "3.00", "9999"))},
    "garbled": lambda dice: {"operation": "status", "style": dice.choice(STRANGE)},
    "garbled callbacks": lambda dice: {"operation": "callback", "style": dice.choice((*STRANGE, *UNREADABLE))},
    "premature": _claim,
    "contradicting": _claim,
    "lost": lambda _: {},
    "late": lambda dice: {"ms": dice.randint(0, 3_000)},
    "duplicated": lambda dice: {"copies": dice.randint(1, 3), "spacing_ms": dice.randint(0, 500)},
    "reordered": lambda dice: {"ms": dice.randint(0, 1_000)},
    "forged": lambda dice: {"ms": dice.randint(0, 3_000)},
    "unsigned": lambda _: {},
    "queued": lambda dice: {"status": dice.choice((None, 503))},
    "not_found_for": lambda dice: {"ms": dice.randint(500, 5_000)},
    "late_success": lambda dice: {"ms": dice.randint(500, 4_000), "after_failure": True},
    "payer": _decision,
}

# Everybody who comes by.
TO_EVERYBODY: Mapping[str, Draw] = {
    "429": lambda dice: {
        "kind": "error_before",
        "operation": dice.choice(("any", "create", "status")),
        "status": 429,
        "retry_after": dice.choice(ABSURD_RESTS),
    },
    "401 for one product": lambda dice: {
        "kind": "error_before",
        "status": 401,
        "product": dice.choice(("collection", "disbursement")),
    },
    "403": lambda dice: {"kind": "error_before", "status": 403, "shape": dice.choice(("empty", "html"))},
    "503 for a week": lambda _: {"kind": "error_before", "status": 503, "retry_after": "604800"},
    "html_200": lambda dice: {"operation": dice.choice(("any", "create", "status")), "processed": dice.random() < 0.5},
    "garbled": lambda dice: {
        "operation": dice.choice(("any", "create", "status")),
        "style": dice.choice((*STRANGE, *UNREADABLE)),
    },
    "wrong_reference": lambda _: {"operation": "status", "told": None},
    "wrong_word": lambda dice: {"operation": "status", "words": [dice.choice(("REVERSED", "pending"))]},
    "reset_before": lambda _: {},
}


def unwell(dice: random.Random, providers: Sequence[str], others: Sequence[str]) -> frozenset[str]:
    """Who refuses everybody at times: one of those that payments come to first, and at times one of the others."""
    also = dice.sample(sorted(others), 1) if others and dice.random() < 0.5 else []
    return frozenset([dice.choice(sorted(providers)), *also])


def about_a_payment(dice: random.Random, provider: str, *, queue_s: float = SHORT_QUEUE_S) -> Fault:
    """`queue_s`: so long a request may lie somewhere before it is carried out."""
    # Where a callback is believed, nobody asks for a status: some must be lost.
    name = dice.choice([*ABOUT_A_PAYMENT, "lost", "lost", "lost"])
    fault = {"kind": name.partition(" ")[0], "provider": provider, "times": dice.randint(1, 3)}
    fault |= ABOUT_A_PAYMENT[name](dice)
    if fault["kind"] == "queued":
        fault["ms"] = int(1_000 * dice.uniform(min(0.5, queue_s), queue_s))
    return fault


def to_everybody(dice: random.Random, provider: str) -> Fault:
    name = dice.choice([*TO_EVERYBODY, "429", "429"])
    return {"kind": name.partition(" ")[0], "provider": provider} | TO_EVERYBODY[name](dice)
