"""What a tenant's roads offer now: for merchants who want to know before they ask a payer."""

from dataclasses import dataclass

from kobiri.domain.payment import Kind
from kobiri.services.access import Caller
from kobiri.services.gateway import Gateway
from kobiri.services.roads import Availability, Road


@dataclass(frozen=True, slots=True)
class Offer:
    """One kind of movement by one account. `closed_because` None: new ones are taken. Amounts in minor units."""

    road: Road
    kind: Kind
    availability: Availability
    closed_because: str | None


async def list_all(gateway: Gateway, caller: Caller) -> list[Offer]:
    """What the accounts that serve this key's mode offer, in the order in which they are tried."""
    switched_off = await gateway.roads.switched_off()
    offers = []
    for road in sorted(await gateway.roads.of_tenant(caller.tenant_id), key=lambda road: road.priority):
        if caller.mode not in road.account.modes:
            continue
        for kind in (kind for kind in road.spec.operations if kind in road.kinds):
            switched = switched_off.get(road.spec.id)
            closed = f"switched off: {switched}" if switched else road.closed_because(kind)
            offers.append(Offer(road, kind, road.availability(kind), closed))
    return offers
