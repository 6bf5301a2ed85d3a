"""Peers: Optuna's TPE, NSGA-II and Gaussian-process samplers (Optuna 5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import Trial, TrialState, create_trial

from benchmarks.search_methods.protocol import Archive, Problem, Proposals, renewed
from qsearch._arrays import Integers
from qsearch.space.configuration_space import ConfigurationSpace

_ASKS = 10
"""Times that a sampler is asked again when it repeats a known configuration."""


def optuna_tpe_peer(problem: Problem, generator: np.random.Generator) -> Proposals:
    """Ask Optuna's tree-structured Parzen estimator, multi-objective as documented.

    All defaults. ``multivariate`` stays unset: the documentation of ``TPESampler`` (Optuna 5) says
    that it is decided by the number of objectives, off for several; the reported gain of
    multivariate TPE is for one objective. ``group`` is for conditional spaces, and this is none.
    """
    return _propose(problem, TPESampler(seed=_seed(generator)), generator)


def optuna_nsga2_peer(problem: Problem, generator: np.random.Generator) -> Proposals:
    """Ask Optuna's NSGA-II with all its defaults, a population of 50 among them.

    The start is part of the first generation: the sampler only breeds from trials that it gave a
    generation itself, so that is written to those of the start. Documentation:
    ``optuna.samplers.NSGAIISampler``, which recommends 100 to 10,000 evaluations.
    """
    sampler = NSGAIISampler(seed=_seed(generator))
    return _propose(problem, sampler, generator, {sampler._get_generation_key(): 0})


def optuna_gp_peer(problem: Problem, generator: np.random.Generator) -> Proposals:
    """Ask Optuna's Gaussian-process sampler: log expected hypervolume improvement.

    All defaults: 10 random trials in total before it (the start counts), and a fitted noise, since
    measured losses are noisy. Documentation: ``optuna.samplers.GPSampler``, recommended for small
    budgets on integer and continuous spaces.
    """
    sampler = GPSampler(seed=_seed(generator), warn_independent_sampling=False)
    return _propose(problem, sampler, generator)


def _seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**31 - 1))


def _propose(
    problem: Problem,
    sampler: BaseSampler,
    generator: np.random.Generator,
    start_attributes: Mapping[str, int] | None = None,
) -> Proposals:
    """Drive a sampler by Optuna's ask-and-tell interface.

    One ordered integer a knob and group. The start is added as trials that are complete. A known
    configuration that is asked for again gets its known values, at no cost, and the sampler is
    asked again, ten times at most. A proposal that had to be repaired or renewed counts as failed,
    and what is evaluated in its place is enqueued.

    Args:
        problem: The problem.
        sampler: The sampler.
        generator: Source of repairs.
        start_attributes: System attributes of the start's trials.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, archive = problem.space, Archive(problem)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    distributions = _distributions(space)
    for index, loss in zip(problem.start, problem.start_loss.tolist(), strict=True):
        known = create_trial(
            params=_parameters(space, index, distributions),
            distributions=distributions,
            values=[loss, float(space.average_bits(index))],
            system_attrs=dict(start_attributes or {}),
        )
        study.add_trial(known)
    while True:
        for _ in range(_ASKS):
            trial = study.ask(distributions)
            index = _index(space, trial)
            if index not in archive:
                break
            _tell(study, trial, space, index, archive.loss_of(index))
        candidate = renewed(archive, index, generator)
        if candidate is None:
            return
        if not np.array_equal(candidate, index):
            if index not in archive:
                study.tell(trial, state=TrialState.FAIL)
            trial = _enqueued(study, space, candidate, distributions)
        loss = yield candidate
        archive.add(candidate, loss)
        _tell(study, trial, space, candidate, loss)


def _names(space: ConfigurationSpace) -> list[list[str]]:
    return [[f"{group.name}:{knob}" for knob in space.choices.names] for group in space.groups]


def _distributions(space: ConfigurationSpace) -> dict[str, BaseDistribution]:
    return {
        name: IntDistribution(0, int(size) - 1)
        for names in _names(space)
        for name, size in zip(names, space.sizes, strict=True)
        if size > 1
    }


def _index(space: ConfigurationSpace, trial: Trial) -> Integers:
    code = [[trial.params.get(name, 0) for name in names] for names in _names(space)]
    columns = tuple(np.array(code, dtype=np.int64).T)
    index: Integers = np.ravel_multi_index(columns, space.choices.sizes).astype(np.int64)
    return index


def _enqueued(
    study: optuna.Study,
    space: ConfigurationSpace,
    index: Integers,
    distributions: dict[str, BaseDistribution],
) -> Trial:
    """Return a running trial of the given configuration."""
    study.enqueue_trial(_parameters(space, index, distributions))
    return study.ask(distributions)


def _parameters(
    space: ConfigurationSpace, index: Integers, distributions: dict[str, BaseDistribution]
) -> dict[str, int]:
    return {
        name: position
        for names, row in zip(_names(space), space.to_code(index).tolist(), strict=True)
        for name, position in zip(names, row, strict=True)
        if name in distributions
    }


def _tell(
    study: optuna.Study, trial: Trial, space: ConfigurationSpace, index: Integers, loss: float
) -> None:
    study.tell(trial, [loss, float(space.average_bits(index))])
