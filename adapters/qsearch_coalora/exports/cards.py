"""Model cards of exports."""

from __future__ import annotations

import json
from pathlib import Path

from qsearch_coalora.exports.job import ExportJob

_FRONT = """\
---
base_model: {model}
library_name: {library}
tags: [lora, quantization, qsearch]
---

"""


def write_card(job: ExportJob, directory: Path, text: str, library: str, **fields: object) -> None:
    """Write ``README.md``; the engine adds the figures.

    Args:
        job: What is exported.
        directory: Where to.
        text: The card, with places for ``model``, ``method``, ``auto_class`` and ``fields``.
        library: Name of the library that loads it.
        fields: Further values.
    """
    model = job.model.name
    # In YAML, JSON's quoting keeps any name one string.
    front = _FRONT.format(model=json.dumps(model), library=library)
    body = text.format(model=model, method=job.method, auto_class=job.auto_class, **fields)
    (directory / "README.md").write_text(front + body, encoding="utf-8")
