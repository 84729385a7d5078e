"""MTN MoMo: one account at the Open API. What the answers mean stands in wire.py."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TypeVar, assert_never

from kobiri import net
from kobiri.domain.ids import ProviderReference
from kobiri.domain.outcome import Accepted, Finding, NotSent, Outcome, Unknown
from kobiri.domain.payment import Kind
from kobiri.providers.answers import own_word
from kobiri.providers.base import (
    Account,
    Authenticity,
    Callback,
    CallbackWord,
    Checked,
    Field,
    Operation,
    ProviderSpec,
    Request,
    fingerprint,
    kind_of,
    mode_by_host,
    secrets_of,
)
from kobiri.providers.mtn import wire
from kobiri.providers.tokens import Fresh, Token, Tokens

T = TypeVar("T")

DISBURSEMENT = ("disbursement_api_user", "disbursement_api_key", "disbursement_subscription_key")

SPEC = ProviderSpec(
    id="mtn",
    name="MTN MoMo",
    base_url="https://sandbox.momodeveloper.mtn.com",
    known_mode=mode_by_host(
        test=("sandbox.momodeveloper.mtn.com",), live=("proxy.momoapi.mtn.com", "momoapi.momo.africa")
    ),
    networks=frozenset({"mtn"}),
    operations={
        "collection": Operation(dedupes=True, repeats=True, status_query="soft", partial=False, needs=()),
        "payout": Operation(dedupes=True, repeats=True, status_query="soft", partial=False, needs=DISBURSEMENT),
        "refund": Operation(dedupes=True, repeats=True, status_query="soft", partial=True, needs=DISBURSEMENT),
    },
    signs_callbacks=False,
    fields=(
        Field("target_environment", "Target environment, such as mtnzambia", default="sandbox"),
        Field("currency", "Currency; the environment's own when left out", optional=True),
        Field("collection_api_user", "Collection: API user"),
        Field("collection_api_key", "Collection: API key", secret=True),
        Field("collection_subscription_key", "Collection: subscription key", secret=True),
        # Without these three only collections are possible.
        Field("disbursement_api_user", "Disbursement: API user", optional=True),
        Field("disbursement_api_key", "Disbursement: API key", secret=True, optional=True),
        Field("disbursement_subscription_key", "Disbursement: subscription key", secret=True, optional=True),
        Field("payout_call", "Payouts by MTN's call", default="transfer", choices=("transfer", "deposit")),
    ),
    answer_within_s=10,
    deadline_s=None,
    status_reads_per_s=10,  # README 7 [D]
)

# The sandbox takes EUR alone; each country its own money (README 2 [D2]).
CURRENCIES = {
    "sandbox": "EUR", "mtnzambia": "ZMW", "mtnuganda": "UGX", "mtnghana": "GHS", "mtnrwanda": "RWF",
    "mtncameroon": "XAF", "mtncongo": "XAF", "mtnivorycoast": "XOF", "mtnbenin": "XOF",
    "mtnguineaconakry": "GNF", "mtnswaziland": "SZL", "mtnsouthafrica": "ZAR", "mtnliberia": "LRD",
    "mtnsouthsudan": "SSP", "mtnnigeria": "NGN",
}  # fmt: skip

# The sandbox is not here: it takes any number (README 8 [O]).
COUNTRIES = {
    "mtnzambia": "ZM", "mtnuganda": "UG", "mtnghana": "GH", "mtnrwanda": "RW", "mtncameroon": "CM", "mtncongo": "CG",
    "mtnivorycoast": "CI", "mtnbenin": "BJ", "mtnguineaconakry": "GN", "mtnswaziland": "SZ", "mtnsouthafrica": "ZA",
    "mtnliberia": "LR", "mtnsouthsudan": "SS", "mtnnigeria": "NG",
}  # fmt: skip

PRODUCTS: tuple[wire.Product, ...] = ("collection", "disbursement")
NO_DISBURSEMENT = "the account has no Disbursement API user, API key and subscription key"

# The new platform's token call may take 10 to 20 s (README 1 [D2]), longer than a request waits for
# it. It goes on in the background then, for the requests that come after.
TOKEN_WITHIN_S = 30.0
RENEW_TOKEN_BEFORE_S = 600.0  # about 10 minutes before its end: README 1 [D]

Bearer = Token[dict[str, str]]


@dataclass(frozen=True, slots=True)
class _Product:
    """The API user of one of MTN's products, and where it asks for its tokens."""

    name: wire.Product
    token_url: str
    target_environment: str
    api_user: str = field(repr=False)
    api_key: str = field(repr=False)
    subscription_key: str = field(repr=False)


def _product(account: Account, base_url: str, name: wire.Product) -> _Product | None:
    """A product of this account, or None where it has not all that the product needs."""
    values = account.values
    user, key, subscription = (values.get(f"{name}_{part}") for part in ("api_user", "api_key", "subscription_key"))
    if not (user and key and subscription):
        return None
    return _Product(
        name=name,
        token_url=base_url + wire.token_path(name),
        target_environment=values["target_environment"],
        api_user=user,
        api_key=key,
        subscription_key=subscription,
    )


class MtnProvider:
    """Make it inside a running loop; close it. `clock` is monotonic, in seconds: tokens live by it."""

    def __init__(self, account: Account, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._account = account
        self._base_url = account.base_url.rstrip("/")  # an extra slash gives 400: README 2 [D]
        self._session = net.provider_session(account.max_connections)
        products = (_product(account, self._base_url, name) for name in PRODUCTS)
        self._tokens = {
            product.name: Tokens(
                partial(self._new_token, product), what="token", renew_before_s=RENEW_TOKEN_BEFORE_S, clock=clock
            )
            for product in products
            if product
        }
        self._said: dict[str, str] = {}  # MTN's last word to a question for a token, by product

    @property
    def spec(self) -> ProviderSpec:
        return SPEC

    @property
    def account(self) -> Account:
        return self._account

    def fingerprint_of(self, kind: Kind) -> str:
        """Where movements of one kind go: README 7.

        Each kind is bound to its own product's API user and to no other, so that giving the account a Disbursement
        user, or another one, leaves open collections askable. A payout is bound to its call besides: whether a transfer
        and a deposit share their references is unknown, so neither may be sent, or missed, in the other's place.
        """
        values = self._account.values
        where = [self._base_url, values["target_environment"]]
        match kind:
            case "collection":
                return fingerprint(*where, values["collection_api_user"])
            case "payout":
                return fingerprint(*where, "payout", values["payout_call"], values.get("disbursement_api_user", ""))
            case "refund":
                return fingerprint(*where, "refund", values.get("disbursement_api_user", ""))
            case _:
                assert_never(kind)

    @property
    def currencies(self) -> frozenset[str]:
        values = self._account.values
        return frozenset({values.get("currency") or CURRENCIES.get(values["target_environment"], "ZMW")})

    @property
    def countries(self) -> frozenset[str] | None:
        environment = self._account.values["target_environment"]
        return None if environment == "sandbox" else frozenset({COUNTRIES.get(environment, "ZM")})

    async def send(self, request: Request, *, within_s: float, first_byte_before: float | None) -> Outcome:
        kind = kind_of(request)
        if (tokens := self._tokens.get(wire.PRODUCTS[kind])) is None:
            return NotSent(NO_DISBURSEMENT, outage=False)
        url = self._url(kind)
        body = wire.create_body(request)
        callback_url = self._account.callback_url

        async def send(bearer: Bearer, deadline_s: float) -> Outcome | wire.TokenRefused:
            headers = wire.create_headers(bearer.value, request, callback_url)
            try:
                answer = await net.send_once(
                    self._session,
                    "POST",
                    url,
                    headers=headers,
                    body=body,
                    deadline_s=deadline_s,
                    first_byte_before=first_byte_before,
                )
            except (net.NotSent, net.MaybeSent) as error:
                return error.outcome
            outcome = answer.heed(wire.read_create(answer.status, answer.body, kind))
            if isinstance(outcome, Accepted) and answer.status == HTTPStatus.ACCEPTED:
                return Accepted(calls_back=callback_url is not None)
            return outcome  # a duplicate's outcome may be there already: no callback to wait for

        # NotSent stays NotSent on the second pass too: the 401 of the first one means "has not been applied"
        # (RFC 9110, 15.5.2), for the token is looked at before anything else. A 401 with a fresh token is
        # another matter: what refuses then is not what we think it is, and _authorized calls that Unknown.
        return await self._authorized(tokens, send, within_s)

    async def find(self, kind: Kind, reference: ProviderReference, *, within_s: float) -> Finding:
        if (tokens := self._tokens.get(wire.PRODUCTS[kind])) is None:
            return Unknown(NO_DISBURSEMENT, outage=False)
        url = f"{self._url(kind)}/{reference}"

        async def ask(bearer: Bearer, deadline_s: float) -> Finding | NotSent | wire.TokenRefused:
            try:
                answer = await net.ask(
                    self._session, "GET", url, headers=bearer.value, body=None, deadline_s=deadline_s
                )
            except (net.NotSent, net.MaybeSent) as error:
                return error.outcome
            return answer.heed(wire.read_status(answer.status, answer.body, reference, kind))

        finding: Finding | NotSent = await self._authorized(tokens, ask, within_s)
        return finding.unknown if isinstance(finding, NotSent) else finding

    def _url(self, kind: Kind) -> str:
        return self._base_url + wire.path(kind, self._account.values["payout_call"])

    async def _authorized(
        self,
        tokens: Tokens[dict[str, str]],
        call: Callable[[Bearer, float], Awaitable[T | wire.TokenRefused]],
        within_s: float,
    ) -> T | NotSent | Unknown:
        """Make a call with the token, and where MTN refuses the token, once more with a fresh one.

        Half of the time left is kept for the call itself: a late token must not turn NotSent into Unknown.
        """
        ends_at = time.monotonic() + within_s
        refused: Bearer | None = None
        for _ in range(2):
            bearer = await tokens.get(refused, (ends_at - time.monotonic()) / 2)
            if isinstance(bearer, NotSent):
                return bearer
            outcome = await call(bearer, ends_at - time.monotonic())
            if not isinstance(outcome, wire.TokenRefused):
                return outcome
            refused = bearer
        tokens.forget(refused)
        return Unknown("HTTP 401 with a fresh token", outage=False, refused=True)

    async def _new_token(self, product: _Product) -> Fresh[dict[str, str]] | NotSent:
        headers = wire.token_headers(
            product.api_user, product.api_key, product.subscription_key, product.target_environment
        )
        try:
            answer = await net.ask(
                self._session, "POST", product.token_url, headers=headers, body=None, deadline_s=TOKEN_WITHIN_S
            )
        except (net.NotSent, net.MaybeSent) as error:
            return NotSent(f"no token: {error}")
        self._said[product.name] = own_word(answer.status, answer.body, secrets_of(SPEC, self._account))
        token = wire.read_token(answer.status, answer.body)
        if isinstance(token, NotSent):
            return token
        bearer = wire.bearer_headers(token.text, product.subscription_key, product.target_environment)
        return Fresh(bearer, token.life_s)

    async def check(self, kind: Kind | None = None, *, within_s: float) -> Checked:
        """A fresh token proves API user, API key and subscription key of a product."""
        self._said.clear()
        products = list(self._tokens) if kind is None else [wire.PRODUCTS[kind]]
        if not all(product in self._tokens for product in products):
            return Checked(NO_DISBURSEMENT)
        bearers = await asyncio.gather(*(self._tokens[product].fresh(within_s) for product in products))
        refused = [
            f"{product}: {bearer.reason}"
            for product, bearer in zip(products, bearers, strict=True)
            if isinstance(bearer, NotSent)
        ]
        values = self._account.values
        facts = {
            "target_environment": values["target_environment"],
            "currency": ", ".join(self.currencies),
            "payout_call": values["payout_call"] if "disbursement" in self._tokens else "none: " + NO_DISBURSEMENT,
            **{f"{product}_token": self._said.get(product, "no answer") for product in products},
        }
        return Checked("; ".join(refused) or None, facts)

    async def verify(self, callback: Callback) -> Authenticity:  # noqa: ARG002  # MTN signs nothing: README 5 [O]
        return Authenticity.UNSIGNED

    def read_callback(self, callback: Callback) -> CallbackWord:
        return wire.read_callback(callback.body)

    async def close(self) -> None:
        await asyncio.gather(*(tokens.close() for tokens in self._tokens.values()))
        await self._session.close()
