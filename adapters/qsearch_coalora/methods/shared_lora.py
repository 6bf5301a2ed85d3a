"""Shared-LoRA: one plain LoRA for all configurations."""

from __future__ import annotations

from qsearch_coalora.methods.shared_adapter import SharedAdapterTrainer
from qsearch_coalora.settings.options import SetTrainingOptions


class SharedLoRATrainer(SharedAdapterTrainer):
    """Trains one LoRA on the expected loss over the set, without θ: the same for all of it."""

    Options = SetTrainingOptions
    method = "Shared-LoRA"
