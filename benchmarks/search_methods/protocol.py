"""What every peer is given, what it owes, and how one is run.

A peer is a coroutine: it yields one configuration and is sent the loss of it. So each algorithm
reads top to bottom, and a run that was cut short continues by replaying the losses it recorded.

Rules that hold for all peers:

- The configurations in :attr:`Problem.start` are known to it and cost nothing.
- A proposal has average bits inside :attr:`Problem.bits`. Algorithms that cannot hold that bound
  themselves are repaired: random groups step along their ladders toward the interval
  (:func:`repaired`).
- A proposal is new. Algorithms that repeat themselves are asked again a bounded number of times,
  then moved to a random new neighbour (:func:`renewed`).
- A peer that has nothing new to propose ends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.search_methods.ladders import ladder_of
from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations

_TRIES = 200
"""Bound of every loop that draws until a configuration is valid."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A search problem and what is known of it at the start.

    Args:
        space: The space.
        bits: Interval of average bits to search.
        start: Choice indices of configurations already evaluated (n × groups); may be empty.
        start_loss: Their losses (n).
        scores: Predicted additive rise of the loss, by group and choice (groups × choices).
        reference_point: (loss, average bits) from which hypervolume counts.
        segments: Number of equal segments of average bits that the front is reported by.
        correlation: Correlation of the errors of two choices (choices × choices), if known.
        examples: How many examples each loss is a mean over, if known.

    Raises:
        InputError: If shapes do not agree, a figure is not finite, or the interval is empty.
    """

    space: ConfigurationSpace
    bits: tuple[float, float]
    start: Integers
    start_loss: Floats
    scores: Floats
    reference_point: tuple[float, float]
    segments: int = 40
    correlation: Floats | None = None
    examples: int | None = None

    def __post_init__(self) -> None:
        groups = len(self.space.groups)
        if self.start.ndim != 2 or self.start.shape[1] != groups:
            raise InputError(f"start must have shape (n, {groups}), not {self.start.shape}")
        if self.start_loss.shape != (len(self.start),) or not np.isfinite(self.start_loss).all():
            raise InputError(f"start_loss must be {len(self.start)} finite losses")
        expected = (groups, self.space.choices.size)
        if self.scores.shape != expected or not np.isfinite(self.scores).all():
            raise InputError(f"scores must be finite with shape {expected}: {self.scores.shape}")
        if not self.bits[0] < self.bits[1]:
            raise InputError(f"bits must be an interval from low to high, not {self.bits}")

    @cached_property
    def ladders(self) -> tuple[Integers, ...]:
        """For each group, its efficient choice indices, by rising bits and falling score."""
        return tuple(ladder_of(row, self.space.bits_table) for row in self.scores)

    @cached_property
    def mean_scores(self) -> Floats:
        """Total predicted rise of the loss if all groups take a choice (choices)."""
        total: Floats = self.scores.sum(axis=0)
        return total


Proposals = Generator[Integers, float, None]
"""Yields choice indices (groups), is sent their loss, and ends when nothing new is left."""

Peer = Callable[[Problem, np.random.Generator], Proposals]
"""A search method; all its randomness comes from the generator."""


class Archive:
    """The configurations that a peer knows, in order, with their losses.

    Args:
        problem: Its start configurations are known from the beginning.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._rows: list[Integers] = []
        self._losses: list[float] = []
        self._keys: set[bytes] = set()
        for index, loss in zip(problem.start, problem.start_loss.tolist(), strict=True):
            self.add(index, loss)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, index: Integers) -> bool:
        return index.tobytes() in self._keys

    def add(self, index: Integers, loss: float) -> None:
        """Record a configuration (groups) and its loss."""
        self._rows.append(index)
        self._losses.append(loss)
        self._keys.add(index.tobytes())

    def loss_of(self, index: Integers) -> float:
        """Return the loss of a known configuration (groups)."""
        return self._losses[[row.tobytes() for row in self._rows].index(index.tobytes())]

    def admits(self, index: Integers) -> bool:
        """Return whether a configuration (groups) is new and inside the interval."""
        inside = bool(self.problem.space.within(index, self.problem.bits))
        return inside and index not in self

    @property
    def index(self) -> Integers:
        """Choice indices (n × groups)."""
        return np.array(self._rows, dtype=np.int64).reshape(-1, len(self.problem.space.groups))

    @property
    def loss(self) -> Floats:
        """Losses (n)."""
        return np.array(self._losses, dtype=np.float64)

    @property
    def points(self) -> Floats:
        """Losses and average bits (n × 2)."""
        return np.column_stack([self.loss, self.problem.space.average_bits(self.index)])


def repaired(problem: Problem, index: Integers, generator: np.random.Generator) -> Integers:
    """Return a configuration with average bits inside the interval, near the one given.

    Random groups step to the next efficient choice toward the interval until it is reached. If
    that fails (an interval narrower than any step), a random configuration is drawn instead.

    Args:
        problem: The problem.
        index: Choice indices (groups); returned as they are if inside.
        generator: Source of randomness.
    """
    space, bits = problem.space, problem.bits
    moved = index.copy()
    for _ in range(_TRIES * len(moved)):
        if space.within(moved, bits):
            return moved
        step = 1 if float(space.average_bits(moved)) < bits[0] else -1
        group = int(generator.integers(len(moved)))
        moved[group] = _next(problem, group, int(moved[group]), step)
    drawn: Integers = sample_configurations(space, 1, bits, generator)[0]
    return drawn


def _next(problem: Problem, group: int, choice: int, step: int) -> int:
    """Return the group's next efficient choice with more or fewer bits, or the choice itself."""
    ladder, table = problem.ladders[group], problem.space.bits_table
    beyond = ladder[(table[ladder] - table[choice]) * step > 0]
    if not len(beyond):
        return choice
    return int(beyond[0] if step > 0 else beyond[-1])


def renewed(archive: Archive, index: Integers, generator: np.random.Generator) -> Integers | None:
    """Return a valid new configuration near the one given, or None if none was found.

    Args:
        archive: What is known.
        index: Choice indices (groups); returned as they are if new and inside the interval.
        generator: Source of randomness.
    """
    space = archive.problem.space
    candidate = repaired(archive.problem, index, generator)
    for _ in range(_TRIES):
        if archive.admits(candidate):
            return candidate
        moved = candidate.copy()
        group = int(generator.integers(len(moved)))
        options = space.neighbour_choices[group][int(moved[group])]
        if len(options):
            moved[group] = generator.choice(options)
        candidate = repaired(archive.problem, moved, generator)
    return None


def random_new(archive: Archive, generator: np.random.Generator) -> Integers | None:
    """Return a new configuration, drawn uniformly over average bits, or None if none was found."""
    problem = archive.problem
    for _ in range(_TRIES):
        candidate: Integers = sample_configurations(problem.space, 1, problem.bits, generator)[0]
        if archive.admits(candidate):
            return candidate
    return None


def run_peer(
    peer: Peer,
    problem: Problem,
    evaluate: Callable[[Integers], float],
    evaluations: int,
    generator: np.random.Generator,
) -> tuple[Integers, Floats]:
    """Run a peer and return what it evaluated, without the start.

    Args:
        peer: The peer.
        problem: The problem.
        evaluate: Loss of choice indices (groups); may be a table of recorded losses.
        evaluations: Most evaluations to spend.
        generator: Source of the peer's randomness.

    Returns:
        Choice indices (n × groups) and losses (n) in order; fewer than ``evaluations`` only if
        the peer ended.

    Raises:
        InputError: If the peer proposes a known configuration or leaves the interval.
    """
    archive = Archive(problem)
    proposals = peer(problem, generator)
    loss: float | None = None
    try:
        while len(archive) < len(problem.start) + evaluations:
            index = next(proposals) if loss is None else proposals.send(loss)
            if not archive.admits(index):
                raise InputError("the peer proposed a configuration that is known or outside bits")
            loss = float(evaluate(index))
            archive.add(index, loss)
    except StopIteration:
        pass
    finally:
        proposals.close()
    known = len(problem.start)
    return archive.index[known:], archive.loss[known:]
