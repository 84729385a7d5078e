"""From which address a request comes."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

Network = IPv4Network | IPv6Network


def source_address(scope: Mapping[str, Any], trusted: Sequence[Network]) -> str:
    """The peer, or behind trusted proxies the last address of X-Forwarded-For that is not one of them."""
    client = scope.get("client")
    address: str = client[0] if client else "unknown"
    if not trusted or not _is_trusted(address, trusted):
        return address
    lines = [bytes(value).decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    # A proxy adds what it saw at the end: behind the last comma, or as a further line.
    for hop in reversed(",".join(lines).split(",") if lines else []):
        address = hop.strip()
        if not _is_trusted(address, trusted):
            break
    return address


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)  # ::ffff:10.0.0.1, as a socket for both families says
    return any((mapped or parsed) in network for network in trusted)
