"""What an answer in plain words would settle is found, and nothing else is."""

from typing import Any

import pytest

from kobiri.domain.outcome import Accepted, Declined, Doubtful, FailureCode, Finding, NotFound, Succeeded, Unknown
from tests.chaos.plain import AN_ANSWER_SETTLES, unsettled
from tests.crash.invariants import Broken

ROW: dict[str, Any] = {"id": "a", "status": "TIMEOUT", "review": None, "provider": "mtn"}


@pytest.mark.parametrize(
    ("said", "review"),
    [
        (Succeeded("7"), None), (Succeeded("7"), "unresolved"), (Succeeded("7"), "contradicted"),
        (Declined(FailureCode.PAYER_DECLINED), None), (Declined(FailureCode.PAYER_DECLINED), "unresolved"),
    ],
)  # fmt: skip
def test_a_clear_word_about_an_open_payment_is_found(said: Finding, review: str | None) -> None:
    [found] = unsettled([ROW | {"review": review}], {"a": said})
    assert (found.invariant, found.payment_id) == (AN_ANSWER_SETTLES, "a")


@pytest.mark.parametrize(
    "said",
    [
        Accepted(), NotFound(), Doubtful(FailureCode.PROVIDER_ERROR), Unknown("nobody can be asked", outage=False),
    ],
)  # fmt: skip
def test_what_no_answer_settles_is_left_alone(said: Finding) -> None:
    none: list[Broken] = []
    assert unsettled([ROW], {"a": said}) == none
    assert unsettled([ROW | {"review": "mismatched"}], {"a": Succeeded("7")}) == none
    assert unsettled([ROW | {"review": "contradicted"}], {"a": Declined(FailureCode.PAYER_DECLINED)}) == none
    assert unsettled([], {}) == none
