"""Studies to one self-contained HTML page that works offline."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import plotly.offline
from markupsafe import Markup

from qsearch.errors import InputError
from qsearch.records import StudyRecord, decisive_loss, read_study
from qsearch.state_files import write_atomically
from qsearch_reports import figures, frames
from qsearch_reports.origin import origin
from qsearch_reports.summary import with_error

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("decode.js", "plots.js", "heatmap.js", "table.js", "study.js", "report.js")
"""Files of ``templates/`` that make the page's script, in order; they share one scope."""

COMPARED_BUDGETS = (2.5, 3.0, 4.0, 6.0)
"""Average bits at which a page of several studies compares their losses."""


def write_report(directories: Sequence[Path], out: Path) -> Path:
    """Write one HTML file that shows one or several studies.

    Args:
        directories: Study directories.
        out: The file to write; its directory is made if needed.

    Returns:
        ``out``.

    Raises:
        InputError: If a directory holds no study or cannot be read, or the file cannot be
            written.
    """
    if not directories:
        raise InputError("a report needs at least one study directory")
    records = [read_study(directory) for directory in directories]
    html = render_page(records, [str(directory) for directory in directories])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A directory's name may hold what is no text; it is shown as far as it is.
        content = html.encode("utf-8", "replace")
        write_atomically(out, lambda path: path.write_bytes(content))
    except OSError as error:
        raise InputError(f"report {out} cannot be written: {error}") from error
    return out


def render_page(records: Sequence[StudyRecord], directories: Sequence[str]) -> str:
    """Return the page as HTML text.

    Args:
        records: The studies.
        directories: Where each lives, as its user would type it in a command.
    """
    names = distinct_names(records, directories)
    plotly_js = _script(plotly.offline.get_plotlyjs())
    report_js = _script("\n".join(_template_text(name) for name in SCRIPTS))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure_error"] = with_error
    studies = [
        _study_context(record, name, directory)
        for record, name, directory in zip(records, names, directories, strict=True)
    ]
    comparison = _comparison(records, names) if len(records) > 1 else None
    data = {
        "studies": [
            study_data(record, name, directory)
            for record, name, directory in zip(records, names, directories, strict=True)
        ],
        "comparison": comparison["figures"] if comparison else {},
    }
    return environment.get_template("report.html.j2").render(
        title=names[0] if len(names) == 1 else f"{len(names)} studies",
        studies=studies,
        comparison=comparison,
        content_policy=content_policy(plotly_js, report_js),
        css=Markup(_template_text("report.css")),  # noqa: S704  (a file of this package)
        plotly_js=Markup(plotly_js),  # noqa: S704  (plotly's own bundle)
        report_js=Markup(report_js),  # noqa: S704  (files of this package)
        data=Markup(embed_json(data)),  # noqa: S704  (escaped by embed_json)
    )


def distinct_names(records: Sequence[StudyRecord], directories: Sequence[str]) -> list[str]:
    """Return one label per study: its name, with its directory where two names are equal."""
    names = [record.name for record in records]
    return [
        f"{name} ({directory})" if names.count(name) > 1 else name
        for name, directory in zip(names, directories, strict=True)
    ]


def content_policy(*scripts: str) -> str:
    """Return a Content-Security-Policy that allows these inline scripts and no request at all.

    Plotly sets style attributes, so inline styles are allowed.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def embed_json(value: Any) -> str:
    """Return JSON that is safe inside a ``<script type="application/json">`` element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def study_data(record: StudyRecord, name: str, directory: str) -> dict[str, Any]:
    """Return all that the page's script needs of one study, as JSON values.

    Configurations are written once each, as the choice index of every layer: little-endian
    16- or 32-bit integers (configurations × layers), compressed with zlib, in base64.
    """
    points = frames.points_frame(record)
    completed = record.trials[record.trials["status"] == "completed"]
    ordered = completed.sort_values(["round", "trial"], kind="stable")
    codes, texts = pd.factorize(ordered["configuration"])
    grid = frames.layer_grid(record.layers)
    configurations = [str(text) for text in texts]
    indices = frames.choice_indices(record.layers, record.choices, configurations)
    return {
        "name": name,
        "command": shell_path(directory),
        "metric": {"name": record.metric.name, "better": record.metric.better},
        "layers": [{"name": layer.name, "parameters": layer.parameters} for layer in record.layers],
        "knobs": [
            {
                "name": knob.name,
                "values": list(knob.values),
                "colours": figures.value_colours(len(knob.values)),
            }
            for knob in record.choices.knobs
        ],
        "knob": frames.default_knob(record.choices),
        "grid": {"rows": grid.rows, "blocks": grid.blocks, "positions": grid.positions.tolist()},
        "points": {column: _values(points[column]) for column in points.columns},
        "configuration_of": codes.tolist(),
        "configurations": pack(indices, record.choices.size),
        "figures": _study_figures(record, points),
    }


def pack(indices: np.ndarray, choices: int) -> dict[str, Any]:
    """Return choice indices (configurations × layers) in the page's compact encoding."""
    width = 2 if choices <= 1 << 16 else 4
    raw = indices.astype(f"<u{width}").tobytes()
    return {"width": width, "data": base64.b64encode(zlib.compress(raw, 9)).decode()}


def shell_path(path: str) -> str:
    """Return a path quoted for a POSIX shell, never mistaken for an option."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def _study_figures(record: StudyRecord, points: pd.DataFrame) -> dict[str, Any]:
    latest = frames.latest_points(points)
    made = {}
    if not latest.empty:
        for value in ("loss", "metric"):
            made[value] = figures.front_figure(latest, record.segment_edges, record.metric, value)
    if record.rounds:
        made["hypervolume"] = figures.hypervolume_figure(frames.hypervolume_frame(record))
    training = frames.training_frame(record)
    if not training.empty:
        made["training"] = figures.training_figure(training)
    return {key: json.loads(figure.to_json()) for key, figure in made.items()}


def _comparison(records: Sequence[StudyRecord], names: Sequence[str]) -> dict[str, Any]:
    fronts: dict[str, list[tuple[str, pd.DataFrame]]] = {"loss": [], "metric": []}
    for record, name in zip(records, names, strict=True):
        latest = frames.latest_points(frames.points_frame(record))
        for value in fronts:
            higher = value == "metric" and record.metric.better == "higher"
            decisive = "decisive_loss" if value == "loss" else value
            front = frames.front_frame(latest, decisive, higher=higher)
            fronts[value].append((name, front.rename(columns={decisive: "value"})))
    made = {"loss": figures.fronts_figure(fronts["loss"], "loss (nats)")}
    if len({(record.metric.name, record.metric.better) for record in records}) == 1:
        title = figures.value_title("metric", records[0].metric)
        made["metric"] = figures.fronts_figure(fronts["metric"], title)
    by_round = frames.comparison_frame(records, names)
    if not by_round.empty:
        made["hypervolume"] = figures.comparison_figure(by_round)
    last = by_round.groupby("study", sort=False)["hypervolume"].last().to_dict()
    return {
        "figures": {key: json.loads(figure.to_json()) for key, figure in made.items()},
        "reference": frames.common_reference(records),
        "budgets": COMPARED_BUDGETS,
        "rows": [
            {
                "name": name,
                "hypervolume": last.get(name),
                "losses": _values(decisive_loss(frames.budget_frame(record, COMPARED_BUDGETS))),
            }
            for record, name in zip(records, names, strict=True)
        ],
    }


def _study_context(record: StudyRecord, name: str, directory: str) -> dict[str, Any]:
    latest = frames.latest_points(frames.points_frame(record))
    parameters = sum(layer.parameters for layer in record.layers)
    return {
        "record": record,
        "name": name,
        "directory": shell_path(directory),
        "headline": frames.headline(record),
        "failures": frames.failures_frame(record).to_dict("records"),
        "parameters": parameters,
        "origin": origin(record),
        "latest_round": None if latest.empty else int(latest["round"].iloc[0]),
        "budget": _slider(latest["average_bits"]),
    }


def _slider(bits: pd.Series) -> dict[str, float] | None:
    """Return the range of the budget slider, so that at every stop a configuration fits."""
    if bits.empty:
        return None
    step = 0.05
    low = round(math.ceil(round(float(bits.min()) / step, 9)) * step, 2)
    high = max(low, round(math.ceil(round(float(bits.max()) / step, 9)) * step, 2))
    return {"low": low, "high": high, "step": step, "start": min(max(3.0, low), high)}


def _values(column: pd.Series) -> list[Any]:
    """Return a column as JSON values, missing figures as None."""
    return [
        None if isinstance(value, float) and not math.isfinite(value) else value
        for value in column.tolist()
    ]


def _template_text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    """Return a script as the browser will see it, since its hash is taken of that."""
    text = re.sub(r"\r\n?", "\n", text)
    if re.search(r"</script|<!--", text, re.IGNORECASE):
        raise ValueError("an inline script must hold neither '</script' nor '<!--'")
    return text
