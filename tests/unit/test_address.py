"""Which addresses lead no further than this machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain.address import is_loopback, on_this_machine


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8001/mtn",
        "http://127.9.8.7",
        "https://localhost/x",
        "HTTP://LOCALHOST:1",
        "http://[::1]:8001/mtn?a=b",
    ],
)
def test_this_machine(url: str) -> None:
    assert on_this_machine(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "//127.0.0.1",
        "ftp://127.0.0.1",
        "http://",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://[::1",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil",
        "http://localhost.",
        "http://evil.localhost",
        "http://127.0.0.1@evil.example",
        "http://evil.example@127.0.0.1",
        "http://evil.example#@127.0.0.1",
        "http://evil.example\\@127.0.0.1",
        "http://127.0.0.1\\.evil.example",
        "http://127.0.0.1\n.evil.example",
        "http://127.0.0.1/x\ny",
        "http://127.0.0.1%2eevil.example",
        "http://[::1%25eth0]",
        "http://[::ffff:192.0.2.1]",
        "http://2130706433",
        "http://0x7f000001",
        "http://0177.0.0.1",
        "http://127.1",
        "http://0.0.0.0",
        "http://[::]",
        "http://\uff11\uff12\uff17.0.0.1",
        "http://127\u30020\u30020\u30021",
        "http://192.0.2.1/127.0.0.1",
        "http://192.0.2.1?http://127.0.0.1",
        "http://169.254.169.254",
    ],
)
def test_elsewhere_or_nobody_knows(url: str) -> None:
    assert not on_this_machine(url)


@given(st.ip_addresses())
def test_every_address_of_either_kind(address: object) -> None:
    host = f"[{address}]" if ":" in str(address) else str(address)
    assert on_this_machine(f"http://{host}:1/x") is is_loopback(str(address))
