"""Runs of search methods on an objective, recorded so that they are never repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.objectives import BITS, DATA, Objective
from benchmarks.search_methods.ladders import ladder_of
from benchmarks.search_methods.protocol import Peer, Problem, run_peer
from qsearch._arrays import Floats, Integers
from qsearch.search.pareto import reference_point
from qsearch.storage.files import write_atomically

_SAVED_EVERY = 5


@dataclass(frozen=True)
class Run:
    """One run of a method.

    Args:
        objective: Name of the objective.
        method: Name of the method.
        start: ``cold``; ``warm``, from the allocator's front; or ``mixed``, from as many
            configurations, about half of them uniform.
        seed: Seed of its randomness.
    """

    objective: str
    method: str
    start: str
    seed: int

    @property
    def name(self) -> str:
        """Stem of its file."""
        return f"{self.method}-{self.start}-{self.seed}"


def indices_of(table: pd.DataFrame) -> Integers:
    """Return the choice indices (n × groups) of a recorded table."""
    return np.array(table["index"].tolist(), dtype=np.int64)


def distinct(table: pd.DataFrame) -> pd.DataFrame:
    """Return the first row of each configuration in a table, in order of choice indices."""
    _, first = np.unique(indices_of(table), axis=0, return_index=True)
    return table.iloc[first]


def losses_by_key(table: pd.DataFrame) -> dict[bytes, float]:
    """Return the losses of a recorded table by the bytes of their choice indices."""
    keys = [row.tobytes() for row in indices_of(table)]
    return dict(zip(keys, table["loss"].tolist(), strict=True))


class Losses:
    """Losses of an objective, each evaluated once; recorded ones are read from the runs' files.

    Args:
        objective: Name of the objective.
        evaluate: Evaluates choice indices (groups); None where only recorded losses are used.
    """

    def __init__(self, objective: str, evaluate: Callable[[Integers], float] | None) -> None:
        self._evaluate = evaluate
        self._known: dict[bytes, float] = {}
        for table in recorded_runs(objective).values():
            self._known |= losses_by_key(table)

    def __call__(self, index: Integers) -> float:
        """Return the loss of choice indices (groups)."""
        key = index.tobytes()
        if key not in self._known:
            if self._evaluate is None:
                raise LookupError("this configuration was never evaluated")
            self._known[key] = self._evaluate(index)
        return self._known[key]


def folder_of(objective: str) -> Path:
    """Return where an objective's runs are recorded."""
    return DATA / objective / "runs"


def recorded_runs(objective: str) -> dict[Run, pd.DataFrame]:
    """Return the recorded runs of an objective, complete or not."""
    found = {}
    for path in sorted(folder_of(objective).glob("*.parquet")):
        method, start, seed = path.stem.rsplit("-", 2)
        found[Run(objective, method, start, int(seed))] = pd.read_parquet(path)
    return found


def warm_problem(objective: Objective, losses: Callable[[Integers], float]) -> Problem:
    """Return the search problem of an objective, with the warm start.

    Args:
        objective: The objective.
        losses: Its losses.
    """
    loss = np.array([losses(index) for index in objective.warm_start])
    return Problem(
        space=objective.space,
        bits=BITS,
        start=objective.warm_start,
        start_loss=loss,
        scores=objective.scores,
        correlation=objective.correlation,
        examples=objective.examples,
        reference_point=reference_point(loss, BITS),
    )


def without_start(problem: Problem) -> Problem:
    """Return a problem with its reference point, but nothing evaluated."""
    return replace(problem, start=problem.start[:0], start_loss=problem.start_loss[:0])


def with_mixed_start(problem: Problem, losses: Callable[[Integers], float]) -> Problem:
    """Return a problem with uniform configurations instead of every other allocation.

    Each is the one of most average bits within the allocation's, of those that no other uniform
    configuration dominates in bits and total score. A study's own first set is mixed as well.

    Args:
        problem: With the warm start.
        losses: Losses of the objective.
    """
    start, bits = problem.start.copy(), problem.space.bits_table
    ladder = ladder_of(problem.mean_scores, bits)
    for position in range(1, len(start), 2):
        budget = float(problem.space.average_bits(start[position]))
        start[position] = ladder[bits[ladder] <= budget][-1]
    start_loss = np.array([losses(index) for index in start])
    return replace(problem, start=start, start_loss=start_loss)


def record_run(
    run: Run, peer: Peer, objective: Objective, losses: Losses, evaluations: int
) -> pd.DataFrame:
    """Run a method, or what is missing of its run, and record it.

    The start counts as evaluations, so warm and cold runs spend equally.

    Args:
        run: Which run.
        peer: The method.
        objective: The objective.
        losses: Its losses.
        evaluations: Evaluations to spend, those of the start included.

    Returns:
        One row an evaluation: step, index, average_bits, loss.
    """
    path = folder_of(objective.name) / f"{run.name}.parquet"
    before = 0
    if path.is_file():
        recorded = pd.read_parquet(path)
        before = len(recorded)
        if before >= evaluations or recorded["ended"].any():
            return recorded.iloc[:evaluations]
    problem = warm_problem(objective, losses)
    if run.start == "cold":
        problem = without_start(problem)
    elif run.start == "mixed":
        problem = with_mixed_start(problem, losses)
    start = problem.start
    rows = list(zip(start, problem.start_loss.tolist(), strict=True))

    def evaluate(index: Integers) -> float:
        loss = losses(index)
        rows.append((index, loss))
        if len(rows) % _SAVED_EVERY == 0 and len(rows) > before:
            _write(path, objective, rows, ended=False)
        return loss

    run_peer(peer, problem, evaluate, evaluations - len(start), np.random.default_rng(run.seed))
    return _write(path, objective, rows, ended=len(rows) < evaluations)


def table_of(objective: Objective, rows: list[tuple[Integers, float]], ended: bool) -> pd.DataFrame:
    """Return a run's evaluations as a table.

    Args:
        objective: The objective.
        rows: Choice indices (groups) and loss of each evaluation, in order.
        ended: Whether the method had nothing more to propose.
    """
    return pd.DataFrame(
        {
            "step": np.arange(1, len(rows) + 1),
            "index": [index.astype(np.int16) for index, _ in rows],
            "average_bits": objective.space.average_bits(np.array([index for index, _ in rows])),
            "loss": [loss for _, loss in rows],
            "ended": ended,
        }
    )


def _write(
    path: Path, objective: Objective, rows: list[tuple[Integers, float]], ended: bool
) -> pd.DataFrame:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table_of(objective, rows, ended)
    write_atomically(path, table.to_parquet)
    return table


def reference_box(objective: Objective) -> tuple[tuple[float, float], float]:
    """Return the reference point and the least loss of all recorded runs, complete or not.

    Of all runs, so that figures move less as runs are added.
    """
    losses = Losses(objective.name, None)
    reference = reference_point(np.array([losses(i) for i in objective.warm_start]), BITS)
    return reference, min(float(t["loss"].min()) for t in recorded_runs(objective.name).values())


def by_evaluation(volumes: Floats, evaluations: int) -> Floats:
    """Return the hypervolume after each evaluation; a run that ended stays where it is."""
    return volumes[np.minimum(np.arange(evaluations), len(volumes) - 1)]


def hypervolumes(table: pd.DataFrame, reference: tuple[float, float], best_loss: float) -> Floats:
    """Return the hypervolume after each evaluation (n), as a share of the reference box.

    Args:
        table: A run.
        reference: (loss, average bits).
        best_loss: Least loss known of the objective; with the least average bits searched, the
            box's other corner.
    """
    loss = table["loss"].to_numpy()
    bits = table["average_bits"].to_numpy()
    # The area of a growing staircase, on the grid of all bits that occur in the run.
    edges = np.unique(np.append(bits, reference[1]))
    edges = edges[edges <= reference[1]]
    widths = np.diff(edges)
    height = np.zeros(len(widths))
    result = np.zeros(len(loss))
    for position, (value, at) in enumerate(zip(loss, bits, strict=True)):
        right = edges[:-1] >= at
        height[right] = np.maximum(height[right], max(reference[0] - value, 0.0))
        result[position] = float(height @ widths)
    return result / ((reference[0] - best_loss) * (reference[1] - BITS[0]))
