"""Which files are made, and of what."""

import json
from pathlib import Path

from kobiri.api.reference import document, pages

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[3]


def made() -> dict[Path, str]:
    """Each file's place and text, as the routes and tables are now."""
    described = document.build()
    return {
        HERE / "openapi.json": json.dumps(described, indent=1, ensure_ascii=False) + "\n",
        HERE / "index.html": pages.reference(described),
        HERE / "errors.html": pages.error_page(),
        REPOSITORY / "docs" / "errors.md": pages.error_markdown(),
    }
