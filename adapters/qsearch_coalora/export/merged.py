"""The ``merged`` format: a plain float model that computes what the quantized one does."""

from __future__ import annotations

from pathlib import Path

import torch
from qsearch_quantizers.packed.checkpoints import Checkpoint, plan_checkpoint
from qsearch_quantizers.packed.stored_types import as_stored
from qsearch_quantizers.packed.tensor_files import planned

from qsearch.plugins.exporters import ExportJob
from qsearch_coalora.export.cards import write_card
from qsearch_coalora.export.job import require_own_weights, transformers_module
from qsearch_coalora.models.loading import quiet_transformers

_CARD = """\
# {model} with quantized weights and adapter merged, in float

What the {method} model of one configuration computes, as a plain transformers model: weights are
quantized, dequantized, the adapter is merged into them, and the sum is stored as {dtype}. It is as
large as a model that is not quantized; use it where nothing else loads, or to compare. Quantized to
the same bits again, it loses most of the adapter.

```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained("path/to/this/folder")
```
"""


def plan_merged(job: ExportJob) -> Checkpoint:
    """Return the float model's files, whose quantizable layers have no values yet."""
    module = transformers_module(job, "merged")
    require_own_weights(job)
    state, dtype = dict(job.state()), job.storage.dtype
    weights = {f"{path}.weight": state.pop(f"{path}.weight") for path in job.paths}
    added = {name: planned(tuple(weight.shape), dtype) for name, weight in weights.items()}
    # An output head that is tied to an embedding is stored once, with the embedding.
    own = {weight.data_ptr() for weight in weights.values()}
    state = {name: tensor for name, tensor in state.items() if tensor.data_ptr() not in own}
    return plan_checkpoint(module, state, added, dtype)


@torch.no_grad()
def export_merged(job: ExportJob, directory: Path) -> None:
    """Write the float model with dequantized weights and the adapter merged into them.

    One layer is in memory at a time.
    """
    dtype, factors = job.storage.dtype, job.factors()
    with quiet_transformers(), plan_merged(job).writing(directory, job.tokenizer) as put:
        for position, path in enumerate(job.paths):
            weight = job.quantizer.dequantize(job.quantized(position)).float()
            pair = next(factors, None)
            if pair is not None and len(pair[0]):
                A, B = pair
                weight = weight + B @ A
            put(f"{path}.weight", as_stored(f"{path}.weight", weight, dtype))
    write_card(job, directory, _CARD, "transformers", dtype=str(dtype).removeprefix("torch."))
