"""The pages' own scripts: written into the page, and allowed by their hash, so that a browser runs these and no others.

A page stays whole without them. `page.environment` gives `script` and `script_policy` to the templates.
"""

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup

PLACE = Path(__file__).parent / "templates"


def script(name: str) -> Markup:
    """The file `name` of templates/ as a `<script>` element."""
    return Markup(f"<script>{_source(name)}</script>")


def script_policy() -> str:
    """The `script-src` of a Content-Security-Policy: the hashes of all files of templates/ that are scripts."""
    digests = [hashlib.sha256(_source(path.name).encode()).digest() for path in sorted(PLACE.glob("*.js"))]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _source(name: str) -> str:
    return (PLACE / name).read_text(encoding="utf-8")
