"""What every provider is: a spec that declares what it can do, and an adapter that does it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Accepted, Declined, Finding, Outcome, Succeeded


@dataclass(frozen=True, slots=True)
class Operation:
    """What a provider can do with one kind of movement. No field has a default: each is a declaration.

    `dedupes`: a second request with the same reference of ours moves nothing.
    `status_query`: "none", "soft" (a not-found may still turn into a found), or "firm".
    """

    dedupes: bool
    status_query: Literal["none", "soft", "firm"]


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """The declaration of one provider; routes, docs and limits are derived from it."""

    id: str
    name: str
    networks: frozenset[str]
    collect: Operation
    signs_callbacks: bool


@dataclass(frozen=True, slots=True)
class Collection:
    """A request to a payer's wallet."""

    reference: ProviderReference
    money: Money
    payer: Msisdn
    description: str | None


@dataclass(frozen=True, slots=True)
class CallbackWord:
    """What a callback says of whose payment; `money` and `payer` are None where it does not name them."""

    reference: ProviderReference
    finding: Accepted | Succeeded | Declined
    money: Money | None
    payer: str | None = field(repr=False)


class Unreadable(Exception):
    """A callback that is not one. The text is one plain sentence without any of its content."""


class Provider(Protocol):
    """One account at one provider."""

    @property
    def spec(self) -> ProviderSpec: ...

    @property
    def fingerprint(self) -> str:
        """Where this account points: changes with base URL, environment or API user, and tells no secret."""
        ...

    @property
    def currencies(self) -> frozenset[str]: ...

    @property
    def modes(self) -> frozenset[str]:
        """Which of "live" and "test" this account serves."""
        ...

    @property
    def answer_within_s(self) -> float:
        """How long a call may take, and the client waits."""
        ...

    @property
    def callback_secrets(self) -> tuple[bytes, ...]:
        """Secrets with which genuine callbacks are signed; empty where callbacks are hints only."""
        ...

    async def collect(self, collection: Collection) -> Outcome:
        """Ask the payer for money. Never raises for anything that the network or the provider does."""
        ...

    async def find(self, reference: ProviderReference) -> Finding:
        """Ask what became of a collection. Never raises for anything that the network or the provider does."""
        ...

    def read_callback(self, headers: Mapping[str, str], body: bytes) -> CallbackWord:
        """Read a callback's words; pure. Raises Unreadable."""
        ...

    async def close(self) -> None: ...
