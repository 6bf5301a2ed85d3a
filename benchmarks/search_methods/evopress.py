"""Peer: evolutionary search with level switches at fixed budgets, in the manner of EvoPress."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.search_methods.ladders import ladder_of, thinned
from benchmarks.search_methods.protocol import Archive, Problem, Proposals
from qsearch._arrays import Integers

_TRIES = 200


@dataclass(frozen=True)
class EvoPressSettings:
    """Settings; the paper's where it has them.

    Args:
        budgets: Number of runs, one for each budget; budgets are the midpoints of as many equal
            parts of the interval.
        offspring: Full evaluations a generation, λ. The paper makes 128 offspring and evaluates
            16, 4 and at last 1 of them on more and more tokens; 4 are what its last stage
            evaluates on all tokens.
        flips: Most levels raised by one mutation; the number is the lesser of two draws from 1 to
            it, as in the paper (section 3.1).
        changes: Most level changes of a mutation.
        kept_share: Least share of the removed bits that a mutation must have added.
        step: Distance of levels in bits per weight. The paper's databases hold whole bit widths;
            ours have widths in between, so a switch can be of half a bit.
    """

    budgets: int = 10
    offspring: int = 4
    flips: int = 3
    changes: int = 10
    kept_share: float = 0.8
    step: float = 0.5


def evopress_peer(
    problem: Problem,
    generator: np.random.Generator,
    settings: EvoPressSettings | None = None,
) -> Proposals:
    """Run one elitist (1 + λ) evolution a budget, a generation each in turn.

    Sieberling et al., EvoPress (arXiv 2410.14649, Algorithm 1; github.com/IST-DASLab/EvoPress,
    ``evo_quant_search.py`` with ``--group_rule none``). A mutation raises the level of one to three
    random layers, then lowers random layers until the average bits are at or under the budget; it
    is discarded if it changes more than ten levels or gives up too many bits. The best of parent
    and offspring is the next parent.

    A run begins as the paper's does for budgets between whole bit widths: all layers alike at the
    next width, and random layers lowered until the budget is met. It begins with the fittest known
    configuration between the previous budget and its own instead, if that is fitter; where already
    the scores say so, as with the allocator's warm start, the other costs no evaluation.

    Multi-step selection, which discards most offspring after a few tokens, needs evaluations on
    part of the data. The black box of this benchmark has none, so every offspring costs a full
    evaluation; the paper's values (150 generations of 128 for one budget) are out of reach.
    """
    settings = settings or EvoPressSettings()
    archive = Archive(problem)
    levels = [thinned(row, problem.space.bits_table, settings.step) for row in problem.ladders]
    edges = np.linspace(*problem.bits, 2 * settings.budgets + 1)
    parents: dict[float, tuple[float, Integers]] = {}
    for low, budget in zip([problem.bits[0], *edges[1:-2:2]], edges[1::2].tolist(), strict=True):
        known = _fittest(archive, float(low), budget)
        first = _initial(archive, levels, budget, generator, settings)
        if first is not None and (known is None or _predicts(problem, first, known[1])):
            archive.add(first, (yield first))
            started = archive.loss_of(first), first
            known = started if known is None or started[0] < known[0] else known
        if known is not None:
            parents[budget] = known
    active = True
    while active:
        active = False
        for budget in list(parents):
            brood: list[Integers] = []
            for _ in range(_TRIES):
                child = _mutated(problem, levels, parents[budget][1], budget, generator, settings)
                if child is not None and archive.admits(child):
                    archive.add(child, (yield child))
                    brood.append(child)
                    if len(brood) == settings.offspring:
                        break
            fitness = [(archive.loss_of(child), child) for child in brood]
            parents[budget] = min([*fitness, parents[budget]], key=lambda pair: pair[0])
            active = active or bool(brood)


def _fittest(archive: Archive, low: float, budget: float) -> tuple[float, Integers] | None:
    """Return the known configuration of least loss with average bits in [low, budget]."""
    if not len(archive):
        return None
    bits = archive.problem.space.average_bits(archive.index)
    inside = np.flatnonzero((bits >= low) & (bits <= budget))
    if not len(inside):
        return None
    best = inside[archive.loss[inside].argmin()]
    return float(archive.loss[best]), archive.index[best]


def _predicts(problem: Problem, better: Integers, worse: Integers) -> bool:
    """Return whether the scores predict a lower loss for the first of two configurations."""
    groups = np.arange(len(better))
    return bool(problem.scores[groups, better].sum() < problem.scores[groups, worse].sum())


def _initial(
    archive: Archive,
    levels: list[Integers],
    budget: float,
    generator: np.random.Generator,
    settings: EvoPressSettings,
) -> Integers | None:
    """Return a new configuration: the uniform one at or above a budget, lowered to it at random."""
    problem = archive.problem
    table = problem.space.bits_table
    ladder = ladder_of(problem.mean_scores, table)
    above = ladder[table[ladder] >= budget]
    choice = above[0] if len(above) else ladder[-1]
    for _ in range(_TRIES):
        child = np.full(len(problem.space.groups), choice, dtype=np.int64)
        while float(problem.space.average_bits(child)) > budget:
            if not _switch(problem, levels, child, -1, generator, settings):
                break
        if float(problem.space.average_bits(child)) <= budget and archive.admits(child):
            return child
    return None


def _mutated(
    problem: Problem,
    levels: list[Integers],
    parent: Integers,
    budget: float,
    generator: np.random.Generator,
    settings: EvoPressSettings,
) -> Integers | None:
    """Return a level-switch mutation within a budget, or None if the attempt was discarded."""
    space = problem.space
    child = parent.copy()
    flips = int(generator.integers(1, settings.flips + 1, size=2).min())
    added = removed = 0.0
    for _ in range(flips):
        added += _switch(problem, levels, child, 1, generator, settings)
    for changes in range(flips, settings.changes + 1):
        if float(space.average_bits(child)) <= budget:
            kept = removed == 0 or added / removed >= settings.kept_share
            return child if kept else None
        if changes < settings.changes:
            removed -= _switch(problem, levels, child, -1, generator, settings)
    return None


def _switch(
    problem: Problem,
    levels: list[Integers],
    child: Integers,
    direction: int,
    generator: np.random.Generator,
    settings: EvoPressSettings,
) -> float:
    """Move one random group of the child a level up or down; return the bits added in total."""
    table = problem.space.bits_table
    # From a choice between levels (the allocator's) the next is at least half a step away.
    reach = settings.step / 2
    for group in generator.permutation(len(child)).tolist():
        ladder, bits = levels[group], table[child[group]]
        beyond = ladder[(table[ladder] - bits) * direction >= reach]
        if len(beyond):
            child[group] = beyond[0] if direction > 0 else beyond[-1]
            gained = table[child[group]] - bits
            return float(gained * problem.space.group_parameters[group])
    return 0.0
