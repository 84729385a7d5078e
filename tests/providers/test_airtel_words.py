"""What each word of Airtel's means beside each code, at each place where it may stand, against this test's own tables.

The tables below are written by hand from README 2, 3, 4, 6 and 8, and share nothing with the adapter.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import pytest

from kobiri.domain.ids import ProviderReference
from kobiri.domain.outcome import Accepted, Declined, Doubtful, FailureCode, NotFound, Succeeded, Unknown
from kobiri.providers.airtel import wire

REFERENCE = ProviderReference("8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10")
ID = "8a3f0e526f434a0e9a561d1f6f1a7a10"
OTHER = "111111116f434a0e9a561d1f6f1a7a10"
THEIRS = "MP210603.1234.L06941"
F = FailureCode

Meaning = Literal["paid", "going on", "twice", "doubt", "not found", "elsewhere", "failed", "new"]
Place = Literal["collection", "payout", "refund", "collection status", "payout status", "callback"]

MEANS: dict[Meaning, str] = {
    "paid": "DP00800001001 DP00900001001 DP008001001",
    "going on": "DP00800001006 DP00900001006",
    "twice": "DP00800001011 DP00800001017 DP00900001011 DP00900001017 ESB000041 521050",
    "doubt": "DP00800001000 DP00800001014 DP00900001000 DP00900001014 ESB000001 ESB000004 ESB000014 ROUTER117",
    "not found": "DP00800001025 DP00900001015 ESB000045",
    "elsewhere": "DP00800001027 DP00800001028 DP02010001000 DP02200000002",
    "new": "DP00800001099 DP00900001099 DP008001006 DP008001099 ESB000099 521099",
}
GATEWAY = {
    F.PROVIDER_REJECTED: "ROUTER001 ROUTER003 ROUTER005 ROUTER006 ROUTER112 ROUTER114 ROUTER115 ROUTER116 ROUTER119 "
    "ESB000008 ESB000033 ESB000034 ESB000035 ESB000036 521002",
    F.NOT_ALLOWED: "ROUTER007 ROUTER110 ESB000039",
    F.PROVIDER_ERROR: "ESB000011 0000900",
}
COLLECTION = {
    F.PAYER_DECLINED: "DP00800001002 DP00800001008 DP008001023",
    F.PAYER_LIMIT_REACHED: "DP00800001003",
    F.PROVIDER_REJECTED: "DP00800001004 DP00800001009 DP00800001026 DP008001013",
    F.PAYER_TIMEOUT: "DP00800001005 DP00800001024 DP00800001029",
    F.INSUFFICIENT_FUNDS: "DP00800001007 DP008001021",
    F.PAYER_NOT_FOUND: "DP00800001010 DP008001016",
}
PAYOUT = {
    F.PROVIDER_REJECTED: "DP00900001003 DP00900001004 DP00900001013 DP00900001016 DP00900001018",
    F.PROVIDER_ERROR: "DP00900001005",
    F.INSUFFICIENT_FUNDS: "DP00900001007",
    F.PAYEE_NOT_ALLOWED: "DP00900001009",
    F.NOT_ALLOWED: "DP00900001010 DP00900001019",
    F.PAYEE_NOT_FOUND: "DP00900001012",
}
# No firm word before the enquiry or a callback has said that it failed.
LATER = frozenset({
    "DP00800001005", "DP00800001024", "DP00900001005", "DP008001013", "DP008001016", "DP008001021", "DP008001023",
    "ESB000011", "0000900", "521002",
})  # fmt: skip
LATER_OUT = LATER | {"ESB000008"}


def by_code(*tables: dict[F, str]) -> dict[str, F]:
    return {code: reason for table in tables for reason, codes in table.items() for code in codes.split()}


REASONS: dict[Place, dict[str, F]] = {
    "collection": by_code(GATEWAY, COLLECTION),
    "collection status": by_code(GATEWAY, COLLECTION),
    "payout": by_code(GATEWAY, PAYOUT),
    "payout status": by_code(GATEWAY, PAYOUT),
    "callback": by_code(GATEWAY, COLLECTION, PAYOUT),
    "refund": by_code(GATEWAY, COLLECTION)
    | {"DP00800001010": F.NOT_ALLOWED, "DP008001016": F.NOT_ALLOWED, "DP00800001025": F.PROVIDER_REJECTED},
}
MEANING: dict[str, Meaning] = {
    code: meaning for meaning, codes in MEANS.items() for code in codes.split()
} | dict.fromkeys(by_code(GATEWAY, COLLECTION, PAYOUT), "failed")
WORDS = (None, "SUCCESS", "TS", "TF", "TE", "TIP", "TI", "TA", "TR", "?")
SECOND = (
    None,
    "ESB000010",
    "DP00800001001",
    "DP00900001006",
    "ESB000001",
    "ESB000008",
    "ESB000011",
    "ESB000033",
    "ESB000041",
    "ESB000045",
    "ESB000099",
)


def answer(word: str | None, codes: tuple[str | None, str | None], named: object = ID, success: object = None) -> bytes:
    told = {"id": named, "status": word, "airtel_money_id": THEIRS}
    said = {"response_code": codes[0], "result_code": codes[1], "success": success}
    return json.dumps({
        "data": {"transaction": {name: value for name, value in told.items() if value is not None}},
        "status": {name: value for name, value in said.items() if value is not None},
    }).encode()  # fmt: skip


def callback(word: str | None, code: str | None) -> bytes:
    told = {"status_code": word, "code": code, "airtel_money_id": THEIRS, "id": ID, "message": "x"}
    return json.dumps({"transaction": {name: value for name, value in told.items() if value is not None}}).encode()


def read(place: Place, status: int, content: bytes) -> object:
    readers: dict[Place, Callable[[], object]] = {
        "collection": lambda: wire.read_collection(status, content, REFERENCE),
        "payout": lambda: wire.read_payout(status, content, REFERENCE),
        "refund": lambda: wire.read_refund(status, content),
        "collection status": lambda: wire.read_collection_status(status, content, REFERENCE),
        "payout status": lambda: wire.read_payout_status(status, content, REFERENCE),
    }
    return readers[place]()


@dataclass(frozen=True)
class Seen:
    """A word and codes about our payment, by HTTP 200, at a place where they may stand."""

    place: Place
    word: str | None
    given: tuple[str | None, ...]
    success: object = True

    @property
    def codes(self) -> list[str]:
        return [code for code in self.given if code is not None and code != "ESB000010"]

    @property
    def first(self) -> str | None:
        return self.codes[0] if self.codes else None

    @property
    def meanings(self) -> set[Meaning]:
        return {MEANING[code] for code in self.codes}

    @property
    def new(self) -> str | None:
        return next((code for code in self.codes if MEANING[code] == "new"), None)

    @property
    def reason(self) -> F | None:
        return REASONS[self.place].get(self.first or "")

    @property
    def firm(self) -> bool:
        """Whether a failure is one at once, with no word but perhaps that it failed."""
        later = LATER if self.place == "collection" else LATER_OUT
        return self.reason is not None and self.first not in later and not self.taken_back

    @property
    def taken_back(self) -> bool:
        """Whether something speaks against a failure."""
        good = self.word is None and self.success is True
        return good or self.known

    @property
    def known(self) -> bool:
        """Whether a code beside it says that Airtel has it, or does not know itself."""
        return bool(self.meanings & {"paid", "going on", "doubt", "twice"})

    @property
    def success_is_told(self) -> bool:
        return not self.meanings - {"paid", "going on", "new"}


def expected(seen: Seen) -> object:
    """What it means; None: it is Unknown, and no outage."""
    if seen.place == "refund":
        return of_a_refund(seen)
    if seen.place in ("collection", "payout"):
        return at_first(seen)
    if "not found" in seen.meanings and seen.word in (None, "TF", "TE") and not seen.known:
        return NotFound(firm=False) if seen.place != "callback" else None
    if "not found" in seen.meanings and seen.place == "callback":
        return None
    in_doubt = {code for code in seen.codes if MEANING[code] in ("paid", "going on", "doubt", "twice")}
    if (seen.place, seen.word, in_doubt) == ("collection status", "TF", {"DP00800001000"}):
        return Doubtful(F.PROVIDER_ERROR, "DP00800001000")
    return later(seen)


def of_a_refund(seen: Seen) -> object:
    unsure = bool(seen.new) or "going on" in seen.meanings
    good = seen.success is True if unsure else seen.success in (None, True) and seen.given != (None, None)
    if seen.word in ("SUCCESS", "TS") and seen.success_is_told and good:
        return Succeeded(THEIRS, unlisted=seen.new)
    if seen.word in (None, "TF") and seen.firm:
        return Declined(seen.reason, seen.first, unlisted=seen.new)  # type: ignore[arg-type]
    return None


def at_first(seen: Seen) -> object:
    if "twice" in seen.meanings:
        return Accepted(unlisted=seen.new)
    if seen.word in (None, "TF", "TE") and seen.firm:
        return Declined(seen.reason, seen.first, unlisted=seen.new)  # type: ignore[arg-type]
    paid = seen.word == "TS" and seen.success_is_told and "going on" not in seen.meanings
    if seen.place == "payout" and paid and not (seen.new and seen.success is False):
        return Succeeded(THEIRS, unlisted=seen.new)
    good = bool(seen.meanings & {"paid", "going on"}) and "doubt" not in seen.meanings
    clear = seen.word in ("SUCCESS", "TS", "TIP", "TI") and seen.success_is_told
    may_be = seen.word in (None, "SUCCESS", "TS", "TIP", "TI")
    return Accepted(unlisted=seen.new) if clear or (may_be and good) else None


def later(seen: Seen) -> object:
    if seen.word == "TS" and seen.success_is_told:
        return Succeeded(THEIRS, unlisted=seen.new)
    if seen.word in ("TF", "TE") and not seen.taken_back:
        untold = F.PROVIDER_ERROR if seen.word == "TF" else F.PAYER_TIMEOUT
        return Declined(seen.reason or untold, seen.first or seen.word, unlisted=seen.new)
    if seen.word in ("TIP", "TI") and not seen.meanings & {"doubt", "twice"}:
        return Accepted(unlisted=seen.new)
    return None


def test_the_order_of_two_codes_takes_no_failure_back() -> None:
    """A failure beside paid, in progress, a duplicate or doubt is none, at any place and in either order."""
    against = [code for code, meaning in MEANING.items() if meaning in ("paid", "going on", "doubt", "twice")]
    for place, word, code, other in product(ANSWERED, WORDS, MEANING, against):
        for codes in ((code, other), (other, code)):
            told = read(place, 200, answer(word, codes))
            assert not isinstance(told, Declined | NotFound), (place, word, codes)
            assert place != "refund" or word in ("SUCCESS", "TS") or isinstance(told, Unknown), (word, codes)


ANSWERED: tuple[Place, ...] = ("collection", "payout", "refund", "collection status", "payout status")


@pytest.mark.parametrize("place", ANSWERED)
def test_every_word_beside_every_code(place: Place) -> None:
    for word, code, second in product(WORDS, (None, *MEANING), SECOND):
        for success in (None, True, False) if "status" not in place else (True,):
            told = read(place, 200, answer(word, (code, second), success=success))
            where = Seen(place, word, (code, second), success)
            wanted = expected(where)
            if wanted is None:
                assert isinstance(told, Unknown), where
                new = where.word if word in ("TR", "?") else where.new
                assert (told.outage, told.askable, told.unlisted) == (False, place != "refund", new), where
            else:
                assert told == wanted, where


def test_every_callback() -> None:
    for word, code in product(("TS", "TF", "TE", "TIP", "TI", "TA"), (None, "ESB000010", *MEANING)):
        seen = Seen("callback", word, (code,))
        found = wire.read_callback(callback(word, code)).finding
        if wanted := Accepted() if word == "TA" else expected(seen):
            assert found == wanted, seen
        else:
            assert isinstance(found, Unknown), seen
            assert not found.outage, seen
    for word in WORDS[1:2] + WORDS[-2:]:  # no words of a callback's
        told = wire.read_callback(callback(word, "DP00800001001")).finding
        assert isinstance(told, Unknown), word


@pytest.mark.parametrize("named", [OTHER, "order7", 17, True, [], {}, [ID]])
def test_what_is_about_another_settles_nothing(named: Any) -> None:
    for place, word, code in product(ANSWERED, WORDS, (None, *MEANING)):
        if place == "refund":
            continue  # it has no id of ours
        told = read(place, 200, answer(word, (code, None), named))
        assert isinstance(told, Unknown), (place, word, code)
        assert not told.outage


@pytest.mark.parametrize("named", [None, False, ""])
def test_what_names_nobody_is_no_word_about_us_but_to_the_request_itself(named: Any) -> None:
    for word, code in product(WORDS, (None, *MEANING)):
        content = answer(word, (code, None), named)
        assert read("collection", 200, content) == read("collection", 200, answer(word, (code, None))), (word, code)
        assert not isinstance(read("payout", 200, content), Succeeded)
        for place in ("collection status", "payout status"):
            assert isinstance(read(place, 200, content), Unknown | NotFound), (place, word, code)


@pytest.mark.parametrize("status", [201, 202, 302, 403, 408, 409, 429, 500, 502, 503])
def test_by_another_http_status_nothing_is_settled(status: int) -> None:
    for place, word, code in product(ANSWERED, WORDS, (None, *MEANING)):
        told = read(place, status, answer(word, (code, None), success=True))
        assert isinstance(told, Unknown), (place, word, code)
        assert told.unlisted is None, (place, word, code)  # a gateway's words are in no table


def test_a_success_comes_by_http_200_alone() -> None:
    for place, word, code, status in product(ANSWERED, WORDS, (None, *MEANING), (400, 404)):
        told = read(place, status, answer(word, (code, None), success=True))
        assert not isinstance(told, Succeeded), (place, word, code)
        assert "status" not in place or not isinstance(told, Declined), (place, word, code)


STRANGE: list[Any] = [7, True, [], {"a": 1}, "a sentence about 260971234567"]


@pytest.mark.parametrize("name", ["response_code", "result_code", "message", "success", "code"])
def test_what_is_strange_is_no_outage(name: str) -> None:
    for place, word, strange in product(ANSWERED, WORDS, STRANGE):
        content = json.loads(answer(word, ("DP00800001006", None)))
        content["status"][name] = strange
        told = read(place, 200, json.dumps(content).encode())
        assert not (isinstance(told, Unknown) and told.outage), (place, word, strange)
    for word in WORDS[2:8]:
        told = json.loads(callback(word, "DP00800001006"))
        told["transaction"]["code"] = STRANGE[2]
        found = wire.read_callback(json.dumps(told).encode()).finding
        assert found == Accepted() if word == "TA" else isinstance(found, Unknown), word


@pytest.mark.parametrize("content", ['"x"', "[]", "7", "true", '{"transaction": []}', '{"transaction": "x"}'])
def test_a_body_of_another_shape_is_no_outage(content: str) -> None:
    for place, name in product(ANSWERED, ("data", "status")):
        for body in (f'{{"{name}": {content}}}', f'{{"data": {{"transaction": {content}}}, "{name}": {content}}}'):
            for status in (200, 400):
                told = read(place, status, body.encode())
                assert isinstance(told, Unknown), (place, body)
                assert not told.outage, (place, body)


def test_a_code_that_cannot_be_read_is_not_taken_for_none() -> None:
    for place, code in product(ANSWERED, ([], {"a": 1}, True)):
        content = json.loads(answer("TS", ("x", None), success=True))
        content["status"]["response_code"] = code
        assert isinstance(read(place, 200, json.dumps(content).encode()), Unknown), (place, code)
    spaced = read("collection status", 200, answer("TS", (" DP00800001000 ", None)))
    assert isinstance(spaced, Unknown)
