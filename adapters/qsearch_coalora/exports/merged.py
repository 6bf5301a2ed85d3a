"""The ``merged`` format: a plain float model that computes what the quantized one does."""

from __future__ import annotations

from pathlib import Path

import torch

from qsearch_coalora.exports.cards import write_card
from qsearch_coalora.exports.job import ExportJob, plain_factors, plain_state
from qsearch_coalora.models import quiet_transformers

_CARD = """\
# {model} with quantized weights and adapter merged, in float

What the {method} model of one configuration computes, as a plain transformers model: weights are
quantized, dequantized, and the adapter is merged into them. It is as large as the original; use it
where nothing else loads, or to compare. Quantizing it again loses what the adapter made up for.

```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained("path/to/this/folder")
```
"""


@torch.no_grad()
def export_merged(job: ExportJob, directory: Path) -> None:
    """Write the float model with dequantized weights and the adapter merged into them."""
    state = plain_state(job)
    for position, (A, B) in enumerate(plain_factors(job)):
        chosen = job.configuration[job.adapted.layers[position].name]
        weight = job.adapted.weights.dequantized(position, chosen)
        if A is not None and B is not None:
            weight = weight + B @ A
        state[f"{job.layer_names[position]}.weight"] = weight
    with quiet_transformers():
        job.base.save_pretrained(directory, state_dict=state, max_shard_size="5GB")
        job.tokenizer.save_pretrained(directory)
    write_card(job, directory, _CARD, "transformers")
