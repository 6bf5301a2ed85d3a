"""Templates, styles and scripts in pages that work offline, and what such a page may do."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from qsearch.monitoring.durations import duration_text
from qsearch_reports.page.modules import join_modules
from qsearch_reports.summaries.table import least_budget, with_error
from qsearch_reports.texts import weights_text

STYLES = Path(__file__).parent / "styles"
TEMPLATES = Path(__file__).parent / "templates"


def template(name: str) -> jinja2.Template:
    """Return a page's template: all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "with_error": with_error,
        "least_budget": least_budget,
        "duration": duration_text,
        "weights": weights_text,
    }
    return environment.get_template(name)


def style(*names: str) -> Markup:
    """Return style sheets as a page holds them."""
    texts = [(STYLES / name).read_text(encoding="utf-8") for name in names]
    return Markup("\n".join(texts))  # noqa: S704  (files of this package)


def script(entry: str) -> Markup:
    """Return a script with the modules that it imports, as a page holds it."""
    return Markup(inline_script(join_modules(entry)))  # noqa: S704  (files of this package)


def inline_script(text: str) -> str:
    """Return a script as the browser will see it, since its hash is taken of that.

    Raises:
        ValueError: If an HTML parser would end it early.
    """
    text = re.sub(r"\r\n?", "\n", text)
    if re.search(r"</script|<!--", text, re.IGNORECASE):
        raise ValueError("an inline script must hold neither '</script' nor '<!--'")
    return text


def content_policy(*hashes: str) -> str:
    """Return a Content-Security-Policy that allows the scripts of hashes, and no request at all.

    Plotly sets style attributes, so inline styles are allowed.
    """
    allowed = " ".join(f"'{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def script_hash(text: str) -> str:
    """Return a script's hash as a content policy has it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def packed(data: bytes) -> str:
    """Return bytes compressed by zlib, in base64: the page's script unpacks them."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


def packed_json(value: Any) -> str:
    """Return JSON values packed: no character of them can end the element that holds them."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Names read from files may hold halves of characters, which UTF-8 has not.
    return packed(text.encode("utf-8", "replace"))


@functools.cache
def packed_plotly() -> tuple[str, str]:
    """Return plotly.js packed, and its hash: it is a third of the size so."""
    text = bare_plotly(plotly.offline.get_plotlyjs())
    return packed(text.encode()), script_hash(text)


def bare_plotly(text: str) -> str:
    """Return plotly.js without the function around it that offers it to module loaders.

    Chromium reads all that is in such a function twice, which takes 0.3 s of opening a page. A
    script that is not wrapped so is returned as it is.
    """
    pattern = r"(/\*.*?\*/\n)\(\s*function\(root, factory\).*?=> \{\n(.*)\nreturn Plotly;\n\}\)\);"
    wrapped = re.fullmatch(pattern, text.strip(), re.DOTALL)
    return "".join(wrapped.groups()) if wrapped else text
