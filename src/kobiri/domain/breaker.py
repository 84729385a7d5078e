"""Circuit breaker of one account and kind of call. Time is an argument: monotonic seconds.

CLOSED ──▶ OPEN           too many troubles of different payers; declines and ordinary 4xx never count
OPEN ──▶ HALF_OPEN        its time is over, and a call that moves nothing went well
HALF_OPEN ──▶ CLOSED      a call that was let through went well: one at a time is, and more only where one takes long
HALF_OPEN ──▶ OPEN        it did not
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum

IN_A_ROW = 5  # whatever the time: a shop with two payments a minute is served too
WINDOW_S = 30.0
WINDOW_CALLS = 20
WINDOW_SHARE = 0.5
OPEN_S = 10.0  # times 0.8 to 1.2; twice as long each time that the call which was let through went badly
LONGEST_S = 40.0  # with jitter and the call that tries: back within a minute after the provider is
MOST_TRIALS = 8  # places for calls in HALF_OPEN, after some that lasted without trouble
REMEMBER_S = 300.0  # for availability
BUCKET_S = 5.0


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Trouble(StrEnum):
    """Why a circuit is open, as merchants read it."""

    OUTAGE = "its circuit is open"
    REFUSED = "it refuses the account's credentials"
    REST = "it asked for a rest"


@dataclass(slots=True)
class _Bucket:
    number: int
    good: int = 0
    bad: set[Hashable] = field(default_factory=set)


@dataclass(slots=True)
class Breaker:
    """Ask `begin` before each call, and tell afterwards how it went: `good`, `bad` or `neither`.

    `turn` counts the changes of state. A call that began in an earlier turn speaks of the past: it counts for
    availability, and changes nothing. `because` tells why it was last opened.
    """

    state: State = State.CLOSED
    because: Trouble = Trouble.OUTAGE
    open_until: float = 0.0
    turn: int = 1
    _row: set[Hashable] = field(default_factory=set, repr=False)  # whose calls went badly since one went well
    _failed_tries: int = 0
    _places: int = 0  # how many more calls may begin in HALF_OPEN
    _buckets: deque[_Bucket] = field(default_factory=deque, repr=False)

    @property
    def lets_through(self) -> bool:
        """Whether a call that begins now would be let through."""
        return self.state is State.CLOSED or (self.state is State.HALF_OPEN and self._places > 0)

    def begin(self) -> int | None:
        """The turn in which this call begins; None: it may not be made. In HALF_OPEN one may (see `lasts`)."""
        if not self.lets_through:
            return None
        if self.state is State.HALF_OPEN:
            self._places -= 1
        return self.turn

    def good(self, now: float, began: int | None = None) -> None:
        """The provider answered in good order, whatever it said. `began`: the call's turn; None: this one."""
        self._bucket(now).good += 1
        if began not in (None, self.turn):
            return
        if self.state is State.HALF_OPEN:
            self.close()
        self._row.clear()

    def bad(
        self,
        now: float,
        jitter: float,
        began: int | None = None,
        *,
        about: Hashable | None = None,
        trouble: Trouble = Trouble.OUTAGE,
        rest_s: float = 0.0,
    ) -> None:
        """The provider, or the line to it, failed. `jitter` is a random number from 0 to 1, `began` as in `good`.

        `about`: whose call it was. What goes badly again for the same one tells nothing new of the provider. None: it
        is surely not about one payer, as where no connection was to be had.
        """
        about = object() if about is None else about
        self._bucket(now).bad.add(about)
        if began not in (None, self.turn):
            return
        known = about in self._row
        self._row.add(about)
        if known:
            self._give_back(1)
        elif self.state is State.HALF_OPEN:
            self._failed_tries += 1
            self.open(now, jitter, trouble, rest_s)
        elif self.state is State.CLOSED and self._has_enough(now):
            self.open(now, jitter, trouble, rest_s)

    def neither(self, began: int | None = None) -> None:
        """The call said nothing about the provider."""
        if began in (None, self.turn):
            self._give_back(1)

    def lasts(self, began: int) -> None:
        """The call has a connection and met no trouble for a while, such as one that awaits its payer.

        Its place is another's, and there is one more, so that no payer keeps a network shut for all others.
        """
        if began == self.turn:
            self._give_back(2)

    def open(self, now: float, jitter: float, trouble: Trouble = Trouble.OUTAGE, rest_s: float = 0.0) -> None:
        """Open it, or keep it open, for another while: for `rest_s` at least, where so much rest was asked for."""
        pause_s = min(OPEN_S * 2**self._failed_tries, LONGEST_S) * (0.8 + 0.4 * jitter)
        self._change(State.OPEN)
        self.because = trouble
        self.open_until = now + max(pause_s, min(rest_s, LONGEST_S) * (1 + 0.2 * jitter))

    def half_open(self) -> None:
        """The provider answers again: let one call through."""
        if self.state is State.OPEN:
            self._change(State.HALF_OPEN)

    def close(self) -> None:
        """Let all calls through, and forget what went badly."""
        self._change(State.CLOSED)
        self._row.clear()
        self._failed_tries = 0
        self._buckets.clear()

    def counts(self, now: float, within_s: float = REMEMBER_S) -> tuple[int, int]:
        """Good calls of the last seconds, and those whose calls went badly."""
        first = (now - within_s) // BUCKET_S
        recent = [bucket for bucket in self._buckets if bucket.number > first]
        return sum(bucket.good for bucket in recent), len(set[Hashable]().union(*(bucket.bad for bucket in recent)))

    def _change(self, state: State) -> None:
        self.state, self._places = state, int(state is State.HALF_OPEN)
        self.turn += 1

    def _give_back(self, places: int) -> None:
        if self.state is State.HALF_OPEN:
            self._places = min(self._places + places, MOST_TRIALS)

    def _has_enough(self, now: float) -> bool:
        if len(self._row) >= IN_A_ROW:
            return True
        good, bad = self.counts(now, WINDOW_S)
        return good + bad >= WINDOW_CALLS and bad >= WINDOW_SHARE * (good + bad)

    def _bucket(self, now: float) -> _Bucket:
        number = int(now // BUCKET_S)
        if not self._buckets or self._buckets[-1].number != number:
            self._buckets.append(_Bucket(number))
            while self._buckets[0].number < number - REMEMBER_S // BUCKET_S:
                self._buckets.popleft()
        return self._buckets[-1]
