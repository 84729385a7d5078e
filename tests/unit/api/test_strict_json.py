import json
import math
import re
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.api import strict_json
from kobiri.api.schemas import PaymentRequest, fingerprint, read_order
from kobiri.api.strict_json import MAX_BODY_BYTES, MAX_DEPTH, MAX_FAULTS, decode, faults, parse
from kobiri.domain.errors import BodyTooLarge, InvalidFields, KobiriError, Malformed, MalformedJSON

BODY = {"amount": "10.00", "currency": "ZMW", "payer": "260961234567"}


class Anything(msgspec.Struct):
    """Whatever is under one name."""

    it: Any = None


def order(**changes: object) -> Any:
    return decode(json.dumps(BODY | changes).encode(), PaymentRequest).to_order()


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, 1_000, 30_000])
def test_depth_has_a_limit(depth: int) -> None:
    body = b'{"it":' + b"[" * depth + b"]" * depth + b"}"
    if depth < MAX_DEPTH:
        decode(body, Anything)
    else:
        with pytest.raises(MalformedJSON, match="deeper"):
            decode(body, Anything)


def test_brackets_in_strings_are_no_depth() -> None:
    text = '[{"' * 1_000 + "\\"
    assert decode(json.dumps({"it": text}).encode(), Anything).it == text


def test_many_brackets_side_by_side_are_no_depth() -> None:
    assert decode(b'{"it":[' + b"[]," * 5_000 + b"[]]}", Anything).it == [[]] * 5_001


def test_the_size_has_a_limit() -> None:
    body = b'{"it":"%s"}' % (b"x" * (MAX_BODY_BYTES - 9))
    decode(body, Anything)
    with pytest.raises(BodyTooLarge):
        decode(body + b" ", Anything)


@given(st.binary(max_size=200))
def test_junk_is_a_clear_refusal(body: bytes) -> None:
    with suppress(Malformed):
        decode(body, PaymentRequest)


JSON = st.recursive(
    st.none() | st.booleans() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_what_is_plain_json_is_read_as_json_reads_it(value: Any) -> None:
    text = json.dumps({"it": value})
    try:
        expected = json.loads(text.encode())
        json.dumps(expected, ensure_ascii=False).encode()
    except UnicodeError:
        with pytest.raises(MalformedJSON):
            decode(text.encode(), Anything)
    else:
        assert decode(text.encode(), Anything).it == expected["it"]


@given(st.sampled_from(sorted(BODY)), st.integers() | st.floats() | st.booleans() | st.none() | JSON)
def test_any_value_in_any_field_is_an_order_or_a_refusal(name: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        with pytest.raises(MalformedJSON):
            order(**{name: value})
        return
    try:
        made = order(**{name: value})
    except KobiriError:
        return
    assert made.money.minor > 0


FIELDS: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {},
    optional={
        "amount": st.sampled_from(["1", "1.5", "-1", "", 7, 1.25, None, True, []]),
        "currency": st.sampled_from(["ZMW", "zmw", "XXX", "", 7, None]),
        "payer": st.sampled_from(["0961234567", "12", "", "x" * 33, 7, None]),
        "network": st.sampled_from(["mtn", "MTN", "airtel", "", 7, None, []]),
        "reference": st.sampled_from(["r", "a b", "", "x" * 101, 7, None]),
        "description": st.sampled_from(["d", "a\nb", "", "x" * 141, 7, None]),
        "metadata": st.none() | st.lists(st.text(max_size=3)) | st.dictionaries(
            st.sampled_from(["", "a", "a/b", "~", "a\x00", "x" * 41, "x" * 5_000]),
            st.sampled_from(["", "v", "a\nb", "x" * 501, 7, None, {}, []]),
        ),
        "callback_url": st.sampled_from(["https://a.example", "ftp://a", "a b", "", "https://[", 7, None]),
        "Amount": st.none(),
        "x/y": JSON,
    },
)  # fmt: skip


@given(FIELDS | JSON)
def test_a_body_is_refused_where_it_has_faults_and_nowhere_else(body: Any) -> None:
    try:
        msgspec.convert(parse(json.dumps(body).encode()), PaymentRequest, dec_hook=strict_json._amount)
    except (msgspec.ValidationError, ValueError):
        expected = True
    except MalformedJSON:
        return
    else:
        expected = False
    found = faults(parse(json.dumps(body).encode()), PaymentRequest)
    assert bool(found) is expected
    for fault in found:
        assert re.fullmatch(r"(/([^/~]|~[01])*)*", fault.pointer, re.DOTALL)
        assert len(fault.pointer) < 300
        assert not re.search(r"`|\\|\bstr\b|\bint\b|enum|regex", fault.detail), fault
    if expected:
        with pytest.raises(InvalidFields):
            read_order(json.dumps(body).encode())


@given(FIELDS)
def test_a_fault_points_at_what_is_wrong(body: dict[str, Any]) -> None:
    """Whoever mends what the pointers name, and nothing else, has a body without faults."""
    mended = dict(body)
    for fault in faults(parse(json.dumps(body).encode()), PaymentRequest):
        _, name, *_ = (part.replace("~1", "/").replace("~0", "~") for part in fault.pointer.split("/"))
        mended.pop(name, None)
    assert faults(parse(json.dumps(BODY | mended).encode()), PaymentRequest) == []


def test_no_more_faults_are_looked_for_than_are_told() -> None:
    assert len(faults(BODY | {str(number): None for number in range(4_000)}, PaymentRequest)) == MAX_FAULTS


SAME: list[dict[str, object]] = [
    {"amount": 10},
    {"amount": "10"},
    {"amount": "10.0"},
    {"payer": "+260 96 1234567"},
    {"payer": "0961234567"},
    {"payer": "\u202d+260\u00a096\u20111234567\u202c\n"},
    {"payer": "+260 (0)961234567"},
    {"metadata": {}},
    {"reference": None},
]
OTHER: list[dict[str, object]] = [
    {"amount": "10.01"},
    {"payer": "260961234568"},
    {"network": "mtn"},
    {"reference": "r"},
    {"description": "d"},
    {"metadata": {"a": "b"}},
    {"callback_url": "https://shop.example/x"},
    {"amount": "10", "currency": "KES"},
]


@pytest.mark.parametrize("change", SAME)
def test_the_same_order_spelt_otherwise_has_one_fingerprint(change: dict[str, object]) -> None:
    assert fingerprint("POST", "/p", order(**change)) == fingerprint("POST", "/p", order())


@pytest.mark.parametrize("change", OTHER)
def test_any_other_order_has_another_fingerprint(change: dict[str, object]) -> None:
    assert fingerprint("POST", "/p", order(**change)) != fingerprint("POST", "/p", order())


# What stands in the databases of version 0.1: a change of these answers a repeat with 422, and the payer may pay twice.
PINNED: list[tuple[dict[str, object], str]] = [
    ({}, "6ae2641af2a563efef278ba3e8b980faa646c6a3b1806d2dc837915c2e650244"),
    (
        {
            "network": "mtn",
            "reference": "order-1001",
            "description": "Zwei Bücher",
            "metadata": {"b": "2", "a": "1"},
            "callback_url": "https://shop.example/hooks",
        },
        "86d9410b4f8481fde7b06c8ad85d1c6d1a6a25195cbc22c9713adf1490fe0a84",
    ),
]


@pytest.mark.parametrize(("change", "pinned"), PINNED)
def test_a_fingerprint_that_was_stored_is_made_again(change: dict[str, object], pinned: str) -> None:
    assert fingerprint("POST", "/api/v1/payments", order(**change)).hex() == pinned


def test_every_field_of_a_request_is_a_part_of_its_fingerprint() -> None:
    """A field that is not would give the first order's answer to a second, other one."""
    assert {name for change in OTHER for name in change} == set(PaymentRequest.__struct_fields__)


def test_the_order_of_metadata_does_not_matter() -> None:
    one, two = order(metadata={"a": "1", "b": "2"}), order(metadata={"b": "2", "a": "1"})
    assert fingerprint("POST", "/p", one) == fingerprint("POST", "/p", two)


def test_method_and_path_are_a_part_of_it() -> None:
    made = order()
    assert len({fingerprint("POST", "/p", made), fingerprint("PUT", "/p", made), fingerprint("POST", "/q", made)}) == 3
