"""Studies of one round made from a few pairs of average bits and loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from qsearch_reports import frames
from qsearch_reports.results import StudyResults

from qsearch.storage.study_record import StudyRecord

StudyOf = Callable[..., StudyResults]


def small_study(
    base: StudyResults,
    pairs: Sequence[tuple[float, float]],
    *,
    name: str = "a",
    seed: int = 0,
    std: float = 0.01,
    edges: tuple[float, ...] = (2.0, 4.0, 6.0),
    **trainer: object,
) -> StudyResults:
    """Make a study of one round.

    Args:
        base: A study that gives all that is not said here.
        pairs: Average bits and loss of each trial; the loss is also the estimated one.
        name: Its name.
        seed: Its seed.
        std: Of the estimated losses.
        edges: Of its segments.
        trainer: Settings of its trainer.
    """
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
    study_of: StudyOf,
    losses: Sequence[float],
    rank: int = 16,
    seeds: Sequence[int] | None = None,
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
