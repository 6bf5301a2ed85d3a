"""Do the fronts hold on data that no search saw?

A search takes the luckiest of many losses on the same validation examples. Here the fronts of
recorded runs on MiniLM and SST-2 are evaluated on the test split: each configuration that was on a
run's front by its validation loss, and the area under what a user would get: at each budget, the
test loss of the configuration with the least validation loss.

    python -m benchmarks.held_out [--recorded]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd

from benchmarks.objectives import BITS, DATA, known_objective, minilm_sst2
from benchmarks.recording import Benchmark
from benchmarks.search import PLANS
from benchmarks.search_runs import Run, indices_of, losses_by_key, recorded_runs
from benchmarks.search_tables import interval
from qsearch.pareto import non_dominated
from qsearch.search import reference_point
from qsearch.space import Floats, Integers

NAME = "minilm-sst2"
_FILE = DATA / NAME / "held_out.parquet"


class TestLosses:
    """Losses on the test split, each evaluated once and recorded.

    Args:
        record: Whether to evaluate what is not recorded yet.
    """

    def __init__(self, record: bool) -> None:
        self._record = record
        self._objective = minilm_sst2() if record else known_objective(NAME)
        self._known: dict[bytes, float] = {}
        if _FILE.is_file():
            self._known = losses_by_key(pd.read_parquet(_FILE))

    def known(self, index: Integers) -> bool:
        """Return whether all choice indices (n × groups) are recorded or can be evaluated."""
        return self._record or all(row.tobytes() in self._known for row in index)

    def of(self, index: Integers) -> Floats:
        """Return test losses (n) of choice indices (n × groups)."""
        missing = [row for row in index if row.tobytes() not in self._known]
        for row in missing:
            self._known[row.tobytes()] = self._objective.evaluate_held_out(row)
        if missing:
            self._write()
        return np.array([self._known[row.tobytes()] for row in index])

    def _write(self) -> None:
        rows = [np.frombuffer(key, dtype=np.int64).astype(np.int16) for key in self._known]
        pd.DataFrame({"index": rows, "loss": list(self._known.values())}).to_parquet(_FILE)


def counts(run: Run, table: pd.DataFrame) -> list[int]:
    """Return after how many evaluations a warm run's fronts are taken, as far as it came."""
    plan = PLANS[NAME]
    wanted = [plan.evaluations]
    if run.method == "qsearch":
        wanted.insert(0, plan.own_evaluations)
    ended = bool(table["ended"].any())
    return [n for n in wanted if run.start == "warm" and (ended or len(table) >= n)]


def staircase_area(loss: Floats, bits: Floats, reference: tuple[float, float]) -> float:
    """Return the area between a front's losses and the reference point's, over average bits.

    Each configuration serves the budgets from its own bits to the next one's, whether its test loss
    is better than the one before or not.

    Args:
        loss: Test losses (n).
        bits: Average bits (n).
        reference: (loss, average bits).
    """
    order = np.argsort(bits)
    widths = np.diff(np.append(bits[order], reference[1]))
    return float(((reference[0] - loss[order]) * widths).sum())


def main() -> None:
    """Evaluate fronts on the test split and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recorded", action="store_true", help="evaluate nothing")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    losses = TestLosses(record=not given.recorded)
    warm = known_objective(NAME).warm_start
    reference = reference_point(losses.of(warm), BITS)
    volumes: dict[tuple[str, int], list[tuple[float, float]]] = {}
    fronts = [
        (run, count, table.iloc[:count])
        for run, table in recorded_runs(NAME).items()
        for count in counts(run, table)
    ]
    for run, count, rows in fronts:
        points = rows[["loss", "average_bits"]].to_numpy()
        kept = rows[non_dominated(points)]
        index = indices_of(kept)
        if not losses.known(index):
            print(f"  left out, not evaluated on the test split: {run.name}")
            continue
        tested = losses.of(index)
        rise = float((tested - kept["loss"]).mean())
        area = staircase_area(tested, kept["average_bits"].to_numpy(), reference)
        volumes.setdefault((run.method, count), []).append((area, rise))
    benchmark = Benchmark("held_out")
    for (method, count), found in sorted(volumes.items()):
        area, rise = np.array(found).T
        benchmark.row(
            method=method,
            evaluations=count,
            seeds=len(found),
            area=interval(area),
            test_less_validation_loss=interval(rise),
        )
    means = {name: float(np.mean([area for area, _ in found])) for name, found in volumes.items()}
    peers = {name: mean for name, mean in means.items() if name[0] != "qsearch"}
    for (method, count), mean in means.items():
        if method == "qsearch" and peers:
            (best, spent), area = max(peers.items(), key=lambda item: item[1])
            benchmark.claim(
                f"mean area by test losses: qsearch's front after {count} evaluations over the best"
                f" peer's ({best}) after {spent}",
                mean / area,
                1.0,
                "higher",
            )
    benchmark.write()


if __name__ == "__main__":
    main()
