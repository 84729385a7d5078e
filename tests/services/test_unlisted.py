"""A code that no table lists is told once and counted, whichever way it came, and fills no memory."""

import pytest
from structlog.testing import capture_logs

from kobiri.domain.ids import new_provider_reference
from kobiri.domain.outcome import Accepted, Declined, FailureCode, Finding, NotFound, Succeeded, Unknown
from kobiri.services.roads import Road
from kobiri.services.unlisted import MOST_CODES, OTHERS, Unlisted
from tests.services.scripted import Operator, order

NEW = Succeeded("4711", unlisted="DP00800001099")


def test_a_code_is_told_at_its_first_tenth_and_hundredth_time() -> None:
    unlisted = Unlisted("airtel", None)
    with capture_logs() as lines:
        for _ in range(250):
            unlisted.note(NEW)
    assert [line["seen"] for line in lines] == [1, 10, 100]
    assert lines[0] == {
        "event": "provider.unlisted_code",
        "log_level": "warning",
        "provider": "airtel",
        "account_id": None,
        "code": "DP00800001099",
        "beside": "Succeeded",
        "seen": 1,
    }
    assert unlisted.seen == {"DP00800001099": 250}


def test_each_code_counts_by_itself() -> None:
    unlisted = Unlisted("mtn", None)
    refused = Declined(FailureCode.PROVIDER_ERROR, unlisted="NEW_WORD")
    told: list[Finding] = [NEW, refused, Accepted(unlisted="NEW_WORD")]
    for said in [*told, Unknown("the status is not one of MTN's words", unlisted="TIMEOUT")]:
        unlisted.note(said)
    assert unlisted.seen == {NEW.unlisted: 1, "NEW_WORD": 2, "TIMEOUT": 1}


@pytest.mark.parametrize(
    "said",
    [Accepted(), Succeeded("4711"), Declined(FailureCode.NOT_ALLOWED, "NOT_ALLOWED"), NotFound(), Unknown("HTTP 500")],
)
def test_what_brings_no_such_code_is_not_told(said: Finding) -> None:
    unlisted = Unlisted("airtel", None)
    with capture_logs() as lines:
        unlisted.note(said)
    assert (lines, dict(unlisted.seen)) == ([], {})


def test_no_number_of_codes_fills_the_memory_or_the_log() -> None:
    unlisted = Unlisted("airtel", None)
    with capture_logs() as lines:
        for n in range(3 * MOST_CODES):
            unlisted.note(Succeeded(unlisted=f"C{n}"))
    assert len(unlisted.seen) == MOST_CODES + 1
    assert unlisted.seen[OTHERS] == 2 * MOST_CODES
    assert len(lines) == MOST_CODES + len([1, 10, 100])


@pytest.mark.parametrize(
    "word", ["260971234567 is barred", "MSISDN260971234567", "260971234567", "NRC100002-10-1", "kanarySecret4711xyz"]
)
def test_what_may_be_a_number_or_a_key_is_not_told(word: str) -> None:
    unlisted = Unlisted("airtel", None)
    with capture_logs() as lines:
        unlisted.note(Succeeded(unlisted=word))
    assert [line["code"] for line in lines] == [OTHERS]
    assert unlisted.seen == {OTHERS: 1}


async def test_what_is_sent_and_what_is_asked_pass_here() -> None:
    road = Road(Operator(Accepted(unlisted="SENT"), finds=Succeeded("4711", unlisted="FOUND")))
    await road.send(order(), within_s=1.0, first_byte_before=None)
    await road.find("collection", new_provider_reference())
    await road.close()
    assert road.unlisted.seen == {"SENT": 1, "FOUND": 1}
