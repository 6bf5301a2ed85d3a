"""How two configurations differ."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reports.scripts.script_scope import Scope

pytestmark = pytest.mark.browser


def figures(scripts: Scope, first: dict[str, Any], second: dict[str, Any], **more: Any) -> Any:
    columns = {name: [first[name], second[name]] for name in first}
    study = {
        "layers": [{"parameters": 3000}, {"parameters": 5000}],
        "metric": {"name": "accuracy"},
        "more_metrics": [],
        "unit": "nats",
        "points": columns,
        **more,
    }
    rows = scripts.evaluate("comparedValues(study, 0, 1)", study=study)
    return {name: texts for name, *texts in rows}


FIRST = {
    "average_bits": 3.5,
    "bytes": None,
    "loss": 0.3,
    "standard_error": 0.01,
    "estimated_loss": 0.31,
    "estimated_loss_std": 0.002,
    "metric": 0.9,
    "metric_standard_error": None,
    "seen": True,
    "method": "warm start",
}
SECOND = {**FIRST, "average_bits": 2.5, "loss": 0.325, "seen": False, "method": "search"}


def test_figures_stand_side_by_side_with_chosen_less_pinned(scripts: Scope) -> None:
    found = figures(scripts, FIRST, SECOND)
    assert found == {
        "average bits": ["3.5000", "2.5000", "−1.0000"],
        "quantized weights": ["3.5 kB", "2.5 kB", "−1.0 kB"],
        "loss (nats)": ["0.3000 ± 0.0100", "0.3250 ± 0.0100", "+0.0250"],
        "estimated loss (nats)": ["0.3100 ± 0.0020", "0.3100 ± 0.0020", "0.0000"],
        "accuracy": ["0.9000", "0.9000", "0.0000"],
        "in training": ["seen", "unseen", ""],
        "method": ["warm start", "search", ""],
    }


def test_a_figure_that_neither_has_is_left_out_and_that_one_has_is_told(scripts: Scope) -> None:
    unknown = {"estimated_loss": None, "estimated_loss_std": None}
    assert "estimated loss (nats)" not in figures(
        scripts, {**FIRST, **unknown}, {**SECOND, **unknown}
    )
    found = figures(scripts, FIRST, {**SECOND, **unknown})
    assert found["estimated loss (nats)"] == ["0.3100 ± 0.0020", "–", "–"]
    found = figures(scripts, {**FIRST, **unknown}, SECOND)
    assert found["estimated loss (nats)"] == ["–", "0.3100 ± 0.0020", "–"]


def test_of_an_objective_there_is_neither_metric_nor_training(scripts: Scope) -> None:
    own = {"standard_error": 0, "estimated_loss": None, "seen": None}
    first, second = {**FIRST, **own, "loss": 0.004}, {**SECOND, **own, "loss": 0.00125}
    found = figures(scripts, first, second, metric=None, unit="")
    assert set(found) == {"average bits", "quantized weights", "loss", "method"}
    assert found["loss"] == ["0.004000", "0.001250", "−0.002750"]
