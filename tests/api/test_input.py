"""Hostile input: whatever comes, the answer is a clear refusal, and nothing is stored."""

import json
import time
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kobiri.api.schemas import PaymentView
from tests.api.steps import CALLBACKS, PAYMENTS, problem, stored
from tests.conftest import Api, payment_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLAIN = json.dumps(payment_body())


async def post(api: Api, content: bytes | AsyncIterator[bytes], **headers: str) -> httpx.Response:
    sent = {"content-type": "application/json", "idempotency-key": "k"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.client.post(PAYMENTS, content=content, headers=sent)


def written(**changes: str) -> bytes:
    """A body whose named fields are written as this JSON text, byte for byte."""
    fields = {name: json.dumps(value) for name, value in payment_body().items()} | changes
    return ("{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}").encode("utf-8", "surrogatepass")


UNREADABLE: dict[str, bytes] = {
    "nothing": b"",
    "spaces": b"   ",
    "half": b'{"amount": ',
    "a comma too many": PLAIN.encode()[:-1] + b",}",
    "more behind": PLAIN.encode() + b"{}",
    "single quotes": PLAIN.replace('"', "'").encode(),
    "a comment": b"/* */" + PLAIN.encode(),
    "byte order mark alone": b"\xef\xbb\xbf",
    "two byte order marks": b"\xef\xbb\xbf" * 2 + PLAIN.encode(),
    "byte order mark behind a space": b" \xef\xbb\xbf" + PLAIN.encode(),
    "utf-16": PLAIN.encode("utf-16"),
    "utf-16 without mark": PLAIN.encode("utf-16-le"),
    "utf-32": PLAIN.encode("utf-32"),
    "latin-1": PLAIN.replace("10.00", "\xe9").encode("latin-1"),
    "overlong utf-8": b'{"a":"\xc0\xaf"}',
    "surrogate as bytes": written(description='"\ud800"'),
    "escaped surrogate": written(description='"\\ud800"'),
    "escaped surrogate in a name": written(metadata='{"\\udfff": "x"}'),
    "escaped halves the wrong way": written(description='"\\udc00\\ud800"'),
    "NUL byte": PLAIN.encode() + b"\x00",
    "raw control character": written(description='"a\x01b"'),
    "raw line break": written(description='"a\nb"'),
    "NaN": written(amount="NaN"),
    "Infinity": written(amount="Infinity"),
    "minus Infinity": written(amount="-Infinity"),
    "underscore": written(amount="1_0"),
    "leading zero": written(amount="010"),
    "hexadecimal": written(amount="0x10"),
    "plus": written(amount="+10"),
    "no digit before the point": written(amount=".5"),
    "no digit behind the point": written(amount="5."),
    "duplicate name": PLAIN.encode()[:-1] + b',"amount":"99.00"}',
    "duplicate name, escaped": PLAIN.encode()[:-1] + b',"amo\\u0075nt":"99.00"}',
    "duplicate name, nested": written(metadata='{"a":"1","a":"2"}'),
    "too deep": written(metadata='{"a":' * 40 + "1" + "}" * 40),
    "very deep": b"[" * 60_000,
    "deep and open": b'{"a":' * 12_000,
}


async def test_what_cannot_be_read_is_malformed(shared_api: Api) -> None:
    for name, body in UNREADABLE.items():
        answer = await post(shared_api, body)
        assert answer.status_code == 400, (name, answer.text)
        problem(answer, 400, "malformed_json")
    assert await stored(shared_api.database) == (0, 0)


UNACCEPTABLE: dict[str, bytes] = {
    "list": b"[]",
    "list of one": f"[{PLAIN}]".encode(),
    "null": b"null",
    "text": b'"amount"',
    "number": b"7",
    "true": b"true",
    "empty object": b"{}",
    "no amount": json.dumps(payment_body(amount=None)).encode(),
    "no currency": json.dumps(payment_body(currency=None)).encode(),
    "no payer": json.dumps(payment_body(payer=None)).encode(),
    "unknown field": written(ammount='"1"'),
    "unknown field of another case": written(Reference='"1"'),
    "exponent": written(amount="1e3"),
    "exponent as text": written(amount='"1e3"'),
    "underscore as text": written(amount='"1_0"'),
    "NaN as text": written(amount='"NaN"'),
    "minus": written(amount="-10"),
    "minus nothing": written(amount="-0"),
    "plus as text": written(amount='"+10"'),
    "leading zero as text": written(amount='"010"'),
    "spaces as text": written(amount='" 10"'),
    "line break as text": written(amount='"10\\n"'),
    "comma as text": written(amount='"10,00"'),
    "other digits": written(amount='"\u0661\u0660"'),
    "full-width digits": written(amount='"\uff11\uff10"'),
    "empty text": written(amount='""'),
    "true as amount": written(amount="true"),
    "null as amount": written(amount="null"),
    "list as amount": written(amount="[10]"),
    "object as amount": written(amount='{"minor":10}'),
    "5000 digits": written(amount="9" * 5_000),
    "5000 digits as text": written(amount=f'"{"9" * 5_000}"'),
    "5000 decimals": written(amount="0." + "1" * 5_000),
    "number as payer": written(payer="260961234567"),
    "list as payer": written(payer='["260961234567"]'),
    "empty payer": written(payer='""'),
    "long payer": written(payer=f'"{"2" * 33}"'),
    "small currency": written(currency='"zmw"'),
    "long currency": written(currency='"ZMWW"'),
    "currency and line break": written(currency='"ZMW\\n"'),
    "number as currency": written(currency="967"),
    "unknown network": written(network='"vodafone"'),
    "empty network": written(network='""'),
    "number as reference": written(reference="7"),
    "empty reference": written(reference='""'),
    "reference with a space": written(reference='"a b"'),
    "reference not ascii": written(reference='"caf\xe9"'),
    "long reference": written(reference=f'"{"x" * 101}"'),
    "empty description": written(description='""'),
    "long description": written(description=f'"{"x" * 141}"'),
    "metadata as list": written(metadata="[]"),
    "metadata as text": written(metadata='"a"'),
    "nested metadata": written(metadata='{"a":{"b":"c"}}'),
    "number in metadata": written(metadata='{"a":1}'),
    "null in metadata": written(metadata='{"a":null}'),
    "empty name in metadata": written(metadata='{"":"x"}'),
    "long name in metadata": written(metadata=json.dumps({"x" * 41: "x"})),
    "long value in metadata": written(metadata=json.dumps({"x": "x" * 501})),
    "21 in metadata": written(metadata=json.dumps({str(n): "x" for n in range(21)})),
    "callback_url without scheme": written(callback_url='"shop.example/x"'),
    "callback_url of another scheme": written(callback_url='"ftp://shop.example/x"'),
    "callback_url as script": written(callback_url='"javascript:alert(1)"'),
    "callback_url without host": written(callback_url='"https:///x"'),
    "callback_url with a broken port": written(callback_url='"https://shop.example:99999/x"'),
    "callback_url with a broken host": written(callback_url='"https://[::1/x"'),
    "callback_url with a space": written(callback_url='"https://shop.example/a b"'),
    "long callback_url": written(callback_url=f'"https://shop.example/{"x" * 2_048}"'),
}

# Every field of an answer that a merchant may not set.
SERVERS_OWN = sorted(
    set(PaymentView.__struct_fields__)
    - {"amount", "currency", "payer", "network", "reference", "description", "metadata", "callback_url"}
)
SERVERS_OWN += ["tenant_id", "tenant", "scopes", "version", "attempt", "fee", "send_before", "amount_minor"]

CONTROLS = ["\x00", "\x01", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9f", "\u2028", "\u2029"]


async def test_what_is_no_order_is_refused_field_by_field(shared_api: Api) -> None:
    cases = dict(UNACCEPTABLE)
    for name in SERVERS_OWN:
        for value in ("null", '"x"', "1"):
            cases[f"{name} {value}"] = written(**{name: value})
    for control in CONTROLS:
        text = json.dumps(f"a{control}b")
        for field in ("amount", "currency", "payer", "network", "reference", "description", "callback_url"):
            cases[f"{control!r} in {field}"] = written(**{field: text})
        cases[f"{control!r} in a metadata value"] = written(metadata=f'{{"a":{text}}}')
        cases[f"{control!r} in a metadata name"] = written(metadata=f'{{{text}:"a"}}')
    for name, body in cases.items():
        answer = await post(shared_api, body)
        # A payer that is text but no number was read and understood.
        if " in payer" in name:
            assert answer.status_code in (400, 422), (name, answer.text)
            continue
        assert answer.status_code == 400, (name, answer.text)
        told = problem(answer, 400, "invalid_fields")
        assert told["errors"], name
        for error in told["errors"]:
            assert error["pointer"] == "" or error["pointer"].startswith("/"), name
    assert await stored(shared_api.database) == (0, 0)


LONG = "n" * 41
TEN_DIGITS = (
    "These ten digits begin like a Zambian number, which is 0 and nine digits: 0961234567."
    " Write another country's number with a + in front."
)
TOLD_AT_ONCE: list[tuple[dict[str, str], str, list[tuple[str, str, str]]]] = [
    (
        {"metadata": '{"cart":7,"a/b~c":null,"ok":"x"}', "network": '"MTN"', "reference": '"a b"', "ammount": "1"},
        "invalid_fields",
        [
            ("/network", "not_a_choice", "Expected one of airtel, mtn, zamtel. Did you mean mtn?"),
            ("/reference", "bad_format", "Expected printable ASCII characters without spaces, such as order-1001."),
            ("/metadata/cart", "wrong_type", "Expected text, got a number: write it in quotes."),
            ("/metadata/a~1b~0c", "wrong_type", "Expected text, got null."),
            ("/ammount", "unknown_field", "There is no such field. Did you mean amount?"),
        ],
    ),
    (
        {"amount": '"1,5"', "currency": '"zmw"', "payer": "[]", "description": '""', "callback_url": '"shop"'},
        "invalid_fields",
        [
            ("/amount", "bad_format", 'Expected a decimal such as "1000.50": digits, at most one point, no sign.'),
            ("/currency", "bad_format", "Expected three capital letters, such as ZMW."),
            ("/payer", "wrong_type", "Expected text, got a list."),
            ("/description", "too_short", "It is empty."),
            ("/callback_url", "bad_format", "Expected an address such as https://shop.example/hooks."),
        ],
    ),
    (
        {"metadata": json.dumps({LONG: "x", "v": "x" * 501, "c": "a\nb"}), "callback_url": "7", "amount": '"0.001"'},
        "invalid_fields",
        [
            (f"/metadata/{LONG}", "too_long", "Its name: It has 41 characters; 40 are taken at most."),
            ("/metadata/v", "too_long", "It has 501 characters; 500 are taken at most."),
            ("/metadata/c", "bad_format", "Expected text without line breaks and other control characters."),
            ("/callback_url", "wrong_type", "Expected text, got a number: write it in quotes."),
            ("/amount", "invalid_amount", "ZMW has 2 decimals; the amount has 3."),
        ],
    ),
    (
        {"amount": '"0.001"', "payer": '"12"'},
        "invalid_amount",
        [
            ("/amount", "invalid_amount", "ZMW has 2 decimals; the amount has 3."),
            ("/payer", "invalid_number", "Give the number with its country code, such as 260961234567."),
        ],
    ),
    (
        {"currency": '"XXX"', "payer": '"9612345678"'},
        "currency_not_supported",
        [
            ("/currency", "currency_not_supported", "'XXX' is not a currency that Kobiri knows."),
            ("/payer", "invalid_number", TEN_DIGITS),
        ],
    ),
]  # fmt: skip


async def test_all_that_is_wrong_with_a_body_is_told_at_once_and_in_plain_words(shared_api: Api) -> None:
    for changes, code, expected in TOLD_AT_ONCE:
        told = problem(await post(shared_api, written(**changes)), 400 if code == "invalid_fields" else 422, code)
        assert [(one["pointer"], one["code"], one["detail"]) for one in told["errors"]] == expected
        assert told["detail"].endswith(f" {len(expected) - 1} more in `errors`.")
    told = problem(await post(shared_api, b"{}"), 400, "invalid_fields")
    assert [(one["pointer"], one["code"]) for one in told["errors"]] == [
        (f"/{name}", "missing") for name in ("amount", "currency", "payer")
    ]
    assert await stored(shared_api.database) == (0, 0)


async def test_many_faults_and_huge_names_make_a_short_answer_in_a_short_time(shared_api: Api) -> None:
    many = {str(number): number for number in range(4_000)}
    bodies = [
        json.dumps(payment_body() | many).encode(),
        written(metadata=json.dumps(many)),
        json.dumps({"~/" * 30_000: 1}).encode(),
        json.dumps(payment_body() | {"callback_url": 7, "metadata": dict(list(many.items())[:30])}).encode(),
    ]
    for body in bodies:
        began = time.process_time()
        answer = await post(shared_api, body)
        assert time.process_time() - began < 0.5
        assert 1 <= len(problem(answer, 400, "invalid_fields")["errors"]) <= 20
        assert len(answer.content) < 5_000


async def test_names_that_repeat_among_very_many_cost_little(shared_api: Api) -> None:
    """A quadratic search took 1.3 s of CPU for each such body."""
    names = ",".join(f'"{number:x}":0' for number in range(7_000))
    began = time.process_time()
    told = problem(await post(shared_api, f'{{{names},"1b57":0}}'.encode()), 400, "malformed_json")
    assert "'1b57' stands twice" in told["detail"]
    assert time.process_time() - began < 0.3


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"amount": "10.001"}, "invalid_amount"),
    ({"amount": "0"}, "invalid_amount"),
    ({"amount": "0.00"}, "invalid_amount"),
    ({"amount": "10000000000000.01"}, "invalid_amount"),
    ({"amount": 10**17}, "invalid_amount"),
    ({"amount": "9999999999999.00"}, "amount_out_of_limits"),
    ({"amount": "100000.01"}, "amount_out_of_limits"),
    ({"currency": "XXX"}, "currency_not_supported"),
    ({"currency": "KES"}, "no_route"),
    ({"payer": "12"}, "invalid_number"),
    ({"payer": "not a number"}, "invalid_number"),
    ({"payer": "260211234567"}, "invalid_number"),
    ({"payer": "٢٦٠٩٦١٢٣٤٥٦٧"}, "invalid_number"),
    ({"payer": "4915112345678"}, "network_unknown"),
    ({"payer": "260971234567"}, "no_route"),
]


async def test_what_is_understood_but_impossible_is_422(shared_api: Api) -> None:
    for change, code in IMPOSSIBLE:
        answer = await post(shared_api, json.dumps(payment_body(**change)).encode())
        problem(answer, 422, code)
    assert await stored(shared_api.database) == (0, 0)


async def test_sizes(shared_api: Api) -> None:
    problem(await post(shared_api, b"x" * 65_537), 413, "body_too_large")
    problem(await post(shared_api, b"x" * 5_000_000), 413, "body_too_large")

    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 16_384
            yield b" " * 16_384

    problem(await post(shared_api, endless()), 413, "body_too_large")
    assert sent < 500_000

    async def lying() -> AsyncIterator[bytes]:
        yield PLAIN.encode()
        yield b" " * 70_000

    problem(await post(shared_api, lying()), 413, "body_too_large")
    assert await stored(shared_api.database) == (0, 0)


async def test_types_and_encodings(shared_api: Api) -> None:
    plain = PLAIN.encode()
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/json5",
        "application/jsonx",
        "",
        "application/problem+json",
        "é",
    ):
        headers: Any = [("content-type", kind.encode("latin-1")), ("idempotency-key", "k")]
        answer = await shared_api.client.post(PAYMENTS, content=plain, headers=headers)
        problem(answer, 415, "unsupported_media_type")
    for encoding in ("gzip", "deflate", "br", "gzip, identity", "x"):
        problem(await post(shared_api, plain, content_encoding=encoding), 415, "unsupported_media_type")
    answer = await shared_api.client.post(PAYMENTS, content=plain, headers={"idempotency-key": "k"})
    problem(answer, 415, "unsupported_media_type")
    assert await stored(shared_api.database) == (0, 0)


ACCEPTED: list[bytes] = [
    written(metadata=json.dumps({"n" * 40: "v" * 500} | {str(n): "" for n in range(19)})),
    written(metadata=json.dumps({"brackets": '[{"' * 100})),
    written(description='"Zwei Bücher für Ms. O\'Brien, 100 % 🎉"', reference=f'"{"r" * 100}"'),
    written(amount="100000"),
    written(amount='"100000.00"'),
    written(amount="0.01"),
    written(callback_url='"https://shop.example:8443/x?a=b#c"'),
    PLAIN.encode() + b" " * (65_536 - len(PLAIN)),
    b"\xef\xbb\xbf" + PLAIN.encode(),
]


async def test_at_the_limits_it_is_taken_and_given_back(shared_api: Api) -> None:
    for n, body in enumerate(ACCEPTED):
        for kind in ("application/json", "Application/JSON; charset=utf-8"):
            answer = await post(
                shared_api, body, idempotency_key=f"limit-{n}", content_type=kind, prefer="respond-async"
            )
            assert answer.status_code == 202, (body[:200], answer.text)
        asked, made = json.loads(body.removeprefix(BOM_UTF8)), answer.json()
        for name in ("currency", "description", "metadata", "callback_url", "reference"):
            assert made[name] == asked.get(name, {} if name == "metadata" else None)
        seen = (await shared_api.client.get(f"{PAYMENTS}/{made['id']}")).json()
        assert {k: v for k, v in seen.items() if k in asked} == {k: v for k, v in made.items() if k in asked}


TOKENS = st.sampled_from(
    [
        b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b'"amount"', b'"currency"', b'"payer"', b'"metadata"',
        b'"ZMW"', b'"260961234567"', b"10", b"1e5", b"-0", b"NaN", b"null", b"true", b"\\u0000", b"\\ud800", b" ",
        b"\x00", b"\xff", b"\xef\xbb\xbf", b'"x"', b"9" * 40,
    ]
)  # fmt: skip
FUZZ = settings(max_examples=75, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@given(body=st.one_of(st.binary(max_size=300), st.lists(TOKENS, max_size=40).map(b"".join)))
@FUZZ
async def test_random_bytes_are_never_our_fault(shared_api: Api, body: bytes) -> None:
    for answer in (
        await post(shared_api, body, idempotency_key="fuzz"),
        await shared_api.client.post(CALLBACKS, content=body),
    ):
        assert 400 <= answer.status_code < 500, (body, answer.text)
        problem(answer, answer.status_code, answer.json()["code"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(name=st.sampled_from([*PaymentView.__struct_fields__, "x"]), value=VALUES)
@FUZZ
async def test_random_values_are_never_our_fault(shared_api: Api, name: str, value: object) -> None:
    body = json.dumps(payment_body() | {name: value}).encode()
    answer = await post(shared_api, body, idempotency_key="")
    assert 400 <= answer.status_code < 500, (body, answer.text)
    answer = await shared_api.client.post(CALLBACKS, content=body)
    assert 400 <= answer.status_code < 500, (body, answer.text)


@given(
    header=st.sampled_from(
        ["idempotency-key", "x-api-key", "authorization", "x-tenant-id", "content-type", "traceparent",
         "x-request-id", "x-signature-256", "x-forwarded-for", "content-encoding", "accept", "cookie"]
    ),
    value=st.binary(max_size=60),
)  # fmt: skip
@FUZZ
async def test_random_headers_are_never_our_fault(shared_api: Api, header: str, value: bytes) -> None:
    sound = {"content-type": "application/json", "idempotency-key": "header-fuzz", "prefer": "respond-async"}
    headers: Any = sound | {header: value}
    answer = await shared_api.client.post(PAYMENTS, content=PLAIN.encode(), headers=headers)
    assert answer.status_code < 500, (header, value, answer.text)


@given(
    path=st.sampled_from([PAYMENTS, "/api/v1/transactions", "/api/v1/events", "/health/live"]),
    name=st.sampled_from(["limit", "cursor", "status", "provider", "reference", "created_from", "type", "x"]),
    value=st.text(max_size=40) | st.sampled_from(["0", "-1", "1e9", "9" * 30, "PENDING", "0000-00-00T00:00:00Z"]),
)
@FUZZ
async def test_random_queries_are_never_our_fault(shared_api: Api, path: str, name: str, value: str) -> None:
    query = {name: value.encode("utf-8", "surrogatepass")}
    answer = await shared_api.client.get(path, params=query)
    assert answer.status_code < 500, (path, query, answer.text)
