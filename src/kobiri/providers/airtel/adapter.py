"""Airtel Money: one account at the Open API. What the answers mean stands in wire.py."""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar, assert_never

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from kobiri import net
from kobiri.domain.ids import ProviderReference
from kobiri.domain.outcome import Declined, FailureCode, Finding, NotSent, Outcome, Unknown
from kobiri.domain.payment import Kind
from kobiri.providers.airtel import wire
from kobiri.providers.base import (
    Account,
    Authenticity,
    Callback,
    CallbackWord,
    Collection,
    Field,
    Operation,
    Payout,
    ProviderSpec,
    Refund,
    Request,
    fingerprint,
    mode_by_host,
)
from kobiri.providers.tokens import Fresh, Token, Tokens

T = TypeVar("T")

SPEC = ProviderSpec(
    id="airtel",
    name="Airtel Money",
    base_url="https://openapiuat.airtel.co.zm",
    known_mode=mode_by_host(
        test=("openapiuat.airtel.co.zm", "openapiuat.airtel.africa"),
        live=("openapi.airtel.co.zm", "openapi.airtel.africa"),
    ),
    networks=frozenset({"airtel"}),
    operations={
        "collection": Operation(dedupes=True, repeats=False, status_query="soft", partial=False, needs=()),
        "payout": Operation(dedupes=True, repeats=False, status_query="soft", partial=False, needs=("pin",)),
        # No id of ours: README 4 [D2]
        "refund": Operation(dedupes=False, repeats=False, status_query="none", partial=False, needs=()),
    },
    signs_callbacks=True,
    fields=(
        Field("client_id", "Client ID"),
        Field("client_secret", "Client secret", secret=True),
        Field("country", "Country", default="ZM", choices=("ZM",)),
        Field("collection_version", "Version of the collection API", default="v1", choices=("v1", "v2")),
        Field("pin", "PIN of the disbursement account; without it there are no payouts", secret=True, optional=True),
        Field(
            "pin_padding",
            "RSA padding of PIN and signature",
            default="pkcs1",
            choices=("pkcs1", "oaep-sha1", "oaep-sha256"),
        ),
        Field("public_key", "Airtel's encryption key, base64; fetched when left out", optional=True),
        Field("sign_messages", "Message signing, as in the portal", default="off", choices=("off", "on")),
        Field("callback_key", "Callback authentication: the portal's private key", secret=True, optional=True),
    ),
    answer_within_s=8,
    deadline_s=8,
    status_reads_per_s=None,
)

CURRENCIES = {"ZM": "ZMW"}

TOKEN_WITHIN_S = 30.0  # longer than a request waits: the fetch goes on for those that come after
RENEW_TOKEN_BEFORE_S = 30.0  # a token lives 180 s: README 1 [D2]
RENEW_KEY_BEFORE_S = 300.0

Bearer = Token[dict[str, str]]


class AirtelProvider:
    """Make it inside a running loop; close it. `clock` is monotonic, in seconds: tokens and keys live by it."""

    def __init__(self, account: Account, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._account = account
        self._base_url = account.base_url.rstrip("/")
        self._currency = CURRENCIES[self._values["country"]]
        self._session = net.provider_session(account.max_connections)
        self._tokens = Tokens(self._new_token, what="token", renew_before_s=RENEW_TOKEN_BEFORE_S, clock=clock)
        self._keys = Tokens(self._new_key, what="encryption key", renew_before_s=RENEW_KEY_BEFORE_S, clock=clock)

    @property
    def spec(self) -> ProviderSpec:
        return SPEC

    @property
    def account(self) -> Account:
        return self._account

    @property
    def _values(self) -> Mapping[str, str]:
        return self._account.values

    @property
    def currencies(self) -> frozenset[str]:
        return frozenset({self._currency})

    @property
    def countries(self) -> frozenset[str]:
        return frozenset({self._values["country"]})

    def fingerprint_of(self, kind: Kind) -> str:  # noqa: ARG002  # one client for all
        return fingerprint(self._base_url, self._values["client_id"], self._values["country"])

    # --- what moves money -------------------------------------------------------------------------------------------

    async def send(self, request: Request, *, within_s: float, first_byte_before: float | None) -> Outcome:
        match request:
            case Collection():
                return await self._collect(request, within_s, first_byte_before)
            case Payout():
                return await self._pay_out(request, within_s, first_byte_before)
            case Refund():
                return await self._refund(request, within_s, first_byte_before)
            case _:
                assert_never(request)

    async def _collect(self, collection: Collection, within_s: float, first_byte_before: float | None) -> Outcome:
        path = wire.COLLECTION_PATHS[self._values["collection_version"]]
        body = wire.collection_body(collection, self._values["country"])
        reference = collection.reference
        return await self._post(
            path,
            lambda _key: body,
            lambda status, answer: wire.read_collection(status, answer, reference),
            within_s,
            first_byte_before,
        )

    async def _pay_out(self, payout: Payout, within_s: float, first_byte_before: float | None) -> Outcome:
        pin = self._values.get("pin")
        if pin is None:
            return NotSent("this account has no PIN for payouts", outage=False)

        def body(key: RSAPublicKey | None) -> bytes:
            assert key is not None, "an account with a PIN has a key"
            return wire.payout_body(payout, wire.seal(pin.encode(), key, self._values["pin_padding"]))

        reference = payout.reference
        return await self._post(
            wire.PAYOUT_PATH,
            body,
            lambda status, answer: wire.read_payout(status, answer, reference),
            within_s,
            first_byte_before,
            seals=True,
        )

    async def _refund(self, refund: Refund, within_s: float, first_byte_before: float | None) -> Outcome:
        theirs = refund.collection_transaction_id
        if theirs is None:
            return Declined(FailureCode.PROVIDER_REJECTED)  # there is no other name for what shall be refunded
        body = wire.refund_body(theirs)
        outcome = await self._post(
            wire.REFUND_PATH, lambda _key: body, wire.read_refund, within_s, first_byte_before, passes=1
        )
        return replace(outcome, askable=False) if isinstance(outcome, Unknown) else outcome

    async def _post(
        self,
        path: str,
        write: Callable[[RSAPublicKey | None], bytes],
        read: Callable[[int, bytes], Outcome | wire.TokenRefused],
        within_s: float,
        first_byte_before: float | None,
        *,
        seals: bool = False,
        passes: int = 2,
    ) -> Outcome:
        """Send a money request, sealed and signed as the account wants it: the bytes that were signed are sent.

        `passes`: 1 where a second request might move money again. Not even a refused token makes it leave twice then.
        """
        ends_at = time.monotonic() + within_s
        key = await self._key(within_s / 2) if seals or self._signs else None
        if isinstance(key, NotSent):
            return key
        try:
            body = write(None if key is None else key.value)
            signature = self._signature(body, key.value) if self._signs and key is not None else {}
        except wire.BadKey as error:
            return NotSent(str(error), outage=False)

        async def send(bearer: Bearer, deadline_s: float) -> Outcome | wire.TokenRefused:
            headers = {**bearer.value, **signature, "Content-Type": "application/json"}
            try:
                answer = await self._send_once(path, headers, body, deadline_s, first_byte_before)
            except (net.NotSent, net.MaybeSent) as error:
                return error.outcome
            return answer.heed(read(answer.status, answer.body))

        # NotSent stays NotSent on the second pass too: the first one was refused before anything was done, for the
        # token is looked at before anything else. A fresh token refused is another matter, and Unknown.
        outcome: Outcome = await self._authorized(send, ends_at - time.monotonic(), passes)
        if isinstance(outcome, Declined) and outcome.provider_code in wire.DOUBTS_KEY:
            self._keys.forget(key)
        return outcome

    async def _send_once(
        self, path: str, headers: dict[str, str], body: bytes, deadline_s: float, first_byte_before: float | None
    ) -> net.Answer:
        return await net.send_once(
            self._session,
            "POST",
            self._base_url + path,
            headers=headers,
            body=body,
            deadline_s=deadline_s,
            first_byte_before=first_byte_before,
        )

    @property
    def _signs(self) -> bool:
        return self._values["sign_messages"] == "on"

    def _signature(self, body: bytes, key: RSAPublicKey) -> dict[str, str]:
        return wire.sign(
            body, key, self._values["pin_padding"], aes_key=secrets.token_bytes(32), iv=secrets.token_bytes(16)
        )

    # --- what moves none --------------------------------------------------------------------------------------------

    async def find(self, kind: Kind, reference: ProviderReference, *, within_s: float) -> Finding:
        match kind:
            case "collection":
                path, read = wire.collection_enquiry(reference), wire.read_collection_status
            case "payout":
                path, read = wire.payout_enquiry(reference), wire.read_payout_status
            case "refund":
                return Unknown("Airtel has no question about a refund", outage=False, askable=False)
            case _:
                assert_never(kind)

        async def ask(bearer: Bearer, deadline_s: float) -> Finding | NotSent | wire.TokenRefused:
            try:
                answer = await self._get(path, bearer, deadline_s)
            except (net.NotSent, net.MaybeSent) as error:
                return error.outcome
            return answer.heed(read(answer.status, answer.body, reference))

        finding: Finding | NotSent = await self._authorized(ask, within_s)
        return finding.unknown if isinstance(finding, NotSent) else finding

    async def check(self, kind: Kind | None = None, *, within_s: float) -> str | None:
        """A fresh token proves client and secret; a key with room proves that PIN and signature can be written.

        Only payouts need the PIN.
        """
        ends_at = time.monotonic() + within_s
        bearer = await self._tokens.fresh(within_s)
        if isinstance(bearer, NotSent):
            return bearer.reason
        pin = self._values.get("pin", "").encode() if kind in (None, "payout") else b""
        needed = max(len(pin), wire.SIGNING_SECRET_BYTES if self._signs else 0)
        if not needed:
            return None
        key = await self._key(ends_at - time.monotonic(), fresh=True)
        if isinstance(key, NotSent):
            return key.reason
        try:
            wire.check_room(key.value, self._values["pin_padding"], needed)
        except wire.BadKey as error:
            return str(error)
        return None

    async def verify(self, callback: Callback) -> Authenticity:
        key = self._values.get("callback_key")
        return Authenticity.UNSIGNED if key is None else wire.verify_callback(callback.body, key.encode())

    def read_callback(self, callback: Callback) -> CallbackWord:
        return wire.read_callback(callback.body)

    async def close(self) -> None:
        await self._keys.close()
        await self._tokens.close()
        await self._session.close()

    # --- tokens and keys --------------------------------------------------------------------------------------------

    async def _authorized(
        self, call: Callable[[Bearer, float], Awaitable[T | wire.TokenRefused]], within_s: float, passes: int = 2
    ) -> T | NotSent | Unknown:
        """Make a call with the token, and where Airtel refuses the token and `passes` allow, again with a fresh one.

        Half of the time left is kept for the call itself: a late token must not turn NotSent into Unknown.
        """
        ends_at = time.monotonic() + within_s
        refused: Bearer | None = None
        for _ in range(passes):
            bearer = await self._tokens.get(refused, (ends_at - time.monotonic()) / 2)
            if isinstance(bearer, NotSent):
                return bearer
            outcome = await call(bearer, ends_at - time.monotonic())
            if not isinstance(outcome, wire.TokenRefused):
                return outcome
            refused = bearer
        self._tokens.forget(refused)
        reason = "the token was refused" if passes == 1 else "a fresh token was refused"
        return Unknown(reason, outage=False, refused=passes > 1)  # one refused token may only have been an old one

    async def _new_token(self) -> Fresh[dict[str, str]] | NotSent:
        values = self._values
        try:
            answer = await net.ask(
                self._session,
                "POST",
                self._base_url + wire.TOKEN_PATH,
                headers={"Content-Type": "application/json", "Accept": "*/*"},
                body=wire.token_body(values["client_id"], values["client_secret"]),
                deadline_s=TOKEN_WITHIN_S,
            )
        except (net.NotSent, net.MaybeSent) as error:
            return NotSent(f"no token: {error}")
        token = wire.read_token(answer.status, answer.body)
        if isinstance(token, NotSent):
            return token
        return Fresh(wire.bearer_headers(token.value, values["country"], self._currency), token.life_s)

    async def _key(self, within_s: float, *, fresh: bool = False) -> Token[RSAPublicKey] | NotSent:
        """Return the encryption key: the account's own, else Airtel's, fetched and kept while it is valid."""
        if (configured := self._values.get("public_key")) is None:
            return await (self._keys.fresh(within_s) if fresh else self._keys.get(None, within_s))
        try:
            return Token(wire.read_public_key(configured), refresh_at=float("inf"), ends_at=float("inf"))
        except wire.BadKey as error:
            return NotSent(str(error), outage=False)

    async def _new_key(self) -> Fresh[RSAPublicKey] | NotSent:
        async def ask(bearer: Bearer, deadline_s: float) -> Fresh[RSAPublicKey] | NotSent | wire.TokenRefused:
            try:
                answer = await self._get(wire.KEY_PATH, bearer, deadline_s)
            except (net.NotSent, net.MaybeSent) as error:
                return NotSent(f"no encryption key: {error}")
            return wire.read_key(answer.status, answer.body, datetime.now(UTC))

        key: Fresh[RSAPublicKey] | NotSent | Unknown = await self._authorized(ask, TOKEN_WITHIN_S)
        if isinstance(key, Unknown):
            return NotSent(f"no encryption key: {key.reason}", outage=False, refused=key.refused)
        return key

    async def _get(self, path: str, bearer: Bearer, deadline_s: float) -> net.Answer:
        return await net.ask(
            self._session, "GET", self._base_url + path, headers=bearer.value, body=None, deadline_s=deadline_s
        )
