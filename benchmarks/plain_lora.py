"""A plain LoRA training by PEFT on the unquantized model, with a study's options and data.

It imports what such a training needs and no more, since its peak memory is a baseline.

    python -m benchmarks.plain_lora STUDY [SETTING …]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.settings.device import autocast, uses_bfloat16
from qsearch_coalora.settings.options import TrainingOptions
from qsearch_coalora.training.evaluation import score

from qsearch.models.discovery import full_layer_names
from qsearch.plugins.components import build_components
from qsearch.plugins.protocols import LoadedModel, Task
from qsearch.space.layers import LayerSpec
from qsearch.spec.study_spec import load_spec

TRAINED_STEPS = 8


def plain_step(
    loaded: LoadedModel, layers: Sequence[LayerSpec], task: Task, options: TrainingOptions
) -> Callable[[Mapping[str, torch.Tensor]], object]:
    """Return a training step of plain LoRA, as a function of a batch.

    Args:
        loaded: The model.
        layers: The layers that LoRA goes into.
        task: The loss.
        options: Rank, optimizer and precision.
    """
    model = get_peft_model(
        loaded.module,
        LoraConfig(
            r=options.rank,
            target_modules=list(full_layer_names(loaded.module, layers)),
            modules_to_save=list(loaded.head) or None,
        ),
    ).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    cpu = torch.device("cpu")

    def step(batch: Mapping[str, torch.Tensor]) -> None:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        with autocast(uses_bfloat16(options.precision, cpu), cpu):
            logits = model(**inputs).logits
        scores = score(task, logits, batch)
        loss = (scores.losses * scores.weights).sum() / scores.weights.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Take :data:`TRAINED_STEPS` steps."""
    study, *settings = sys.argv[1:]
    components = build_components(load_spec(Path(study), settings))
    trainer = components.trainer
    assert isinstance(trainer, AdapterTrainer)
    task = trainer.study.task
    loaded = task.load_model(components.spec.model, 0)
    task.prepare(loaded.tokenizer)
    step = plain_step(loaded, components.space.layers, task, trainer.study.options)
    drawn = torch.Generator().manual_seed(0)
    batches = task.batches("train", trainer.study.options.batch_size, drawn)
    for batch, _ in zip(batches, range(TRAINED_STEPS), strict=False):
        step(batch)


if __name__ == "__main__":
    main()
