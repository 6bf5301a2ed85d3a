"""Shared-LoRA: one plain LoRA for all configurations."""

from __future__ import annotations

from qsearch_coalora.set_trainer import SetTrainer
from qsearch_coalora.training_options import SetTrainingOptions


class SharedLoRATrainer(SetTrainer):
    """Trains one LoRA on the expected loss over the set, without θ: the same for all of it."""

    Options = SetTrainingOptions
    method = "Shared-LoRA"
