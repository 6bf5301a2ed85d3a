"""What the configurations that searches choose are worth on examples that no search saw.

A search takes the best of many losses on the same few examples, so part of what it gains is
sampling noise. Here, at each budget, the configuration of least loss that a recorded run found is
evaluated on many more examples: the loss on those that the objective does not use. qsearch's own
runs are asked once more: for the configuration of least posterior mean among those that they
evaluated.

    python -m benchmarks.unseen [--recorded]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.confidence import interval
from benchmarks.objectives import DATA, Objective, Wide, wide
from benchmarks.recording import Benchmark, only_recorded
from benchmarks.sampling_noise import fitted_to
from benchmarks.search import PLANS
from benchmarks.search_runs import Run, indices_of, losses_by_key, recorded_runs
from benchmarks.searchers import SEARCHERS
from qsearch._arrays import Floats, Integers
from qsearch.storage.files import write_atomically

BUDGETS = (2.4, 2.6, 2.8, 3.0, 3.5, 4.0, 5.0, 6.0)
"""Average bits at which a user might ask for a configuration; denser where the loss is steep."""

_BY_MEAN = " by posterior mean"

OBJECTIVES = ("minilm-sst2", "smollm2-wikitext2")


class UnseenLosses:
    """Losses on examples that an objective does not use, each evaluated once and recorded.

    Args:
        objective: Its name.
        record: Whether to evaluate what is not recorded yet.
    """

    def __init__(self, objective: str, record: bool) -> None:
        self._path = DATA / objective / "unseen.parquet"
        self._make: Callable[[], Wide] | None = (lambda: wide(objective)) if record else None
        self._wide: Wide | None = None
        self._known: dict[bytes, float] = {}
        if self._path.is_file():
            self._known = losses_by_key(pd.read_parquet(self._path))

    def known(self, index: Integers) -> bool:
        """Return whether all choice indices (n × groups) are recorded or can be evaluated."""
        return self._make is not None or all(row.tobytes() in self._known for row in index)

    def of(self, index: Integers, seen: Floats) -> Floats:
        """Return the losses (n) on new examples.

        Args:
            index: Choice indices (n × groups).
            seen: Their losses on the objective's own examples (n).
        """
        for row, loss in zip(index, seen.tolist(), strict=True):
            if row.tobytes() not in self._known:
                assert self._make is not None
                self._wide = self._wide or self._make()
                self._known[row.tobytes()] = self._wide.unseen_loss(row, loss)
                self._write()
        return np.array([self._known[row.tobytes()] for row in index])

    def _write(self) -> None:
        rows = [np.frombuffer(key, dtype=np.int64).astype(np.int16) for key in self._known]
        table = pd.DataFrame({"index": rows, "loss": list(self._known.values())})
        write_atomically(self._path, table.to_parquet)


@dataclass(frozen=True)
class Chosen:
    """What a run chose at the budgets.

    Args:
        index: Choice indices (budgets × groups).
        loss: Losses that it saw (budgets).
    """

    index: Integers
    loss: Floats


def chosen_by(table: pd.DataFrame, value: Floats) -> Chosen:
    """Return the configuration of least value within each budget.

    Args:
        table: A run, as far as it counts; it has a configuration within the least budget.
        value: What to choose by, such as its losses (n).
    """
    bits, loss = table["average_bits"].to_numpy(), table["loss"].to_numpy()
    best = [int(np.where(bits <= budget, value, np.inf).argmin()) for budget in BUDGETS]
    return Chosen(indices_of(table)[best], loss[best])


def posterior_means(objective: Objective, table: pd.DataFrame) -> Floats:
    """Return the surrogate's mean of the task's loss, sampling noise modelled separately (n)."""
    index = indices_of(table)
    fitted = fitted_to(objective, index, table["loss"].to_numpy())
    mean: Floats = fitted.predict(index)[0].numpy()
    return mean


def counts(run: Run, table: pd.DataFrame) -> list[int]:
    """Return after how many evaluations a warm run is looked at, as far as it came."""
    plan = PLANS[run.objective]
    wanted = [plan.evaluations]
    if run.method in SEARCHERS:
        wanted.insert(0, plan.own_evaluations)
    ended = bool(table["ended"].any())
    return [n for n in wanted if run.start == "warm" and (ended or len(table) >= n)]


def report(benchmark: Benchmark, objective: str, losses: UnseenLosses) -> None:
    """Add an objective's rows and claims."""
    found: dict[tuple[str, int], list[tuple[Floats, Floats]]] = {}
    known = PLANS[objective].known()
    for run, whole in recorded_runs(objective).items():
        for count in counts(run, whole):
            table = whole.iloc[:count]
            choices = {run.method: chosen_by(table, table["loss"].to_numpy())}
            if run.method in SEARCHERS:
                means_of = posterior_means(known, table)
                choices[f"{run.method}{_BY_MEAN}"] = chosen_by(table, means_of)
            for method, chosen in choices.items():
                if not losses.known(chosen.index):
                    print(f"  left out, not evaluated on new examples: {run.name}")
                    continue
                unseen = losses.of(chosen.index, chosen.loss)
                found.setdefault((method, count), []).append((unseen, chosen.loss))
    means: dict[tuple[str, int], Floats] = {}
    for (method, count), runs in sorted(found.items()):
        unseen, seen = (np.array(part) for part in zip(*runs, strict=True))
        means[method, count] = unseen.mean(axis=1)
        at_budgets = {
            f"at {budget}": round(float(loss), 4)
            for budget, loss in zip(BUDGETS, unseen.mean(axis=0), strict=True)
        }
        benchmark.row(
            objective=objective,
            method=method,
            evaluations=count,
            seeds=len(runs),
            mean_unseen_loss=interval(means[method, count]),
            mean_seen_loss=interval(seen.mean(axis=1)),
            **at_budgets,
        )
    own_names = {name for method in SEARCHERS for name in (method, f"{method}{_BY_MEAN}")}
    peers = {name: loss for name, loss in means.items() if name[0] not in own_names}
    for (method, count), own in means.items():
        if method in own_names and peers:
            (best, spent), rival = min(peers.items(), key=lambda item: float(item[1].mean()))
            benchmark.claim(
                f"{objective}: loss on new examples, mean over {len(BUDGETS)} budgets, of"
                f" {method} after {count} evaluations less that of the best peer ({best}) after"
                f" {spent}",
                float(own.mean() - rival.mean()),
                0.0,
                "lower",
            )


def main() -> None:
    """Evaluate what runs chose on new examples and write the result file."""
    recorded_alone = only_recorded(__doc__)
    benchmark = Benchmark("unseen")
    for objective in OBJECTIVES:
        report(benchmark, objective, UnseenLosses(objective, record=not recorded_alone))
    benchmark.write()


if __name__ == "__main__":
    main()
