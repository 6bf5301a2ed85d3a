"""Allocations of other tools next to qsearch's: what is written, chosen and claimed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peer_tools.bayesian_blocks import first_sample
from benchmarks.peer_tools.greedy_kl import greedy
from benchmarks.peer_tools.inputs import (
    Inputs,
    read_allocations,
    read_inputs,
    write_allocations,
)
from benchmarks.recording import Benchmark

INPUTS = Inputs(
    plan="plan.yaml",
    sizes=(3.5, 4.25),
    bits=(2, 3, 4, 8),
    group_size=64,
    tied=(("q_proj", "k_proj"),),
    tokens=((1, 2, 3), (4, 5, 6)),
)


def test_tools_read_the_inputs_that_were_written(tmp_path: Path) -> None:
    INPUTS.write(tmp_path)
    assert read_inputs(tmp_path) == INPUTS


def test_allocations_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = {3.5: {"a": 3, "b": 4}, 4.25: {"a": 4, "b": 4}}
    write_allocations(tmp_path / "found.json", found)
    assert read_allocations(tmp_path / "found.json") == found


def test_greedy_takes_the_largest_gain_per_bit_that_fits() -> None:
    change = np.array([[0.0, -0.2, -0.3], [0.0, -0.1, -0.9]])
    bits, share = np.array([3.25, 4.25, 8.25]), np.array([0.5, 0.5])
    # One bit more for a half of the weights takes 0.5: the first group's gains the most for it.
    assert greedy(change, bits, share, 3.75).tolist() == [1, 0]
    assert greedy(change, bits, share, 8.25).tolist() == [2, 2]


def test_greedy_never_exceeds_its_budget_and_leaves_what_makes_it_worse() -> None:
    generator = np.random.default_rng(0)
    bits = np.array([3.25, 4.25, 8.25])
    for budget in np.linspace(3.25, 8.25, 11):
        change = generator.normal(-0.1, 0.2, size=(20, 3))
        change[:, 0] = 0.0
        share = generator.dirichlet(np.ones(20))
        level = greedy(change, bits, share, float(budget))
        assert (bits[level] * share).sum() <= budget + 1e-9
        assert (change[np.arange(20), level] <= 0).all()


@pytest.mark.parametrize("size", [3.5, 4.0, 4.25, 5.0])
def test_first_samples_have_the_budget_in_the_mean(size: float) -> None:
    generator = np.random.default_rng(0)
    sensitivity = generator.lognormal(size=40)
    drawn = [first_sample(INPUTS, size, sensitivity, generator) for _ in range(500)]
    assert np.mean(drawn) + INPUTS.scale_bits == pytest.approx(size, abs=0.12)


def test_first_samples_give_more_bits_to_sensitive_blocks() -> None:
    generator, sensitivity = np.random.default_rng(0), np.arange(20.0)
    drawn = np.array([first_sample(INPUTS, 3.75, sensitivity, generator) for _ in range(200)])
    assert drawn[:, 10:].mean() > drawn[:, :10].mean() + 0.5


def record(own: list[float], other: list[float], other_bits: float = 3.4) -> dict[str, Any]:
    """Return a record of one size: two tools, and one that did not run."""

    def tool(sequences: list[float], bits: float) -> dict[str, Any]:
        size = {"bits": bits, "kl": float(np.mean(sequences)), "perplexity": 20.0}
        times = {"seconds": 900.0, "processor_seconds": 600.0, "processor_seconds_of_first": 150.0}
        costs = {**times, "peak_mebibytes": 2048.0}
        return {**costs, "sizes": {"3.5": {**size, "sequences": sequences}}}

    tools = {
        "qsearch": tool(own, 3.5),
        "AutoScheme": tool(other, other_bits),
        "ModelOpt, KL": {"reason": "no module named modelopt"},
    }
    return {"model": "small", "sizes": [3.5], "tools": json.loads(json.dumps(tools))}


def claims_of(values: dict[str, Any]) -> dict[str, float]:
    benchmark = Benchmark("peers")
    peers.report(benchmark, "Small", values)
    return {claim.claim: claim.value for claim in benchmark.claims}


def test_the_claims_are_a_ratio_sizes_that_are_better_and_time() -> None:
    claims = claims_of(record([0.10, 0.20, 0.30], [0.20, 0.31, 0.39]))
    ratio, better, times = claims.values()
    assert ratio == pytest.approx(0.6 / 0.9)
    assert (better, times) == (1, 4.0)


def test_a_difference_that_may_be_zero_is_not_better() -> None:
    _, better, _ = claims_of(record([0.10, 0.20, 0.30], [0.20, 0.11, 0.39])).values()
    assert better == 0


def test_an_allocation_above_the_size_is_no_rival() -> None:
    values = record([0.2, 0.3], [0.3, 0.4])
    values["tools"]["larger"] = record([0.2, 0.3], [0.1, 0.2], other_bits=3.6)["tools"][
        "AutoScheme"
    ]
    assert any("best other (AutoScheme)" in claim for claim in claims_of(values))


def test_a_tool_that_did_not_run_is_reported_with_the_reason() -> None:
    lines = peers.report(Benchmark("peers"), "Small", record([0.1, 0.2], [0.2, 0.3]))
    assert "ModelOpt, KL did not run: no module named modelopt" in lines
