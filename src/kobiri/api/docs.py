"""/docs: the API's reference as pages without scripts, and the OpenAPI document. The files are made beforehand."""

import base64
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litestar import Request, Response, get

FOLDER = Path(__file__).with_name("reference")

AnyRequest = Request[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class File:
    """One file, read when the process starts, with the headers that it is served with."""

    plain: bytes
    packed: bytes
    media_type: str
    headers: dict[str, str]

    @classmethod
    def read(cls, name: str, media_type: str) -> "File":
        content = (FOLDER / name).read_bytes()
        headers = {
            "etag": f'W/"{hashlib.sha256(content).hexdigest()[:16]}"',
            "cache-control": "public, no-cache",  # kept, but asked about: a new version shows at once
            "vary": "accept-encoding",
            "referrer-policy": "no-referrer",
        }
        if media_type == HTML:
            headers["content-security-policy"] = _policy(content)
        return cls(content, gzip.compress(content, 9, mtime=0), media_type, headers)

    def answer(self, request: AnyRequest) -> Response[bytes]:
        """The file, packed where the client can unpack it; nothing where it has it already."""
        if request.headers.get("if-none-match") == self.headers["etag"]:
            return Response(b"", status_code=304, headers=self.headers, media_type=self.media_type)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self.plain, headers=self.headers, media_type=self.media_type)
        headers = self.headers | {"content-encoding": "gzip"}
        return Response(self.packed, headers=headers, media_type=self.media_type)


HTML = "text/html"  # Litestar adds the charset


def _policy(page: bytes) -> str:
    """Nothing may be loaded or run; the one style that is in the page may be used."""
    style = page.partition(b"<style>")[2].partition(b"</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


PAGE = File.read("index.html", HTML)
ERRORS = File.read("errors.html", HTML)
OPENAPI = File.read("openapi.json", "application/json")


@get("/docs", opt={"public": True}, include_in_schema=False)
async def page(request: AnyRequest) -> Response[bytes]:
    """The reference, for people."""
    return PAGE.answer(request)


@get("/docs/openapi.json", opt={"public": True}, include_in_schema=False)
async def openapi(request: AnyRequest) -> Response[bytes]:
    """The reference, for machines."""
    return OPENAPI.answer(request)


@get("/docs/errors", opt={"public": True}, include_in_schema=False)
async def errors(request: AnyRequest) -> Response[bytes]:
    """Every error code, what it means and what to do."""
    return ERRORS.answer(request)
