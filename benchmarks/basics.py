"""What residual factors and scoring candidates cost.

Each value stands next to a peer's in the same run, measured in turn, so that a slow moment of the
machine hits both; the ratio of medians is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.models import ModelListGP, SingleTaskGP
from botorch.settings import validate_input_scaling
from botorch.utils.multi_objective.box_decompositions.non_dominated import (
    FastNondominatedPartitioning,
)
from qsearch_coalora.adapter.residual import (
    OVERSAMPLING,
    POWER_ITERATIONS,
    Factors,
    residual_factors,
)
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.weights.input_norm import InputNorm
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from torch import Tensor

from benchmarks.objectives import ROOT
from benchmarks.paper_text import environment
from benchmarks.recording import Benchmark
from benchmarks.timing import alternate, medians
from qsearch._arrays import Integers
from qsearch.plugins.components import build_components
from qsearch.search.acquisition import log_expected_hypervolume_improvement
from qsearch.search.layer_scores import error_scores
from qsearch.search.pareto import front
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import LayerSpec
from qsearch.space.sampling import sample_configurations
from qsearch.spec.study_spec import load_spec
from qsearch.surrogate.features import score_features
from qsearch.surrogate.surrogate import Surrogate, fit_surrogate

RANK = 8


def residuals(benchmark: Benchmark) -> None:
    """Time residual factors next to PyTorch's full and low-rank SVD of what quantization takes."""
    quantizer = NormalFloat(NormalFloat.Options())
    three_bits = next(c for c in quantizer.choices().layer_configurations if c["bits"] == 3)
    generator = torch.Generator().manual_seed(0)
    for shape in ((64, 64), (384, 384), (1536, 384), (2048, 2048)):
        weight = torch.randn(shape, generator=generator) * 0.02
        quantized = quantizer.dequantize(quantizer.quantize(weight, three_bits))
        residual = weight - quantized

        def ours(weight: Tensor = weight, quantized: Tensor = quantized) -> Factors:
            return residual_factors(weight, quantized, RANK, torch.Generator().manual_seed(0))

        def full(residual: Tensor = residual) -> object:
            return torch.linalg.svd(residual, full_matrices=False)

        def low_rank(residual: Tensor = residual) -> tuple[Tensor, ...]:
            return torch.svd_lowrank(residual, RANK + OVERSAMPLING, niter=POWER_ITERATIONS)

        calls: dict[str, Callable[[], object]] = {
            "ours": ours,
            "full": full,
            "svd_lowrank": low_rank,
        }
        times = medians(alternate(calls, repeats=3 if shape[0] > 1536 else 9))
        label = f"rank {RANK} of a {shape[0]}×{shape[1]} residual"
        for peer in ("full", "svd_lowrank"):
            benchmark.claim(
                f"seconds of residual factors over those of PyTorch's {peer} SVD, {label}",
                times["ours"] / times[peer],
                1.0,
                "lower",
            )


REAL_LAYERS = 12
"""Layers of each model whose residuals are decomposed, spread over its depth."""


def captured_squares(benchmark: Benchmark) -> None:
    """Compare residual factors with the best ones, on real layers and in both norms.

    The residuals are those of the quantizer's first choice, that of the fewest bits.
    """
    for study in ("quickstart", "smollm2"):
        components = build_components(
            load_spec(ROOT / "studies" / f"{study}.yaml", (), environment())
        )
        trainer, quantizer = components.trainer, components.quantizer
        assert isinstance(trainer, CoALoRATrainer)
        adapted, chosen = trainer.study.adapted, components.space.choices.layer_configurations[0]
        every = max(1, len(adapted.layers) // REAL_LAYERS)
        shares: dict[str, list[float]] = {"inputs": [], "frobenius": []}
        for position in range(0, len(adapted.layers), every):
            weight = adapted.weights.originals[position]
            quantized = quantizer.dequantize(quantizer.quantize(weight, chosen)).to(weight)
            norms = {"inputs": adapted.residual.norms[position], "frobenius": None}
            for name, norm in norms.items():
                shares[name].append(_captured(weight, quantized, norm))
        for name, found in shares.items():
            benchmark.claim(
                f"squares that residual factors take away over the most possible, rank {RANK},"
                f" least of {len(found)} layers, {study}, {name}",
                min(found),
                0.98,
                "higher",
            )


def _captured(weight: Tensor, quantized: Tensor, norm: InputNorm | None) -> float:
    found = residual_factors(weight, quantized, RANK, torch.Generator().manual_seed(0), norm)
    residual = weight - quantized
    left = residual - found.L1 @ found.L2
    if norm is not None:
        residual, left = norm.whiten(residual), norm.whiten(left)
    most = torch.linalg.svdvals(residual)[:RANK].square().sum()
    return float((residual.square().sum() - left.square().sum()) / most)


def acquisition(benchmark: Benchmark, sizes: Sequence[int] = (36, 252, 360)) -> None:
    """Time the scoring of 10,000 neighbours, next to BoTorch's analytic EHVI on as many points."""
    quantizer = NormalFloat(NormalFloat.Options())
    choices = quantizer.choices()
    bits = tuple(quantizer.storage_bits(c) for c in choices.layer_configurations)
    relative = np.array([4.0 ** -c.integer("bits") for c in choices.layer_configurations])
    for layers in sizes:
        specs = tuple(LayerSpec(f"layer.{n}", "query", n, (64, 64)) for n in range(layers))
        space = ConfigurationSpace(specs, choices, bits)
        generator = np.random.default_rng(0)
        sensitivity = generator.gamma(0.5, size=layers)
        evaluated = sample_configurations(space, 100, (2.25, 7.25), generator)
        error = np.tile(relative, (layers, 1))
        loss = 0.3 + (relative[evaluated] * sensitivity).sum(axis=1) / layers
        features = score_features(space, error_scores(space, error))
        surrogate = fit_surrogate(features, evaluated, loss)
        points = np.column_stack([loss, space.average_bits(evaluated)])
        reference = (float(loss.max()) + 0.1, 7.25)
        neighbours = np.concatenate(
            [_moved(space, evaluated[row]) for row in range(1 + 10_000 // (5 * layers))]
        )[:10_000]
        current = torch.from_numpy(front(points))

        def ours(
            space: ConfigurationSpace = space,
            surrogate: Surrogate = surrogate,
            current: Tensor = current,
            reference: tuple[float, float] = reference,
            neighbours: Integers = neighbours,
        ) -> object:
            mean, deviation = surrogate.predict(neighbours)
            known = torch.from_numpy(space.average_bits(neighbours))
            return log_expected_hypervolume_improvement(mean, deviation, known, current, reference)

        inputs = torch.from_numpy(evaluated).double()
        with validate_input_scaling(False):  # Choice indices, for which time is all that counts.
            bits_model = SingleTaskGP(
                inputs, torch.from_numpy(points[:, 1:]), outcome_transform=None
            )
        model = ModelListGP(surrogate.model, bits_model).eval()
        worst = torch.tensor([-reference[0], -reference[1]], dtype=torch.float64)
        peer = ExpectedHypervolumeImprovement(
            model, worst, FastNondominatedPartitioning(worst, -current)
        )
        queries = torch.from_numpy(neighbours).double()[:, None, :]

        def theirs(
            peer: ExpectedHypervolumeImprovement = peer, queries: Tensor = queries
        ) -> object:
            with torch.no_grad():
                return torch.cat([peer(part) for part in torch.split(queries, 256)])

        calls: dict[str, Callable[[], object]] = {"qsearch": ours, "botorch": theirs}
        times = medians(alternate(calls, repeats=1 if layers > 36 else 3))
        benchmark.row(
            measure="score 10,000 neighbours",
            layers=layers,
            **{f"{name} (s)": round(seconds, 3) for name, seconds in times.items()},
        )
        benchmark.claim(
            f"seconds to score 10,000 neighbours at {layers} layers over BoTorch's analytic EHVI",
            times["qsearch"] / times["botorch"],
            1.0,
            "lower",
        )


def _moved(space: ConfigurationSpace, index: Integers) -> Integers:
    groups, moved = space.neighbours(index)
    rows = np.repeat(index[None], len(groups), axis=0)
    rows[np.arange(len(groups)), groups] = moved
    return rows


def main() -> None:
    """Run all and write ``results/basics.json``."""
    benchmark = Benchmark("basics")
    residuals(benchmark)
    captured_squares(benchmark)
    acquisition(benchmark)
    benchmark.write()


if __name__ == "__main__":
    main()
