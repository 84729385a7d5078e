"""When to try again. Randomness is an argument: `jitter` is a number from 0 to 1, drawn by the caller."""

from datetime import timedelta

# Most payers answer within a minute; MTN gives up after about five, and wants at most ten questions a second
# (providers/mtn/README.md). An hour is the slowest pace.
CHECK_DELAYS_S = (5, 5, 10, 15, 20, 30, 30, 60, 60, 120, 180, 300, 300, 600, 900, 1800, 3600)

# An outcome that nobody knows is asked for at once: what never arrived may be sent again while it is wanted.
DOUBT_DELAYS_S = (1, 2, 3, 5, 8, 12, 20, 30, 60, 60, 120, 180, 300, 300, 600, 900, 1800, 3600)

# A provider that calls back is asked when its callback seems to be lost.
CALLBACK_EXPECTED_S = 30
SEND_DELAYS_S = (1, 2, 4, 8, 15)

# Inside of one call, while the client waits: for what may safely be repeated.
QUICK_DELAYS_S = (0.1, 0.2, 0.4)

# About a final payment: only a hint, or a word of the provider against it, makes us ask at all.
RECHECK_DELAYS_S = (60, 120, 300, 600, 1200, 3600, 3600, 3600, 6 * 3600, 24 * 3600)

# About a road that was left unsent, of which somebody speaks.
EARLIER_DELAYS_S = (10, 20, 30, 60, 120, 300, 600, 1800, 3600, 3600, 3600, 6 * 3600, 24 * 3600)

# A question that never left costs the provider nothing: it is due again soon, and still no storm on our side.
UNASKED_S = 15

# Where the provider cannot be asked there is nothing to do but to wait for a person.
UNASKABLE_S = 3600


def check_delay(checks: int, jitter: float, *, acknowledged: bool, calls_back: bool = False) -> timedelta:
    """How long to wait for the next status check after `checks` of them.

    `acknowledged`: the provider said that it has the payment. `calls_back`: it will tell the outcome by itself.
    """
    delay = _jittered(CHECK_DELAYS_S if acknowledged else DOUBT_DELAYS_S, checks, jitter)
    return max(delay, _jittered((CALLBACK_EXPECTED_S,), 0, jitter)) if calls_back else delay


def quick_delay_s(repeats: int, jitter: float) -> float | None:
    """How long to wait before repeating a call after `repeats` of them, in seconds; None: not once more."""
    return QUICK_DELAYS_S[repeats] * (0.8 + 0.4 * jitter) if repeats < len(QUICK_DELAYS_S) else None


def recheck_delay(checks: int, jitter: float) -> timedelta:
    """When to ask once more about a final payment, after `checks` questions without a firm word."""
    return _jittered(RECHECK_DELAYS_S, checks, jitter)


def earlier_delay(checks: int, jitter: float) -> timedelta:
    """When to ask once more about a road that was left, after `checks` questions without an answer."""
    return _jittered(EARLIER_DELAYS_S, checks, jitter)


def unasked_delay(jitter: float, place_in_s: float | None = None) -> timedelta:
    """When to try again to ask a question that never left. `place_in_s`: when it can, where that is known."""
    return _jittered((UNASKED_S,), 0, jitter) if place_in_s is None else timedelta(seconds=place_in_s)


def unaskable_delay(jitter: float) -> timedelta:
    """When to look again at a payment that nobody but a person can settle."""
    return _jittered((UNASKABLE_S,), 0, jitter)


def send_delay(attempts: int, jitter: float) -> timedelta:
    """How long to wait before a payment of which nothing was sent is tried again."""
    return _jittered(SEND_DELAYS_S, attempts, jitter)


def _jittered(delays_s: tuple[int, ...], count: int, jitter: float) -> timedelta:
    delay_s = delays_s[min(max(count, 0), len(delays_s) - 1)]
    return timedelta(seconds=delay_s * (0.8 + 0.4 * jitter))
