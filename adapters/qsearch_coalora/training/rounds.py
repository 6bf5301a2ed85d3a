"""One round's training: what it trains on, and from which saved step it continues."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import Progress, TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.settings.memory import clear_memory_errors
from qsearch_coalora.training.checkpoint import digest, training_identity
from qsearch_coalora.training.early_stopping import HeldOutLoss, followed_in
from qsearch_coalora.training.evaluation import held_out_loss
from qsearch_coalora.training.loop import RoundPlan, TrainingLoop
from qsearch_coalora.training.sampling import SetSampler, pass_of, round_seeds
from qsearch_coalora.training.study_model import StudyModel


@clear_memory_errors()
def train_round(
    study: StudyModel,
    configurations: Sequence[Configuration],
    round: int,
    progress: Progress | None,
    unfinished: TrainingCheckpoint,
) -> TrainReport:
    """Train on the expected loss over a set, from the saved step if there is one.

    What comes out is a function of state, set, seed and round: each round starts a fresh AdamW
    and a fresh learning-rate schedule.

    Raises:
        QsearchError: If the loss or its gradient is no longer finite, or memory runs out; the
            adapter in memory must not be used then.
    """
    trains = digest(list(configurations), round, training_identity(study))
    plan = plan_round(study, configurations, round)
    loop = TrainingLoop(study.adapted, study.task, study.options, plan)
    saved = unfinished.load()
    if saved is not None and saved.metadata.get("trains") == trains:
        loop.restore(saved)

    def keep(state: TrainerState) -> None:
        unfinished.save(TrainerState(state.tensors, {**state.metadata, "trains": trains}))

    return loop.run(progress, keep)


def plan_round(study: StudyModel, configurations: Sequence[Configuration], round: int) -> RoundPlan:
    """Return what a round trains on: its random draws and the set."""
    seeds, options = round_seeds(study.seed, round), study.options
    one_pass = pass_of(options.set_sampling, lambda: study.average_bits(configurations))
    generator = torch.Generator().manual_seed(seeds.configurations)
    held_out, stopping = None, options.early_stopping
    if stopping is not None:
        followed = followed_in(configurations, stopping.configurations, study.average_bits)
        held_out = HeldOutLoss(stopping, followed, partial(held_out_loss, study))
    return RoundPlan(
        round=round,
        configurations=configurations,
        sampler=SetSampler(len(configurations), one_pass, generator),
        batches=study.batches(torch.Generator().manual_seed(seeds.data)),
        dropout_seed=seeds.dropout,
        pieces=options.batch_configurations,
        held_out=held_out,
    )
