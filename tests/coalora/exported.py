"""What studies and their exports compute."""

from __future__ import annotations

import torch

from qsearch.plugins.capabilities import SupportsQuantizerCheck
from qsearch.plugins.registry import load_plugin


def export(trainer, configuration, directory, format) -> None:
    """Write a configuration as the engine does."""
    exporter = load_plugin("exporters", format)()
    if isinstance(exporter, SupportsQuantizerCheck):
        exporter.require_quantizer(trainer.study.quantizer)
    directory.mkdir(parents=True, exist_ok=True)
    exporter.write(trainer.export_job(configuration), directory)


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
