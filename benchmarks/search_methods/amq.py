"""Peer: NSGA-II on a predictor of the loss, in the manner of AMQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem as PymooProblem
from pymoo.operators.crossover.binx import BinomialCrossover
from pymoo.operators.mutation.pm import PolynomialMutation
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.optimize import minimize
from scipy.interpolate import RBFInterpolator

from benchmarks.search_methods.protocol import Archive, Problem, Proposals, renewed, repaired
from qsearch._arrays import Floats, Integers
from qsearch.search.pareto import non_dominated
from qsearch.space.sampling import sample_configurations

_SMOOTHING = 1e-6
"""Added to the kernel's diagonal, as pySOT, whose interpolant AMQ uses, does."""


@dataclass(frozen=True)
class AMQSettings:
    """Settings; those of the paper's code, with evaluations a tenth of its.

    AMQ evaluates 250 random configurations and then 200 times 50 candidates; runs here have tens
    to hundreds of evaluations.

    Args:
        initial: Configurations known before the first predictor, the start included.
        candidates: Configurations evaluated between two fits of the predictor.
        population: Population of NSGA-II.
        generations: Generations of NSGA-II.
        crossover: Probability of binomial crossover.
        mutation: Probability that a variable mutates.
    """

    initial: int = 25
    candidates: int = 5
    population: int = 200
    generations: int = 20
    crossover: float = 0.9
    mutation: float = 0.1


def amq_peer(
    problem: Problem, generator: np.random.Generator, settings: AMQSettings | None = None
) -> Proposals:
    """Fit a predictor of the loss, run NSGA-II on it and the bits, evaluate a spread, repeat.

    Lee et al., AMQ (arXiv 2509.12019, section 3; github.com/dlwns147/amq).

    Space pruning: one integer a group, its level on the ladder of efficient choices, instead of
    all its choices. (AMQ's three choices a layer are all efficient; it rather fixes outlying
    sensitive layers at the most bits. That is left out: an interval from 2.25 bits cannot be
    reached with it in models where few groups hold most weights.) The first configurations are the
    two ends of the interval, then random ones moved to the ladders.

    The predictor is AMQ's radial basis function: cubic with a linear tail, which needs more
    observations than groups; with fewer, linear with a constant tail. NSGA-II starts from the
    front known so far and is held inside the interval by constraints. Of its new configurations,
    those that best fill the gaps between the front's average bits are evaluated (AMQ chooses the
    subset of the most even gaps by a genetic algorithm).
    """
    settings = settings or AMQSettings()
    archive = Archive(problem)
    ends = [np.array([ladder[end] for ladder in problem.ladders]) for end in (0, -1)]
    while len(archive) < settings.initial:
        raw = ends.pop(0) if ends else _random(problem, generator)
        first = renewed(archive, repaired(problem, raw, generator), generator)
        if first is None:
            return
        archive.add(first, (yield first))
    while True:
        chosen = _next_batch(archive, generator, settings)
        if not chosen:
            extra = renewed(archive, _random(problem, generator), generator)
            if extra is None:
                return
            chosen = [extra]
        for candidate in chosen:
            archive.add(candidate, (yield candidate))


def _random(problem: Problem, generator: np.random.Generator) -> Integers:
    """Return a configuration of efficient choices, drawn uniformly over average bits (groups)."""
    drawn = sample_configurations(problem.space, 1, problem.bits, generator)
    row: Integers = _choices(problem, _nearest_levels(problem, drawn))[0]
    return row


def _choices(problem: Problem, levels: Integers) -> Integers:
    """Return the choice indices (n × groups) of levels (n × groups)."""
    columns = [ladder[levels[:, g]] for g, ladder in enumerate(problem.ladders)]
    return np.stack(columns, axis=1)


def _nearest_levels(problem: Problem, index: Integers) -> Integers:
    """Return the levels nearest in bits to choice indices (n × groups)."""
    table = problem.space.bits_table
    columns = [
        np.abs(table[index[:, g], None] - table[ladder][None]).argmin(axis=1)
        for g, ladder in enumerate(problem.ladders)
    ]
    return np.stack(columns, axis=1)


def _inputs(problem: Problem, index: Integers) -> Floats:
    """Return the predictor's inputs of choice indices (n × groups), from 0 to 1.

    An efficient choice is its level. Any other is the level, between two, of equal score: so the
    predictor can also learn from a start that is not on the ladders.
    """
    columns = []
    for group, ladder in enumerate(problem.ladders):
        scores = problem.scores[group]
        rising = scores[ladder][::-1]
        levels = np.arange(len(ladder) - 1, -1, -1, dtype=np.float64)
        columns.append(np.interp(scores[index[:, group]], rising, levels) / max(len(ladder) - 1, 1))
    return np.stack(columns, axis=1)


def _predictor(inputs: Floats, loss: Floats) -> RBFInterpolator:
    tail = np.column_stack([np.ones(len(inputs)), inputs])
    if np.linalg.matrix_rank(tail) == tail.shape[1] < len(inputs):
        return RBFInterpolator(inputs, loss, kernel="cubic", degree=1, smoothing=_SMOOTHING)
    return RBFInterpolator(inputs, loss, kernel="linear", degree=0, smoothing=_SMOOTHING)


class _Auxiliary(PymooProblem):  # type: ignore[misc]  # pymoo is untyped
    """Predicted loss and exact average bits of levels, inside the interval."""

    def __init__(self, problem: Problem, predictor: RBFInterpolator) -> None:
        top = np.array([len(ladder) - 1 for ladder in problem.ladders])
        super().__init__(n_var=len(top), n_obj=2, n_ieq_constr=2, xl=0, xu=top, vtype=int)
        self.problem, self.predictor = problem, predictor

    def _evaluate(self, x: Integers, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        index = _choices(self.problem, x.astype(np.int64))
        bits = self.problem.space.average_bits(index)
        loss = self.predictor(_inputs(self.problem, index))
        out["F"] = np.column_stack([loss, bits])
        out["G"] = np.column_stack([self.problem.bits[0] - bits, bits - self.problem.bits[1]])


def _next_batch(
    archive: Archive, generator: np.random.Generator, settings: AMQSettings
) -> list[Integers]:
    """Return new configurations of NSGA-II's last population that fill gaps of the front."""
    problem, points = archive.problem, archive.points
    predictor = _predictor(_inputs(problem, archive.index), archive.loss)
    front = non_dominated(points)
    # NSGA-II needs some variety to cross, also where the front is a single configuration.
    padding = [_random(problem, generator) for _ in range(20 - int(front.sum()))]
    first = np.stack([*archive.index[front], *padding])
    result = minimize(
        _Auxiliary(problem, predictor),
        NSGA2(
            pop_size=settings.population,
            sampling=_nearest_levels(problem, first),
            crossover=BinomialCrossover(prob=settings.crossover, n_offsprings=1),
            mutation=PolynomialMutation(
                prob=1.0, prob_var=settings.mutation, vtype=float, repair=RoundingRepair()
            ),
            eliminate_duplicates=True,
        ),
        ("n_gen", settings.generations),
        seed=int(generator.integers(2**31 - 1)),
    )
    found = _choices(problem, result.pop.get("X").astype(np.int64))
    new = np.array([archive.admits(row) for row in found])
    found, predicted = found[new], result.pop.get("F")[new]
    if not len(found):
        return []
    best = non_dominated(predicted)
    return _gap_filling(found[best], predicted[best, 1], points[front, 1], settings.candidates)


def _gap_filling(found: Integers, bits: Floats, known: Floats, count: int) -> list[Integers]:
    """Return those whose average bits lie farthest from the known and the chosen, in turn."""
    chosen: list[Integers] = []
    distance = np.abs(bits[:, None] - known[None]).min(axis=1)
    for _ in range(min(count, len(found))):
        farthest = int(distance.argmax())
        chosen.append(found[farthest])
        distance = np.minimum(distance, np.abs(bits - bits[farthest]))
        distance[farthest] = -1.0
    return chosen
