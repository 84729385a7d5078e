"""Codes of providers that no table of reasons lists: each is told once, and counted."""

from collections import Counter

import structlog

from kobiri.domain.outcome import Doubtful, Finding, NotFound, NotSent, Outcome
from kobiri.domain.redaction import as_code

log = structlog.get_logger(__name__)

MOST_CODES = 1_000  # of each provider: a merchant's own account may say what it likes
OTHERS = "others"  # what comes after so many different ones, and what may be no code, is counted together
TOLD_AGAIN_AT = frozenset(10**power for power in range(19))


class Unlisted:
    """How often each code came that is in no table, beside a clear word or in its place; by provider and code."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self._codes: Counter[str] = Counter()  # how many different ones of each provider

    def note(self, provider_id: str, said: Outcome | Finding) -> None:
        """Count the code and warn of it: at the first time, at the tenth, at the hundredth and so on."""
        if isinstance(said, NotSent | NotFound | Doubtful) or said.unlisted is None:
            return
        code = as_code(said.unlisted) or OTHERS
        if (provider_id, code) not in self.seen:
            if self._codes[provider_id] >= MOST_CODES:
                code = OTHERS
            else:
                self._codes[provider_id] += 1
        self.seen[provider_id, code] += 1
        seen = self.seen[provider_id, code]
        if seen in TOLD_AGAIN_AT:
            word = type(said).__name__
            log.warning("provider.unlisted_code", provider=provider_id, code=code, beside=word, seen=seen)


UNLISTED = Unlisted()  # one for the process: a code is the provider's, whoever's account it came to
