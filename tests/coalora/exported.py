"""What studies and their exports compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from qsearch_coalora.llama_cpp.engine import opened

from qsearch.deployment.storage_options import StorageOptions
from qsearch.plugins.capabilities import SupportsQuantizerCheck
from qsearch.plugins.registry import load_plugin


def export(
    trainer, configuration, directory, format, dtype="float32", adapter_bits=None
) -> dict[str, int]:
    """Write a configuration as the engine does; return the bytes that were planned for its files.

    In float32, unless told otherwise, since most tests compare with what a study computes.
    """
    exporter = load_plugin("exporters", format)()
    if isinstance(exporter, SupportsQuantizerCheck):
        exporter.require_quantizer(trainer.study.quantizer)
    directory.mkdir(parents=True, exist_ok=True)
    options = StorageOptions(dtype, adapter_bits)
    options.require(exporter, format)
    planned = exporter.weight_bytes(options.job(trainer.export_job(configuration)))
    exporter.write(options.job(trainer.export_job(configuration)), directory)
    return planned


def weight_files(directory) -> dict[str, int]:
    """Bytes of each weight file in a folder, by its path."""
    return {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in directory.rglob("*")
        if path.suffix in (".safetensors", ".gguf")
    }


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


def engine_logits(
    path: Path, tokens: Sequence[int], adapter: Path | None = None, threads: int = 1
) -> torch.Tensor:
    """llama.cpp's logits (tokens × vocabulary) after each of some tokens."""
    with opened(path, len(tokens), threads, adapter) as engine:
        return torch.cat([torch.from_numpy(piece.copy()) for piece in engine.logits(tokens)])
