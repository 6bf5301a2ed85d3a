"""Made studies of any size, to see what their reports take; nothing was trained for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_reports.results import StudyResults

from qsearch.plugins.evaluation import Metric
from qsearch.plugins.footprint import Footprint, RunningMemory
from qsearch.plugins.trial_columns import TRIAL_COLUMNS, metric_columns
from qsearch.space.configuration import Choices
from qsearch.space.layers import LayerSpec
from qsearch.storage.measurements import write_footprint, write_measurement
from qsearch.storage.paths import LOG, layer_scores_name
from qsearch.storage.study_record import RoundRecord, StudyRecord, write_study
from tests.reports.study_log import log_events

ROLES = ("query", "key", "value", "attention_output", "gate", "up", "down")
_SHAPE = (64, 64)
_BITS = (2.25, 7.25)
_SEGMENTS = 20
_STEPS = 300
"""Steps of training, each with a loss."""


def random_study(
    evaluations: int, blocks: int, roles: int = len(ROLES), seed: int = 0
) -> StudyResults:
    """Return a study of one round whose layers all have choices drawn evenly.

    No configuration tells of another, and no layer of the next, so that none compress. Average
    bits and losses are drawn by themselves, spread as those of a real study: with the bits of such
    configurations all points would be at one place.

    Args:
        evaluations: Number of configurations, all different in all likelihood.
        blocks: Blocks of the model.
        roles: Layers of each block, at most as many as :data:`ROLES`.
        seed: Of all that is drawn.
    """
    generator = np.random.default_rng(seed)
    layers = tuple(
        LayerSpec(f"model.layers.{block}.{role}", role, block, _SHAPE)
        for block in range(blocks)
        for role in ROLES[:roles]
    )
    choices = NormalFloat(NormalFloat.Options()).choices()
    trials = _trials(evaluations, layers, choices, generator)
    record = StudyRecord(
        name=f"{evaluations:,} evaluations of {len(layers)} layers",
        model="made",
        task="made",
        quantizer="normal-float",
        trainer="made",
        metrics=(Metric("accuracy", "higher"),),
        layers=layers,
        choices=choices,
        average_bits_range=(2.03, 8.6),
        segment_edges=tuple(np.linspace(*_BITS, _SEGMENTS + 1).tolist()),
        reference_point=(1.0, 8.6),
        rounds=(
            RoundRecord(
                round=1,
                training_set=tuple(trials.loc[trials["seen"], "trial"].tolist()),
                hypervolume=0.7,
                train_seconds=100.0,
                evaluate_seconds=float(trials["seconds"].sum()),
                search_seconds=10.0,
                train_losses=tuple(
                    (0.3 + np.exp(-np.arange(_STEPS) / 50) + generator.normal(0, 0.02, _STEPS))
                    .round(5)
                    .tolist()
                ),
            ),
        ),
        trials=trials,
    )
    weights = sum(layer.parameters for layer in layers)
    return StudyResults(
        record=record,
        directory="runs/made",
        footprint=Footprint(weights, *_FIXED, RunningMemory(4 * 64 * 64, 0, 1024, 128)),
        events=log_events(record),
        layer_scores=generator.gamma(0.3, 0.01, (len(layers), choices.size)),
    )


_FIXED = (1_000_000, 200_000)
"""Bytes that are not quantized, and of the adapter."""


def save_study(results: StudyResults, directory: Path) -> None:
    """Write a study's files into a directory, as a run would have left them."""
    write_study(directory, results.record)
    if results.footprint is not None:
        write_footprint(directory, results.footprint)
    if results.layer_scores is not None:
        write_measurement(directory, layer_scores_name(1), results.layer_scores)
    lines = [json.dumps(dict(event)) for event in results.events]
    (directory / LOG).write_text("\n".join([*lines, ""]), encoding="utf-8")


def _trials(
    count: int, layers: tuple[LayerSpec, ...], choices: Choices, generator: np.random.Generator
) -> pd.DataFrame:
    drawn = generator.integers(0, choices.size, (count, len(layers)))
    bits = generator.uniform(*_BITS, count)
    loss = 0.3 + 0.4 * np.exp(-1.2 * (bits - 2)) + generator.normal(0, 0.01, count)
    expected = loss + generator.normal(0, 0.005, count)
    trials = pd.DataFrame(
        {
            "trial": np.arange(count),
            "round": 1,
            "method": "search",
            "average_bits": bits,
            "bytes": sum(_FIXED) + bits * sum(layer.parameters for layer in layers) // 8,
            "loss": loss,
            "accuracy": 0.9 - loss / 3,
            "standard_error": generator.uniform(0.01, 0.011, count),
            "accuracy_standard_error": generator.uniform(0.014, 0.015, count),
            "seconds": generator.uniform(1.9, 2.0, count),
            "seen": generator.random(count) < min(0.4, 50 / count),
            "segment": np.floor((bits - _BITS[0]) / (_BITS[1] - _BITS[0]) * _SEGMENTS).astype(int),
            "configuration": _texts(drawn, layers, choices),
            "status": "completed",
            "reason": "",
            "estimated_loss": expected,
            "estimated_loss_std": generator.uniform(0.001, 0.0015, count),
            "predicted_loss": loss + generator.normal(0, 0.01, count),
            "predicted_loss_std": generator.uniform(0.01, 0.011, count),
        }
    )
    trials["on_front"] = _on_front(trials)
    return trials[[*TRIAL_COLUMNS, *metric_columns(["accuracy"])]]


def _texts(
    drawn: npt.NDArray[np.int64], layers: tuple[LayerSpec, ...], choices: Choices
) -> list[str]:
    """Return configurations, given as choices (configurations × layers), as JSON texts."""
    names = [json.dumps(layer.name) for layer in layers]
    values = [json.dumps(dict(one)) for one in choices.layer_configurations]
    return [
        "{" + ",".join(f"{name}:{values[at]}" for name, at in zip(names, row, strict=True)) + "}"
        for row in drawn.tolist()
    ]


def _on_front(trials: pd.DataFrame) -> pd.Series:
    """Return which trials have less estimated loss than all of their segment with fewer bits."""
    ordered = trials.sort_values("average_bits")
    least = ordered.groupby("segment")["estimated_loss"].cummin()
    return (ordered["estimated_loss"] == least).sort_index()
