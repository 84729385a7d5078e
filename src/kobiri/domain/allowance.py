"""How often a provider may be called: a budget for repeats, and a pace for questions. Time is an argument."""

from dataclasses import dataclass

EARNED_PER_CALL = 0.1  # so repeats stay at a tenth of the calls
BUDGET_FULL = 10.0  # a shop that has just opened may repeat, too


@dataclass(slots=True)
class RetryBudget:
    """Each call earns a tenth of a repeat: when a provider is down, repeats must not double its load."""

    _left: float = BUDGET_FULL

    def earn(self) -> None:
        self._left = min(self._left + EARNED_PER_CALL, BUDGET_FULL)

    def spend(self) -> bool:
        """Whether one more repeat is in the budget; it is used up then."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Pace:
    """Calls evenly spaced, `per_s` of them in any second."""

    per_s: float
    _next_at: float = 0.0

    def reserve(self, now: float, within_s: float) -> float | None:
        """How long the next call must wait for its place, in seconds; None: there is none within that time."""
        at = max(now, self._next_at)
        if at - now > within_s:
            return None
        self._next_at = at + 1 / self.per_s
        return at - now
