"""Is screening candidates on a part of the examples worth what it costs?

The engine with and without screening, from the same warm start, at equal cost: a configuration on
one example in k costs a k-th of an evaluation. Each run is recorded once.

    python -m benchmarks.fidelity [--recorded]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.objectives import BITS, DATA, Objective
from benchmarks.recording import Benchmark, only_recorded
from benchmarks.search import PLANS
from benchmarks.search_runs import (
    Losses,
    Run,
    hypervolumes,
    indices_of,
    recorded_runs,
    reference_box,
)
from qsearch._arrays import Integers
from qsearch.search.candidate_pool import Evaluated, candidate_pool, next_candidate
from qsearch.search.pareto import segment_edges
from qsearch.search.screening import PartLosses, promoted
from qsearch.storage.files import write_atomically
from qsearch.surrogate.features import score_features
from qsearch.surrogate.surrogate import fit_surrogate

SCREENED = {"minilm-sst2": 4, "smollm2-wikitext2": 2}
"""One example in so many is in the part; SmolLM2's tokens come in two sequences."""

FACTOR = 3
BATCH = 5
SEGMENTS = 40


@dataclass
class Ledger:
    """What a screened run has evaluated on all examples, and what everything has cost.

    Args:
        index: Choice indices, one row an evaluation.
        loss: Their losses.
        cost: What had been spent when each was known, in evaluations on all examples.
        spent: What has been spent by now.
    """

    index: list[Integers]
    loss: list[float]
    cost: list[float]
    spent: float

    def add(self, index: Integers, loss: float) -> None:
        """Note an evaluation on all examples."""
        self.spent += 1
        self.index.append(index)
        self.loss.append(loss)
        self.cost.append(self.spent)


def screened_run(
    objective: Objective, losses: Callable[[Integers], float], budget: float, one_in: int
) -> pd.DataFrame:
    """Return a run with screening: index, average_bits, loss and cost of each evaluation."""
    space, generator = objective.space, np.random.default_rng(0)
    features = score_features(space, objective.scores, objective.correlation)
    edges = segment_edges(BITS, SEGMENTS)
    ledger = Ledger([], [], [], 0.0)
    for index in objective.warm_start:
        ledger.add(index, losses(index))
    screened_out = objective.warm_start[:0]
    while ledger.spent + BATCH * (1 + FACTOR / one_in) <= budget:
        evaluated = Evaluated(np.array(ledger.index), np.array(ledger.loss), screened_out)
        surrogate = fit_surrogate(features, evaluated.index, evaluated.loss, objective.examples)
        pool = candidate_pool(surrogate, space, evaluated, BITS, generator)
        found = screened_out[:0]
        while len(found) < FACTOR * BATCH:
            candidate = next_candidate(surrogate, space, evaluated, pool, found, BITS, edges)
            if candidate is None:
                break
            found = np.concatenate([found, candidate[None]])
        if not len(found):
            break
        part = PartLosses(
            index=found,
            loss=np.array([objective.evaluate_part(index, one_in) for index in found]),
            examples=objective.examples // one_in,
            share=1 / one_in,
        )
        ledger.spent += len(found) / one_in
        chosen = promoted(surrogate, space, evaluated, part, BITS, BATCH)
        for position in chosen:
            ledger.add(found[position], losses(found[position]))
        rest = np.setdiff1d(np.arange(len(found)), chosen)
        screened_out = np.concatenate([screened_out, found[rest]])
    return pd.DataFrame(
        {
            "index": [index.astype(np.int16) for index in ledger.index],
            "average_bits": space.average_bits(np.array(ledger.index)),
            "loss": ledger.loss,
            "cost": ledger.cost,
        }
    )


def path_of(objective: str) -> Path:
    """Return where an objective's screened run is recorded."""
    return DATA / objective / "screened.parquet"


def report(benchmark: Benchmark, name: str) -> None:
    """Add an objective's rows and its claim."""
    plan, screened = PLANS[name], pd.read_parquet(path_of(name))
    plain = recorded_runs(name)[Run(name, "qsearch", "warm", 0)]
    plain = plain.assign(cost=plain["step"])
    reference, best = reference_box(plan.known())
    budgets = (plan.own_evaluations, plan.evaluations)
    found = {}
    for method, table in {"plain": plain, "screened": screened}.items():
        volumes = hypervolumes(table, reference, best)
        cost = table["cost"].to_numpy()
        at = [float(volumes[np.flatnonzero(cost <= budget)[-1]]) for budget in budgets]
        found[method] = at[-1]
        figures = {f"at cost {b}": round(v, 4) for b, v in zip(budgets, at, strict=True)}
        benchmark.row(objective=name, method=method, evaluations=len(indices_of(table)), **figures)
    benchmark.claim(
        f"{name}: hypervolume with screening over that without, both at the cost of"
        f" {plan.evaluations} evaluations",
        found["screened"] / found["plain"],
        1.0,
        "higher",
    )


def main() -> None:
    """Record what is missing, then compare and write the result file."""
    recorded_alone = only_recorded(__doc__)
    benchmark = Benchmark("fidelity")
    for name, one_in in SCREENED.items():
        if not recorded_alone and not path_of(name).is_file():
            objective = PLANS[name].make()
            losses = Losses(name, objective.evaluate)
            table = screened_run(objective, losses, PLANS[name].evaluations, one_in)
            write_atomically(path_of(name), table.to_parquet)
        if path_of(name).is_file():
            report(benchmark, name)
    benchmark.write()


if __name__ == "__main__":
    main()
