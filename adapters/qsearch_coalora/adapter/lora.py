"""The plain PEFT LoRA around linear layers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qsearch.plugins.protocols import LoadedModel
from qsearch_coalora.models.loading import import_library
from qsearch_coalora.settings.options import TrainingOptions

ADAPTER = "default"
_TASK_TYPES = {  # By the ending of a model's class name.
    "ForSequenceClassification": "SEQ_CLS",
    "ForCausalLM": "CAUSAL_LM",
}


def wrap_in_lora(
    loaded: LoadedModel, paths: Sequence[str], options: TrainingOptions, seed: int
) -> Any:
    """Return the PEFT model with LoRA at some paths, whose initial values are drawn by the seed."""
    import torch

    peft = import_library("peft")
    name = type(loaded.module).__name__
    task = next((task for ending, task in _TASK_TYPES.items() if name.endswith(ending)), None)
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.rank * options.scaling,
        target_modules=list(paths),
        modules_to_save=list(loaded.head) or None,
        task_type=task,
    )
    if options.gradient_checkpointing:
        # Without reentrance, a layer's second forward pass sees the same U as the first.
        loaded.module.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(loaded.module, config, adapter_name=ADAPTER)
