"""What misbehaves next. One JSON shape: where a fault applies, how often, and what it does."""

import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

MAX_FAULTS = 1_000
MAX_HITS = 100_000

Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]
ErrorStatus = Annotated[int, Meta(ge=300, le=599)]
Text = Annotated[str, Meta(max_length=200)]

# "create" asks for a collection; "check" is a call that moves nothing and tells nothing of a payment.
RequestOperation = Literal["provision", "token", "check", "create", "payout", "refund", "status", "any"]
StatusOperation = Literal["status", "any"]
CreateOperation = Literal["create", "payout", "refund", "any"]
CallbackOperation = Literal["callback", "any"]
ViewOperation = Literal["status", "callback", "any"]
SpokenOperation = Literal["create", "payout", "refund", "status", "callback", "any"]
WrittenOperation = Literal["provision", "token", "check", "create", "payout", "refund", "status", "callback", "any"]

Amount = Annotated[str, Meta(pattern=r"^[0-9]{1,15}(\.[0-9]{1,4})?$")]
HeaderText = Annotated[str, Meta(pattern=r"^[ -~]{0,100}$")]
Words = Annotated[tuple[Text, ...], Meta(min_length=1, max_length=50)]
Masking = Literal["masked", "national", "number", "absent"]
Garbling = Literal["bom", "nan", "deep", "duplicate_keys", "truncated", "bytes", "array", "null", "empty"]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Where and how often. `skip` lets the first that match pass; without `times` it lasts for ever.

    `product` is the side of the provider that is asked: "collection" or "disbursement".
    """

    provider: Text = "any"
    times: Count | None = None
    skip: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    reference: Text | None = None
    msisdn: Text | None = None
    product: Literal["collection", "disbursement"] | None = None


class Latency(Fault, frozen=True, kw_only=True, tag="latency"):
    operation: RequestOperation = "any"
    ms: Milliseconds
    jitter_ms: Milliseconds = 0


class LatencyAfter(Fault, frozen=True, kw_only=True, tag="latency_after"):
    operation: RequestOperation = "any"
    ms: Milliseconds
    jitter_ms: Milliseconds = 0


class ErrorAnswer(Fault, frozen=True, kw_only=True):
    """`shape` is one of the provider's own error bodies; `body` replaces it with this very text.

    `retry_after` is the header as it stands, for what no provider should write.
    """

    operation: RequestOperation = "any"
    status: ErrorStatus = 500
    code: Text | None = None
    message: Text | None = None
    shape: Text | None = None
    body: Annotated[str, Meta(max_length=16_384)] | None = None
    content_type: Text = "application/json"
    retry_after_s: Annotated[int, Meta(ge=0, le=86_400)] | None = None
    retry_after: HeaderText | None = None


class ErrorBefore(ErrorAnswer, frozen=True, kw_only=True, tag="error_before"):
    pass


class ErrorAfter(ErrorAnswer, frozen=True, kw_only=True, tag="error_after"):
    pass


class DropAfter(Fault, frozen=True, kw_only=True, tag="drop_after"):
    operation: RequestOperation = "any"


class ResetBefore(Fault, frozen=True, kw_only=True, tag="reset_before"):
    operation: RequestOperation = "any"


class ResetAfter(Fault, frozen=True, kw_only=True, tag="reset_after"):
    operation: RequestOperation = "any"


class Hang(Fault, frozen=True, kw_only=True, tag="hang"):
    operation: RequestOperation = "any"
    processed: bool = False


class Outage(Fault, frozen=True, kw_only=True, tag="outage"):
    operation: RequestOperation = "any"
    mode: Literal["503", "reset"] = "503"
    retry_after_s: Annotated[int, Meta(ge=0, le=86_400)] | None = None


class Html200(Fault, frozen=True, kw_only=True, tag="html_200"):
    operation: RequestOperation = "any"
    processed: bool = False


class NotFoundFor(Fault, frozen=True, kw_only=True, tag="not_found_for"):
    operation: StatusOperation = "status"
    ms: Milliseconds


class WrongAmount(Fault, frozen=True, kw_only=True, tag="wrong_amount"):
    operation: ViewOperation = "any"
    amount: Text = "1"


class WrongCurrency(Fault, frozen=True, kw_only=True, tag="wrong_currency"):
    operation: ViewOperation = "any"
    currency: Text = "USD"


class WrongPayer(Fault, frozen=True, kw_only=True, tag="wrong_payer"):
    operation: ViewOperation = "any"
    payer: Text = "260960000999"


class WrongWord(Fault, frozen=True, kw_only=True, tag="wrong_word"):
    """Another word than the true one: the `words` in turn, from the first again after the last.

    "paid", "failed" and "pending" become the provider's own; every other word is told as it stands.
    """

    operation: SpokenOperation = "status"
    words: Words

    def word(self, used: int) -> str:
        """The word of this use, counted from 1."""
        return self.words[(used - 1) % len(self.words)]


class PayerAs(Fault, frozen=True, kw_only=True, tag="payer_as"):
    """The true number written otherwise: with stars, without its country, as a JSON number, or not at all."""

    operation: ViewOperation = "any"
    style: Masking


class WrongReference(Fault, frozen=True, kw_only=True, tag="wrong_reference"):
    """Our reference is not told, or another one is."""

    operation: ViewOperation = "any"
    told: Text | None = None


class WrongTransaction(Fault, frozen=True, kw_only=True, tag="wrong_transaction"):
    """All that it hits bear one transaction id of the provider's."""

    operation: SpokenOperation = "any"
    told: Text = "7000000007"


class Garbled(Fault, frozen=True, kw_only=True, tag="garbled"):
    """The true JSON, written so that readers disagree about it or fail."""

    operation: WrittenOperation = "any"
    style: Garbling


class Queued(Fault, frozen=True, kw_only=True, tag="queued"):
    """The request is lost, so it seems, and is carried out `ms` later; until then nobody knows of it.

    Its client gets an error of this `status`, or a closed connection.
    """

    operation: CreateOperation = "create"
    ms: Milliseconds
    status: ErrorStatus | None = None


class ChargedAmount(Fault, frozen=True, kw_only=True, tag="charged_amount"):
    """Another amount moves than was asked for. The books hold what moved, and the provider tells it."""

    operation: CreateOperation = "create"
    amount: Amount


class Lost(Fault, frozen=True, kw_only=True, tag="lost"):
    operation: CallbackOperation = "callback"


class Duplicated(Fault, frozen=True, kw_only=True, tag="duplicated"):
    """`copies` are sent in addition to the first; `times` already means how many callbacks are affected."""

    operation: CallbackOperation = "callback"
    copies: Annotated[int, Meta(ge=1, le=100)] = 1
    spacing_ms: Milliseconds = 0


class Late(Fault, frozen=True, kw_only=True, tag="late"):
    operation: CallbackOperation = "callback"
    ms: Milliseconds


class Reordered(Fault, frozen=True, kw_only=True, tag="reordered"):
    """A stale PENDING arrives `ms` after the final callback."""

    operation: CallbackOperation = "callback"
    ms: Milliseconds = 0


class Forged(Fault, frozen=True, kw_only=True, tag="forged"):
    """A stranger reports success with a wrong signature, `ms` after the payment was created."""

    operation: CallbackOperation = "callback"
    ms: Milliseconds = 0


class Unsigned(Fault, frozen=True, kw_only=True, tag="unsigned"):
    operation: CallbackOperation = "callback"


class Claim(Fault, frozen=True, kw_only=True):
    """A callback beside the true ones, from the provider itself unless `signed` says otherwise."""

    operation: CallbackOperation = "callback"
    ms: Milliseconds = 0
    signed: bool | Literal["wrong"] = True


class Premature(Claim, frozen=True, kw_only=True, tag="premature"):
    """`ms` after the payment was created; with 0 before the request itself is answered."""

    claimed: Text = "paid"


class Contradicting(Claim, frozen=True, kw_only=True, tag="contradicting"):
    """`ms` after the true one."""

    claimed: Text = "failed"


class NoDedupe(Fault, frozen=True, kw_only=True, tag="no_dedupe"):
    operation: CreateOperation = "create"


class Payer(Fault, frozen=True, kw_only=True, tag="payer"):
    """What the payer does with the prompt, in place of what the test number says."""

    operation: CreateOperation = "create"
    decision: Literal["approve", "reject", "ignore", "expire", "no_funds", "fail"]
    reason: Text | None = None
    prompt_ms: Milliseconds | None = None


class LateSuccess(Fault, frozen=True, kw_only=True, tag="late_success"):
    """The payer approves only after `ms`; with `after_failure` the provider says FAILED until then."""

    operation: CreateOperation = "create"
    ms: Milliseconds
    after_failure: bool = False


AnyFault = (
    Latency
    | LatencyAfter
    | ErrorBefore
    | ErrorAfter
    | DropAfter
    | ResetBefore
    | ResetAfter
    | Hang
    | Outage
    | Html200
    | NotFoundFor
    | WrongAmount
    | WrongCurrency
    | WrongPayer
    | WrongWord
    | PayerAs
    | WrongReference
    | WrongTransaction
    | Garbled
    | Queued
    | ChargedAmount
    | Lost
    | Duplicated
    | Late
    | Reordered
    | Forged
    | Unsigned
    | Premature
    | Contradicting
    | NoDedupe
    | Payer
    | LateSuccess
)

F = TypeVar("F", bound=Fault)


class FaultError(Exception):
    """A fault that cannot be had. The message is a sentence for whoever asked for it."""


@dataclass(frozen=True, slots=True)
class Cue:
    """What is about to happen, for faults to match against."""

    provider: str
    operation: str
    reference: str | None = None
    msisdn: str | None = None
    product: str | None = None


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that met a payment. `word`: what was claimed of it, where a word was."""

    provider: str
    reference: str
    fault: str
    kind: str
    operation: str
    word: str | None
    times: int
    last_at: float


@dataclass(slots=True)
class _Entry:
    id: str
    fault: AnyFault
    seen: int = 0
    used: int = 0

    @property
    def spent(self) -> bool:
        return self.fault.times is not None and self.used >= self.fault.times

    def matches(self, cue: Cue) -> bool:
        fault = self.fault
        return (
            fault.provider in ("any", cue.provider)
            and fault.operation in ("any", cue.operation)
            and (fault.reference is None or fault.reference.lower() == (cue.reference or "").lower())
            and (fault.msisdn is None or fault.msisdn == cue.msisdn)
            and (fault.product is None or fault.product == cue.product)
        )


_decoder: msgspec.json.Decoder[AnyFault] = msgspec.json.Decoder(AnyFault)


def decode(raw: bytes) -> AnyFault:
    try:
        return _decoder.decode(raw)
    except RecursionError:
        raise FaultError("The fault was not understood: the JSON is nested too deeply.") from None
    except msgspec.DecodeError as error:
        raise FaultError(f"The fault was not understood: {readable(error)}.") from None


def readable(error: msgspec.DecodeError) -> str:
    """Msgspec names a field as `$.ms`; people know it as `ms`."""
    return re.sub(r"`\$\.?([^`]*)`", lambda match: f"`{match[1] or 'body'}`", str(error))


class Faults:
    """The faults in force. Of several of one kind the oldest that matches is applied."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._numbers = count(1)
        self._hits: OrderedDict[tuple[str, str], dict[tuple[str, str, str | None], Hit]] = OrderedDict()

    def add(self, fault: AnyFault) -> dict[str, Any]:
        if len(self._entries) >= MAX_FAULTS:
            self._entries = {known: entry for known, entry in self._entries.items() if not entry.spent}
        if len(self._entries) >= MAX_FAULTS:
            raise FaultError(f"There are already {MAX_FAULTS} faults; remove some first.")
        entry = _Entry(id=f"f{next(self._numbers)}", fault=fault)
        self._entries[entry.id] = entry
        return _shown(entry)

    def take(self, cue: Cue, kind: type[F]) -> F | None:
        """The fault of this kind that applies now, counted as used."""
        for entry in self._entries.values():
            fault = entry.fault
            if not isinstance(fault, kind) or entry.spent or not entry.matches(cue):
                continue
            entry.seen += 1
            if entry.seen <= fault.skip:
                continue
            entry.used += 1
            self._note(cue, entry)
            return fault
        return None

    def word(self, cue: Cue) -> str | None:
        """The word that is told in place of the true one, if any."""
        fault = self.take(cue, WrongWord)
        if fault is None:
            return None
        used = next(entry.used for entry in self._entries.values() if entry.fault is fault)
        return fault.word(used)

    def hits(self, *, reference: str | None = None, provider: str | None = None) -> list[Hit]:
        """Which payments were met, by what and how often; the oldest first."""
        return [
            hit
            for (met_provider, met_reference), hits in self._hits.items()
            if provider in (None, met_provider) and (reference is None or reference.lower() == met_reference.lower())
            for hit in hits.values()
        ]

    def _note(self, cue: Cue, entry: _Entry) -> None:
        if cue.reference is None:
            return
        reference, fault = cue.reference[:200], entry.fault
        word = fault.word(entry.used) if isinstance(fault, WrongWord) else getattr(fault, "claimed", None)
        hits = self._hits.setdefault((cue.provider, reference), {})
        known = hits.get((entry.id, cue.operation, word))
        hits[entry.id, cue.operation, word] = Hit(
            provider=cue.provider,
            reference=reference,
            fault=entry.id,
            kind=str(fault.__struct_config__.tag),
            operation=cue.operation,
            word=word,
            times=1 if known is None else known.times + 1,
            last_at=time.time(),
        )
        if len(self._hits) > MAX_HITS:
            self._hits.popitem(last=False)

    def holds(self, fault: Fault) -> bool:
        return any(entry.fault is fault for entry in self._entries.values())

    def listed(self) -> Iterator[dict[str, Any]]:
        return (_shown(entry) for entry in self._entries.values())

    def remove(self, fault_id: str) -> bool:
        return self._entries.pop(fault_id, None) is not None

    def clear(self) -> None:
        self._entries.clear()


def _shown(entry: _Entry) -> dict[str, Any]:
    fault: dict[str, Any] = msgspec.to_builtins(entry.fault)
    return {"id": entry.id, "used": entry.used, "spent": entry.spent, **fault}
