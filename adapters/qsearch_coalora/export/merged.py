"""The ``merged`` format: a plain float model that computes what the quantized one does."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from qsearch.plugins.exporters import ExportJob
from qsearch_coalora.export.cards import write_card
from qsearch_coalora.export.job import transformers_module
from qsearch_coalora.models.loading import quiet_transformers

_CARD = """\
# {model} with quantized weights and adapter merged, in float

What the {method} model of one configuration computes, as a plain transformers model: weights are
quantized, dequantized, and the adapter is merged into them. It is as large as the original; use it
where nothing else loads, or to compare. Quantized to the same bits again, it loses most of the
adapter.

```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained("path/to/this/folder")
```
"""

_SHARD = "1GB"
"""Largest file, which is all of the merged model that is in memory at a time."""


@torch.no_grad()
def export_merged(job: ExportJob, directory: Path) -> None:
    """Write the float model with dequantized weights and the adapter merged into them."""
    module = transformers_module(job, "merged")
    with quiet_transformers():
        # First the original weights; then file by file the merged ones, which are as large.
        module.save_pretrained(directory, state_dict=job.state(), max_shard_size=_SHARD)
        if job.tokenizer is not None:
            job.tokenizer.save_pretrained(directory)
    factors = list(job.factors())
    positions = {f"{path}.weight": position for position, path in enumerate(job.paths)}
    for path in sorted(directory.glob("model*.safetensors")):
        tensors = load_file(path)
        for name in tensors.keys() & positions.keys():
            position = positions[name]
            weight = job.quantizer.dequantize(job.quantized(position)).to(tensors[name].dtype)
            if factors and len(factors[position][0]):
                A, B = factors[position]
                weight = weight + B @ A
            tensors[name] = weight.cpu().contiguous()
        save_file(tensors, path, metadata={"format": "pt"})
        del tensors
    write_card(job, directory, _CARD, "transformers")
