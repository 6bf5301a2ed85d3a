"""Peer: Ax's default multi-objective generation."""

from __future__ import annotations

import logging

import numpy as np
from ax.api.client import Client
from ax.api.utils.generation_strategy_dispatch import choose_generation_strategy
from ax.api.utils.structs import GenerationStrategyDispatchStruct
from ax.exceptions.core import AxError
from ax.exceptions.generation_strategy import AxGenerationException
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.utils.common.logger import set_ax_logger_levels

from benchmarks.search_methods.protocol import Archive, Problem, Proposals, random_new, renewed
from qsearch._arrays import Integers
from qsearch.experiment.parameters import (
    AVERAGE_BITS,
    LOSS,
    ax_parameters,
    from_parameters,
    to_parameters,
)


def ax_peer(
    problem: Problem, generator: np.random.Generator, restarts: int | None = None
) -> Proposals:
    """Ask Ax's default generation strategy for two objectives, loss and average bits.

    ``Client.configure_generation_strategy`` with nothing but a seed: the centre of the space, Sobol
    to five trials (the start counts), then BoTorch's defaults (log noisy expected hypervolume
    improvement). Objective thresholds are the reference point, as the documentation on
    multi-objective optimization advises where the region of interest is known. Average bits are
    given as exact, losses with unknown noise.

    A proposal that had to be repaired or renewed is abandoned, and what is evaluated in its place
    is attached. If Ax has no new candidate, one is drawn at random.

    Args:
        problem: The problem.
        generator: Source of the seed.
        restarts: Starts of the acquisition's local search; None is Ax's default, 20. Ordered
            choices (and integer ranges alike) make Ax climb one knob at a time from each start,
            which takes many minutes a candidate at 180 parameters; a result with fewer starts
            must say so.
    """
    set_ax_logger_levels(logging.ERROR)
    archive, client = Archive(problem), _client(problem, generator, restarts)
    for index, loss in zip(problem.start, problem.start_loss.tolist(), strict=True):
        _complete(client, problem, _attached(client, problem, index), index, loss)
    while True:
        trial, index = _asked(client, problem)
        candidate = (
            random_new(archive, generator) if index is None else renewed(archive, index, generator)
        )
        if candidate is None:
            return
        if index is None or not np.array_equal(candidate, index):
            if trial is not None:
                client.mark_trial_abandoned(trial)
            trial = _attached(client, problem, candidate)
        assert trial is not None
        loss = yield candidate
        archive.add(candidate, loss)
        _complete(client, problem, trial, candidate, loss)


def _client(problem: Problem, generator: np.random.Generator, restarts: int | None) -> Client:
    seed = int(generator.integers(2**31 - 1))
    loss, bits = problem.reference_point
    client = Client(random_seed=seed)
    client.configure_experiment(parameters=ax_parameters(problem.space), name="peer")
    client.configure_optimization(
        objective=f"-{LOSS}, -{AVERAGE_BITS}",
        outcome_constraints=[f"{LOSS} <= {loss:.10f}", f"{AVERAGE_BITS} <= {bits:.10f}"],
    )
    if restarts is None:
        client.configure_generation_strategy(initialization_random_seed=seed)
    else:
        client.set_generation_strategy(_fewer_restarts(seed, restarts))
    return client


def _fewer_restarts(seed: int, restarts: int) -> GenerationStrategy:
    """Return Ax's default strategy with fewer starts of the acquisition's search."""
    strategy = choose_generation_strategy(
        GenerationStrategyDispatchStruct(method="fast", initialization_random_seed=seed)
    )
    options = {"optimizer_kwargs": {"num_restarts": restarts}}
    for spec in strategy.nodes_by_name["MBM"].generator_specs:
        spec.generator_gen_kwargs = {"model_gen_options": options}
    return strategy


def _asked(client: Client, problem: Problem) -> tuple[int | None, Integers | None]:
    """Return a new trial's number and choice indices, or neither if Ax has no candidate."""
    try:
        trials = client.get_next_trials(max_trials=1)
    except (AxError, AxGenerationException):
        return None, None
    for trial, parameters in trials.items():
        return trial, from_parameters(problem.space, parameters)
    return None, None


def _attached(client: Client, problem: Problem, index: Integers) -> int:
    return int(client.attach_trial(to_parameters(problem.space, index)))


def _complete(client: Client, problem: Problem, trial: int, index: Integers, loss: float) -> None:
    bits = float(problem.space.average_bits(index))
    client.complete_trial(trial, raw_data={LOSS: loss, AVERAGE_BITS: (bits, 0.0)})
