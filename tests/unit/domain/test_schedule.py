from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain.schedule import CHECK_DELAYS_S, DOUBT_DELAYS_S, SEND_DELAYS_S, check_delay, send_delay

HOUR = timedelta(hours=1)


def test_the_middle_of_the_jitter_is_the_table() -> None:
    for acknowledged, table in ((True, CHECK_DELAYS_S), (False, DOUBT_DELAYS_S)):
        delays = [check_delay(n, 0.5, acknowledged=acknowledged) for n in range(len(table))]
        assert [delay.total_seconds() for delay in delays] == list(table)
    assert [send_delay(n, 0.5).total_seconds() for n in range(len(SEND_DELAYS_S))] == list(SEND_DELAYS_S)


def test_the_pace_only_slows_down() -> None:
    for delays in (CHECK_DELAYS_S, DOUBT_DELAYS_S, SEND_DELAYS_S):
        assert all(earlier <= later for earlier, later in pairwise(delays))


def test_doubt_is_asked_about_before_it_is_too_late_to_send_again() -> None:
    assert sum(1.2 * delay for delay in DOUBT_DELAYS_S[:6]) < 60


@given(st.integers(-5, 10**9), st.floats(0, 1), st.booleans(), st.booleans())
def test_checks_never_hurry_and_never_stop(checks: int, jitter: float, acknowledged: bool, calls_back: bool) -> None:
    middle = check_delay(checks, 0.5, acknowledged=acknowledged)
    delay = check_delay(checks, jitter, acknowledged=acknowledged)
    assert 0.8 * middle <= delay <= 1.2 * middle
    assert timedelta(seconds=0.5) < delay <= 1.2 * HOUR
    awaited = check_delay(checks, jitter, acknowledged=acknowledged, calls_back=calls_back)
    assert delay <= awaited <= 1.2 * HOUR
    assert awaited == delay or (calls_back and awaited <= timedelta(minutes=1))


@given(st.integers(-5, 10**9), st.floats(0, 1))
def test_sending_is_tried_several_times_within_the_minute_it_has(attempts: int, jitter: float) -> None:
    assert timedelta(0) < send_delay(attempts, jitter) <= timedelta(seconds=20)


@pytest.mark.parametrize("acknowledged", [False, True])
def test_jitter_spreads_what_failed_together(acknowledged: bool) -> None:
    delays = [check_delay(4, jitter, acknowledged=acknowledged) for jitter in (0.0, 0.5, 1.0)]
    assert delays == sorted(set(delays))


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_wait_longer_than_the_table_keeps_the_slowest_pace(acknowledged: bool) -> None:
    assert check_delay(10**9, 0.5, acknowledged=acknowledged) == HOUR
    assert check_delay(-1, 0.5, acknowledged=acknowledged) == check_delay(0, 0.5, acknowledged=acknowledged)
