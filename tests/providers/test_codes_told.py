"""Which of an operator's codes merchants, events and the log see: all that a table lists, and no number or key."""

import json
from collections.abc import Callable, Iterable

import pytest

from kobiri.domain.ids import ProviderReference
from kobiri.domain.outcome import Declined
from kobiri.domain.redaction import as_code
from kobiri.providers.airtel import wire as airtel
from kobiri.providers.mtn import wire as mtn
from kobiri.providers.pawapay import wire as pawapay
from kobiri.providers.zamtel import wire as zamtel

REFERENCE = ProviderReference("5f0c3a1e-8d3b-7c7a-9b1a-0123456789ab")

LISTED: dict[str, Iterable[str]] = {
    "airtel": airtel.LISTED | airtel.NEUTRAL | airtel.DOUBTS_KEY,
    "mtn": mtn.NO_REFUSAL.union(mtn.REASONS),
    "pawapay": pawapay.TOLD,
    "zamtel": zamtel.LISTED | {zamtel.SUCCESS},
}

Reader = Callable[[str], object]
READERS: dict[str, Reader] = {
    "airtel enquiry": lambda code: airtel.read_collection_status(
        200,
        _json({
            "data": {"transaction": {"id": REFERENCE, "status": "TF"}},
            "status": {"response_code": code, "success": False},
        }),
        REFERENCE,
    ),
    "airtel callback": lambda code: airtel.read_callback(
        _json({"transaction": {"id": REFERENCE, "status_code": "TF", "code": code}})
    ).finding,
    "mtn refused": lambda code: mtn.read_create(400, _json({"code": code}), "collection"),
    "mtn failed": lambda code: mtn.read_status(
        200, _json({"externalId": REFERENCE, "status": "FAILED", "reason": code}), REFERENCE, "payout"
    ),
    "mtn callback": lambda code: mtn.read_callback(
        _json({"externalId": REFERENCE, "status": "FAILED", "reason": code})
    ).finding,
    "pawapay rejected": lambda code: pawapay.read_create(
        200, _json({"status": "REJECTED", "failureReason": {"failureCode": code}}), REFERENCE
    ),
    "pawapay failed": lambda code: pawapay.read_status(
        200,
        _json({
            "status": "FOUND",
            "data": {"depositId": REFERENCE, "status": "FAILED", "failureReason": {"failureCode": code}},
        }),
        "collection",
        REFERENCE,
    ),
    "pawapay callback": lambda code: pawapay.read_callback(
        _json({"depositId": REFERENCE, "status": "FAILED", "failureReason": {"failureCode": code}})
    ).finding,
}  # fmt: skip

NO_CODES = ["260971234567", "MSISDN260971234567", "NRC100002-10-1", "kanarySecret4711xyz", "DP0971234567"]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("provider", LISTED)
def test_every_listed_code_is_told(provider: str) -> None:
    for code in LISTED[provider]:
        assert as_code(code) == code


@pytest.mark.parametrize(
    "word", ["ESB000099", "ROUTER121", "DP00800001099", "DP00900001099", "NEW_WORD", "E8099", "2099", "-2", "ERR_404"]
)
def test_a_new_code_of_a_known_shape_is_told(word: str) -> None:
    assert as_code(word) == word


@pytest.mark.parametrize("reader", READERS)
def test_a_refusal_tells_its_code_unless_that_may_be_a_number_or_a_key(reader: str) -> None:
    assert _declined(READERS[reader]("A_NEW_WORD")).provider_code == "A_NEW_WORD"
    for word in NO_CODES:
        said = _declined(READERS[reader](word))
        assert word not in (said.provider_code or "")
        assert said.unlisted == word  # it is counted all the same


def _declined(said: object) -> Declined:
    assert isinstance(said, Declined)
    return said
