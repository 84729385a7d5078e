"""What a recorder has heard is written down once, about its own payment alone, and never with a secret in it."""

import json

import pytest

from kobiri import net
from kobiri.domain.ids import PaymentId, new_provider_reference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Accepted, Unknown
from kobiri.domain.payment import Payment
from kobiri.domain.redaction import Redactor
from kobiri.providers.base import Collection
from kobiri.services import recording
from kobiri.services.recording import TELLING, Recorder, Recording, _Notebook, _Step
from kobiri.services.roads import Road
from tests.services.scripted import Operator

URL = "http://operator.test/v1_0/payments"


def exchange(url: str = URL, body: bytes = b'{"status": "PENDING"}', *, once: bool = False) -> net.Exchange:
    return net.Exchange("GET", url, {"Authorization": "Bearer kanary"}, None, net.Answer(200, {}, body), once=once)


class Ear:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.kept: list[Recording] = []
        self.held_back: list[str] = []
        self.new: list[str] = []

    def keep(self, recording: Recording) -> None:
        self.kept.append(recording)

    def hold_back(self, why: str) -> None:
        self.held_back.append(why)

    def hear_new(self, code: str) -> None:
        self.new.append(code)

    def may_exist(self, payment_id: PaymentId | None) -> None: ...

    def see(self, payment: Payment) -> None: ...

    def say(self, line: str) -> None: ...


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def heard(ear: Ear) -> tuple[Recorder, _Notebook, list[Recording], Collection]:
    """A recorder that has heard a payment being asked for, its notebook, what that keeps, and the payment."""
    recorder, kept = Recorder(Operator()), ear.kept
    request = Collection(new_provider_reference(), Money.parse("3.00", "ZMW"), Msisdn("260967654328"), "mtn", None)
    recorder.steps.append(_Step("send", "collection", request, [exchange(once=True)], Accepted()))
    return recorder, _Notebook(Road(recorder), ear), kept, request


def test_the_same_exchange_is_written_once(
    heard: tuple[Recorder, _Notebook, list[Recording], Collection],
) -> None:
    recorder, notebook, kept, request = heard
    for _ in range(3):
        recorder.steps.append(_Step("find", "collection", request.reference, [exchange()], Accepted()))
        notebook.write()
    recorder.steps.append(
        _Step("find", "collection", request.reference, [exchange(body=b'{"status": "TS"}')], Accepted())
    )
    notebook.write()
    assert [one.document["operation"] for one in kept] == ["send", "find", "find"]
    assert kept[0].document["request"]["headers"] == {"Authorization": "*"}


def test_a_question_about_nobodys_payment_is_left_out(
    heard: tuple[Recorder, _Notebook, list[Recording], Collection],
) -> None:
    recorder, notebook, kept, _ = heard
    another = new_provider_reference()
    recorder.steps.append(_Step("find", "collection", another, [exchange(f"{URL}/{another}")], Accepted()))
    notebook.write()
    assert [one.document["operation"] for one in kept] == ["send"]


def test_a_document_with_a_trace_of_a_secret_is_not_written(
    heard: tuple[Recorder, _Notebook, list[Recording], Collection], ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, notebook, kept, request = heard
    monkeypatch.setattr(Redactor, "path", lambda _self, path: f"{path}?{request.payer}")
    notebook.write()
    notebook.write()
    assert kept == []
    assert ear.held_back == [TELLING]


def test_an_answer_that_was_lost_is_told_and_is_no_other_one(
    heard: tuple[Recorder, _Notebook, list[Recording], Collection], ear: Ear
) -> None:
    recorder, notebook, kept, request = heard
    lost = net.Exchange("GET", URL, {}, None, None, once=False, lost="the answer is too large")
    recorder.steps.append(
        _Step("find", "collection", request.reference, [exchange(f"{URL}/token"), lost], Unknown("x"))
    )
    notebook.write()
    assert [one.document["operation"] for one in kept] == ["send", "token"]
    assert ear.held_back == ["no whole answer came: the answer is too large"]


def test_what_is_written_is_json_in_the_form_of_recordings(
    heard: tuple[Recorder, _Notebook, list[Recording], Collection],
) -> None:
    _, notebook, kept, _ = heard
    notebook.write()
    assert json.loads(kept[0].text) == kept[0].document
    assert kept[0].document["means"] == {"outcome": "Accepted"}


def test_a_new_code_is_told_as_the_log_tells_it_and_no_secret_in_its_place(
    heard: tuple[Recorder, _Notebook, list[Recording], Collection], ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, _, _, request = heard
    monkeypatch.setattr(recording, "_secrets", lambda _: ["7394"])
    for code in ("WALLET_ON_HOLIDAY", "7394", "0967654328"):
        said = Unknown("x", unlisted=code)
        recorder.steps.append(_Step("find", "collection", request.reference, [exchange()], said))
    _Notebook(Road(recorder), ear).write()
    assert ear.new == ["WALLET_ON_HOLIDAY", "others", "others"]
