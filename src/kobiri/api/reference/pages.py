"""The pages for people: static HTML without scripts, and docs/errors.md. Made of the document and the catalogue."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kobiri.api.reference.catalogue import BY_ERROR, ENTRIES, FAILURES, Entry
from kobiri.api.reference.document import problem_body
from kobiri.api.reference.objects import Schema
from kobiri.domain import errors

HERE = Path(__file__).parent
STYLE = (HERE / "style.css").read_text(encoding="utf-8")
START = (HERE / "start.html").read_text(encoding="utf-8")
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http:%2F%2Fwww.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Ccircle cx='8' cy='8' r='7' fill='%23b36b00'/%3E%3Cpath d='M6 4v8M10.5 4 6.5 8l4 4' stroke='%23fff'"
    " stroke-width='1.6' fill='none'/%3E%3C/svg%3E"
)

ON_ERRORS = (
    (
        "Every error is answered as a problem (RFC 9457), `application/problem+json`. Programs branch on `code`, which"
        " never changes its meaning; people read `detail`. A code that you do not know is treated by its HTTP status."
    ),
    "`instance` holds the request id, which is also in the header `X-Request-Id`: the log knows more under it.",
)

# These are told once, not at every operation.
COMMON_HEADERS = ("XTenantId", "Traceparent")


def reference(document: Schema) -> str:
    """The page at /docs."""
    parts = [
        "<h1>Kobiri API</h1>",
        f'<p class="soft">Version {_text(document["info"]["version"])}</p>',
        _start(document),
    ]
    for tag in document["tags"]:
        parts.append(f'<h2 id="{_slug(tag["name"])}">{_text(tag["name"])}</h2><p>{_text(tag["description"])}</p>')
        parts += [_operation(document, *found) for found in _of_tag(document, tag["name"])]
    parts.append('<h2 id="objects">Objects</h2>')
    parts += [_object(document, name) for name in document["components"]["schemas"]]
    parts.append(_failures())
    return _page("Kobiri API", "\n".join(parts), toc=_contents(document), here="/docs")


def error_page() -> str:
    """The page at /docs/errors."""
    by_status = [(_status(status), [(f"#{e.code}", e.code) for e in group]) for status, group in _by_status()]
    parts = [
        "<h1>Errors</h1>",
        *(f"<p>{_prose(text)}</p>" for text in ON_ERRORS),
        _code(problem_body(BY_ERROR[errors.InvalidAmount])),
    ]
    for status, group in _by_status():
        parts.append(f'<h2 id="status-{status}">{_status(status)}</h2>')
        parts += [_error(entry) for entry in group]
    return _page("Kobiri API: errors", "\n".join(parts), toc=_toc(by_status), here="/docs/errors")


def error_markdown() -> str:
    """docs/errors.md."""
    lines = [
        "# Errors",
        "",
        *(line for text in ON_ERRORS for line in (text, "")),
        "A running gateway shows this page at `/docs/errors`; `type` of every problem points there.",
        "",
        "```json",
        json.dumps(problem_body(BY_ERROR[errors.InvalidAmount]), indent=2, ensure_ascii=False),
        "```",
        "",
        "Made by `python -m kobiri.api.reference` from `src/kobiri/api/reference/catalogue.py`; change it there.",
    ]
    for status, group in _by_status():
        lines += ["", f"## {_status(status)}"]
        for entry in group:
            lines += [
                "",
                f"### {entry.code}",
                "",
                f"{entry.error.title}.",
                "",
                f"- **Meaning:** {entry.meaning}",
                f"- **What to do:** {entry.remedy}",
                f"- **Send it again?** {entry.retried}",
            ]
    lines += ["", "## Why a payment failed", "", "A payment whose status is `FAILED` is no error of the request:"]
    lines += [
        "`failure.code` tells why. No money moved, unless `received_amount` says so.",
        "Operators' codes may have more than one meaning: ours is the likeliest, theirs is in `failure.provider_code`.",
        "",
        "| code | meaning | what to do |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{code}` | {meaning} | {remedy} |" for code, (meaning, remedy) in FAILURES.items()]
    return "\n".join(lines) + "\n"


# --- parts of the reference -----------------------------------------------------------------------------------


def _start(document: Schema) -> str:
    components = document["components"]
    asked = [
        _row(parameter["name"], _type(parameter["schema"]), parameter["description"])
        for parameter in (components["parameters"][name] for name in COMMON_HEADERS)
    ]
    told = [
        _row(name, _kind(header["schema"]), header["description"]) for name, header in components["headers"].items()
    ]
    return "\n".join((
        '<h2 id="start">Start here</h2>',
        START,
        '<h3 id="headers"><a href="#headers">Headers</a></h3>',
        "<p>Every request behind a key may have:</p>",
        f"<dl>{''.join(asked)}</dl>",
        "<p>Answers may have:</p>",
        f"<dl>{''.join(told)}</dl>",
    ))  # fmt: skip


def _operation(document: Schema, path: str, method: str, operation: Schema) -> str:
    name = operation["operationId"]
    scopes = operation["security"][0]["ApiKey"] if operation["security"] else []
    needs = f"Needs the scope <code>{scopes[0]}</code>." if scopes else "Needs no API key."
    parts = [
        f'<section aria-labelledby="{name}">',
        f'<h3 id="{name}"><a href="#{name}">{_text(operation["summary"])}</a></h3>',
        f'<p class="call"><b>{method.upper()}</b> <code>{_text(path)}</code></p>',
        *(f"<p>{_prose(text)}</p>" for text in operation["description"].split("\n\n")),
        f'<p class="soft">{needs}</p>',
    ]
    common = {f"#/components/parameters/{header}" for header in COMMON_HEADERS}
    given = [p for p in operation.get("parameters", ()) if p.get("$ref") not in common]
    if given:
        rows = "".join(_parameter(_resolved(document, parameter)) for parameter in given)
        parts.append(f"<h4>Parameters</h4><dl>{rows}</dl>")
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        parts.append(f"<h4>Body</h4><p>{_link(content['schema'])}, as JSON.</p>")
    parts += [f"<h4>{_text(sample['label'])}</h4>{_pre(sample['source'])}" for sample in operation["x-codeSamples"]]
    refused: list[tuple[str, Iterable[str]]] = []
    for status, answer in operation["responses"].items():
        media_type, content = next(iter(answer["content"].items()))
        if media_type == "application/problem+json":
            refused.append((status, content["examples"]))
        else:
            parts.append(_answer(status, answer, content))
    parts.append(f"<h4>Errors</h4><dl>{''.join(_refusals(*found) for found in refused)}</dl></section>")
    return "\n".join(parts)


def _answer(status: str, answer: Schema, content: Schema) -> str:
    several = len(content["examples"]) > 1
    examples = "".join(
        (f'<p class="soft">Example, {name}:</p>' if several else "") + _code(example["value"])
        for name, example in content["examples"].items()
    )
    meaning = f"{_prose(answer['description'])} {_link(content['schema'])}."
    return f"<h4>{_status(int(status))}</h4><p>{meaning}</p>{examples}"


def _refusals(status: str, codes: Iterable[str]) -> str:
    links = ", ".join(f'<a href="/docs/errors#{code}"><code>{code}</code></a>' for code in codes)
    return f"<div><dt>{_status(int(status))}</dt><dd>{links}</dd></div>"


def _parameter(parameter: Schema) -> str:
    schema = parameter["schema"]
    kind = [{"query": "query", "path": "in the path", "header": "header"}[parameter["in"]], _type(schema)]
    if "default" in schema:
        kind.append(f"default {schema['default']}")
    if parameter.get("required"):
        kind.append("required")
    return _row(parameter["name"], ", ".join(kind), parameter["description"] + _choices(schema))


def _object(document: Schema, name: str) -> str:
    schema = document["components"]["schemas"][name]
    required = schema.get("required", ())
    request = name in ("PaymentRequest", "Callback")
    rows = []
    for field, words in schema["properties"].items():
        kind = _kind(words)
        if request or (name == "Problem" and field not in required):
            kind += ", required" if field in required else ", optional"
        rows.append(_row(field, kind, words.get("description", "") + _choices(words)))
    return (
        f'<section aria-labelledby="object-{name}"><h3 id="object-{name}"><a href="#object-{name}">{name}</a></h3>'
        f"<p>{_prose(schema['description'])}</p><dl>{''.join(rows)}</dl></section>"
    )


def _failures() -> str:
    rows = "".join(_row(code, "", f"{meaning} {remedy}") for code, (meaning, remedy) in FAILURES.items())
    return (
        '<section aria-labelledby="failures"><h3 id="failures"><a href="#failures">Why a payment failed</a></h3>'
        "<p>The values of <code>failure.code</code>. The request itself was good. Operators' codes often have more"
        " than one meaning: ours is the likeliest, theirs stands in <code>failure.provider_code</code>.</p>"
        f"<dl>{rows}</dl></section>"
    )


def _contents(document: Schema) -> str:
    groups: list[tuple[str, Sequence[tuple[str, str]]]] = [
        ("Start", [("#start", "Start here"), ("#headers", "Headers")])
    ]
    for tag in document["tags"]:
        operations = [operation for _, _, operation in _of_tag(document, tag["name"])]
        groups.append((tag["name"], [(f"#{it['operationId']}", it["summary"]) for it in operations]))
    objects = [(f"#object-{name}", name) for name in document["components"]["schemas"]]
    return _toc([*groups, ("Objects", [*objects, ("#failures", "Why a payment failed")])])


def _of_tag(document: Schema, tag: str) -> list[tuple[str, str, Schema]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag in operation["tags"]
    ]


# --- parts of the error page ----------------------------------------------------------------------------------


def _by_status() -> list[tuple[int, list[Entry]]]:
    statuses = dict.fromkeys(entry.status for entry in ENTRIES)
    return [(status, [entry for entry in ENTRIES if entry.status == status]) for status in statuses]


def _error(entry: Entry) -> str:
    return (
        f'<section aria-labelledby="{entry.code}"><h3 id="{entry.code}"><a href="#{entry.code}">'
        f"<code>{entry.code}</code></a></h3><p>{_text(entry.error.title)}.</p><dl>"
        f"<div><dt><b>Meaning</b></dt><dd>{_prose(entry.meaning)}</dd></div>"
        f"<div><dt><b>What to do</b></dt><dd>{_prose(entry.remedy)}</dd></div>"
        f"<div><dt><b>Send it again?</b></dt><dd>{_text(entry.retried)}</dd></div></dl></section>"
    )


# --- HTML -----------------------------------------------------------------------------------------------------


def _page(title: str, content: str, *, toc: str, here: str) -> str:
    links = (("/docs", "Reference"), ("/docs/errors", "Errors"), ("/docs/openapi.json", "OpenAPI 3.1"))
    pages = " ".join(
        f'<a href="{address}"{" aria-current=page" if address == here else ""}>{name}</a>' for address, name in links
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<link rel="icon" href="{ICON}">
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header class="top"><div class="bar"><b>Kobiri</b><nav aria-label="Pages">{pages}</nav></div></header>
<div class="sheet two">
<nav class="toc" aria-label="Contents">{toc}</nav>
<main id="main">
{content}
</main>
</div>
</body>
</html>
"""


def _toc(groups: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    parts = []
    for name, entries in groups:
        links = "".join(f'<li><a href="{address}">{_breakable(text)}</a></li>' for address, text in entries)
        parts.append(f"<div><b>{_text(name)}</b><ul>{links}</ul></div>")
    return "\n".join(parts)


def _breakable(text: str) -> str:
    return _text(text).replace("_", "_<wbr>")


def _row(name: str, kind: str, words: str) -> str:
    return f"<div><dt><code>{_text(name)}</code> <span>{kind}</span></dt><dd>{_prose(words)}</dd></div>"


def _kind(schema: Schema) -> str:
    """The type of a field, linked where it is an object of its own."""
    if "$ref" in schema:
        return _link(schema)
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if "$ref" in option:
            return f"{_link(option)} or null"
    if schema.get("type") == "array" and "$ref" in schema["items"]:
        return f"list of {_link(schema['items'])}"
    return _type(schema)


def _type(schema: Schema) -> str:
    options = schema.get("oneOf") or schema.get("anyOf")
    if options:
        return " or ".join(dict.fromkeys(_type(option) for option in options))
    kinds = schema.get("type", "any")
    names = [kinds] if isinstance(kinds, str) else kinds
    form = {"uuid": "UUID", "date-time": "time"}.get(schema.get("format", ""))
    return " or ".join(form if form and name == "string" else TYPES.get(name, name) for name in names)


TYPES = {"string": "text", "array": "list"}


def _choices(schema: Schema) -> str:
    values = [value for value in schema.get("enum", ()) if value is not None]
    if not values or all(str(value) in schema.get("description", "") for value in values):
        return ""
    return f" One of {', '.join(f'`{value}`' for value in values)}."


def _resolved(document: Schema, item: Schema) -> Schema:
    if "$ref" not in item:
        return item
    found: Any = document
    for name in item["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def _link(schema: Mapping[str, Any]) -> str:
    name = schema["$ref"].rpartition("/")[2]
    return f'<a href="#object-{name}">{name}</a>'


# Python's own words for these changed with 3.13, and every Python must make the same pages.
PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}


def _status(status: int) -> str:
    return f"{status} {PHRASES.get(status) or HTTPStatus(status).phrase}"


def _code(value: object) -> str:
    return _pre(json.dumps(value, indent=2, ensure_ascii=False))


def _pre(text: str) -> str:
    return f'<pre tabindex="0"><code>{_text(text)}</code></pre>'  # by keyboard too it can be scrolled sideways


def _prose(text: str) -> str:
    """Text in which `words` are code."""
    parts = _text(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def _text(text: str) -> str:
    return escape(text, quote=False)


def _slug(text: str) -> str:
    return text.lower().replace(" ", "-")
