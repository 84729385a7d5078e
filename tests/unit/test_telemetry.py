"""Logs: one line each, readable by machines, and without phone numbers or keys."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from kobiri import telemetry
from kobiri.domain.api_key import ApiKey
from kobiri.domain.msisdn import Msisdn
from kobiri.telemetry import redact

PHONE = "260961234567"
KEY = ApiKey("live", "4fTq0ZbW81Lx", "S" * 43)
ODD_BREAKS = "a\nb\r\nc\x0bd\x0ce\x1cf\x85g\u2028h\u2029i\x00j\x1bk\x7fl"

Lines = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def _log_setup() -> Iterator[None]:
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """What was logged since the last look; nothing may go to standard output."""

    def read() -> list[str]:
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()  # at all line breaks that Unicode knows

    return read


def log(style: str = "json", level: str = "info") -> Any:  # structlog's loggers have no type
    telemetry.configure(level, style)
    return structlog.get_logger()


def one(lines: Lines) -> dict[str, Any]:
    [line] = lines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_is_one_json_object_that_begins_with_time_level_and_event(lines: Lines) -> None:
    log().info("payment.changed", attempt=2, review=None, duration_ms=1.5, slow=False)
    [line] = lines()
    found = json.loads(line)
    assert list(found)[:3] == ["ts", "level", "event"]
    assert found["ts"].endswith("Z")
    del found["ts"]
    assert found == {
        "level": "info",
        "event": "payment.changed",
        "attempt": 2,
        "review": None,
        "duration_ms": 1.5,
        "slow": False,
    }


def test_ids_of_the_request_stand_in_every_line(lines: Lines) -> None:
    logger = log()
    structlog.contextvars.bind_contextvars(request_id="r-1", tenant_id="t-1")
    logger.info("a")
    logger.warning("b")
    for line in lines():
        assert json.loads(line).items() >= {"request_id": "r-1", "tenant_id": "t-1"}.items()


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_the_lowest_that_is_shown(lines: Lines, level: str, shown: int) -> None:
    logger = log(level=level)
    for each in ("debug", "info", "warning", "error"):
        getattr(logger, each)("event")
    assert len(lines()) == shown


@pytest.mark.parametrize("style", ["json", "pretty"])
def test_whatever_is_logged_a_line_stays_one_line(lines: Lines, style: str) -> None:
    log(style).info(ODD_BREAKS, name=ODD_BREAKS, several=[ODD_BREAKS])
    [line] = lines()
    assert line.isprintable() or style == "json"
    assert not {"\x00", "\x1b", "\x7f", "\r"} & set(line)


def test_a_crash_is_told_on_one_line(lines: Lines) -> None:
    def crash() -> None:
        raise ZeroDivisionError(f"about {PHONE}")

    logger = log()
    try:
        crash()
    except ZeroDivisionError:
        logger.exception("request.crashed")
    found = one(lines)
    assert "ZeroDivisionError: about 26096•••••67" in found["exception"]
    assert "test_telemetry.py" in found["exception"]


def test_what_json_does_not_know_does_not_stop_the_line(lines: Lines) -> None:
    log().info("odd", value=object(), number=float("nan"))
    assert "<object object at" in one(lines)["value"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (PHONE, "26096•••••67"),
        (f"+{PHONE}", "+26096•••••67"),
        (f"payer {PHONE} declined", "payer 26096•••••67 declined"),
        (f"tel:{PHONE},{PHONE}", "tel:26096•••••67,26096•••••67"),
        ("0961234567", "09612•••••67"),
        (f'{{"partyId":"{PHONE}"}}', '{"partyId":"26096•••••67"}'),
        (f"https://x.test/{PHONE}?p={PHONE}", "https://x.test/26096•••••67?p=26096•••••67"),
    ],
)
def test_a_phone_number_is_masked(text: str, masked: str) -> None:
    assert redact(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "01935a1e-0000-7000-8000-260961234567",  # an id may end in digits
        "2026-11-23T01:02:03.123456Z",
        "K1000.50",
        "K123456789.00",
        "after 1234.567 ms",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_what_is_no_phone_number_stays(text: str) -> None:
    assert redact(text) == text


def test_an_api_key_loses_its_secret_and_keeps_its_id() -> None:
    masked = redact(f"x-api-key: {KEY.text}")
    assert masked == "x-api-key: kob_live_4fTq0ZbW81Lx_[hidden]"
    assert redact(KEY.text[:-3]) == "kob_live_4fTq0ZbW81Lx_[hidden]"  # also a part of one


@dataclass
class Carrier:
    payer: Msisdn
    key: str


@pytest.mark.parametrize("style", ["json", "pretty"])
@pytest.mark.parametrize(
    "value",
    [
        PHONE,
        int(PHONE),
        {"payer": PHONE, "keys": [KEY.text], PHONE: 1},
        {PHONE, KEY.text},
        (int(PHONE),),
        Carrier(Msisdn(PHONE), KEY.text),
        ValueError(PHONE, KEY.text),
        KEY,
        [KEY, Msisdn(PHONE)],
        PHONE.encode(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing_that_is_logged_shows_a_number_or_a_key(lines: Lines, style: str, value: object) -> None:
    logger = log(style)
    structlog.contextvars.bind_contextvars(bound=value)
    message = f"about {PHONE} {KEY.text}"
    logger.info(message, value=value)
    [line] = lines()
    assert PHONE not in line
    assert KEY.secret not in line
    assert "26096•••••67" in line


def test_a_secret_of_the_settings_shows_as_stars(lines: Lines) -> None:
    log().info("started", secret=SecretStr("hunter2-hunter2"))
    assert "hunter2" not in lines()[0]


def test_small_numbers_are_left_alone(lines: Lines) -> None:
    log().info("x", count=123_456_789, negative=-5, flag=True)
    assert one(lines).items() >= {"count": 123_456_789, "negative": -5, "flag": True}.items()


def test_what_libraries_log_comes_out_like_everything_else(lines: Lines) -> None:
    log()
    logging.getLogger("aiohttp.access").warning("from %s", PHONE)
    logging.getLogger("aiohttp.access").info("not wanted")
    found = one(lines)
    assert (found["level"], found["event"], found["logger"]) == ("warning", "from 26096•••••67", "aiohttp.access")


def test_pretty_is_for_people(lines: Lines) -> None:
    log("pretty").warning("payment.changed", payment_id="p-1")
    [line] = lines()
    assert line.split()[1:] == ["warning", "payment.changed", "payment_id=p-1"]
