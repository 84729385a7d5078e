"""pawaPay: one account at the Merchant API v2. What the answers mean stands in wire.py."""

import asyncio
import time
from collections.abc import Callable, Mapping

from kobiri import net
from kobiri.domain.ids import ProviderReference
from kobiri.domain.outcome import Accepted, Finding, Outcome
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
from kobiri.providers.pawapay import signatures, wire

SPEC = ProviderSpec(
    id="pawapay",
    name="pawaPay",
    base_url="https://api.sandbox.pawapay.io",
    known_mode=mode_by_host(test=("api.sandbox.pawapay.io",), live=("api.pawapay.io",)),
    networks=frozenset(wire.PROVIDERS),
    operations={
        "collection": Operation(dedupes=True, repeats=True, status_query="firm", partial=False, needs=()),
        "payout": Operation(dedupes=True, repeats=True, status_query="firm", partial=False, needs=()),
        "refund": Operation(dedupes=True, repeats=True, status_query="firm", partial=True, needs=()),  # README 2 [D]
    },
    signs_callbacks=True,
    fields=(
        Field("api_token", "API token", secret=True),
        Field("currency", "Currency", default="ZMW"),
        Field(
            "callback_signatures",
            "Callbacks: required when pawaPay signs them",
            default="off",
            choices=("off", "required"),
        ),
        Field("callback_public_key", "Callbacks: pawaPay's public key in PEM; asked for when left out", optional=True),
    ),
    answer_within_s=5,
    deadline_s=None,
    status_reads_per_s=None,
)

KEYS_WITHIN_S = 5.0
KEYS_PAUSE_S = 60.0  # between two questions for the keys: strangers may name as many unknown ones as they like


class _PublicKeys:
    """pawaPay's public keys by their ids; asked for when a callback names one that is not here."""

    def __init__(self, session: net.Session, url: str, headers: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._session = session
        self._url = url
        self._headers = headers
        self._clock = clock
        self._known: dict[str, signatures.PublicKey] = {}
        self._asked_at = 0.0
        self._fetch: asyncio.Task[None] | None = None
        self.told = False  # the last question was answered: what is not here is no key of pawaPay's

    def get(self, key_id: str) -> signatures.PublicKey | None:
        return self._known.get(key_id)

    async def refresh(self) -> None:
        """Ask, once for all who wait, and not again before the pause is over."""
        now = self._clock()
        if self._fetch is None or now - self._asked_at >= KEYS_PAUSE_S:  # by then the question before has ended
            self._asked_at = now
            self._fetch = asyncio.create_task(self._ask())
        await asyncio.wait({self._fetch})

    async def _ask(self) -> None:
        self.told = False
        try:
            answer = await net.ask(
                self._session, "GET", self._url, headers=self._headers, body=None, deadline_s=KEYS_WITHIN_S
            )
        except (net.NotSent, net.MaybeSent):
            return
        if (keys := wire.read_public_keys(answer.status, answer.body)) is not None:
            read = {key_id: signatures.read_key(pem) for key_id, pem in keys.items()}
            self._known = {key_id: key for key_id, key in read.items() if key is not None}
            self.told = True

    async def close(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait({self._fetch})


class PawapayProvider:
    """Make it inside a running loop; close it. `clock` is monotonic, `now` Unix time, both in seconds."""

    def __init__(
        self,
        account: Account,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._account = account
        self._now = now
        self._base_url = account.base_url.rstrip("/")
        self._session = net.provider_session(account.max_connections)
        self._keys = _PublicKeys(self._session, self._base_url + wire.PUBLIC_KEYS_PATH, self._headers, clock)
        self._pem = account.values.get("callback_public_key")
        self._key = signatures.read_key(self._pem) if self._pem else None

    @property
    def spec(self) -> ProviderSpec:
        return SPEC

    @property
    def account(self) -> Account:
        return self._account

    @property
    def _headers(self) -> dict[str, str]:
        return wire.bearer_headers(self._account.values["api_token"])

    @property
    def currencies(self) -> frozenset[str]:
        return frozenset({self._account.values["currency"]})

    @property
    def countries(self) -> frozenset[str]:
        return frozenset({"ZM"})

    def fingerprint_of(self, kind: Kind) -> str:  # noqa: ARG002  # one token for all
        """A token that does not tell its account stands for it: after a change of it nothing is asked elsewhere."""
        token = self._account.values["api_token"]
        return fingerprint(self._base_url, wire.subject(token) or token)

    async def send(self, request: Request, *, within_s: float, first_byte_before: float | None) -> Outcome:
        try:
            answer = await net.send_once(
                self._session,
                "POST",
                self._base_url + wire.PATHS[kind_of(request)],
                headers={**self._headers, "Content-Type": "application/json"},
                body=wire.body(request),
                deadline_s=within_s,
                first_byte_before=first_byte_before,
            )
        except (net.NotSent, net.MaybeSent) as error:
            return error.outcome
        outcome = answer.heed(wire.read_create(answer.status, answer.body, request.reference))
        if isinstance(outcome, Accepted):
            return Accepted(calls_back=outcome.calls_back and self._account.callback_url is not None)
        return outcome

    async def find(self, kind: Kind, reference: ProviderReference, *, within_s: float) -> Finding:
        url = f"{self._base_url}{wire.PATHS[kind]}/{reference}"
        try:
            answer = await net.ask(self._session, "GET", url, headers=self._headers, body=None, deadline_s=within_s)
        except net.NotSent as error:
            return error.outcome.unknown
        except net.MaybeSent as error:
            return error.outcome
        return answer.heed(wire.read_status(answer.status, answer.body, kind, reference))

    async def check(self, kind: Kind | None = None, *, within_s: float) -> Checked:
        """The account's own configuration proves the token, for all kinds; the key for callbacks is looked at too."""
        signed = self._account.values["callback_signatures"]
        facts = {
            "currency": self._account.values["currency"],
            "callback_signatures": signed,
            "callback_key": "not used" if signed == "off" else "callback_public_key" if self._pem else "fetched",
        }
        if kind is None and self._pem and self._key is None:
            return Checked("callback_public_key is not a public key on P-256 in PEM", facts)
        url = self._base_url + wire.CONFIGURATION_PATH
        try:
            answer = await net.ask(self._session, "GET", url, headers=self._headers, body=None, deadline_s=within_s)
        except (net.NotSent, net.MaybeSent) as error:
            return Checked(f"pawaPay does not answer: {error}", facts)
        facts["configuration"] = own_word(answer.status, answer.body, secrets_of(SPEC, self._account))
        return Checked(wire.read_configuration(answer.status, answer.body), facts)

    async def verify(self, callback: Callback) -> Authenticity:
        if self._account.values["callback_signatures"] == "off":
            return Authenticity.UNSIGNED
        if self._pem:
            return self._verify_with(self._key, callback)
        verdict = signatures.check(callback, self._keys.get, self._now())
        if isinstance(verdict, signatures.UnknownKey):
            await self._keys.refresh()
            verdict = signatures.check(callback, self._keys.get, self._now())
        if isinstance(verdict, signatures.UnknownKey):
            return Authenticity.FORGED if self._keys.told else Authenticity.UNSIGNED
        return verdict

    def _verify_with(self, key: signatures.PublicKey | None, callback: Callback) -> Authenticity:
        """Check with the one key that the account's owner gave, whatever id the callback names."""
        verdict = signatures.check(callback, lambda _key_id: key, self._now())
        return Authenticity.UNSIGNED if isinstance(verdict, signatures.UnknownKey) else verdict

    def read_callback(self, callback: Callback) -> CallbackWord:
        return wire.read_callback(callback.body)

    async def close(self) -> None:
        await self._keys.close()
        await self._session.close()
