"""The committed reference is the one that the code makes, and it tells of everything that there is."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar

from kobiri.api import routes
from kobiri.api.docs import FOLDER
from kobiri.api.reference import catalogue, files
from kobiri.domain import errors
from kobiri.domain.errors import KobiriError
from kobiri.domain.outcome import FailureCode

MADE = files.made()
DOCUMENT: dict[str, Any] = json.loads(MADE[FOLDER / "openapi.json"])
PAGES = ("index.html", "errors.html")

# The reference does not describe itself.
UNDOCUMENTED = {("GET", "/docs"), ("GET", "/docs/openapi.json"), ("GET", "/docs/errors")}


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_the_committed_file_is_what_the_code_makes(path: Path) -> None:
    committed = path.read_text(encoding="utf-8")

    assert committed == MADE[path], "run: python -m kobiri.api.reference"


def test_every_route_is_documented_and_every_documented_route_is_there() -> None:
    documented = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}

    assert documented | UNDOCUMENTED == served()
    assert not documented & UNDOCUMENTED


def served() -> set[tuple[str, str]]:
    @asynccontextmanager
    async def nothing(_: Litestar) -> AsyncIterator[None]:
        yield

    return {
        (method, route.path_format)
        for route in routes.build(nothing).routes
        for handler in getattr(route, "route_handlers", ())
        for method in handler.http_methods - {"OPTIONS"}
    }


def test_operations_have_distinct_names() -> None:
    names = [operation["operationId"] for operation in operations()]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", name) for name in names)


def test_what_needs_a_key_says_so_and_what_is_public_too() -> None:
    for operation in operations():
        posted_to_us = operation["operationId"].startswith(("post", "put"))
        open_to_all = operation["tags"] == ["Health"] or posted_to_us
        assert bool(operation["security"]) != open_to_all, operation["operationId"]
        assert ("401" in operation["responses"]) == (operation["tags"] != ["Health"])


def test_every_operation_has_a_request_and_an_answer_as_examples() -> None:
    for operation in operations():
        assert operation["x-codeSamples"]
        for answer in operation["responses"].values():
            for content in answer["content"].values():
                assert content["examples"], f"{operation['operationId']}: {answer['description']}"


def operations() -> Iterator[dict[str, Any]]:
    for methods in DOCUMENT["paths"].values():
        yield from methods.values()


def test_every_reference_within_the_document_leads_somewhere() -> None:
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(DOCUMENT)):
        found: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


# --- errors ---------------------------------------------------------------------------------------------------


def family(root: type[KobiriError]) -> Iterator[type[KobiriError]]:
    for child in root.__subclasses__():
        yield child
        yield from family(child)


EVERY = list(family(KobiriError))  # those of other modules too: they are answered under the code of their base


def test_every_error_is_documented_once_and_no_other() -> None:
    documented = [entry.code for entry in catalogue.ENTRIES]

    assert sorted(documented) == sorted({error.code for error in EVERY})


def test_every_error_of_the_domain_has_its_own_entry() -> None:
    own = {error for error in EVERY if error.__module__ == errors.__name__}

    assert {entry.error for entry in catalogue.ENTRIES} == own


def test_only_what_is_refused_before_it_is_recorded_says_that_nothing_was_stored() -> None:
    """Whoever believes it takes a new key: of a payment that was sent, that would be a second one."""
    assert {error.code for error in EVERY if "nothing was stored" in error.title} == {"route_closed"}


def test_every_failure_is_documented() -> None:
    assert set(catalogue.FAILURES) == set(FailureCode)


@pytest.mark.parametrize("name", ["errors.html", "errors.md"])
def test_every_error_has_a_place_that_its_type_points_to(name: str) -> None:
    text = next(text for path, text in MADE.items() if path.name == name)
    mark = '<h3 id="{}">' if name.endswith("html") else "\n### {}\n"

    assert [error.code for error in EVERY if text.count(mark.format(error.code)) != 1] == []


# --- pages ----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.attributes |= set(given)
        if tag not in ("meta", "link", "wbr"):
            self.open.append(tag)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        self.addresses += [str(given[name]) for name in ("href", "src", "srcset", "action") if given.get(name)]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest) -> Page:
    return Page(MADE[FOLDER / str(request.param)])


def test_a_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    assert not {"script", "img", "iframe", "object", "form", "input"} & set(page.tags)
    assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
    assert page.tags.count("link") == 1, "the icon, which is in the page itself"
    assert [address for address in page.addresses if not address.startswith(("#", "/docs", "data:"))] == []


def test_every_link_leads_somewhere(page: Page) -> None:
    places = {name: Page(MADE[FOLDER / file]).ids for name, file in zip(("/docs", "/docs/errors"), PAGES, strict=True)}
    assert len(set(page.ids)) == len(page.ids)

    for address in page.addresses:
        path, _, place = address.partition("#")
        if place:
            assert place in (places[path] if path else page.ids), address


def test_a_page_can_be_found_ones_way_about_by_ear(page: Page) -> None:
    assert page.open == []
    assert page.tags.count("main") == page.tags.count("h1") == page.tags.count("header") == 1
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels)), "a level is skipped"


def test_a_page_is_small_enough_for_a_slow_line() -> None:
    for name in PAGES:
        assert len(MADE[FOLDER / name].encode()) < 100_000  # about 20 KB as it travels


# --- colours --------------------------------------------------------------------------------------------------

STYLE = (FOLDER / "style.css").read_text(encoding="utf-8")
LIGHT, DARK = re.findall(r":root\{(?:color-scheme:light dark;)?(--ink[^}]+)\}", STYLE)[:2]


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_everything_written_can_be_read(colours: str) -> None:
    """WCAG 2.2 AA: 4.5 to 1."""
    known = dict(re.findall(r"--(\w+):(#\w+)", colours))

    for ground in ("paper", "shade", "mark"):
        for ink in ("ink", "soft", "link"):
            light, dark = sorted((luminance(known[ink]), luminance(known[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {ground}"


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
