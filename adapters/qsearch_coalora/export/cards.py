"""Model cards of exports."""

from __future__ import annotations

from pathlib import Path

from qsearch.deployment.model_card import as_code
from qsearch.plugins.exporters import ExportJob
from qsearch_coalora.export.job import auto_class
from qsearch_coalora.models.split_packages import terms_of

_OWN_CODE = """
The model brings Python code of its own, which is in this folder too: whoever loads it says
`trust_remote_code=True`, and runs that code.
"""


def write_card(job: ExportJob, directory: Path, text: str, library: str, **fields: object) -> None:
    """Write ``README.md``; the engine adds the values that the study measured.

    The text has places for ``model``, ``method``, ``auto_class`` and the further fields; the
    library is the one that loads the export.
    """
    from huggingface_hub import ModelCardData

    tags = [*(["lora"] if job.has_adapter else []), "quantization", "qsearch"]
    front = ModelCardData(base_model=job.model.name, library_name=library, tags=tags).to_yaml()
    model = as_code(job.model.name)
    body = text.format(model=model, method=job.method, auto_class=auto_class(job.module), **fields)
    if job.model.remote_code is not None:
        body += _OWN_CODE
    if terms := terms_of(job.model.name):
        body += f"\n{terms}.\n"
    (directory / "README.md").write_text(f"---\n{front}\n---\n\n{body}", encoding="utf-8")
