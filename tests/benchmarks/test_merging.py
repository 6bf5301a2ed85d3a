"""The benchmark of merging says what was done with weights and adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.confidence import half_width
from benchmarks.merging import (
    ADAPTED,
    AGAIN,
    FLOAT_ADAPTED,
    HEADER,
    LEVELS,
    ORIGINAL,
    WAYS,
    LayerWeights,
    claim,
    kept_share,
    rows_of,
    table_of,
)
from benchmarks.recording import Benchmark, fill_table

LAYER = LayerWeights(
    original=torch.tensor([[0.4, 1.4, -2.3]]),
    dequantized=torch.tensor([[0.0, 1.0, -2.0]]),
    update=torch.tensor([[0.2, 0.2, -0.6]]),
    rounded=torch.round,
)


def outcome(
    losses: dict[str, list[float]], metric: float = 0.75, metric_name: str = "accuracy"
) -> dict[str, Any]:
    measured = [
        {
            "logits_apart": 1e-6 * (level + 1),
            "ways": {
                way: {"loss": values[level], "metric": metric} for way, values in losses.items()
            },
            "kept": {ORIGINAL: 0.9, AGAIN: 0.1},
        }
        for level in range(len(LEVELS))
    ]
    return {
        "metric_name": metric_name,
        "average_bits": list(LEVELS),
        "studied_loss": [0.1] * len(LEVELS),
        "measured": measured,
    }


def losses(base: float) -> dict[str, list[float]]:
    return {way: [base + n, base + n + 0.1, base + n + 0.2] for n, way in enumerate(WAYS)}


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("float", [0.4, 1.4, -2.3]),
        (FLOAT_ADAPTED, [0.6, 1.6, -2.9]),
        ("quantized", [0.0, 1.0, -2.0]),
        (ADAPTED, [0.2, 1.2, -2.6]),
        (ORIGINAL, [1.0, 2.0, -3.0]),
        (AGAIN, [0.0, 1.0, -3.0]),
    ],
)
def test_a_way_makes_the_weights_that_it_is_named_after(way: str, expected: list[float]) -> None:
    torch.testing.assert_close(WAYS[way](LAYER), torch.tensor([expected]))


def test_of_an_update_that_is_not_rounded_all_is_kept_and_below_half_a_step_nothing() -> None:
    assert kept_share([LAYER, LAYER], WAYS[ADAPTED]) == pytest.approx(1.0)
    assert kept_share([LAYER, LAYER], WAYS["quantized"]) == 0.0
    # What is at right angles to the update does not count.
    other = torch.tensor([[5.0, -5.0, 0.0]])
    assert kept_share([LAYER], lambda layer: WAYS[ADAPTED](layer) + other) == pytest.approx(1.0)
    small = LayerWeights(LAYER.original, LAYER.dequantized, 0.5 * LAYER.update, torch.round)
    assert kept_share([small], WAYS[AGAIN]) == 0.0
    assert kept_share([small], WAYS[ORIGINAL]) > 0.0


def test_rows_say_for_each_configuration_what_each_way_came_to() -> None:
    rows = rows_of(outcome(losses(0.5)))
    assert [(row["average bits"], row["way"]) for row in rows] == [
        (level, way) for level in LEVELS for way in WAYS
    ]
    assert all(row["accuracy"] == 0.75 for row in rows)
    assert {row["way"] for row in rows if "share of the update kept" in row} == {ORIGINAL, AGAIN}
    assert {row["way"] for row in rows if "loss in the study" in row} == {ADAPTED}


def test_claims_are_gaps_from_the_adapter_on_quantized_weights() -> None:
    benchmark = Benchmark("merging")
    first, second = losses(0.5), losses(0.5)
    second[AGAIN] = [loss + 0.5 for loss in second[AGAIN]]
    claim(benchmark, "made", [outcome(first), outcome(second)])
    assert benchmark.claims[0].value == pytest.approx(3e-6)
    assert benchmark.claims[0].met
    (mean, half) = [
        one.value
        for one in benchmark.claims
        if "3 bits" in one.claim and f"loss of {AGAIN!r}" in one.claim
    ]
    assert mean == pytest.approx(2.25)
    assert half == pytest.approx(half_width(np.array([2.0, 2.5])))
    single = Benchmark("merging")
    claim(single, "made", [outcome(first)])
    assert not any("interval" in claimed.claim for claimed in single.claims)


def test_the_table_has_means_over_seeds() -> None:
    lines = table_of("made", [outcome(losses(0.5), 0.7), outcome(losses(0.7), 0.8)])
    assert lines[0] == "| made | float | 0.600 (0.750) | 0.700 (0.750) | 0.800 (0.750) |"
    assert len(lines) == len(WAYS)
    assert {line.count("|") for line in (*HEADER, *lines)} == {len(LEVELS) + 3}
    # Accuracies are those of classifiers alone.
    lines = table_of("made", [outcome(losses(3.0), 20.0, "perplexity")])
    assert lines[0] == "| made | float | 3.00 | 3.10 | 3.20 |"


def test_a_table_goes_between_its_own_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    other = "<!-- table of bench-other -->\nkept\n<!-- end of table -->\n"
    page.write_text(f"{other}<!-- table of bench-own -->\nold\n<!-- end of table -->\nend\n")
    for _ in range(2):
        fill_table(page, "own", ["new", "lines"])
        assert page.read_text() == (
            f"{other}<!-- table of bench-own -->\nnew\nlines\n<!-- end of table -->\nend\n"
        )
    page.write_text(other)
    with pytest.raises(ValueError, match="bench-own"):
        fill_table(page, "own", ["new"])
    assert page.read_text() == other
