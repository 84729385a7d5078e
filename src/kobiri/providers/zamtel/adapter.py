"""Zamtel Kwacha: one account at the ZamPay REST calls. What the answers mean stands in wire.py."""

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from kobiri import net
from kobiri.domain.ids import ProviderReference
from kobiri.domain.outcome import Finding, NotSent, Outcome, Unknown
from kobiri.domain.payment import Kind
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
    Unreadable,
    fingerprint,
    kinds_of,
    secrets_of,
)
from kobiri.providers.zamtel import wire

CURRENCY = "ZMW"
CHECK_WITHIN_S = 5.0


SPEC = ProviderSpec(
    id="zamtel",
    name="Zamtel Kwacha",
    base_url="https://apps.zamtel.co.zm/ZampayRest",
    known_mode=lambda url: "live" if "zampayrestprod" in url.lower() else None,  # ZampayRest may be either: README 5
    networks=frozenset({"zamtel"}),
    operations={
        "collection": Operation(dedupes=False, repeats=False, status_query="none", partial=False, needs=()),
        "payout": Operation(
            dedupes=False, repeats=False, status_query="none", partial=False, needs=("identifier", "credential")
        ),
    },
    signs_callbacks=False,
    fields=(
        Field("third_party_id", "Third party id", secret=True),
        Field("password", "Password", secret=True),
        Field("shortcode", "Short code"),
        Field("identifier", "Payouts: identifier of the initiator", optional=True),
        Field("credential", "Payouts: credential of the initiator", secret=True, optional=True),
    ),
    answer_within_s=5,
    deadline_s=120,  # the payer types the PIN while the request hangs
    status_reads_per_s=None,
)


class ZamtelProvider:
    """Make it inside a running loop; close it.

    One synchronous GET moves the money, and nothing can be asked afterwards: whatever is not a firm answer stays
    unknown until a person or a statement settles it. The query holds secrets, so no URL is kept or told.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._base_url = account.base_url.rstrip("/")
        self._session = net.provider_session(account.max_connections)

    @property
    def spec(self) -> ProviderSpec:
        return SPEC

    @property
    def account(self) -> Account:
        return self._account

    @property
    def currencies(self) -> frozenset[str]:
        return frozenset({CURRENCY})

    @property
    def countries(self) -> frozenset[str]:
        return frozenset({"ZM"})

    def fingerprint_of(self, kind: Kind) -> str:  # noqa: ARG002  # one caller for all
        values = self._account.values
        return fingerprint(self._base_url, values["shortcode"], values["third_party_id"])

    async def send(self, request: Request, *, within_s: float, first_byte_before: float | None) -> Outcome:
        if request.money.currency != CURRENCY:
            return NotSent("the amount is not in kwacha", outage=False)  # the request names no currency
        values = self._account.values
        match request:
            case Collection():
                call = wire.collection_call(request, values)
                return await self._move(call, wire.read_collection, within_s, first_byte_before)
            case Payout():
                payout_call = wire.payout_call(request, values)
                if payout_call is None:
                    return NotSent("no payout credentials", outage=False)
                return await self._move(payout_call, wire.read_payout, within_s, first_byte_before)
            case Refund():
                raise NotImplementedError
            case _:
                assert_never(request)

    async def _move(
        self, call: str, read: Callable[[int, bytes], Outcome], within_s: float, first_byte_before: float | None
    ) -> Outcome:
        try:
            answer = await net.send_once(
                self._session,
                "GET",
                self._base_url + call,
                headers=wire.HEADERS,
                body=None,
                deadline_s=within_s,
                first_byte_before=first_byte_before,
            )
        except net.NotSent as error:
            return error.outcome
        except net.MaybeSent as error:
            return replace(error.outcome, askable=False)
        return answer.heed(read(answer.status, answer.body))

    async def find(self, kind: Kind, reference: ProviderReference, *, within_s: float) -> Finding:  # noqa: ARG002
        return Unknown("Zamtel Kwacha has no status query", outage=False, askable=False)

    async def check(self, kind: Kind | None = None, *, within_s: float) -> Checked:  # noqa: ARG002
        """Whether the host answers, whatever it says. The credentials cannot be proved: every call moves money."""
        deadline_s = min(within_s, CHECK_WITHIN_S)
        facts = {
            "shortcode": self._account.values["shortcode"],
            "payouts": "yes" if "payout" in kinds_of(SPEC, self._account) else "no: a field for them is missing",
            "credentials": "not proved: every call that takes them moves money",
        }
        try:
            answer = await net.ask(
                self._session, "GET", f"{self._base_url}/", headers=wire.HEADERS, body=None, deadline_s=deadline_s
            )
        except (net.NotSent, net.MaybeSent) as error:
            return Checked(f"Zamtel Kwacha cannot be reached: {error}.", facts)
        return Checked(
            facts={**facts, "address": own_word(answer.status, answer.body, secrets_of(SPEC, self._account))}
        )

    async def verify(self, callback: Callback) -> Authenticity:  # noqa: ARG002  # there are none: README 4
        return Authenticity.UNSIGNED

    def read_callback(self, callback: Callback) -> CallbackWord:  # noqa: ARG002
        raise Unreadable("Zamtel Kwacha sends no callbacks.")

    async def close(self) -> None:
        await self._session.close()
