"""Studies of one round made from a few pairs of average bits and loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from qsearch_reports import frames
from qsearch_reports.results import StudyResults

from qsearch.storage.study_record import StudyRecord
from tests.reports.realistic_studies import make_results


@cache
def _base() -> StudyResults:
    return make_results(rounds=1, trials_per_round=8, failed=0)


def study_of(
    pairs: Sequence[tuple[float, float]],
    *,
    name: str = "a",
    seed: int = 0,
    std: float = 0.01,
    edges: tuple[float, ...] = (2.0, 4.0, 6.0),
    **trainer: object,
) -> StudyResults:
    """Make a study from average bits and loss of each trial; the loss is also the estimated one.

    ``std`` is of the estimated losses, ``trainer`` are settings of its trainer.
    """
    base = _base()
    rows = base.record.trials.iloc[[0] * len(pairs)].reset_index(drop=True)
    bits, losses = zip(*pairs, strict=True)
    trials = rows.assign(
        trial=range(len(pairs)),
        average_bits=bits,
        loss=losses,
        estimated_loss=losses,
        estimated_loss_std=std,
    )
    record = replace(base.record, name=name, trials=trials, segment_edges=edges)
    chosen = {"name": name, "seed": seed, "trainer": {"name": "coa-lora", **trainer}}
    return replace(base, record=record, settings=chosen)


def seeds_of(
    losses: Sequence[float], rank: int = 16, seeds: Sequence[int] | None = None
) -> list[StudyResults]:
    """Make studies of one method, one for each loss, with a trial of 3 average bits each."""
    return [
        study_of([(3.0, loss)], name=f"rank {rank} seed {seed}", seed=seed, rank=rank)
        for seed, loss in zip(seeds or range(len(losses)), losses, strict=True)
    ]


def names_of(studies: Sequence[StudyResults]) -> list[str]:
    return [study.record.name for study in studies]


def records_of(studies: Sequence[StudyResults]) -> list[StudyRecord]:
    return [study.record for study in studies]


def methods_of(studies: Sequence[StudyResults]) -> tuple[frames.Method, ...]:
    return frames.group_methods(studies, names_of(studies))
