"""Studies to one self-contained HTML page that works offline."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from qsearch.errors import InputError
from qsearch.storage.files import write_output
from qsearch_reports import frames
from qsearch_reports.frames.origin import origin
from qsearch_reports.names import distinct_names, shell_path
from qsearch_reports.page import assets
from qsearch_reports.page.comparison import comparison_context
from qsearch_reports.page.payload import study_payload
from qsearch_reports.results import StudyResults, read_results
from qsearch_reports.summaries.facts import answer, uniform_cells, warnings


def write_report(directories: Sequence[Path], out: Path) -> Path:
    """Write one HTML file that shows one or several studies; return ``out``.

    Raises:
        InputError: If a directory holds no study or cannot be read, or the file cannot be
            written.
    """
    if not directories:
        raise InputError("a report needs at least one study directory")
    html = render_page([read_results(directory) for directory in directories])
    return write_output(out, html)


def render_page(results: Sequence[StudyResults]) -> str:
    """Return the page as HTML text."""
    names = distinct_names(results)
    comparison = comparison_context(results, names) if len(results) > 1 else None
    report_js = assets.script("report.js")
    plotly_js, plotly_hash = assets.packed_plotly()
    payloads = list(map(study_payload, results, names))
    compared = comparison.figures if comparison else {}
    data = {
        "studies": payloads,
        "comparison": {key: json.loads(figure.to_json()) for key, figure in compared.items()},
    }
    return assets.template("report.html.j2").render(
        title=names[0] if len(names) == 1 else f"{len(names)} studies",
        studies=list(map(_study_context, results, names, payloads)),
        comparison=comparison,
        content_policy=assets.content_policy(plotly_hash, assets.script_hash(report_js)),
        css=assets.style("report.css", "comparison.css"),
        plotly_js=Markup(plotly_js),  # noqa: S704  (base64)
        report_js=report_js,
        data=Markup(assets.packed_json(data)),  # noqa: S704  (base64)
    )


def _study_context(results: StudyResults, name: str, payload: dict[str, Any]) -> dict[str, Any]:
    record = results.record
    latest = frames.latest_points(frames.points_frame(record))
    head = frames.headline(record, results.claims)
    return {
        "record": record,
        "name": name,
        "directory": shell_path(results.directory),
        "headline": head,
        "answer": answer(head, results.footprint),
        "warnings": warnings(results),
        "uniform": uniform_cells(results.claims),
        "unit": frames.loss_unit(record),
        "failures": frames.failures_frame(record).to_dict("records"),
        "parameters": sum(layer.parameters for layer in record.layers),
        "origin": origin(record),
        "latest_round": None if latest.empty else int(latest["round"].iloc[0]),
        "drawn": payload["figures"],
        "drawn_rounds": len(payload["drawn_rounds"]),
        "has_errors": bool((latest["standard_error"] > 0).any()),
        "sizes": sizes(results),
        "start": None if latest.empty else _start(latest["average_bits"]),
    }


def sizes(results: StudyResults) -> list[tuple[str, str]]:
    """Return the sizes that fronts are drawn against, the study's own first."""
    known = frames.segment_edges(results.record, results.footprint)
    names = {"average_bits": "average bits", "bytes": "file size"}
    return sorted(
        ((size, names[size]) for size in known), key=lambda one: one[0] != results.record.size
    )


def _start(bits: pd.Series) -> float:
    """Return where the budget slider starts: at 3 average bits, if that is in its range."""
    return min(max(3.0, math.ceil(float(bits.min()) / 0.05) * 0.05), float(bits.max()) + 0.05)
