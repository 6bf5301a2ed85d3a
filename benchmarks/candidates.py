"""How long one candidate takes, the surrogate's fit included, and how that grows with the model.

A candidate's time depends on the number of layers and of losses, not on the model behind them, so
the losses here are made: the proxy of a space with the quantization errors of Gaussian weights and
log-normal sensitivities, plus noise.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from benchmarks.objectives import BITS
from benchmarks.recording import Benchmark
from benchmarks.search_methods import PEERS, Peer, Problem, Proposals
from benchmarks.searchers import Variant, qsearch_searcher
from qsearch._arrays import Floats, Integers
from qsearch.models.quantization_error import quantization_errors
from qsearch.search.layer_scores import weighted_scores
from qsearch.search.pareto import reference_point
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import LayerSpec
from qsearch.space.sampling import sample_configurations
from qsearch.surrogate.error_correlation import error_correlation

ROLES = {
    "query": (512, 512),
    "key": (128, 512),
    "value": (128, 512),
    "attention_output": (512, 512),
    "gate": (2048, 512),
    "up": (2048, 512),
}
"""Six matrices a block, so that 6 to 60 blocks give 36 to 360 layers."""

BLOCKS = (6, 14, 28, 42, 60)
OBSERVATIONS = 200
BATCH = 10
EXAMPLES = 512
LIMIT = 1.0
"""Seconds that a candidate may take at 252 layers (42 blocks) on two cores."""

PEER_BLOCKS = {
    "amq": BLOCKS,
    "optuna-tpe": BLOCKS,
    "optuna-gp": BLOCKS[:1],
}
"""Sizes at which peers are measured: Optuna's process takes minutes beyond the smallest."""


def problem_of(blocks: int, generator: np.random.Generator) -> tuple[Problem, Floats]:
    """Return a search problem with losses to start from, and the scores behind them."""
    quantizer = NormalFloat(NormalFloat.Options())
    choices = quantizer.choices()
    layers = tuple(
        LayerSpec(f"layers.{block}.{role}", role, block, shape)
        for block in range(blocks)
        for role, shape in ROLES.items()
    )
    bits = tuple(quantizer.storage_bits(layer) for layer in choices.layer_configurations)
    space = ConfigurationSpace(layers, choices, bits)
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    error = quantization_errors([weight], quantizer, choices.layer_configurations)
    sensitivity = generator.lognormal(sigma=1.0, size=len(layers))
    scores = weighted_scores(space, np.tile(error, (len(layers), 1)), sensitivity / len(layers))
    index = sample_configurations(space, OBSERVATIONS, BITS, generator)
    loss = loss_of(scores, index, generator)
    problem = Problem(
        space=space,
        bits=BITS,
        start=index,
        start_loss=loss,
        scores=scores,
        reference_point=reference_point(loss, BITS),
        correlation=error_correlation(quantizer),
        examples=EXAMPLES,
    )
    return problem, scores


def loss_of(scores: Floats, index: Integers, generator: np.random.Generator) -> Floats:
    """Return made losses of choice indices (n × groups)."""
    proxy = scores[np.arange(scores.shape[0]), index].sum(axis=-1)
    return np.asarray(proxy * (1 + 0.1 * generator.standard_normal(proxy.shape)))


def seconds_of(peer: Peer, problem: Problem, scores: Floats) -> float:
    """Return seconds a candidate over one batch, everything before the first included."""
    generator = np.random.default_rng(1)
    started = time.perf_counter()
    proposals = peer(problem, generator)
    index = next(proposals)
    for _ in range(BATCH - 1):
        index = proposals.send(float(loss_of(scores, index, generator)))
    seconds = (time.perf_counter() - started) / BATCH
    proposals.close()
    return seconds


def _own(problem: Problem, generator: np.random.Generator) -> Proposals:
    return qsearch_searcher(problem, generator, Variant(batch=BATCH))


def main() -> None:
    """Time candidates and write the result file."""
    warnings.filterwarnings("ignore")
    benchmark = Benchmark("candidates")
    own: dict[int, float] = {}
    for blocks in BLOCKS:
        problem, scores = problem_of(blocks, np.random.default_rng(0))
        layers = len(problem.space.layers)
        own[layers] = seconds_of(_own, problem, scores)
        values = {"qsearch": round(own[layers], 3)}
        for name, measured in PEER_BLOCKS.items():
            if blocks in measured:
                seconds = seconds_of(PEERS[name], problem, scores)
                values[name] = round(seconds, 3)
                values[f"qsearch / {name}"] = round(own[layers] / seconds, 3)
        benchmark.row(layers=layers, variables=problem.space.variables, **values)
    benchmark.claim(
        f"seconds a candidate at 252 layers, {OBSERVATIONS} observations, batch of {BATCH}",
        own[252],
        LIMIT,
        "lower",
    )
    sizes = np.array(sorted(own))
    growth = np.polyfit(np.log(sizes), np.log([own[size] for size in sizes]), 1)[0]
    benchmark.claim(
        "exponent of the growth of that time from 36 to 360 layers (1 is linear)",
        float(growth),
        1.0,
        "lower",
    )
    benchmark.write()


if __name__ == "__main__":
    main()
