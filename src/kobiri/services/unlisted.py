"""Codes of providers that no table of reasons lists: each is told once, and counted."""

from collections import Counter

import structlog

from kobiri.domain.ids import AccountId
from kobiri.domain.outcome import Doubtful, Finding, NotFound, NotSent, Outcome
from kobiri.domain.redaction import as_code

log = structlog.get_logger(__name__)

MOST_CODES = 200  # of one account: a merchant's own may say what it likes. Airtel's tables have some sixty
OTHERS = "others"  # what comes after so many different ones, and what may be no code, is counted together
TOLD_AGAIN_AT = frozenset(10**power for power in range(19))


def code_of(said: Outcome | Finding) -> str | None:
    """The code in an answer that no table lists, as it may be told: `others` where it may be a number or a key."""
    if isinstance(said, NotSent | NotFound | Doubtful) or said.unlisted is None:
        return None
    return as_code(said.unlisted) or OTHERS


class Unlisted:
    """How often each code came to one account that is in no table, beside a clear word or in its place.

    Each account counts for itself, so that what one merchant's account says hides nobody else's news.
    """

    def __init__(self, provider_id: str, account_id: AccountId | None) -> None:
        self.seen: Counter[str] = Counter()
        self._provider_id = provider_id
        self._account_id = account_id

    def note(self, said: Outcome | Finding) -> None:
        """Count the code and warn of it: at the first time, at the tenth, at the hundredth and so on."""
        code = code_of(said)
        if code is None:
            return
        if code not in self.seen and len(self.seen) >= MOST_CODES:
            code = OTHERS
        self.seen[code] += 1
        seen = self.seen[code]
        if seen in TOLD_AGAIN_AT:
            log.warning(
                "provider.unlisted_code",
                provider=self._provider_id,
                account_id=self._account_id,
                code=code,
                beside=type(said).__name__,
                seen=seen,
            )
