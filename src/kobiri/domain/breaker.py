"""Circuit breaker of one account and operation. Time is an argument: monotonic seconds.

CLOSED ──▶ OPEN           too many infrastructure failures; declines and 4xx never count
OPEN ──▶ HALF_OPEN        a call that moves nothing went well
HALF_OPEN ──▶ CLOSED      the one call that was let through went well
HALF_OPEN ──▶ OPEN        it did not
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

IN_A_ROW = 5  # whatever the time: a shop with two payments a minute is served too
WINDOW_S = 30.0
WINDOW_CALLS = 20
WINDOW_SHARE = 0.5
OPEN_S = 10.0  # times 0.8 to 1.2
REMEMBER_S = 300.0  # for availability
BUCKET_S = 5.0


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class _Bucket:
    number: int
    good: int = 0
    bad: int = 0


@dataclass(slots=True)
class Breaker:
    """Ask `begin` before each call, and tell afterwards how it went: `good`, `bad` or `neither`.

    `turn` counts the changes of state. A call that began in an earlier turn speaks of the past: it counts for
    availability, and changes nothing.
    """

    state: State = State.CLOSED
    open_until: float = 0.0
    turn: int = 1
    _in_a_row: int = 0
    _probing: bool = False
    _buckets: deque[_Bucket] = field(default_factory=deque)

    @property
    def lets_through(self) -> bool:
        """Whether a call that begins now would be let through."""
        return self.state is State.CLOSED or (self.state is State.HALF_OPEN and not self._probing)

    def begin(self) -> int | None:
        """The turn in which this call begins; None: it may not be made. In HALF_OPEN one at a time may."""
        if not self.lets_through:
            return None
        self._probing = self.state is State.HALF_OPEN
        return self.turn

    def good(self, now: float, began: int | None = None) -> None:
        """The provider answered in good order, whatever it said. `began`: the call's turn; None: this one."""
        self._bucket(now).good += 1
        if began not in (None, self.turn):
            return
        self._in_a_row = 0
        if self.state is State.HALF_OPEN:
            self._change(State.CLOSED)
            self._buckets.clear()

    def bad(self, now: float, jitter: float, began: int | None = None) -> None:
        """The provider, or the line to it, failed. `jitter` is a random number from 0 to 1, `began` as in `good`."""
        self._bucket(now).bad += 1
        if began not in (None, self.turn):
            return
        self._in_a_row += 1
        if self.state is State.HALF_OPEN or (self.state is State.CLOSED and self._has_enough(now)):
            self.stay_open(now, jitter)

    def neither(self, began: int | None = None) -> None:
        """The call said nothing about the provider."""
        if began in (None, self.turn):
            self._probing = False

    def stay_open(self, now: float, jitter: float) -> None:
        """Open it, or keep it open, for another while."""
        self._change(State.OPEN)
        self.open_until = now + OPEN_S * (0.8 + 0.4 * jitter)

    def half_open(self) -> None:
        """The provider answers again: let one call through."""
        if self.state is State.OPEN:
            self._change(State.HALF_OPEN)

    def counts(self, now: float, within_s: float = REMEMBER_S) -> tuple[int, int]:
        """Good and bad calls of the last seconds."""
        first = (now - within_s) // BUCKET_S
        recent = [bucket for bucket in self._buckets if bucket.number > first]
        return sum(bucket.good for bucket in recent), sum(bucket.bad for bucket in recent)

    def _change(self, state: State) -> None:
        self.state, self._probing, self._in_a_row = state, False, 0
        self.turn += 1

    def _has_enough(self, now: float) -> bool:
        good, bad = self.counts(now, WINDOW_S)
        return self._in_a_row >= IN_A_ROW or (good + bad >= WINDOW_CALLS and bad >= WINDOW_SHARE * (good + bad))

    def _bucket(self, now: float) -> _Bucket:
        number = int(now // BUCKET_S)
        if not self._buckets or self._buckets[-1].number != number:
            self._buckets.append(_Bucket(number))
            while self._buckets[0].number < number - REMEMBER_S // BUCKET_S:
                self._buckets.popleft()
        return self._buckets[-1]
