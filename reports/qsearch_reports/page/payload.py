"""What the page's script needs of a study, as JSON values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go

from qsearch.plugins.footprint import Footprint
from qsearch.storage.study_record import StudyRecord
from qsearch_reports import figures, frames
from qsearch_reports.names import python_study, shell_path
from qsearch_reports.page.assets import packed
from qsearch_reports.results import StudyResults

_DIGITS = 7
"""Significant digits that figures are drawn with."""

_ROUNDED = 6e-7
"""How far values in hover labels are from those of the points: they are rounded."""

_OTHER_PARTS = ("layer", "round", "heatmap", "phase", "difference")
"""How parts of figures begin that do not stand for evaluations."""


def study_payload(results: StudyResults, name: str) -> dict[str, Any]:
    """Return all that the page's script needs of one study, which the page calls ``name``.

    Configurations are written once each, as the choice index of every layer: little-endian
    16- or 32-bit integers (configurations × layers), packed.
    """
    record = results.record
    points = frames.points_frame(record)
    shown = points.assign(tokens_per_second=frames.tokens_per_second(record, results.speed))
    indices = frames.row_choices(record)[~points["configuration"].duplicated().to_numpy()]
    grid = frames.layer_grid(record.layers)
    return {
        "name": name,
        "command": shell_path(results.directory),
        "python": None if record.is_trained else python_study(results.directory),
        "unit": frames.loss_unit(record),
        "metric": record.metric and asdict(record.metric),
        "more_metrics": [
            {"key": key, **asdict(metric)}
            for key, metric in frames.more_metrics(record).items()
            if points[key].notna().any()
        ],
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
        "size": "average_bits" if results.footprint is None else record.size,
        "adapter_bits": adapter_bits(results.footprint),
        "points": {column: plain(shown[column]) for column in shown.columns},
        "configurations": pack(indices, record.choices.size),
        "drawn_rounds": _drawn_rounds(record, points),
        "training_sets": _training_sets(record, points),
        "figures": _figures(results, points),
        "parallel": None if points.empty else _parallel(record),
    }


def adapter_bits(footprint: Footprint | None) -> float:
    """Return what the adapter adds to average bits."""
    return 0.0 if footprint is None else footprint.average_bits_with_adapter(0.0)


def pack(indices: npt.NDArray[np.int64], choices: int) -> dict[str, Any]:
    """Return choice indices (configurations × layers) in the page's compact encoding."""
    width = 2 if choices <= 1 << 16 else 4
    return {"width": width, "data": packed(indices.astype(f"<u{width}").tobytes())}


def plain(column: pd.Series) -> list[Any]:
    """Return a column as JSON values, missing values as None."""
    return column.astype(object).where(column.notna(), None).tolist()


def _drawn_rounds(record: StudyRecord, points: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rounds that fronts can show: those that are finished, or the first."""
    hypervolumes = {
        entry.round: entry.hypervolume if math.isfinite(entry.hypervolume) else None
        for entry in record.rounds
    }
    last = record.rounds[-1].round if record.rounds else 1
    counts = Counter(points.loc[points["round"] <= last, "round"].tolist())
    return [
        {"round": number, "configurations": count, "hypervolume": hypervolumes.get(number)}
        for number, count in sorted(counts.items())
    ]


def _training_sets(record: StudyRecord, points: pd.DataFrame) -> dict[str, list[int]]:
    """Return the codes of the configurations that each round trained on."""
    codes = dict(zip(points["trial"], points["configuration"], strict=True))
    return {
        str(entry.round): [int(codes[trial]) for trial in entry.training_set if trial in codes]
        for entry in record.rounds
    }


def _figures(results: StudyResults, points: pd.DataFrame) -> dict[str, Any]:
    """Draw all figures that the study has something for; a figure with variants says by what."""
    record = results.record
    made: dict[str, Any] = {}

    def add(key: str, figure: go.Figure) -> None:
        made[key] = compact(figure, points)

    def add_variants(key: str, by: str, variants: Mapping[str, go.Figure]) -> None:
        drawn = {name: compact(figure, points) for name, figure in variants.items()}
        if drawn:
            made[key] = {"by": by, "variants": drawn}

    if not points.empty:
        for value in ("loss", "metric") if record.metric else ("loss",):
            add_variants(value, "round", _fronts(results, points, value))
        marginals = {
            knob.name: figures.marginals_figure(frames.marginals_frame(record, knob.name), knob)
            for knob in record.choices.knobs
        }
        add_variants("marginals", "knob", marginals)
        add_variants("progress", "progress", _progress(results))
        parallel = frames.parallel_frame(record)
        axes = frames.parallel_axes(record, parallel)
        add("parallel", figures.parallel_figure(parallel, axes))
    sensitivity = frames.sensitivity_frame(results)
    if not sensitivity.empty:
        add("sensitivity", figures.sensitivity_figure(sensitivity))
    predictions = frames.predictions_frame(record)
    if not predictions.empty:
        add("predictions", figures.predictions_figure(predictions))
        add("calibration", figures.calibration_figure(frames.calibration_frame(predictions)))
    timeline = frames.timeline_frame(results)
    if timeline["end"].notna().any():
        add("timeline", figures.timeline_figure(timeline, frames.phases_frame(results)))
    training = frames.training_frame(record)
    if not training.empty:
        add("training", figures.training_figure(training))
    return made


def _fronts(results: StudyResults, points: pd.DataFrame, value: str) -> dict[str, go.Figure]:
    """Draw the fronts of all rounds: by average bits, and by bytes if they are known."""
    record = results.record
    metric, unit = record.metric, frames.loss_unit(record)
    drawn = {}
    for size, edges in frames.segment_edges(record, results.footprint).items():
        ranges = figures.front_ranges(points, value, size)
        for entry in _drawn_rounds(record, points):
            rows = points[points["round"] == entry["round"]]
            drawn[f"{entry['round']} {size}"] = figures.front_figure(
                rows, edges, metric, value, ranges, unit, size
            )
    return drawn


def _progress(results: StudyResults) -> dict[str, go.Figure]:
    progress = frames.progress_frame(results)
    made = {"evaluation": figures.progress_figure(progress, "evaluation")}
    if progress["minutes"].notna().any():
        made["minutes"] = figures.progress_figure(progress, "minutes")
    if results.record.rounds:
        made["round"] = figures.hypervolume_figure(frames.hypervolume_frame(results.record))
    return made


def _parallel(record: StudyRecord) -> dict[str, Any]:
    """Return what the page's ranges of axes select by."""
    frame = frames.parallel_frame(record)
    axes = [
        {
            "title": axis.title,
            "low": axis.low,
            "high": axis.high,
            "names": axis.names,
            "values": plain(frame[axis.column].astype(float)),
        }
        for axis in frames.parallel_axes(record, frame)
    ]
    return {"rows": frame.index.tolist(), "axes": axes}


def compact(figure: go.Figure, points: pd.DataFrame) -> dict[str, Any]:
    """Return a figure as JSON values, with columns that it shares with ``points`` named only.

    A trace of evaluations gets their row numbers as ``rows``. Its coordinates and its columns of
    ``customdata`` are ``{"column": name}`` where they are those of ``points``; the page's script
    fills them in.
    """
    return {
        "layout": json_values(figure.layout.to_plotly_json()),
        "data": [_compact_trace(trace.to_plotly_json(), points) for trace in figure.data],
    }


def _compact_trace(trace: dict[str, Any], points: pd.DataFrame) -> dict[str, Any]:
    details = trace.get("customdata")
    is_other = str(trace.get("meta", "")).startswith(_OTHER_PARTS)
    if details is None or is_other or len(details) == 0:
        return dict(json_values(trace))
    # A gap in a line has a row number alone.
    columns = list(zip_longest(*details))
    rows = np.array([-1 if row is None else row for row in columns[0]], dtype=np.int64)
    for axis in ("x", "y"):
        trace[axis] = _column(trace[axis], rows, points)
    for error in ("error_x", "error_y"):
        if "array" in trace.get(error, {}):
            trace[error]["array"] = _column(trace[error]["array"], rows, points)
    trace["rows"] = rows
    trace["customdata"] = [_column(column, rows, points, _ROUNDED) for column in columns[1:]]
    return dict(json_values(trace))


def _column(
    values: Sequence[Any], rows: npt.NDArray[np.int64], points: pd.DataFrame, slack: float = 0.0
) -> Any:
    """Return the name of the column of ``points`` that values are of, or else the values."""
    is_text = any(isinstance(value, str) for value in values)
    for name in () if (rows < 0).any() else points.columns:
        column = points[name].to_numpy()[rows]
        if is_text:
            same = column.dtype.kind not in "fiub" and list(column) == list(values)
        else:
            numbers = np.asarray(values, dtype=np.float64)
            same = column.dtype.kind in "fiu" and np.allclose(
                column, numbers, rtol=1e-9, atol=slack, equal_nan=True
            )
        if same:
            return {"column": name}
    return values


def json_values(value: Any) -> Any:
    """Return a figure's values as JSON has them; floats with the digits that a drawing needs."""
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | pd.Series | pd.Index):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
