"""GET /providers: what the roads offer now; GET /providers/predict: whose wallet a number probably is."""

from typing import Annotated, Any

from litestar import Request, get
from litestar.params import QueryParameter

from kobiri.api import schemas
from kobiri.api.auth import caller_of
from kobiri.api.schemas import OfferList, Prediction
from kobiri.api.state import ApiState
from kobiri.domain.msisdn import Msisdn
from kobiri.services import offers

AnyRequest = Request[Any, Any, Any]

PORTED = "Numbers may have moved to another operator: name `network` in the payment where you know better."
UNKNOWN = "This number's prefix belongs to no operator with mobile money that we know of: name `network` yourself."


@get("/providers", opt={"scope": "payments:read"}, summary="See what can be paid now")
async def list_providers(request: AnyRequest) -> OfferList:
    """The accounts that serve your key's mode, in the order in which they are tried."""
    state: ApiState = request.app.state.api
    found = await offers.list_all(state.gateway, caller_of(request))
    return OfferList([schemas.offer_view(offer) for offer in found])


@get(
    "/providers/predict",
    opt={"scope": "payments:read", "parameters": ("msisdn",)},
    summary="Predict whose wallet a number is",
)
async def predict_provider(
    msisdn: Annotated[str, QueryParameter(description="A phone number, such as 0961234567.", max_length=32)],
) -> Prediction:
    """By the number's prefix. A hint and no proof."""
    number = Msisdn.parse(msisdn)
    return Prediction(
        msisdn=number.digits,
        country=number.country,
        network=number.network,
        predicted_from="prefix" if number.network else None,
        advice=PORTED if number.network else UNKNOWN,
    )
