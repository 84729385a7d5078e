"""What every provider is: a spec that declares what it can do, and an adapter that does it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias, assert_never
from urllib.parse import urlsplit

from kobiri.domain.address import on_this_machine
from kobiri.domain.credential import wrong_with
from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Accepted, Declined, Finding, Outcome, Succeeded, Unknown
from kobiri.domain.payment import Kind, Mode
from kobiri.domain.statement import Direction

# --- what a provider declares ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """What a provider can do with one kind of movement. No field has a default: each is a declaration.

    `dedupes`: a second request with the same reference of ours moves nothing. `repeats`: not even one that follows at
    once, while the first may still be open; only where the provider promises it. Else a request leaves again only after
    the first is surely over, which with the usual times is never.
    `status_query`: "none", "soft" (a not-found may still turn into a found), or "firm".
    `partial`: a part of the amount may be moved (refunds; the others always move what is asked).
    `needs`: optional fields that an account must have for it.
    """

    dedupes: bool
    repeats: bool
    status_query: Literal["none", "soft", "firm"]
    partial: bool
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that an account must know. `default` None: it must be given, unless it is `optional`.

    `wrong` tells what is wrong with a value, as the end of a sentence that names it; None: nothing. It is asked before
    a value is taken. What is stored already opens all the same.
    The platform's account takes it from the environment, under the provider's id and this name: MTN_TARGET_ENVIRONMENT.
    """

    name: str
    label: str
    secret: bool = False
    default: str | None = None
    optional: bool = False
    choices: tuple[str, ...] = ()
    wrong: Callable[[str], str | None] = wrong_with


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """The declaration of one provider; routes, settings, docs and limits are derived from it. Nothing has a default.

    `base_url`: where an account is that names none. `known_mode` tells what is documented of a base URL: "test", no
    real money moves there; "live", it does; None, nobody has said so.
    `networks`: whose wallets it reaches. A kind of movement that is not in `operations` is not offered.
    `answer_within_s`: what a client waits for an answer. `deadline_s`: what the provider gets, where that is longer:
    the call goes on then, and the client is told that it is on its way. None: as long, and then it is asked. Without a
    status query it must be long, for such a call is never cut short. `status_reads_per_s`: how often it wants to be
    asked; None: it does not say.
    """

    id: str
    name: str
    base_url: str
    known_mode: Callable[[str], Mode | None]
    networks: frozenset[str]
    operations: Mapping[Kind, Operation]
    signs_callbacks: bool
    fields: tuple[Field, ...]
    answer_within_s: float
    deadline_s: float | None
    status_reads_per_s: float | None


def mode_by_host(*, test: Sequence[str], live: Sequence[str]) -> Callable[[str], Mode | None]:
    """The `known_mode` of a provider whose addresses are told apart by their host alone."""

    def known_mode(base_url: str) -> Mode | None:
        try:
            host = (urlsplit(base_url).hostname or "").rstrip(".")
        except ValueError:
            return None
        return "test" if host in test else "live" if host in live else None

    return known_mode


def refused_mode(spec: ProviderSpec, base_url: str, mode: str) -> str | None:
    """Why an account at this address cannot be of this mode (live, test or both), in one sentence; None: it can.

    A test key must never ask a real payer, and a live payment never succeed without money.
    """
    known = spec.known_mode(base_url)
    if mode == "both":
        return (
            None if on_this_machine(base_url) else "Only a simulator on this machine can serve both live and test keys."
        )
    if known is None or known == mode:
        return None
    does = "no real money moves" if known == "test" else "real money moves"
    return f"At this address of {spec.name} {does}, so it cannot serve {mode} keys."


# --- an account at a provider ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account, as its owner configured it. Nothing secret shows.

    `values` are those of the spec's fields, complete (defaults filled in, absent optional ones left out).
    `callback_url`: where the provider shall post outcomes; its path may hold a secret too. `webhook_secrets`: with one
    of them every callback must be signed by X-Signature-256; empty: none needs to.
    """

    base_url: str
    modes: frozenset[str]
    values: Mapping[str, str] = field(repr=False)
    callback_url: str | None = field(repr=False)
    webhook_secrets: tuple[bytes, ...] = field(repr=False)
    answer_within_s: float
    deadline_s: float
    max_connections: int


def kinds_of(spec: ProviderSpec, account: Account) -> frozenset[Kind]:
    """What an account can do: what its provider offers, as far as it has what that needs."""
    return frozenset(
        kind for kind, operation in spec.operations.items() if all(account.values.get(name) for name in operation.needs)
    )


def secrets_of(spec: ProviderSpec, account: Account) -> list[str]:
    """What must be shown nowhere."""
    return [account.values[field.name] for field in spec.fields if field.secret and field.name in account.values]


def fingerprint(*where: str) -> str:
    """Where an account points, from base URL, environment and API user; it tells none of them."""
    return hashlib.sha256("\n".join(where).encode()).hexdigest()[:16]


# --- what is asked of it --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Collection:
    """Money from a payer's wallet."""

    reference: ProviderReference
    money: Money
    payer: Msisdn
    network: str
    description: str | None


@dataclass(frozen=True, slots=True)
class Payout:
    """Money into a payee's wallet."""

    reference: ProviderReference
    money: Money
    payee: Msisdn
    network: str
    description: str | None


@dataclass(frozen=True, slots=True)
class Refund:
    """Money of a collection back to its payer. The collection went over this very account and succeeded.

    `collection`: our reference of it; `collection_transaction_id`: theirs, where they told one.
    """

    reference: ProviderReference
    money: Money
    payer: Msisdn
    network: str
    description: str | None
    collection: ProviderReference
    collection_transaction_id: str | None


Request: TypeAlias = Collection | Payout | Refund


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether a provider takes an account, and what was learnt on the way.

    `trouble`: why it does not, in one sentence that tells no secret; None: it does. `facts`: by name what the account
    uses (versions, keys, paddings) and what the provider said, for people; no secret and no whole number in them.
    """

    trouble: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


def kind_of(request: Request) -> Kind:
    """What is asked for."""
    match request:
        case Collection():
            return "collection"
        case Payout():
            return "payout"
        case Refund():
            return "refund"
        case _:
            assert_never(request)


# --- what it tells by itself ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Callback:
    """A callback as it came in. Header names are in lower case; a name may stand there more than once."""

    method: str
    authority: str
    path: str
    headers: Sequence[tuple[str, str]]
    body: bytes = field(repr=False)

    def values(self, name: str) -> list[str]:
        """All values of one header."""
        return [value for known, value in self.headers if known == name]


class Authenticity(StrEnum):
    """Whether a callback proves who sent it. A check that cannot be made is never GENUINE."""

    GENUINE = "genuine"
    UNSIGNED = "unsigned"
    FORGED = "forged"


@dataclass(frozen=True, slots=True)
class CallbackWord:
    """What a callback says of whose payment; `money` and `payer` are None where it does not name them.

    `payer` is as much of a number as it shows: see `as_told`. `direction`: whether it is about money that comes in (a
    collection) or goes out (a payout or a refund); None where it does not tell. `finding`: Unknown where the words
    contradict each other, or are none that we know.
    """

    reference: ProviderReference
    finding: Accepted | Succeeded | Declined | Unknown
    money: Money | None
    payer: str | None = field(repr=False)
    direction: Direction | None


class Unreadable(Exception):
    """A callback that is not one. The text is one plain sentence without any of its content."""


class Foreign(Unreadable):
    """A callback about an id that is none of ours, such as of a payment that somebody made at the provider's till."""


# --- the adapter ----------------------------------------------------------------------------------------------------


class Provider(Protocol):
    """One account at one provider. It never raises for anything that the network or the provider does.

    Made inside a running loop by its `Build`; closed after use.
    """

    @property
    def spec(self) -> ProviderSpec: ...

    @property
    def account(self) -> Account: ...

    @property
    def currencies(self) -> frozenset[str]: ...

    @property
    def countries(self) -> frozenset[str] | None:
        """ISO 3166 codes of the countries whose numbers it serves; None: of any, as a sandbox may."""
        ...

    def fingerprint_of(self, kind: Kind) -> str:
        """Where its movements of one kind go: changes with base URL, environment or API user, and tells no secret."""
        ...

    async def send(self, request: Request, *, within_s: float, first_byte_before: float | None) -> Outcome:
        """Move money, once: `request` is of a kind that the spec offers.

        All of it ends within `within_s` seconds. After the monotonic time `first_byte_before` (where given) the first
        byte of the money request must not leave any more: NotSent.
        """
        ...

    async def find(self, kind: Kind, reference: ProviderReference, *, within_s: float) -> Finding:
        """Ask what became of a movement. Where there is no status query: Unknown with `askable` False."""
        ...

    async def check(self, kind: Kind | None = None, *, within_s: float) -> Checked:
        """Make a real call that moves nothing, to learn whether the provider takes this account.

        For one kind of movement, or (`kind` None) for all that it can do.
        """
        ...

    async def verify(self, callback: Callback) -> Authenticity:
        """Whether a callback is signed as this provider signs. X-Signature-256 is looked at before, by others."""
        ...

    def read_callback(self, callback: Callback) -> CallbackWord:
        """Read a callback's words; pure. Raises Foreign, Unreadable."""
        ...

    async def close(self) -> None: ...


Build: TypeAlias = Callable[[Account], Provider]
