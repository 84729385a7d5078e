"""The reference tells the truth: its requests are sent to the real API, its answers compared with the real ones."""

import asyncio
import base64
import gzip
import hashlib
import json
import re
import shlex
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
import pytest

from kobiri.api import docs
from kobiri.api.cursors import TAG_BYTES
from kobiri.api.reference.catalogue import BY_ERROR
from kobiri.api.reference.document import build, problem_body
from kobiri.api.reference.operations import CALLBACK, PAYMENT_ID, WEBHOOK_SECRET
from kobiri.domain import errors, signature
from kobiri.domain.errors import KobiriError
from kobiri.services import housekeeping
from kobiri.services import tenants as tenant_service
from tests.api.json_schema import FORMS, Json, Schemas
from tests.conftest import Api, ApiFactory, Simulator, make_tenant, payment_body

DOCUMENT = build()
SCHEMAS = Schemas(DOCUMENT)


# --- the documented requests ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A curl command of the document, read as a shell would read it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: str | None

    @classmethod
    def of(cls, operation_id: str, number: int = 0) -> "Sample":
        source = operation(operation_id)["x-codeSamples"][number]["source"]
        words = iter(shlex.split(source.replace("\\\n", "")))
        method, address, headers, body = None, "", {}, None
        assert next(words) == "curl"
        for word in words:
            match word:
                case "-sS":
                    pass
                case "-X":
                    method = next(words)
                case "-H":
                    name, _, value = next(words).partition(": ")
                    headers[name] = value
                case "-d":
                    body = next(words)
                case _:
                    address = word
        assert address.startswith("$KOBIRI_URL/")
        return cls(method or ("POST" if body else "GET"), address.removeprefix("$KOBIRI_URL"), headers, body)

    async def send(self, api: Api, payment_id: str = PAYMENT_ID) -> httpx.Response:
        given = {name: value.replace("$KOBIRI_KEY", api.key) for name, value in self.headers.items()}
        async with httpx.AsyncClient(transport=api.client._transport, base_url="http://api.test") as client:
            return await client.request(
                self.method, self.path.replace(PAYMENT_ID, payment_id), headers=given, content=self.body
            )


def operation(operation_id: str) -> dict[str, Json]:
    return next(
        o for methods in DOCUMENT["paths"].values() for o in methods.values() if o["operationId"] == operation_id
    )


def example(operation_id: str, status: int, name: str) -> Json:
    content = next(iter(operation(operation_id)["responses"][str(status)]["content"].values()))
    return content["examples"][name]["value"]


def check(answer: httpx.Response, operation_id: str, example_name: str | None = None, *, problem: bool = False) -> Json:
    """The answer is as its operation documents it: status, media type, headers, schema, and the example if named."""
    documented = operation(operation_id)["responses"].get(str(answer.status_code))
    assert documented, f"{operation_id} does not document {answer.status_code}: {answer.text}"
    media_type, content = next(iter(documented["content"].items()))
    assert answer.headers["content-type"].partition(";")[0] == media_type
    body = answer.json()
    SCHEMAS.check(body, content["schema"])
    for name in ("x-request-id", "location", "idempotent-replayed", "preference-applied", "retry-after"):
        if name in answer.headers:
            assert name in {header.lower() for header in documented["headers"]}, f"{name} is not documented"
    for name, header in documented["headers"].items():
        if name in answer.headers:
            schema = SCHEMAS.resolve(header)["schema"]
            value = answer.headers[name]
            SCHEMAS.check(int(value) if schema["type"] == "integer" else value, schema)
    if example_name is not None:
        told = content["examples"][example_name]
        same(SCHEMAS.resolve(told)["value"], body)
    return body


async def call_back(api: Api, provider_reference: str) -> httpx.Response:
    body = json.dumps(CALLBACK | {"externalId": provider_reference}).encode()
    signed = {"x-signature-256": signature.sign(body, WEBHOOK_SECRET.encode()), "content-type": "application/json"}
    return await api.client.post("/api/v1/webhooks/mtn", content=body, headers=signed)


@pytest.fixture
async def gateway(make_api: ApiFactory) -> Api:
    """As the document's examples have it: with MTN's webhook secret, and a quota."""
    return await make_api(mtn_webhook_secret=WEBHOOK_SECRET, public_base_url="https://pay.example", throttle_limit=100)


async def test_a_payment_and_all_that_can_be_read_of_it(gateway: Api) -> None:
    create = Sample.of("createPayment")
    first = await create.send(gateway)
    check(first, "createPayment", "pending")
    assert first.status_code == 201
    assert re.fullmatch(r'"default";r=\d+;t=\d+', first.headers["ratelimit"])

    again = await create.send(gateway)
    check(again, "createPayment", "pending")
    assert again.headers["idempotent-replayed"] == "true"

    payment = first.json()
    check(await call_back(gateway, payment["provider_reference"]), "postCallback", "taken")
    check(await Sample.of("getPayment").send(gateway, payment["id"]), "getPayment", "paid")
    check(await Sample.of("listPayments").send(gateway), "listPayments", "page")
    check(await Sample.of("listTransactions").send(gateway), "listTransactions", "page")
    check(await Sample.of("getCallbackHealth").send(gateway), "getCallbackHealth", "signed")
    check(await Sample.of("predictProvider").send(gateway), "predictProvider", "mtn")

    await housekeeping.seal_events(gateway.app.state.api.gateway.db)
    check(await Sample.of("listEvents").send(gateway), "listEvents", "page")


async def test_what_can_be_paid_now(gateway: Api) -> None:
    check(await Sample.of("listProviders").send(gateway), "listProviders", "offers")


async def test_a_payment_that_nobody_waits_for(gateway: Api) -> None:
    answer = await Sample.of("createPayment", 1).send(gateway)

    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    check(answer, "createPayment", "recorded")


async def test_a_payment_that_is_declined_at_once(gateway: Api, simulator: Simulator) -> None:
    await simulator.fault(operation="create", kind="error_before", status=500, code="PAYER_NOT_FOUND")

    answer = await Sample.of("createPayment").send(gateway)

    assert answer.status_code == 201
    check(answer, "createPayment", "declined")


async def test_callbacks_that_bear_a_true_signature_and_health(gateway: Api) -> None:
    check(await Sample.of("postCallback").send(gateway), "postCallback", "taken")
    check(await Sample.of("putCallback").send(gateway), "putCallback", "taken")
    for operation_id in ("postAccountCallback", "putAccountCallback"):  # the example's account is nobody's
        await refuse(gateway, errors.NotFound, operation_id, await Sample.of(operation_id).send(gateway), exactly=False)
    check(await Sample.of("getLiveness").send(gateway), "getLiveness", "live")
    check(await Sample.of("getReadiness").send(gateway), "getReadiness", "ready")
    gateway.app.state.api.draining = True
    check(await Sample.of("getReadiness").send(gateway), "getReadiness", "stopping")


def test_every_documented_request_is_sent_by_a_test_above() -> None:
    sent = {
        "createPayment": 2,
        "getPayment": 1,
        "listPayments": 1,
        "listTransactions": 1,
        "listEvents": 1,
        "listProviders": 1,
        "predictProvider": 1,
        "postCallback": 1,
        "putCallback": 1,
        "postAccountCallback": 1,
        "putAccountCallback": 1,
        "getCallbackHealth": 1,
        "getLiveness": 1,
        "getReadiness": 1,
    }
    documented = {o["operationId"]: len(o["x-codeSamples"]) for m in DOCUMENT["paths"].values() for o in m.values()}
    assert documented == sent


def test_every_example_fits_its_schema() -> None:
    for methods in DOCUMENT["paths"].values():
        for found in methods.values():
            bodies = [found["requestBody"]] if "requestBody" in found else []
            for place in (*bodies, *found["responses"].values()):
                for content in place["content"].values():
                    for told in content["examples"].values():
                        SCHEMAS.check(SCHEMAS.resolve(told)["value"], content["schema"])


# --- the documented errors ------------------------------------------------------------------------------------


async def refuse(
    api: Api, error: type[KobiriError], operation_id: str, answer: httpx.Response, *, exactly: bool = True
) -> None:
    """The answer is the documented problem; `exactly`: to the letter, but for ids."""
    body = answer.json()
    assert body["code"] == error.code, answer.text
    check(answer, operation_id)
    assert body["instance"] == f"urn:request:{answer.headers['x-request-id']}"
    told = problem_body(BY_ERROR[error])
    if exactly:
        same(told, body)
    else:
        same({**told, "detail": body["detail"]}, body)
    page, _, place = body["type"].partition("#")
    assert f'id="{place}"' in (await api.client.get(page)).text


BODIES: tuple[tuple[type[KobiriError], dict[str, Json] | str], ...] = (
    (errors.MalformedJSON, '{"amount": "1", "amount": "2"}'),
    (
        errors.InvalidFields,
        '{"amount": "1", "currency": "ZMW", "payer": "0961234567", "network": "MTN", "metadata": {"cart": 7}}',
    ),
    (errors.InvalidAmount, {"amount": "1.234"}),
    (errors.CurrencyNotSupported, {"currency": "ABC"}),
    (errors.InvalidNumber, {"payer": "12"}),
    (errors.NetworkUnknown, {"payer": "260981234567"}),
    (errors.CountryNotServed, {"payer": "+9612345678", "network": "mtn"}),
    (errors.NoRoute, {"currency": "USD"}),
)


async def test_refused_payments(api: Api) -> None:
    for error, body in BODIES:
        text = body if isinstance(body, str) else json.dumps(payment_body(**body))
        headers = {"content-type": "application/json", "idempotency-key": str(uuid.uuid4())}
        answer = await api.client.post("/api/v1/payments", content=text, headers=headers)
        await refuse(api, error, "createPayment", answer)

    await refuse(api, errors.BodyTooLarge, "createPayment", await api.pay(description="x" * 70_000), exactly=False)
    first = await api.pay("one", reference="order-1001")
    assert first.status_code == 201
    await refuse(api, errors.IdempotencyKeyReused, "createPayment", await api.pay("one", amount="11.00"))
    await refuse(api, errors.ReferenceInUse, "createPayment", await api.pay("two", reference="order-1001"))


async def test_refused_headers_and_addresses(api: Api) -> None:
    async def post(**headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        text = json.dumps(payment_body())
        return await api.client.post("/api/v1/payments", content=text, headers=given)

    json_type = "application/json"
    await refuse(api, errors.IdempotencyKeyMissing, "createPayment", await post(content_type=json_type))
    malformed = await post(content_type=json_type, idempotency_key="k" * 300)
    await refuse(api, errors.IdempotencyKeyMalformed, "createPayment", malformed)
    await refuse(api, errors.UnsupportedMediaType, "createPayment", await post(content_type="text/plain"))
    other = await post(content_type=json_type, x_tenant_id="another", idempotency_key="k")
    await refuse(api, errors.TenantMismatch, "createPayment", other)
    unknown = await post(content_type=json_type, x_api_key="kob_test_nothing", idempotency_key="k")
    await refuse(api, errors.Unauthenticated, "createPayment", unknown)
    assert "www-authenticate" in unknown.headers

    get = api.client.get
    await refuse(api, errors.NotFound, "getPayment", await get(f"/api/v1/payments/{uuid.uuid4()}"))
    await refuse(api, errors.InvalidQuery, "listPayments", await get("/api/v1/payments?state=PENDING"))
    await refuse(api, errors.InvalidCursor, "listEvents", await get("/api/v1/events?cursor=AAAA"), exactly=False)
    other = await get("/api/v1/webhooks/nobody/status")
    await refuse(api, errors.NotFound, "getCallbackHealth", other, exactly=False)


async def test_refused_keys(api: Api) -> None:
    reader = await api.tenant("shop", scopes=("payments:read",))
    elsewhere = await api.tenant("shop", allowed_addresses=("192.0.2.7",))
    limited = await api.tenant("shop", throttle_limit=1)

    await refuse(api, errors.ScopeMissing, "createPayment", await api.pay(headers={"x-api-key": reader}))
    await refuse(api, errors.AddressNotAllowed, "createPayment", await api.pay(headers={"x-api-key": elsewhere}))
    await api.client.get("/api/v1/payments", headers={"x-api-key": limited})
    over = await api.client.get("/api/v1/payments", headers={"x-api-key": limited})
    await refuse(api, errors.TooManyRequests, "listPayments", over, exactly=False)

    await make_tenant(api.database, "closed")
    await tenant_service.suspend(api.app.state.api.gateway.db, "closed", "test")
    suspended = await api.tenant("closed")
    await refuse(api, errors.TenantSuspended, "createPayment", await api.pay(headers={"x-api-key": suspended}))


async def test_refused_callbacks(gateway: Api) -> None:
    unsigned = await gateway.client.post("/api/v1/webhooks/mtn", json={})
    await refuse(gateway, errors.Unauthenticated, "postCallback", unsigned, exactly=False)
    body = b'{"hello": "world"}'
    signed = {"x-signature-256": signature.sign(body, WEBHOOK_SECRET.encode())}
    nonsense = await gateway.client.put("/api/v1/webhooks/mtn", content=body, headers=signed)
    await refuse(gateway, errors.Unprocessable, "putCallback", nonsense, exactly=False)


async def arrived(simulator: Simulator) -> None:
    """Wait until the simulator has a request to pay."""
    deadline = time.monotonic() + 5
    while not await simulator.requests(path="requesttopay"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_provider_that_does_not_answer_and_a_twin_meanwhile(make_api: ApiFactory, simulator: Simulator) -> None:
    api = await make_api()
    await simulator.fault(operation="create", kind="hang")
    first = asyncio.create_task(api.pay("one"))
    await arrived(simulator)

    twin = await api.pay("one")
    await refuse(api, errors.RequestInProgress, "createPayment", twin)
    await refuse(api, errors.OutcomeUnknown, "createPayment", await first)
    check(await api.pay("one"), "createPayment")
    await simulator.clear_faults()


async def test_a_road_that_is_closed(make_api: ApiFactory) -> None:
    api = await make_api(mtn_enabled=False)

    await refuse(api, errors.RouteClosed, "createPayment", await api.pay())


# --- how it is served -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/docs", "/docs/errors", "/docs/openapi.json"])
async def test_a_file_travels_packed_and_only_when_it_is_new(api: Api, path: str) -> None:
    api.client.headers.pop("x-api-key")
    first = await api.client.get(path)
    known = await api.client.get(path, headers={"if-none-match": first.headers["etag"]})
    plain = await api.client.get(path, headers={"accept-encoding": "identity"})

    assert first.status_code == plain.status_code == 200
    assert first.headers["content-encoding"] == "gzip"
    assert int(first.headers["content-length"]) < 20_000
    assert "content-encoding" not in plain.headers
    assert plain.content == first.content
    assert (known.status_code, known.content) == (304, b"")


@pytest.mark.parametrize("path", ["/docs", "/docs/errors"])
async def test_a_page_may_use_its_own_style_and_nothing_else(api: Api, path: str) -> None:
    answer = await api.client.get(path)
    policy = dict(rule.strip().partition(" ")[::2] for rule in answer.headers["content-security-policy"].split(";"))

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    style = answer.text.partition("<style>")[2].partition("</style>")[0]
    assert policy["style-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]


# --- example and reality --------------------------------------------------------------------------------------

TIME = re.compile(FORMS["date-time"])
CHANGING = (
    TIME,
    re.compile(FORMS["uuid"]),
    re.compile(f"urn:request:{FORMS['uuid']}"),
    re.compile(r"api_key:[0-9A-Za-z]{12}"),
)


def same(told: Json, real: Json, names: dict[str, str] | None = None, place: str = "$") -> None:
    """The example is what came, but for ids, times and cursors; and what has one id in it has one in reality."""
    names = {} if names is None else names
    if isinstance(told, dict):
        assert isinstance(real, dict)
        assert list(told) == list(real), place
        for name, value in told.items():
            if name == "next_cursor" and value and real[name]:
                assert position(value) == position(real[name]), place
            else:
                same(value, real[name], names, f"{place}.{name}")
    elif isinstance(told, list):
        assert isinstance(real, list)
        assert len(told) == len(real), f"{place}: {real}"
        for number, value in enumerate(told):
            same(value, real[number], names, f"{place}[{number}]")
    elif isinstance(told, str) and isinstance(real, str) and told != real:
        form = next((form for form in CHANGING if form.fullmatch(told)), None)
        assert form, f"{place}: {told!r}, {real!r}"
        assert form.fullmatch(real), f"{place}: {told!r}, {real!r}"
        if form is not TIME:
            assert names.setdefault(told, real) == real, f"{place}: {told!r} stands for two things"
    else:
        assert told == real, place


def position(cursor: str) -> bytes:
    """Where a cursor stands, without its signature, which is another one in each run."""
    return base64.urlsafe_b64decode(cursor + "==")[TAG_BYTES:]


def test_the_comparison_sees_a_lie() -> None:
    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    same([PAYMENT_ID, {"a": PAYMENT_ID}], [one, {"a": one}])
    for lie in ([one, {"a": two}], [one, {"b": one}], [one], ["PENDING", {"a": one}]):
        with pytest.raises(AssertionError):
            same([PAYMENT_ID, {"a": PAYMENT_ID}], lie)

    cursor, signed_otherwise, elsewhere = (
        base64.urlsafe_b64encode(tag * TAG_BYTES + place).decode().rstrip("=")
        for tag, place in ((b"\x00", b"5"), (b"\xff", b"5"), (b"\x00", b"6"))
    )
    same({"next_cursor": cursor}, {"next_cursor": signed_otherwise})
    for lie_at in (elsewhere, None, ""):
        with pytest.raises(AssertionError):
            same({"next_cursor": cursor}, {"next_cursor": lie_at})


def test_the_validator_sees_a_lie() -> None:
    payment = example("createPayment", 201, "pending")
    schema = {"$ref": "#/components/schemas/Payment"}
    SCHEMAS.check(payment, schema)
    for change in ({"status": "LOST"}, {"amount": 50}, {"id": "1"}, {"created_at": None}, {"failure": {"code": 1}}):
        with pytest.raises(AssertionError):
            SCHEMAS.check(payment | change, schema)


def test_a_packed_file_unpacks_to_the_same() -> None:
    for file in (docs.PAGE, docs.ERRORS, docs.OPENAPI):
        assert gzip.decompress(file.packed) == file.plain
