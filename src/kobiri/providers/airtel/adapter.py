"""Airtel Money: one account at the Open API. What the answers mean stands in wire.py."""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal, TypeAlias, TypeVar, assert_never

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from kobiri import net
from kobiri.domain.credential import wrong_with_pin
from kobiri.domain.ids import ProviderReference
from kobiri.domain.outcome import Declined, FailureCode, Finding, NotSent, Outcome, Unknown
from kobiri.domain.payment import Kind
from kobiri.providers.airtel import wire
from kobiri.providers.answers import own_word
from kobiri.providers.base import (
    Account,
    Authenticity,
    Callback,
    CallbackWord,
    Checked,
    Collection,
    Field,
    Operation,
    Payout,
    ProviderSpec,
    Refund,
    Request,
    fingerprint,
    kinds_of,
    mode_by_host,
    secrets_of,
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
        Field("payout_version", "Version of the disbursement API", default="v2", choices=("v2", "v3")),
        Field("refund_version", "Version of the refund API", default="v1", choices=("v1", "v2")),
        Field(
            "pin",
            "PIN of the disbursement account; without it there are no payouts",
            secret=True,
            optional=True,
            wrong=wrong_with_pin,
        ),
        Field("pin_key", "PIN: the key of the portal, base64; give it, else the fetched one serves", optional=True),
        Field("pin_padding", "PIN: RSA padding", default="pkcs1", choices=wire.PADDINGS),
        Field("sign_messages", "Message signing, as in the portal", default="off", choices=("off", "on")),
        Field("sign_key", "Signatures: Airtel's key, base64; fetched when left out", optional=True),
        Field("sign_padding", "Signatures: RSA padding; the PIN's when left out", optional=True, choices=wire.PADDINGS),
        # Accounts from before pin_key and sign_key have it: it must go on meaning both.
        Field("public_key", "Older: one key, base64, for PIN and signatures that have none", optional=True),
        Field("callback_key", "Callback authentication: the portal's private key", secret=True, optional=True),
    ),
    answer_within_s=8,
    deadline_s=None,
    status_reads_per_s=None,
)

CURRENCIES = {"ZM": "ZMW"}

TOKEN_WITHIN_S = 30.0  # longer than a request waits: the fetch goes on for those that come after
RENEW_TOKEN_BEFORE_S = 30.0  # a token lives 180 s: README 1 [D2]
RENEW_KEY_BEFORE_S = 300.0

Bearer = Token[dict[str, str]]
Use: TypeAlias = Literal["pin", "sign"]  # what a key is for


class AirtelProvider:
    """Make it inside a running loop; close it. `clock` is monotonic, in seconds: tokens and keys live by it."""

    def __init__(self, account: Account, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._account = account
        self._base_url = account.base_url.rstrip("/")
        self._currency = CURRENCIES[self._values["country"]]
        self._session = net.provider_session(account.max_connections)
        self._tokens = Tokens(self._new_token, what="token", renew_before_s=RENEW_TOKEN_BEFORE_S, clock=clock)
        self._said: dict[str, str] = {}  # Airtel's last word to a question for a token, and for a key
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

    def fingerprint_of(self, kind: Kind) -> str:
        """One client for all; but nobody knows whether one version of payouts can be asked about another's."""
        version = self._values["payout_version"]
        apart = ("payout", version) if kind == "payout" and version != "v2" else ()
        return fingerprint(self._base_url, self._values["client_id"], self._values["country"], *apart)

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
            "collection",
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
        if (wrong := wrong_with_pin(pin)) is not None:  # stored before its form was looked at
            return NotSent(f"pin {wrong}", outage=False)

        def body(key: RSAPublicKey | None) -> bytes:
            assert key is not None, "an account with a PIN has a key"
            return wire.payout_body(payout, wire.seal(pin.encode(), key, self._padding("pin")), version)

        version, reference = self._values["payout_version"], payout.reference
        return await self._post(
            "payout",
            wire.PAYOUT_PATHS[version],
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
        path = wire.REFUND_PATHS[self._values["refund_version"]]
        outcome = await self._post(
            "refund", path, lambda _key: body, wire.read_refund, within_s, first_byte_before, passes=1
        )
        return replace(outcome, askable=False) if isinstance(outcome, Unknown) else outcome

    async def _post(
        self,
        kind: Kind,
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
        pin_key = await self._key("pin", within_s / 2) if seals else None
        if isinstance(pin_key, NotSent):
            return pin_key
        sign_key = await self._key("sign", (ends_at - time.monotonic()) / 2) if self._signs(kind) else None
        if isinstance(sign_key, NotSent):
            return sign_key
        try:
            body = write(None if pin_key is None else pin_key.value)
            signature = {} if sign_key is None else self._signature(body, sign_key.value)
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
            for key in (pin_key, sign_key):
                self._keys.forget(key)  # one that was fetched, that is: the account's own are not kept there
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

    def _signs(self, kind: Kind) -> bool:
        version = self._values.get(f"{kind}_version", "")
        return self._values["sign_messages"] == "on" or (kind, version) in wire.ALWAYS_SIGNED

    def _signature(self, body: bytes, key: RSAPublicKey) -> dict[str, str]:
        return wire.sign(body, key, self._padding("sign"), aes_key=secrets.token_bytes(32), iv=secrets.token_bytes(16))

    def _padding(self, use: Use) -> str:
        return self._values.get(f"{use}_padding") or self._values["pin_padding"]

    # --- what moves none --------------------------------------------------------------------------------------------

    async def find(self, kind: Kind, reference: ProviderReference, *, within_s: float) -> Finding:
        match kind:
            case "collection":
                path, read = wire.collection_enquiry(reference), wire.read_collection_status
            case "payout":
                path = wire.payout_enquiry(reference, self._values["payout_version"])
                read = wire.read_payout_status
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

    async def check(self, kind: Kind | None = None, *, within_s: float) -> Checked:
        """A fresh token proves client and secret; a key with room proves that PIN and signature can be written.

        Only payouts need the PIN; its form is looked at. That Airtel can read either is proved by a payment alone.
        """
        ends_at = time.monotonic() + within_s
        self._said.clear()
        kinds = kinds_of(SPEC, self._account) if kind is None else {kind}
        facts = {f"{kind}_version": self._values[f"{kind}_version"] for kind in SPEC.operations}
        bearer = await self._tokens.fresh(within_s)
        trouble = bearer.reason if isinstance(bearer, NotSent) else None
        pin = self._values.get("pin", "") if "payout" in kinds else ""
        if trouble is None and pin and (wrong := wrong_with_pin(pin)) is not None:
            trouble = f"pin {wrong}"  # an account stored before this was looked at
        needed: dict[Use, int] = {
            "pin": len(pin.encode()),
            "sign": wire.SIGNING_SECRET_BYTES if any(map(self._signs, kinds)) else 0,
        }
        fetched = None
        if trouble is None and any(length and self._key_name(use) is None for use, length in needed.items()):
            fetched = await self._keys.fresh(ends_at - time.monotonic())
        for use, length in needed.items():
            told, wrong = self._check_key(use, length, fetched) if length else ("not used", None)
            trouble = trouble or wrong
            facts |= {f"{use}_key": told} | ({f"{use}_padding": self._padding(use)} if length else {})
        return Checked(trouble, {**facts, **self._said})

    def _check_key(
        self, use: Use, length: int, fetched: Token[RSAPublicKey] | NotSent | None
    ) -> tuple[str, str | None]:
        """Which key serves, and what is wrong with it."""
        name = self._key_name(use)
        key = self._own_key(name) if name is not None else fetched
        told = name or "fetched from Airtel"
        if isinstance(key, NotSent):
            return told, key.reason
        if key is None:
            return told, None
        told += f" ({wire.describe_key(key.value)})"
        if use == "pin" and name is None:
            told += "; Zambian clients take the portal's key: set pin_key"
        try:
            wire.check_room(key.value, self._padding(use), length)
        except wire.BadKey as error:
            return told, str(error)
        return told, None

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
        self._said["token"] = own_word(answer.status, answer.body, secrets_of(SPEC, self._account))
        token = wire.read_token(answer.status, answer.body)
        if isinstance(token, NotSent):
            return token
        return Fresh(wire.bearer_headers(token.value, values["country"], self._currency), token.life_s)

    def _key_name(self, use: Use) -> str | None:
        """The field that holds the key for this use; None: Airtel is asked for it."""
        return next((name for name in (f"{use}_key", "public_key") if self._values.get(name)), None)

    async def _key(self, use: Use, within_s: float) -> Token[RSAPublicKey] | NotSent:
        """Return an encryption key: the account's own, else Airtel's, fetched and kept while it is valid."""
        name = self._key_name(use)
        return self._own_key(name) if name is not None else await self._keys.get(None, within_s)

    def _own_key(self, name: str) -> Token[RSAPublicKey] | NotSent:
        try:
            return Token(wire.read_public_key(self._values[name]), refresh_at=float("inf"), ends_at=float("inf"))
        except wire.BadKey as error:
            return NotSent(str(error), outage=False)

    async def _new_key(self) -> Fresh[RSAPublicKey] | NotSent:
        async def ask(bearer: Bearer, deadline_s: float) -> Fresh[RSAPublicKey] | NotSent | wire.TokenRefused:
            try:
                answer = await self._get(wire.KEY_PATH, bearer, deadline_s)
            except (net.NotSent, net.MaybeSent) as error:
                return NotSent(f"no encryption key: {error}")
            self._said["encryption_keys"] = own_word(answer.status, answer.body, secrets_of(SPEC, self._account))
            return wire.read_key(answer.status, answer.body, datetime.now(UTC))

        key: Fresh[RSAPublicKey] | NotSent | Unknown = await self._authorized(ask, TOKEN_WITHIN_S)
        if isinstance(key, Unknown):
            return NotSent(f"no encryption key: {key.reason}", outage=False, refused=key.refused)
        return key

    async def _get(self, path: str, bearer: Bearer, deadline_s: float) -> net.Answer:
        return await net.ask(
            self._session, "GET", self._base_url + path, headers=bearer.value, body=None, deadline_s=deadline_s
        )
