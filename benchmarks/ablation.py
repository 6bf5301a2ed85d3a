"""What each element of the search is worth: hypervolume on the stand-in without it.

All variants lower the loss on the examples, as the stand-in's losses hold sampling noise, from the
same warm start; without the warm start they begin with random configurations.

    python -m benchmarks.ablation
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks import stand_in
from benchmarks.confidence import interval
from benchmarks.objectives import Objective
from benchmarks.recording import Benchmark
from benchmarks.search_methods.protocol import Problem, Proposals, run_peer
from benchmarks.search_runs import (
    by_evaluation,
    hypervolumes,
    reference_box,
    table_of,
    warm_problem,
    without_start,
)
from benchmarks.searchers import Variant, qsearch_searcher
from qsearch._arrays import Floats, Integers
from qsearch.search.acquisition import Improvement
from qsearch.search.candidate_pool import SearchSettings
from qsearch.surrogate.features import Features
from qsearch.surrogate.kernels import ProxyMean
from qsearch.surrogate.surrogate import Surrogate, fit_surrogate

SEEDS = 5
EVALUATIONS = 200
COUNTS = (25, 50, 100, 200)


_ON_EXAMPLES = Variant(target="examples")


@dataclass(frozen=True)
class Ablation:
    """The search without one of its elements.

    Args:
        variant: Its settings.
        patched: Takes an element out that no setting does.
        knows: What of the problem it is given, if less.
    """

    variant: Variant = _ON_EXAMPLES
    patched: Callable[[], AbstractContextManager[object]] = nullcontext
    knows: Callable[[Problem], Problem] = lambda problem: problem


@contextmanager
def _without_prior_mean() -> Iterator[None]:
    """The prior mean is a constant, whatever the proxy."""
    flat = property(lambda mean: 0 * mean.raw_slope)
    with mock.patch.object(ProxyMean, "slope", flat):
        yield


@contextmanager
def _without_uncertainty() -> Iterator[None]:
    """Candidates are chosen by the improvement of their posterior means alone."""
    original = Improvement._of

    def of(self: Improvement, mean: Tensor, std: Tensor, average_bits: Floats) -> Floats:
        return original(self, mean, 1e-3 * std, average_bits)

    with mock.patch.object(Improvement, "_of", of):
        yield


@contextmanager
def _without_learning() -> Iterator[None]:
    """Predictions are the prior mean's, fitted; the process corrects nothing."""

    def fit(features: Features, index: Integers, loss: Floats, examples: int | None) -> Surrogate:
        fitted = fit_surrogate(features, index, loss, examples)
        mean = fitted.model.mean_module.slope.detach() * fitted.features.proxy
        return replace(fitted, posterior=replace(fitted.posterior, mean=mean))

    with mock.patch("benchmarks.searchers.fit_surrogate", fit):
        yield


def _with(settings: SearchSettings) -> Variant:
    return Variant(target="examples", settings=settings)


ABLATIONS = {
    "all elements": Ablation(),
    "no warm start": Ablation(knows=without_start),
    "prior mean constant": Ablation(patched=_without_prior_mean),
    "no correction of the prior mean": Ablation(patched=_without_learning),
    "errors of choices uncorrelated": Ablation(
        knows=lambda problem: replace(problem, correlation=None)
    ),
    "posterior means instead of expected improvement": Ablation(patched=_without_uncertainty),
    "no local search": Ablation(_with(SearchSettings(steps=0))),
    "no empty segments": Ablation(_with(SearchSettings(empty_segment_share=0))),
    "one candidate a fit": Ablation(Variant(target="examples", batch=1)),
    "ten candidates a fit": Ablation(Variant(target="examples", batch=10)),
    "sampling noise modelled": Ablation(Variant(target="task")),
}


def volumes_of(objective: Objective, ablation: Ablation, seed: int, evaluations: int) -> Floats:
    """Return the hypervolume after each evaluation (evaluations), as in the search benchmark."""
    problem = ablation.knows(warm_problem(objective, objective.evaluate))

    def searcher(problem: Problem, generator: np.random.Generator) -> Proposals:
        return qsearch_searcher(problem, generator, ablation.variant)

    with ablation.patched():
        index, loss = run_peer(
            searcher,
            problem,
            objective.evaluate,
            evaluations - len(problem.start),
            np.random.default_rng(seed),
        )
    rows = list(zip(problem.start, problem.start_loss.tolist(), strict=True))
    rows += list(zip(index, loss.tolist(), strict=True))
    table = table_of(objective, rows, ended=True)
    return by_evaluation(hypervolumes(table, *reference_box(objective)), evaluations)


def main() -> None:
    """Run every variant on the stand-in and write the result file."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    objective = stand_in.stand_in()
    benchmark = Benchmark("ablation")
    for name, ablation in ABLATIONS.items():
        runs = [volumes_of(objective, ablation, seed, EVALUATIONS) for seed in range(SEEDS)]
        found = np.array(runs)
        figures = {f"after {count}": interval(found[:, count - 1]) for count in COUNTS}
        area = interval(found.mean(axis=1))
        benchmark.row(objective=stand_in.NAME, variant=name, seeds=SEEDS, **figures, area=area)
    benchmark.write()


if __name__ == "__main__":
    main()
