"""What strict decoding costs, beside msgspec's own."""

import statistics
import timeit

import msgspec

from benchmarks.load import BODY
from kobiri.api.schemas import PaymentRequest
from kobiri.api.strict_json import decode


class Lenient(msgspec.Struct):
    """The same fields, as msgspec alone would read them."""

    amount: str
    currency: str
    payer: str
    description: str | None = None


def measure() -> dict[str, float]:
    """Microseconds a body."""
    body = BODY.encode()
    lenient = msgspec.json.Decoder(Lenient)
    return {
        "strict (ours)": _microseconds(lambda: decode(body, PaymentRequest)),
        "msgspec alone": _microseconds(lambda: lenient.decode(body)),
    }


def _microseconds(work: object) -> float:
    number = 5_000
    times = timeit.repeat(work, number=number, repeat=5)  # type: ignore[arg-type]
    return round(statistics.median(times) / number * 1e6, 2)
