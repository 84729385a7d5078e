"""Which provider account serves a payment now."""

from collections.abc import Sequence

from kobiri.domain.errors import NoRoute, RouteClosed
from kobiri.domain.payment import Mode, Payment
from kobiri.providers.base import Provider

RETRY_CLOSED_S = 30


class Roads:
    """The provider accounts, in the order of preference. `closed` names providers that an operator switched off."""

    def __init__(self, accounts: Sequence[Provider], closed: frozenset[str] = frozenset()) -> None:
        self._accounts = tuple(accounts)
        self._closed = closed

    def pick(self, network: str, mode: Mode, currency: str) -> Provider:
        """The first open road to this wallet. Raises NoRoute (there is none) or RouteClosed (none is open now)."""
        serving = [
            account
            for account in self._accounts
            if network in account.spec.networks and mode in account.account.modes and currency in account.currencies
        ]
        if not serving:
            raise NoRoute(f"No provider account collects {currency} from {network} wallets in {mode} mode.")
        for account in serving:
            if account.spec.id not in self._closed:
                return account
        raise RouteClosed(f"Collections from {network} wallets are switched off.", retry_after_s=RETRY_CLOSED_S)

    def account_of(self, payment: Payment) -> Provider | None:
        """The account that this payment uses, or None when the configuration has it no more.

        Another account must not be asked: that it does not know the reference would prove nothing.
        """
        for account in self._accounts:
            if account.spec.id == payment.provider and account.fingerprint == payment.account_fingerprint:
                return account
        return None

    def receiver(self, provider: str) -> Provider | None:
        """The platform's account at a provider, by whose path a callback came in."""
        return next((account for account in self._accounts if account.spec.id == provider), None)

    @property
    def longest_call_s(self) -> float:
        """The longest time that a call may take, over all accounts."""
        return max((account.account.deadline_s for account in self._accounts), default=10.0)

    async def close(self) -> None:
        for account in self._accounts:
            await account.close()
