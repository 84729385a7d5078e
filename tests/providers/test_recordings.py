"""Recorded exchanges of every provider, replayed to its real adapter over real HTTP.

The format is told in src/kobiri/providers/mtn/README.md, section 8. A provider takes part as soon as its folder has
`recordings/`; here is nothing about any of them.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from aiohttp import web

from kobiri import providers
from kobiri.config import Settings
from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Finding, Outcome
from kobiri.domain.payment import Kind
from kobiri.providers import registry
from kobiri.providers.base import Callback, Collection, Payout, Provider, Refund, Request, Unreadable

REFERENCE = ProviderReference("8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10")
COLLECTED = ProviderReference("3c1d2b4e-9f10-4c7b-8f53-0a2b4c6d8e0f")
NUMBER = Msisdn("260961234567")
WITHIN_S = 10.0


class Sent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What travels to the provider, or for a callback from it."""

    method: str
    path: str
    headers: dict[str, str] = {}
    body: Any = msgspec.UNSET


class Answered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: int
    headers: dict[str, str] = {}
    body: Any = msgspec.UNSET
    body_text: str = ""


class Recording(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    source: str
    sure: Literal["D", "D2", "O", "C", "I"]
    operation: Literal["token", "send", "find", "callback"]
    kind: Kind = "collection"
    usual: bool = False
    values: dict[str, str] = {}
    request: Sent
    answer: Answered | None = None
    means: dict[str, Any]


def read(path: Path) -> list[Recording]:
    """Read a file's recordings, each with what it takes from another file."""
    told = written(path)
    return [msgspec.convert(whole(path, one), Recording) for one in (told if isinstance(told, list) else [told])]


def written(path: Path) -> Any:
    """What a file says, with our reference where it has a place for it: as it stands, or its 32 hex digits."""
    told = path.read_text().replace("{reference}", REFERENCE).replace("{reference_hex}", REFERENCE.replace("-", ""))
    return json.loads(told)


def whole(path: Path, told: dict[str, Any]) -> Any:
    if (like := told.pop("like", None)) is None:
        return told
    return merged(written(path.with_name(f"{like}.json")), told) | {"means": told["means"]}


def merged(old: Any, new: Any) -> Any:
    """A JSON merge patch (RFC 7396)."""
    if not isinstance(new, dict):
        return new
    kept = dict(old) if isinstance(old, dict) else {}
    for name, value in new.items():
        kept.pop(name, None) if value is None else kept.update({name: merged(kept.get(name), value)})
    return kept


def folder(entry: registry.Registration) -> Path:
    return Path(providers.__path__[0]) / entry.spec.id / "recordings"


def cases() -> list[Any]:
    return [
        pytest.param(entry, one, id=f"{entry.spec.id}/{path.stem}: {one.name}")
        for entry in registry.PROVIDERS
        for path in sorted(folder(entry).glob("*.json"))
        for one in read(path)
    ]


def all_of(entry: registry.Registration) -> list[Recording]:
    return [one for path in folder(entry).glob("*.json") for one in read(path)]


class Stage:
    """A provider that answers with a recording, and with the usual ones what must come before."""

    def __init__(self, recording: Recording, usual: list[Recording]) -> None:
        self._answers = [recording, *usual]
        self.asked: list[tuple[Recording, Any, bytes]] = []
        self.strange: list[str] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        for known in self._answers:
            answer = known.answer
            if answer is not None and known.request.method == request.method and same_path(known.request, request):
                self.asked.append((known, request.headers, body))
                text = answer.body_text if answer.body is msgspec.UNSET else json.dumps(answer.body)
                return web.Response(status=answer.status, headers=answer.headers, body=text.encode())
        self.strange.append(f"{request.method} {request.path}")
        return web.Response(status=404)


def same_path(recorded: Sent, request: web.BaseRequest) -> bool:
    """Whether the path is the very one, and the query has the same names."""
    wanted, came = urlsplit(recorded.path), urlsplit(request.path_qs)
    names = [set(parse_qs(one.query, keep_blank_values=True)) for one in (wanted, came)]
    return wanted.path == came.path and names[0] == names[1]


@asynccontextmanager
async def provider_on(stage: Stage, entry: registry.Registration, values: dict[str, str]) -> AsyncIterator[Provider]:
    runner = web.ServerRunner(web.Server(stage, access_log=None), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    account = registry.account(
        Settings(),
        entry.spec,
        base_url=f"http://{host}:{port}",
        mode="test",
        values={**registry.simulated_values()[entry.spec.id], **values},
        callback_url=None,
        webhook_secrets=(),
    )
    assert account is not None
    provider = entry.build(account)
    try:
        yield provider
    finally:
        await provider.close()
        await runner.cleanup()


def request_of(kind: Kind, currency: str) -> Request:
    money = Money.read("100", currency)
    match kind:
        case "collection":
            return Collection(REFERENCE, money, NUMBER, "mtn", "Order 7")
        case "payout":
            return Payout(REFERENCE, money, NUMBER, "mtn", "Order 7")
        case "refund":
            return Refund(REFERENCE, money, NUMBER, "mtn", "Order 7", COLLECTED, "1234567890")


def facts(outcome: Outcome | Finding) -> dict[str, Any]:
    """All that an outcome tells, by the names that recordings use."""
    told = {name: getattr(outcome, name) for name in outcome.__slots__}
    return {"outcome": type(outcome).__name__, **told, **of_money(told.pop("money", None))}


def of_money(money: Money | None) -> dict[str, Any]:
    return {"amount": None if money is None else str(money), "currency": None if money is None else money.currency}


def shape(value: object) -> object:
    """The names and types of a body; 100 and 10.50 are both numbers."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return "number" if type(value) in (int, float) else type(value)


async def said(provider: Provider, recording: Recording) -> dict[str, Any]:
    """What the adapter makes of it."""
    match recording.operation:
        case "token":
            why = (await provider.check(within_s=WITHIN_S)).trouble
            return {"outcome": "Taken" if why is None else "Refused"}
        case "send":
            request = request_of(recording.kind, min(provider.currencies))
            return facts(await provider.send(request, within_s=WITHIN_S, first_byte_before=None))
        case "find":
            return facts(await provider.find(recording.kind, REFERENCE, within_s=WITHIN_S))
        case "callback":
            sent = recording.request
            headers = [(name.lower(), value) for name, value in sent.headers.items()]
            callback = Callback(sent.method, "pay.example.com", sent.path, headers, json.dumps(sent.body).encode())
            try:
                word = provider.read_callback(callback)
            except Unreadable as error:
                return {"outcome": type(error).__name__}
            assert word.reference == REFERENCE
            return {**facts(word.finding), **of_money(word.money), "payer": word.payer}


@pytest.mark.parametrize(("entry", "recording"), cases())
async def test_a_recorded_exchange_means_what_it_says(entry: registry.Registration, recording: Recording) -> None:
    await replay(entry, recording)


async def replay(entry: registry.Registration, recording: Recording) -> None:
    """Answer the adapter with a recording; it must ask as recorded, and understand what is told to be meant."""
    usual = [one for one in all_of(entry) if one.usual]
    stage = Stage(recording, usual)
    async with provider_on(stage, entry, recording.values) as provider:
        told = await said(provider, recording)

    assert stage.strange == []
    assert {name: told.get(name) for name in recording.means} == recording.means
    if recording.operation != "callback":
        asked = [(headers, body) for known, headers, body in stage.asked if known is recording]
        assert asked, "the adapter did not make this request"
        headers, body = asked[0]
        wanted = recording.request
        for name, value in wanted.headers.items():
            assert headers[name] == value if value != "*" else headers[name], name
        if wanted.body is not msgspec.UNSET:
            assert shape(json.loads(body)) == shape(wanted.body)


@pytest.mark.parametrize("entry", [entry for entry in registry.PROVIDERS if folder(entry).is_dir()])
def test_recordings_cover_what_is_asked_and_what_may_be_said(entry: registry.Registration) -> None:
    recordings = all_of(entry)
    assert {(one.operation, one.kind) for one in recordings} >= {("send", kind) for kind in entry.spec.operations}
    assert len({one.name for one in recordings}) == len(recordings)
    assert all((one.answer is None) == (one.operation == "callback") for one in recordings)
