"""Addresses that people configure: which of them lead no further than this machine."""

from ipaddress import ip_address
from urllib.parse import urlsplit

ODD = frozenset("@\\ ")  # what one reader takes for a part of the host, and another does not


def host_of(url: str) -> str | None:
    """The host of an http or https URL, in lower case. None: it has none, or two readers may see different ones."""
    if not (url.isascii() and url.isprintable()):
        return None
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.port != 0 and not ODD & set(parts.netloc)
    except ValueError:
        return None
    return parts.hostname if whole else None


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
    host = host_of(url)
    return host is not None and is_loopback(host)
