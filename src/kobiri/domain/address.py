"""Addresses that people configure: which of them lead no further than this machine."""

from ipaddress import ip_address
from urllib.parse import urlsplit

ODD = frozenset("@\\ ")  # what one reader takes for a part of the host, and another does not


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by what is written there: nothing is looked up, and an odd spelling is not."""
    if host.lower() == "localhost":
        return True
    try:
        return "%" not in host and ip_address(host).is_loopback
    except ValueError:
        return False


def on_this_machine(url: str) -> bool:
    """Whether an http or https URL leads to this machine and nowhere else, whoever reads it."""
    if not (url.isascii() and url.isprintable()) or ODD & set(url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and parts.port != 0 and is_loopback(parts.hostname or "")
    except ValueError:
        return False
