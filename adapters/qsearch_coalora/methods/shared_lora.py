"""Shared-LoRA: one plain LoRA for all configurations."""

from __future__ import annotations

from qsearch_coalora.training.options import SetTrainingOptions
from qsearch_coalora.training.set_trainer import SetTrainer


class SharedLoRATrainer(SetTrainer):
    """Trains one LoRA on the expected loss over the set, without θ: the same for all of it."""

    Options = SetTrainingOptions
    method = "Shared-LoRA"
