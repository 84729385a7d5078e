"""MTN MoMo: one account at the Collection API. What the answers mean stands in wire.py."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeVar

from kobiri import net
from kobiri.domain.ids import ProviderReference
from kobiri.domain.outcome import Accepted, Finding, NotSent, Outcome, Unknown
from kobiri.providers.base import CallbackWord, Collection, Operation, ProviderSpec
from kobiri.providers.mtn import wire

T = TypeVar("T")

SPEC = ProviderSpec(
    id="mtn",
    name="MTN MoMo",
    networks=frozenset({"mtn"}),
    collect=Operation(dedupes=True, status_query="soft"),
    signs_callbacks=False,
)

# The new platform's token call may take 10 to 20 s (README 1 [D2]), longer than a request waits for
# it. It goes on in the background then, for the requests that come after.
TOKEN_WITHIN_S = 30.0
RENEW_PAUSE_S = 5.0  # between attempts to renew a token that still lives
REFRESH_BEFORE_S = 600.0  # about 10 minutes before its end: README 1 [D]


@dataclass(frozen=True, slots=True, kw_only=True)
class MtnAccount:
    """One API user at MTN's Collection product, and how it is used. Secrets do not show.

    `callback_url`: where MTN shall post outcomes; its path may hold a secret too.
    """

    base_url: str
    target_environment: str
    currency: str
    api_user: str = field(repr=False)
    api_key: str = field(repr=False)
    subscription_key: str = field(repr=False)
    callback_url: str | None = field(repr=False)
    webhook_secrets: tuple[bytes, ...] = field(repr=False)
    modes: frozenset[str]
    answer_within_s: float
    max_connections: int


@dataclass(frozen=True, slots=True)
class _Bearer:
    """The headers that every call with one token has. Times are monotonic."""

    headers: dict[str, str] = field(repr=False)
    refresh_at: float
    ends_at: float


class _Tokens:
    """The account's token: fetched once for all who wait for it, and renewed before it ends."""

    def __init__(self, account: MtnAccount, session: net.Session, clock: Callable[[], float]) -> None:
        self._account = account
        self._clock = clock
        self._session = session
        self._current: _Bearer | None = None
        self._fetch: asyncio.Task[_Bearer | NotSent] | None = None
        self._renew_after = 0.0

    async def get(self, refused: _Bearer | None, within_s: float) -> _Bearer | NotSent:
        """Return a token that is not `refused`, or why there is none after `within_s`."""
        if refused is not None and self._current is refused:
            self._current = None
        now, current = self._clock(), self._current
        if current is not None and now < current.ends_at:
            if now >= max(current.refresh_at, self._renew_after):
                self._renew_after = now + RENEW_PAUSE_S
                self._fetching()
            return current
        # The fetch is nobody's own: who waits may be cancelled or run out of time, it goes on for the others.
        fetch = self._fetching()
        await asyncio.wait({fetch}, timeout=max(within_s, 0))
        if not fetch.done() or fetch.cancelled():
            return NotSent("no token in time")
        return fetch.result()

    def _fetching(self) -> asyncio.Task[_Bearer | NotSent]:
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._new())
        return self._fetch

    async def _new(self) -> _Bearer | NotSent:
        account, asked_at = self._account, self._clock()
        headers = wire.token_headers(
            account.api_user, account.api_key, account.subscription_key, account.target_environment
        )
        url = account.base_url.rstrip("/") + wire.TOKEN_PATH
        try:
            answer = await net.ask(self._session, "POST", url, headers=headers, body=None, deadline_s=TOKEN_WITHIN_S)
        except (net.NotSent, net.MaybeSent) as error:
            return NotSent(f"no token: {error}")
        token = wire.read_token(answer.status, answer.body)
        if isinstance(token, NotSent):
            return token
        self._current = _Bearer(
            wire.bearer_headers(token.text, account.subscription_key, account.target_environment),
            refresh_at=asked_at + max(token.life_s - REFRESH_BEFORE_S, token.life_s / 2),
            ends_at=asked_at + token.life_s,
        )
        return self._current

    async def close(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait({self._fetch})


class MtnProvider:
    """Make it inside a running loop; close it. `clock` is monotonic, in seconds: tokens live by it."""

    def __init__(self, account: MtnAccount, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._account = account
        self._base_url = account.base_url.rstrip("/")  # an extra slash gives 400: README 2 [D]
        self._session = net.provider_session(account.max_connections)
        self._tokens = _Tokens(account, self._session, clock)

    @property
    def spec(self) -> ProviderSpec:
        return SPEC

    @property
    def fingerprint(self) -> str:
        account = self._account
        where = f"{self._base_url}\n{account.target_environment}\n{account.api_user}"
        return hashlib.sha256(where.encode()).hexdigest()[:16]

    @property
    def currencies(self) -> frozenset[str]:
        return frozenset({self._account.currency})

    @property
    def modes(self) -> frozenset[str]:
        return self._account.modes

    @property
    def answer_within_s(self) -> float:
        return self._account.answer_within_s

    @property
    def callback_secrets(self) -> tuple[bytes, ...]:
        return self._account.webhook_secrets

    async def collect(self, collection: Collection) -> Outcome:
        body = wire.collection_body(collection)
        callback_url = self._account.callback_url

        async def send(bearer: _Bearer, deadline_s: float) -> Outcome | wire.TokenRefused:
            headers = wire.collection_headers(bearer.headers, collection, callback_url)
            url = self._base_url + wire.REQUEST_TO_PAY_PATH
            try:
                answer = await net.send_once(
                    self._session, "POST", url, headers=headers, body=body, deadline_s=deadline_s
                )
            except net.NotSent as error:
                return NotSent(str(error))
            except net.MaybeSent as error:
                return Unknown(str(error))
            outcome = wire.read_create(answer.status, answer.body)
            if isinstance(outcome, Accepted) and answer.status == HTTPStatus.ACCEPTED:
                return Accepted(calls_back=callback_url is not None)
            return outcome  # a duplicate's outcome may be there already: no callback to wait for

        # NotSent stays NotSent on the second pass too: the 401 of the first one means "has not been applied"
        # (RFC 9110, 15.5.2), for the token is looked at before anything else. A 401 with a fresh token is
        # another matter: what refuses then is not what we think it is, and _authorized calls that Unknown.
        return await self._authorized(send)

    async def find(self, reference: ProviderReference) -> Finding:
        url = f"{self._base_url}{wire.REQUEST_TO_PAY_PATH}/{reference}"

        async def ask(bearer: _Bearer, deadline_s: float) -> Finding | wire.TokenRefused:
            try:
                answer = await net.ask(
                    self._session, "GET", url, headers=bearer.headers, body=None, deadline_s=deadline_s
                )
            except (net.NotSent, net.MaybeSent) as error:
                return Unknown(str(error))
            return wire.read_status(answer.status, answer.body, reference)

        finding: Finding | NotSent = await self._authorized(ask)
        return Unknown(finding.reason) if isinstance(finding, NotSent) else finding

    async def _authorized(
        self, call: Callable[[_Bearer, float], Awaitable[T | wire.TokenRefused]]
    ) -> T | NotSent | Unknown:
        """Make a call with the token, and where MTN refuses the token, once more with a fresh one.

        Half of the time left is kept for the call itself: a late token must not turn NotSent into Unknown.
        """
        ends_at = time.monotonic() + self._account.answer_within_s
        refused: _Bearer | None = None
        for _ in range(2):
            bearer = await self._tokens.get(refused, (ends_at - time.monotonic()) / 2)
            if isinstance(bearer, NotSent):
                return bearer
            outcome = await call(bearer, ends_at - time.monotonic())
            if not isinstance(outcome, wire.TokenRefused):
                return outcome
            refused = bearer
        return Unknown("HTTP 401 with a fresh token")

    def read_callback(self, headers: Mapping[str, str], body: bytes) -> CallbackWord:  # noqa: ARG002
        return wire.read_callback(body)

    async def close(self) -> None:
        await self._tokens.close()
        await self._session.close()
