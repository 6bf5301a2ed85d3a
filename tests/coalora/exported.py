"""Trained studies to export, and what they and their exports compute."""

from __future__ import annotations

import torch


def trained(make_trainer, make_configuration, **options):
    trainer = make_trainer(steps=8, learning_rate=2e-2, **options)
    wanted = make_configuration(trainer, 0)
    trainer.train([wanted, make_configuration(trainer, 1)], 1)
    return trainer, wanted


@torch.no_grad()
def study_logits(trainer, configuration, batch) -> torch.Tensor:
    adapted = trainer.study.adapted
    adapted.peft_model.eval()
    assert adapted.adjustments(configuration).abs().max() > 1e-3  # Else nothing is folded.
    adapted.use(configuration)
    logits = adapted.logits(batch)
    adapted.projections.clear()
    return logits


def loaded_logits(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits
