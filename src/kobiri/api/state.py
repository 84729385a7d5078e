"""What the API's handlers work with, wired by `app`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from kobiri.api.cursors import Cursors
from kobiri.api.throttle import Throttle
from kobiri.services.access import Access
from kobiri.services.callbacks import Refusals
from kobiri.services.gateway import Gateway


@dataclass(slots=True)
class ApiState:
    """One per process. `draining` is set when the process was told to stop."""

    gateway: Gateway
    access: Access
    throttle: Throttle
    cursors: Cursors
    newest_migration: str
    idempotency_required: bool
    callback_url_configured: bool
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = ()
    refusals: Refusals = field(default_factory=Refusals)
    draining: bool = False
