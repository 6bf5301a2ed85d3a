"""When a study stops, and why: pure functions of its limits and what it has done."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.spec.search_spec import SearchSpec

MIN_EVALUATIONS = 2
"""Evaluations of the smallest round: fewer give no front and nothing to search from."""


def stop_reason(
    search: SearchSpec, hypervolumes: Sequence[float], evaluations: int, hours: float
) -> str:
    """Return every limit that keeps a study from its next round, or "" if none does.

    Hypervolumes are normalised; evaluations, failures included, are those of finished rounds.
    """
    stop = search.stop
    reasons = []
    if len(hypervolumes) >= search.rounds:
        reasons.append(f"search.rounds: {search.rounds} reached")
    if stop.evaluations is not None and (left := stop.evaluations - evaluations) < MIN_EVALUATIONS:
        state = f"{left} of {stop.evaluations} left, a round needs {MIN_EVALUATIONS}"
        state = state if left > 0 else f"{stop.evaluations} reached"
        reasons.append(f"search.stop.evaluations: {state}")
    if out_of_time(search, hours):
        reasons.append(f"search.stop.hours: {stop.hours:g} reached")
    gain = stop.tolerance
    if gain is not None and rounds_without_gain(hypervolumes, gain) >= stop.patience:
        reasons.append(
            "search.stop.tolerance: successive rounds that raised the hypervolume by less than"
            f" {gain:g}: {stop.patience}"
        )
    return "; ".join(reasons)


def out_of_time(search: SearchSpec, hours: float) -> bool:
    """Return whether the wall time spent, over all sessions, has reached its limit."""
    return search.stop.hours is not None and hours >= search.stop.hours


def rounds_without_gain(hypervolumes: Sequence[float], tolerance: float) -> int:
    """Return how many of the last rounds, in succession, gained less than a tolerance.

    A round's gain is the rise of its hypervolume over the best of all rounds before it. The first
    round has none before it, and so never counts.
    """
    count = 0
    for round in range(len(hypervolumes) - 1, 0, -1):
        if hypervolumes[round] - max(hypervolumes[:round]) >= tolerance:
            break
        count += 1
    return count


def round_shares(search: SearchSpec, evaluations: int, members: int) -> tuple[int, int]:
    """Return how many of its members, and how many candidates, a round may evaluate.

    Members are its set and the baselines that are not in it. The remaining evaluations go to them
    first, in their order: a front needs the set, and claims need the baselines.
    """
    if search.stop.evaluations is None:
        return members, search.candidates
    left = max(search.stop.evaluations - evaluations, 0)
    of_set = min(members, left)
    return of_set, min(search.candidates, left - of_set)
