"""The measured values of an export, as data and in its model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from qsearch._text import with_error
from qsearch.plugins.digests import Inputs
from qsearch.storage.study_record import StudyRecord, row_values

CARD = "README.md"

MEASURED = "the quantized weights with their adapter"
"""What a study evaluates; some formats hold a part of it alone."""


_ROUNDED = (
    "They were measured before what is not quantized was rounded to the types of these files."
)
_BY_ANOTHER = "The weights that another tool makes by this recipe are rounded by that tool."


def export_facts(record: StudyRecord, row: pd.Series) -> dict[str, Any]:
    """Return what is known of an exported row of ``trials.parquet``."""
    inputs = record.sessions[-1].inputs if record.sessions else Inputs()
    return {
        "study": record.name,
        "model": record.model,
        "task": record.task,
        "quantizer": record.quantizer,
        "trainer": record.trainer,
        "values_are_of": MEASURED,
        **row_values(record, row),
        "source_precision": record.source_precision.text if record.source_precision else None,
        "warnings": list(record.warnings),
        "versions": dict(record.versions),
        "model_sha256": dict(inputs.model),
        "examples_sha256": {split: found.sha256 for split, found in inputs.data.items()},
    }


def add_values(folder: Path, facts: Mapping[str, Any]) -> None:
    """Add the facts of :func:`export_facts` and ``weight_file_bytes`` to an export's model card.

    Without a card there is nothing to add to.
    """
    card = folder / CARD
    if not card.is_file():
        return
    nbytes = facts["weight_file_bytes"]  # None of a recipe.
    rows = {"original weights": facts["source_precision"]} if facts["source_precision"] else {}
    rows |= {
        "average bits of the quantized weights": f"{facts['average_bits']:.4f}",
        **({"weight files": f"{nbytes / 1e6:.1f} MB"} if nbytes else {}),
        "validation loss": with_error(facts["loss"], facts["standard_error"]) + " nats",
    }
    for name, metric in facts["metrics"].items():
        text = with_error(metric["value"], metric["standard_error"])
        rows[f"validation {as_code(name)}"] = text
    rows["in a training set of the adapter"] = "yes" if facts["seen"] else "no"
    if facts["estimated_loss"] is not None:
        estimated = with_error(facts["estimated_loss"], facts["estimated_loss_std"])
        rows["estimated loss"] = f"{estimated} nats"
    lines = [
        "",
        "## Measured values",
        "",
        f"Trial {facts['trial']}, round {facts['round']} of the study {as_code(facts['study'])};"
        " ± is a standard error, of the estimated loss a standard deviation."
        f" Losses and metrics are those of {MEASURED}. {_ROUNDED if nbytes else _BY_ANOTHER}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
    ]
    with card.open("a", encoding="utf-8") as stream:
        stream.write("\n".join(lines))


def as_code(name: str) -> str:
    """Return a name as Markdown's code, in which nothing of it means anything."""
    return "`" + " ".join(name.replace("`", "'").split()) + "`"
