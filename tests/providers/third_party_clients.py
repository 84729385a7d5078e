"""Other people's client libraries, used as their own pages say, against the simulators.

`test_third_party_clients.py` runs this file once for each library, with the Python of an environment that has them:
`python third_party_clients.py LIBRARY URL REPORT`. What came of every call is written to REPORT as JSON.
"""

# ruff: noqa: B023, E731, PLC0415
# mypy: disable-error-code="import-not-found"

import asyncio
import base64
import inspect
import json
import os
import sys
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

MSISDN = "260961234567"
NATIONAL = "971234567"
FAILING = "260960000455"  # ends as FAILED, with a reason
KEY, USER = "8c5f5a5e-0000-4000-8000-0000000000aa", "8c5f5a5e-0000-4000-8000-0000000000bb"
PIN = "2468"
NOWHERE = "http://127.0.0.1:9/hook"
SETTLES_WITHIN_S = 10.0


class Trial:
    """What a library offers, what came of each call (nothing: it did what it is for), and what must have moved."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.mtn, self.airtel = f"{url}/mtn", f"{url}/airtel"
        self.offered: set[str] = set()
        self.told: dict[str, str] = {}
        self.moved: list[tuple[str, str, str]] = []

    def offer(self, *classes: type) -> None:
        """All that a user may call on these."""
        for one in classes:
            names = {name for name, _ in inspect.getmembers(one, inspect.isroutine) if not name.startswith("_")}
            self.offered |= {f"{one.__name__}.{name}" for name in names}

    def ask(self, name: str, call: Callable[[], Any], right: Callable[[Any], Any] = bool) -> Any:
        """Call it once; `right` says of the answer whether the call did what it is for."""
        answer = None
        try:
            answer = call()
            self.told[name] = "" if right(answer) else f"answered {answer!r}"
        except Exception as error:  # noqa: BLE001  # whatever a library raises is what is to be told
            self.told[name] = f"{type(error).__name__}: {error}"
        return answer

    def until(self, name: str, call: Callable[[], Any], right: Callable[[Any], Any]) -> Any:
        """Call it until the answer is right."""
        ends = time.monotonic() + SETTLES_WITHIN_S
        while True:
            answer = self.ask(name, call, right)
            if not self.told[name] or "Error" in self.told[name] or time.monotonic() > ends:
                return answer
            time.sleep(0.02)

    def moves(self, kind: str, reference: str, amount: str) -> None:
        self.moved.append((kind, reference, amount))

    def http(self, method: str, path: str, content: Any = None, **headers: str) -> Any:
        """What another program of the shop asks: a key, a payment that the library itself cannot make."""
        body = None if content is None else json.dumps(content).encode()
        sent = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        request = urllib.request.Request(self.url + path, body, sent, method=method)  # noqa: S310  # this machine
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")

    def configure(self, provider: str, **options: Any) -> None:
        self.http("PATCH", f"/_sim/settings/{provider}", options)

    def mtn_sent(self, call: str) -> str:
        """The reference of a transfer or deposit that this shop made by other means."""
        keys = {"Ocp_Apim_Subscription_Key": KEY, "Authorization": "Basic " + base64.b64encode(b"shop:any").decode()}
        token = self.http("POST", "/mtn/disbursement/token/", **keys)["access_token"]
        reference = str(uuid.uuid4())
        keys |= {"Authorization": f"Bearer {token}", "X_Reference_Id": reference, "X_Target_Environment": "mtnzambia"}
        self.http("POST", f"/mtn/disbursement/v1_0/{call}", _mtn("payee"), **keys)
        self.moves("payout", reference, "10.50")
        return reference

    def airtel_http(self, method: str, path: str, content: Any = None) -> Any:
        asked = {"client_id": "shop", "client_secret": "secret", "grant_type": "client_credentials"}
        token = self.http("POST", "/airtel/auth/oauth2/token", asked)["access_token"]
        headers = {"Authorization": f"Bearer {token}", "X_Country": "ZM", "X_Currency": "ZMW"}
        return self.http(method, f"/airtel{path}", content, **headers)

    def airtel_key(self) -> str:
        key: str = self.airtel_http("GET", "/v1/rsa/encryption-keys")["data"]["key"]
        return key

    def airtel_paid(self) -> str:
        """The id of a collection that this shop made by other means."""
        reference = uuid.uuid4().hex
        terms = {"amount": 10.5, "country": "ZM", "currency": "ZMW", "id": reference}
        subscriber = {"country": "ZM", "currency": "ZMW", "msisdn": NATIONAL}
        ask = {"reference": "Order7", "subscriber": subscriber, "transaction": terms}
        self.airtel_http("POST", "/merchant/v1/payments/", ask)
        self.moves("collection", reference, "10.5")
        return reference


def _mtn(party: str, msisdn: str = MSISDN) -> dict[str, Any]:
    """A body in MTN's own words, for the libraries that take one."""
    wallet = {"partyIdType": "MSISDN", "partyId": msisdn}
    notes = {"payerMessage": "Order 7", "payeeNote": "Shop"}
    return {"amount": "10.50", "currency": "ZMW", "externalId": "order-7", party: wallet, **notes}


def _environment(base: str) -> dict[str, str]:
    """The variables that several libraries agree on."""
    products = {
        f"{product}_{name}": value
        for product in ("COLLECTION", "DISBURSEMENT")
        for name, value in (("PRIMARY_KEY", KEY), ("USER_ID", USER), ("API_SECRET", "any"))
    }
    return {**products, "BASE_URL": base, "MTN_ENVIRONMENT": "mtnzambia", "CURRENCY": "ZMW"}


def momo_openapi(trial: Trial) -> None:
    import momo_openapi as library
    from momo_openapi import config, sandbox

    trial.offer(library.Collection, library.Disbursement)
    for product in (library.Collection, library.Disbursement):
        name = product.__name__
        client = trial.ask(f"{name}.from_env", lambda: product.from_env(_environment(trial.mtn)))
        trial.ask(f"{name}.get_access_token", client.get_access_token)
        trial.ask(f"{name}.get_balance", client.get_balance, lambda told: told["currency"] == "ZMW")
        if product is library.Collection:
            call, kind, ask = "request_to_pay", "collection", client.request_to_pay
        else:
            call, kind, ask = "transfer", "payout", client.transfer
        reference = trial.ask(f"{name}.{call}", lambda: ask("10.50", MSISDN, "order-7"))
        trial.moves(kind, reference, "10.50")
        status = client.get_transaction_status
        paid = lambda told: told["status"] == "SUCCESSFUL"
        trial.until(f"{name}.get_transaction_status", lambda: status(reference), paid)
        # Its sandbox accounts are made at an address that only the module holds.
        sandbox.SANDBOX_URL = config.SANDBOX_URL = trial.mtn
        trial.ask(
            f"{name}.for_sandbox",
            lambda: product.for_sandbox(KEY).get_balance(),
            lambda told: told["currency"] == "EUR",
        )


def mtn_momo_client(trial: Trial) -> None:
    import momo_api as library

    collections, disbursements = library.CollectionApi, library.DisbursementApi
    trial.offer(collections, disbursements, library.AirtelCollectionApi, library.AirtelDisbursementApi)
    config = library.Config.collection(KEY, USER, "any")
    collection = collections(config, trial.mtn, "mtnzambia")
    disbursement = disbursements(config, trial.mtn, "mtnzambia")
    for client in (collection, disbursement):
        name = type(client).__name__
        trial.ask(f"{name}.get_access_token", client.get_access_token, lambda told: told.access_token)
        trial.ask(f"{name}.get_balance", client.get_balance, lambda told: told.currency == "ZMW")
        trial.ask(f"{name}.check_account_holder", lambda: client.check_account_holder(MSISDN))

    def pay(client: Any, call: str, ask: Callable[[], str], status: str, kind: str) -> Any:
        name = type(client).__name__
        reference = trial.ask(f"{name}.{call}", ask)
        trial.moves(kind, reference, "10.50")
        trial.until(f"{name}.{status}", lambda: getattr(client, status)(reference), lambda told: told.is_successful())
        return reference

    asked = library.PaymentRequest.make("10.50", MSISDN, "order-7", "ZMW", "Order 7", "Shop")
    paid = pay(
        collection, "request_to_pay", lambda: collection.request_to_pay(asked), "get_payment_status", "collection"
    )
    quick = lambda: collection.quick_pay("10.50", MSISDN, "order-8", "ZMW")
    pay(collection, "quick_pay", quick, "get_payment_status", "collection")
    failing = library.PaymentRequest.make("10.50", FAILING, "order-9", "ZMW")
    lost = collection.request_to_pay(failing)
    trial.until(
        "CollectionApi.get_payment_status (of a failed payment)",
        lambda: collection.get_payment_status(lost),
        lambda told: told.is_failed() and told.reason.code == "PAYER_NOT_FOUND",
    )
    transfer = library.TransferRequest.make("10.50", MSISDN, "order-10", "ZMW")
    pay(disbursement, "transfer", lambda: disbursement.transfer(transfer), "get_transfer_status", "payout")
    refund = library.RefundRequest.make("10.50", paid, "order-7", "ZMW")
    pay(disbursement, "refund", lambda: disbursement.refund(refund), "get_refund_status", "refund")
    trial.ask("DisbursementApi.deposit", lambda: disbursement.deposit(asked))
    sent = trial.mtn_sent("deposit")
    status = lambda: disbursement.get_deposit_status(sent)
    trial.until("DisbursementApi.get_deposit_status", status, lambda told: told.is_successful())
    _lepresk_airtel(trial, library)


def _lepresk_airtel(trial: Trial, library: Any) -> None:
    trial.configure("airtel", text_amounts="accepted")
    entry = library.AirtelApi(trial.airtel)
    pin = library.encrypt_airtel_pin(PIN, trial.airtel_key())
    market = {"country": "ZM", "currency": "ZMW"}
    collection = entry.get_collection(library.AirtelConfig.collection("shop", "secret", **market))
    disbursement = entry.get_disbursement(library.AirtelConfig.disbursement("shop", "secret", pin, **market))
    for client in (collection, disbursement):
        name = type(client).__name__
        trial.ask(f"{name}.get_access_token", client.get_access_token)
        trial.ask(f"{name}.get_balance", client.get_balance, lambda told: told.currency == "ZMW")
    asked = trial.ask(
        "AirtelCollectionApi.request_to_pay", lambda: collection.request_to_pay("10.50", MSISDN, "Order7")
    )
    trial.moves("collection", asked, "10.5")
    status = lambda: collection.get_payment_status(asked)
    trial.until("AirtelCollectionApi.get_payment_status", status, lambda told: told.is_successful())
    sent = trial.ask("AirtelDisbursementApi.transfer", lambda: disbursement.transfer("10", MSISDN, "Wages"))
    trial.moves("payout", sent, "10")
    status = lambda: disbursement.get_transfer_status(sent)
    trial.until("AirtelDisbursementApi.get_transfer_status", status, lambda told: told.is_successful())


def mtnmomo_py(trial: Trial) -> None:
    import mtnmomo as library

    trial.offer(library.CollectionAPI, library.DisbursementAPI)
    credentials = library.ProductCredentials(KEY, USER, "any")
    config = library.MoMoConfig(credentials, credentials, target_environment="mtnzambia", base_url=trial.mtn)
    client = library.MoMoClient(config)
    collection, disbursement = client.collection, client.disbursement
    for product in (collection, disbursement):
        name = type(product).__name__
        trial.ask(f"{name}.create_access_token", product.create_access_token, lambda told: told.access_token)
        for currency in (None, "ZMW"):
            balance = lambda: product.get_account_balance(currency)
            trial.ask(f"{name}.get_account_balance", balance, lambda told: told.currency == "ZMW")
        active = lambda: product.validate_account_holder_status("msisdn", MSISDN)
        trial.ask(f"{name}.validate_account_holder_status", active, lambda told: told is True)
        info = lambda: product.get_basic_user_info("msisdn", MSISDN)
        trial.ask(f"{name}.get_basic_user_info", info, lambda told: told["family_name"])

    def pay(product: Any, call: str, status: str, kind: str, body: dict[str, Any], **how: Any) -> Any:
        name = type(product).__name__
        reference = trial.ask(f"{name}.{call}", lambda: getattr(product, call)(body, **how))
        trial.moves(kind, reference, "10.50")
        succeeded = lambda told: told.status == "SUCCESSFUL"
        trial.until(f"{name}.{status}", lambda: getattr(product, status)(reference), succeeded)
        return reference

    paid = pay(collection, "request_to_pay", "get_request_to_pay_status", "collection", _mtn("payer"))
    pay(disbursement, "transfer", "get_transfer_status", "payout", _mtn("payee"))
    refund = _mtn("payee") | {"referenceIdToRefund": paid}
    del refund["payee"]
    pay(disbursement, "refund", "get_refund_status", "refund", refund | {"amount": "10.50"}, version="v2_0")
    for version in ("v1_0", "v2_0"):
        pay(disbursement, "deposit", "get_deposit_status", "payout", _mtn("payee"), version=version)
    lost = collection.request_to_pay(_mtn("payer", FAILING))
    failed = lambda told: told.status == "FAILED" and told.reason.code == "PAYER_NOT_FOUND"
    status = lambda: collection.get_request_to_pay_status(lost)
    trial.until("CollectionAPI.get_request_to_pay_status (of a failed payment)", status, failed)
    trial.configure("mtn", reason_as="object")
    trial.until("CollectionAPI.get_request_to_pay_status (of a failed payment, the reason an object)", status, failed)


def mtnmomoapi(trial: Trial) -> None:
    os.environ.update(_environment(trial.mtn), CALLBACK_URL=NOWHERE)
    from mtnmomoapi.collection import Collection
    from mtnmomoapi.disbursement import Disbursement

    trial.offer(Collection, Disbursement)
    collection, disbursement = Collection(), Disbursement()
    trial.ask("Collection.authToken", collection.authToken, lambda told: told["access_token"])
    trial.ask("Collection.getBalance", collection.getBalance, lambda told: told["currency"] == "ZMW")
    ask = lambda: collection.requestToPay("10.50", MSISDN, "order-7")
    told = trial.ask("Collection.requestToPay", ask, lambda told: told["status_code"] == 202)
    trial.moves("collection", told["ref"], "10.50")
    status = lambda: collection.getTransactionStatus(told["ref"])
    trial.until("Collection.getTransactionStatus", status, lambda told: told["status"] == "SUCCESSFUL")
    trial.ask("Disbursement.authToken", disbursement.authToken, lambda told: told["access_token"])
    trial.ask("Disbursement.getBalance", disbursement.getBalance)
    trial.ask("Disbursement.transfer", lambda: disbursement.transfer("10.50", MSISDN, "order-8"))
    sent = trial.mtn_sent("transfer")
    status = lambda: disbursement.getTransactionStatus(sent)
    trial.until("Disbursement.getTransactionStatus", status, lambda told: told["data"]["status"] == "SUCCESSFUL")


def mtn_momo_sdk(trial: Trial) -> None:
    from momo_sdk.momo import Momo

    trial.offer(Momo)
    client = Momo(USER, "any", KEY, callback_url=NOWHERE)
    client.url = trial.mtn
    for name in ("get_url", "get_api_user", "get_api_key", "get_subscription_key", "get_env", "get_callback"):
        trial.ask(f"Momo.{name}", getattr(client, name))
    trial.ask("Momo.encode_token", client.encode_token)
    for name in ("get_token", "get_live_token"):
        trial.ask(f"Momo.{name}", getattr(client, name), lambda told: isinstance(told, str))
    trial.ask("Momo.get_accountholder", lambda: client.get_accountholder(MSISDN), lambda told: told["result"])
    reference = str(uuid.uuid4())
    taken = lambda told: json.loads(told)["status_code"] == 202
    trial.ask("Momo.deposit_money", lambda: client.deposit_money(MSISDN, "10.50", reference), taken)
    trial.moves("collection", reference, "10.50")
    status = lambda: client.get_transaction(reference)
    trial.until("Momo.get_transaction", status, lambda told: told["status"] == "SUCCESSFUL")


def mobilemoney_py(trial: Trial) -> None:
    asyncio.run(_mobilemoney(trial))


async def _mobilemoney(trial: Trial) -> None:
    import mobilemoney as library
    from mobilemoney.request.collection import Collection
    from mobilemoney.request.disbursements import Disbursements
    from mobilemoney.request.route import Route

    Route.BASE = {"sandbox": trial.mtn, "live": trial.mtn}
    trial.offer(Collection, Disbursements)
    client = library.Client()
    basic = client.basic_token(USER, "any")

    async def ask(name: str, call: Callable[..., Awaitable[Any]], *given: Any) -> Any:
        """As `Trial.ask`: every call of this library answers whether it was done, and what with."""
        try:
            done, data = await call(*given)
        except Exception as error:  # noqa: BLE001  # as there
            trial.told[name] = f"{type(error).__name__}: {error}"
            return None
        trial.told[name] = "" if done is True else f"answered {data!r}"
        return data

    for product in (client.collection(KEY), client.disbursements(KEY)):
        name = type(product).__name__
        token = await ask(f"{name}.create_access_token", product.create_access_token, basic)
        bearer, target = client.bearer_token(token["access_token"]), "mtnzambia"
        reference = client.get_reference_id()
        await ask(f"{name}.get_account_balance", product.get_account_balance, bearer, target)
        await ask(f"{name}.get_account_balance_in", product.get_account_balance_in, "ZMW", bearer, target)
        await ask(f"{name}.get_basic_user_info", product.get_basic_user_info, MSISDN, bearer, target)
        if isinstance(product, Collection):
            await ask(f"{name}.isActive", product.isActive, MSISDN, "msisdn", bearer, target)
            body = _mtn("payer")
            await ask(f"{name}.request_to_pay", product.request_to_pay, bearer, reference, target, body)
            trial.moves("collection", reference, "10.50")
            continue
        await ask(f"{name}.isActive", product.isActive, MSISDN, bearer, "msisdn", target)
        for call in ("deposit", "transfer", "refund"):
            await ask(f"{name}.{call}", getattr(product, call), reference, bearer, target, _mtn("payee"))
            status = f"get_{call}_status"
            await ask(f"{name}.{status}", getattr(product, status), reference, bearer, target)


def pytekmomoapi(trial: Trial) -> None:
    import tekmomoapi as library

    trial.offer(library.CollectionAPI, library.DisbursementAPI)
    collection = library.CollectionAPI(KEY, trial.mtn, USER, "any")
    disbursement = library.DisbursementAPI(KEY, trial.mtn, USER, "any")
    here: dict[str, Any] = {"x_target_environment": "mtnzambia"}
    for product in (collection, disbursement):
        name = type(product).__name__
        trial.ask(f"{name}.get_access_token", product.get_access_token)
        balance = lambda: product.get_account_balance(**here)
        trial.ask(f"{name}.get_account_balance", balance, lambda told: told["currency"] == "ZMW")
        active = lambda: product.is_account_active(MSISDN, "msisdn", **here)
        trial.ask(f"{name}.is_account_active", active)
    succeeded = lambda told: told["status"] == "SUCCESSFUL"
    asked, sent, lost = (str(uuid.uuid4()) for _ in range(3))
    body = library.get_payment_request_obj(**_mtn("payer") | {"payer": library.CParty("MSISDN", MSISDN).to_jsonable()})
    pay = lambda: collection.request_payment(asked, body, x_callback_url=None, **here)
    trial.ask("CollectionAPI.request_payment", pay, lambda told: told == b"")
    trial.moves("collection", asked, "10.50")
    status = lambda: collection.get_payment_request_status(asked, **here)
    trial.until("CollectionAPI.get_payment_request_status", status, succeeded)
    transfer = library.get_disbursement_transfer_obj(**_mtn("payee") | {"payee": library.DParty("MSISDN", MSISDN)})
    send = lambda: disbursement.transfer(sent, transfer, x_callback_url=None, **here)
    trial.ask("DisbursementAPI.transfer", send, lambda told: told == b"")
    trial.moves("payout", sent, "10.50")
    status = lambda: disbursement.get_transfer_status(sent, **here)
    trial.until("DisbursementAPI.get_transfer_status", status, succeeded)
    body.payer.partyId = FAILING
    collection.request_payment(lost, body, x_callback_url=None, **here)
    status = lambda: collection.get_payment_request_status(lost, **here)
    failed = lambda told: told["status"] == "FAILED"
    trial.until("CollectionAPI.get_payment_request_status (of a failed payment)", status, failed)
    trial.configure("mtn", reason_as="object")
    trial.until("CollectionAPI.get_payment_request_status (of a failed payment, the reason an object)", status, failed)


def raapimtnmomo(trial: Trial) -> None:
    products = {"RA_COLLECTION_API_KEY_SECRET": "any", "RA_COLLECTION_PRIMARY_KEY": KEY, "RA_COLLECTION_USER_ID": USER}
    market = {"RA_BASE_URL": f"{trial.mtn}/", "RA_CURRENCY": "ZMW", "RA_TARGET_ENVIRONMENT": "mtnzambia"}
    os.environ.update(products | market)
    from raapimtnmomo.config import MTNMoMoConfig
    from raapimtnmomo.mtn_momo_collection import MTNMoMoCollection

    trial.offer(MTNMoMoCollection)
    client = MTNMoMoCollection(MTNMoMoConfig())
    name = "MTNMoMoCollection"
    trial.ask(f"{name}.get_token", client.get_token)
    trial.ask(f"{name}.get_url", client.get_url)
    for currency in (None, "ZMW"):
        balance = lambda: client.get_account_balance(currency)
        trial.ask(f"{name}.get_account_balance", balance, lambda told: told["currency"] == "ZMW")
    info = lambda: client.get_basic_user_info(MSISDN)
    trial.ask(f"{name}.get_basic_user_info", info, lambda told: told["family_name"])
    order = {"amount": "10.50", "referenceExternalID": "order-7", "description": "Order 7", "note": "Shop"}
    ask = lambda: client.create_transaction(order | {"numberMoMo": MSISDN})
    told = trial.ask(f"{name}.create_transaction", ask)
    trial.moves("collection", told["transactionId"], "10.50")
    status = lambda: client.get_transaction(told["transactionId"])
    trial.until(f"{name}.get_transaction", status, lambda told: told["status"] == "SUCCESSFUL")

    def refused() -> str:
        """What it raises for a repeated reference; the call does nothing else."""
        try:
            client.verif_exception((409, "again"))
        except Exception as error:  # noqa: BLE001  # that is the answer
            return type(error).__name__
        return ""

    trial.ask(f"{name}.verif_exception", refused, lambda told: told == "ConflictException")


def airtelmoney_py(trial: Trial) -> None:
    import airtelmoney as library
    from airtelmoney import resources

    apis = (resources.CollectionAPI, resources.DisbursementAPI, resources.KYCAPI, resources.AccountAPI)
    trial.offer(*apis)
    client = library.AirtelMoney("shop", "secret", base_url=trial.airtel, country="ZM", currency="ZMW")
    good = lambda told: library.is_success(told["status"]["response_code"])
    for call in ("balance", "balance_enquiry"):
        trial.ask(f"AccountAPI.{call}", getattr(client.account, call), good)
    trial.ask("KYCAPI.user_enquiry", lambda: client.kyc.user_enquiry(NATIONAL), good)
    asked, sent = str(uuid.uuid4()), str(uuid.uuid4())
    order = {"reference": "Order7", "msisdn": NATIONAL, "amount": 10.5, "transaction_id": asked}
    taken = lambda told: told["data"]["transaction"]["status"] == "SUCCESS"
    trial.ask("CollectionAPI.payment", lambda: client.collection.payment(**order), taken)
    trial.moves("collection", asked, "10.5")
    paid = lambda told: told["data"]["transaction"]["status"] == "TS"
    for call in ("transaction_enquiry", "enquiry"):
        enquire = lambda: getattr(client.collection, call)(asked)
        told = trial.until(f"CollectionAPI.{call}", enquire, paid)
    theirs = told["data"]["transaction"]["airtel_money_id"]
    trial.ask("CollectionAPI.refund", lambda: client.collection.refund(theirs), taken)
    trial.moves("refund", theirs, "10.5")
    # A callback as its users hash it: the transaction without spaces, under the client's secret.
    told_of = {"id": asked, "message": "Paid", "status_code": "TS", "airtel_money_id": theirs}
    check = lambda: _hashed_callback(trial, client.collection.verify_callback_hash, told_of)
    trial.ask("CollectionAPI.verify_callback_hash", check)
    wages = {"msisdn": NATIONAL, "amount": 10.5, "reference": "Wages", "pin": PIN, "transaction_id": sent}
    trial.ask("DisbursementAPI.payment", lambda: client.disbursement.payment(**wages), paid)
    trial.moves("payout", sent, "10.5")
    for call in ("transaction_enquiry", "enquiry"):
        enquire = lambda: getattr(client.disbursement, call)(sent)
        trial.ask(f"DisbursementAPI.{call}", enquire, paid)


def _hashed_callback(trial: Trial, check: Callable[[Any, str], bool], paid: Mapping[str, str]) -> bool:
    """Whether a callback of the simulator's, hashed as this library expects, is believed, and a forged one not."""
    import http.server

    got: list[Any] = []

    class Shop(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Shop) as shop:
        url = f"http://127.0.0.1:{shop.server_port}/hook"
        trial.configure("airtel", callback_url=url, callback_key="secret", callback_hash="compact")
        trial.airtel_paid()
        shop.timeout = SETTLES_WITHIN_S
        shop.handle_request()
        trial.configure("airtel", callback_url=None)
    [told] = got
    return check(told, "secret") and not check({**told, "transaction": dict(paid)}, "secret")


def pyairtel(trial: Trial) -> None:
    from pyairtel import AirtelMoney, client

    trial.offer(AirtelMoney)
    client._SANDBOX_URL = trial.airtel  # there is no other way to another host
    shop = AirtelMoney("shop", "secret", country="ZM", currency="ZMW")
    trial.ask(
        "AirtelMoney.collect", lambda: shop.collect(NATIONAL, 10, "Order7"), lambda told: told.raw["status"]["success"]
    )
    paid = trial.airtel_paid()
    status = lambda: shop.get_collection_status(paid)
    told = trial.until("AirtelMoney.get_collection_status", status, lambda told: told.is_successful)
    refund = lambda: shop.refund(told.airtel_money_id)
    trial.ask("AirtelMoney.refund", refund, lambda told: told.raw["data"]["transaction"]["status"] == "SUCCESS")
    trial.moves("refund", told.airtel_money_id, "10.5")
    trial.ask("AirtelMoney.validate_payee", lambda: shop.validate_payee(NATIONAL), lambda told: told.is_valid)
    der = base64.b64encode(base64.b64decode(trial.airtel_key())).decode()
    pem = f"-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----"
    send = lambda: shop.transfer(NATIONAL, 10, PIN, pem, "Chanda", "Phiri", "Wages")
    trial.ask("AirtelMoney.transfer", send, lambda told: told.raw["status"]["success"])


def umojasdk(trial: Trial) -> None:
    import umojasdk as library

    trial.offer(library.UmojaAirtel)
    shop = library.UmojaAirtel(library.AirtelConfig("shop", "secret", country="ZM", currency="ZMW"))
    shop._base = trial.airtel  # as above
    reference = uuid.uuid4().hex
    ask = lambda: shop.request_to_pay(library.AirtelCollectionRequest(NATIONAL, 10, reference))
    trial.ask("UmojaAirtel.request_to_pay", ask, lambda told: told["data"]["transaction"]["status"] == "SUCCESS")
    trial.moves("collection", reference, "10")
    status = lambda: shop.query_transaction(reference)
    paid = lambda told: told["data"]["transaction"]["status"] == "TS"
    trial.until("UmojaAirtel.query_transaction", status, paid)
    called_back = {"id": reference, "message": "Paid", "status_code": "TS", "airtel_money_id": "MP000000.0000.A00000"}
    read = lambda: shop.parse_callback({"transaction": called_back})
    trial.ask("UmojaAirtel.parse_callback", read, lambda told: told["status"] == "TS")
    send = lambda: shop.disburse(library.AirtelDisbursementRequest(NATIONAL, 10, uuid.uuid4().hex))
    trial.ask("UmojaAirtel.disburse", send, lambda told: told["status"]["success"])


DRIVERS: dict[str, Callable[[Trial], None]] = {
    "momo-openapi": momo_openapi,
    "mtn-momo-client": mtn_momo_client,
    "mtnmomo-py": mtnmomo_py,
    "mtnmomoapi": mtnmomoapi,
    "mtn-momo-sdk": mtn_momo_sdk,
    "mobilemoney-py": mobilemoney_py,
    "pytekmomoapi": pytekmomoapi,
    "raapimtnmomo": raapimtnmomo,
    "airtelmoney-py": airtelmoney_py,
    "pyairtel": pyairtel,
    "umojasdk": umojasdk,
}

if __name__ == "__main__":
    trial = Trial(sys.argv[2])
    DRIVERS[sys.argv[1]](trial)
    report = {"offered": sorted(trial.offered), "told": trial.told, "moved": trial.moved}
    Path(sys.argv[3]).write_text(json.dumps(report))
