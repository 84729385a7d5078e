"""The OpenAPI document: paths and parameters from the routes, the rest from the tables beside this file."""

from collections.abc import Iterable, Sequence

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig

import kobiri
from kobiri.api import health, problems, routes
from kobiri.api.reference import objects
from kobiri.api.reference.catalogue import BY_ERROR, Entry
from kobiri.api.reference.objects import Schema
from kobiri.api.reference.operations import OPERATIONS, REQUEST_ID, TAGS, Answer, Operation
from kobiri.domain.errors import KobiriError

INTRODUCTION = (
    "Collect money from mobile-money wallets. Start with createPayment; every error is explained at /docs/errors."
)

SECURITY_SCHEMES: Schema = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "kob_live_… or kob_test_…"},
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same API key, as Authorization: Bearer."},
}

REQUEST_HEADERS: Schema = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": (
            "A new random value for each payment, the same for each repetition. It is remembered for at least 24 hours,"
            " and as long as its payment is open. Quoted and bare are the same key."
        ),
        "schema": {"type": "string", "minLength": 1, "maxLength": 257, "pattern": "^[\\x21-\\x7e][\\x20-\\x7e]*$"},
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "respond-async: answer 202 as soon as the payment is recorded, and send it afterwards.",
        "schema": {"type": "string"},
        "example": "respond-async",
    },
    "XTenantId": {
        "name": "x-tenant-id",
        "in": "header",
        "description": "The tenant's name or id. Not needed; if it is there it must be that of the key.",
        "schema": {"type": "string"},
    },
    "Traceparent": {
        "name": "traceparent",
        "in": "header",
        "description": "W3C trace context. Its trace id stands in every line of the log about this request.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
    },
    "XSignature256": {
        "name": "X-Signature-256",
        "in": "header",
        "description": "sha256= and the hex HMAC-SHA256 of the raw body. Required where a webhook secret is set.",
        "schema": {"type": "string", "pattern": "^(?:sha256=)?[0-9a-f]{64}$"},
    },
}

ANSWER_HEADERS: Schema = {
    "X-Request-Id": {
        "description": "The name of this request in the log.",
        "schema": objects.UUID,
        "example": REQUEST_ID,
    },
    "RateLimit-Policy": {
        "description": "The quota: q requests in w seconds. Absent where there is none.",
        "schema": {"type": "string"},
        "example": '"default";q=100;w=60',
    },
    "RateLimit": {
        "description": "What is left of it: r requests in the next t seconds.",
        "schema": {"type": "string"},
        "example": '"default";r=99;t=60',
    },
    "Retry-After": {"description": "In so many seconds.", "schema": {"type": "integer", "minimum": 0}},
    "Location": {"description": "The payment's address.", "schema": {"type": "string", "format": "uri-reference"}},
    "Idempotent-Replayed": {
        "description": "true: the answer to an earlier request with this key. Absent on the first.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Preference-Applied": {
        "description": "respond-async, where Prefer asked for it.",
        "schema": {"type": "string", "enum": ["respond-async"]},
    },
    "WWW-Authenticate": {"description": "What is wanted instead.", "schema": {"type": "string"}},
}
QUOTA = ("RateLimit", "RateLimit-Policy")
UNAUTHORIZED, TOO_MANY = 401, 429
MAY_NAME_A_TIME = (409, TOO_MANY, 503)

MEMBERS: Schema = {
    "errors": {
        "type": "array",
        "description": "All that is wrong with the body, up to 20.",
        "items": {
            "type": "object",
            "required": ["pointer", "code", "detail"],
            "properties": {
                "pointer": {"type": "string", "description": "A JSON pointer; empty for the whole body."},
                "code": {
                    "type": "string",
                    "description": "missing, unknown_field, wrong_type, not_a_choice, too_short, too_long, too_many,"
                    " bad_format; or the code of an error of its own, such as invalid_number.",
                },
                "detail": {"type": "string", "description": "For people."},
            },
        },
    },
    "payment_id": {**objects.UUID, "description": "The payment that this is about."},
}


def build() -> Schema:
    """The whole document."""
    listed = {operation.handler: operation for operation in OPERATIONS}
    found = dict(_handlers())
    if set(found) != set(listed):
        raise LookupError(f"OPERATIONS and the routes differ: {sorted(set(found) ^ set(listed))}")
    paths: Schema = {}
    for operation in OPERATIONS:  # in the order of the pages
        path, method, handler, parameters = found[operation.handler]
        paths.setdefault(path, {})[method] = _operation(operation, handler, parameters)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kobiri API",
            "version": kobiri.__version__,
            "summary": "A self-hosted, multi-tenant payment gateway for mobile money.",
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": SECURITY_SCHEMES,
            "schemas": _schemas(),
            "parameters": REQUEST_HEADERS,
            "headers": ANSWER_HEADERS,
            "examples": {entry.code: _problem_example(entry) for entry in _used_entries()},
        },
    }


def _handlers() -> Iterable[tuple[str, tuple[str, str, HTTPRouteHandler, list[Schema]]]]:
    """Name, and path, method, handler and parameters of every operation that the routes have."""
    app = Litestar(
        route_handlers=[routes.API, health.live, health.ready],
        openapi_config=OpenAPIConfig(title="", version=""),
        logging_config=None,
    )
    drafts = app.openapi_schema.to_schema()
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            if not isinstance(handler, HTTPRouteHandler) or not handler.resolve_include_in_schema():
                continue
            for method in sorted(handler.http_methods - {"OPTIONS"}):
                draft = drafts["paths"][route.path_format][method.lower()]
                parameters = [_parameter(parameter, drafts) for parameter in draft.get("parameters", ())]
                yield handler.fn.__name__, (route.path_format, method.lower(), handler, parameters)


def _parameter(draft: Schema, drafts: Schema) -> Schema:
    """A parameter as Litestar sees it, without its ways of saying nothing."""
    schema = draft["schema"]
    options = [option for option in schema.get("oneOf", ()) if option != {"type": "null"}]
    if options:  # a parameter is left out, never null
        schema = {name: value for name, value in schema.items() if name != "oneOf"} | options[0]
    if "$ref" in schema:
        schema = drafts["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    kept = {name: value for name, value in schema.items() if name not in ("description", "title")}
    if "minimum" in kept:
        kept["minimum"] = int(kept["minimum"])
    made = {"name": draft["name"], "in": draft["in"], "schema": kept}
    made["description"] = draft.get("description") or PARAMETERS[draft["in"], draft["name"]]
    if draft["required"]:
        made["required"] = True
    return made


PARAMETERS = {
    ("path", "payment_id"): "The payment's `id`.",
    ("path", "provider"): "Which provider: mtn.",
    ("path", "token"): "The account's secret part of the address, as `kobiri accounts set` printed it.",
    ("query", "status"): "Only payments that stand so.",
    ("query", "provider"): "Only those that took this provider's road, such as mtn.",
    ("query", "reference"): "Only those with this reference of yours.",
    ("query", "created_from"): "Created at this time or later, with its zone: 2026-02-01T08:00:00Z.",
    ("query", "created_before"): "Created before this time.",
}


def _operation(operation: Operation, handler: HTTPRouteHandler, parameters: Sequence[Schema]) -> Schema:
    made: Schema = {
        "operationId": operation.id,
        "summary": operation.summary or handler.summary,
        "description": operation.text,
        "tags": [operation.tag],
        "security": _security(handler),
    }
    headers = [{"$ref": f"#/components/parameters/{name}"} for name in operation.headers]
    if parameters or headers:
        made["parameters"] = [*parameters, *headers]
    if operation.body is not None:
        made["requestBody"] = _request_body(operation)
    made["responses"] = _responses(operation, handler)
    made["x-codeSamples"] = [
        {"lang": "Shell", "label": request.label, "source": request.curl} for request in operation.requests
    ]
    return made


def _security(handler: HTTPRouteHandler) -> list[Schema]:
    scope = handler.opt.get("scope")
    return [{"ApiKey": [scope]}, {"Bearer": [scope]}] if scope else []


def _request_body(operation: Operation) -> Schema:
    examples = {
        request.label: {"value": msgspec.json.decode(request.body)} for request in operation.requests if request.body
    }
    content = {"schema": _object(operation.body or ""), "examples": examples}
    return {"required": True, "content": {"application/json": content}}


def _responses(operation: Operation, handler: HTTPRouteHandler) -> Schema:
    quota = QUOTA if "scope" in handler.opt else ()
    made: dict[str, Schema] = {}
    for answer in operation.answers:
        made[str(answer.status)] = _answer(answer, quota)
    by_status: dict[int, list[Entry]] = {}
    for error in dict.fromkeys(operation.errors):
        entry = BY_ERROR[error]
        by_status.setdefault(entry.status, []).append(entry)
    for status, entries in by_status.items():
        made[str(status)] = _problems(status, entries, quota)
    return dict(sorted(made.items()))


def _answer(answer: Answer, quota: Sequence[str]) -> Schema:
    examples = {name: {"value": value} for name, value in answer.examples.items()}
    return {
        "description": answer.meaning,
        "headers": _headers("X-Request-Id", *answer.headers, *quota),
        "content": {answer.media_type: {"schema": _object(answer.schema), "examples": examples}},
    }


def _problems(status: int, entries: Sequence[Entry], quota: Sequence[str]) -> Schema:
    also = ["Retry-After"] if status in MAY_NAME_A_TIME else ["WWW-Authenticate"] if status == UNAUTHORIZED else []
    if status == TOO_MANY:
        also += quota
    codes = {"properties": {"code": {"enum": [entry.code for entry in entries]}, "status": {"const": status}}}
    return {
        "description": ". ".join(entry.error.title for entry in entries) + ".",
        "headers": _headers("X-Request-Id", *also),
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"allOf": [_object("Problem"), codes]},
                "examples": {entry.code: {"$ref": f"#/components/examples/{entry.code}"} for entry in entries},
            }
        },
    }


def problem_body(entry: Entry) -> Schema:
    """The body that an example of this error has."""
    _, _, body = problems.problem(entry.example, REQUEST_ID)
    return msgspec.json.decode(body, type=Schema)


def _problem_example(entry: Entry) -> Schema:
    return {"summary": entry.error.title, "value": problem_body(entry)}


def _used_entries() -> list[Entry]:
    used: set[type[KobiriError]] = {error for operation in OPERATIONS for error in operation.errors}
    return [entry for error, entry in BY_ERROR.items() if error in used]


def _schemas() -> Schema:
    made = objects.components()
    made["Problem"]["properties"] |= MEMBERS  # those of some errors only
    return made


def _object(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _headers(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
