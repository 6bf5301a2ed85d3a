"""Writing one configuration's model for use without qsearch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import save_file
from torch import Tensor

from qsearch.configuration import Configuration
from qsearch.errors import InputError
from qsearch.plugins import LoadedModel, ModelSpec, Quantizer
from qsearch.records import write_json
from qsearch_coalora.adapted_model import ADAPTER, AdaptedModel
from qsearch_coalora.discovery import full_layer_names

_PACKED_CARD = """\
---
base_model: {model}
library_name: transformers
tags: [lora, quantization, qsearch]
---

# {model}, packed by qsearch

The base model with its weights packed as `adapter/configuration.json` says, layer by layer, and
the {method} adapter of that configuration in the folder `adapter`. Both together:

```python
from pathlib import Path

from qsearch_coalora.packed_loading import load_packed

model = load_packed(Path("path/to/this/folder"))
```
"""


@dataclass(frozen=True)
class ExportJob:
    """What is exported.

    Args:
        adapted: The adapted model.
        model: Which base model it is.
        configuration: The configuration.
        quantizer: The quantizer.
        load: Loads the base model anew, without an adapter.
        method: Name of the method that trained the adapter.
    """

    adapted: AdaptedModel
    model: ModelSpec
    configuration: Configuration
    quantizer: Quantizer
    load: Callable[[], LoadedModel]
    method: str


Exporter = Callable[[ExportJob, Path], None]

_CARD = """\
---
base_model: {model}
library_name: peft
tags: [lora, quantization, qsearch]
---

# {method} adapter for {model}

A plain PEFT LoRA adapter (rank {rank}) for the base model quantized as `configuration.json` says,
layer by layer.{folded} Nothing of qsearch is needed to run it:

```python
from peft import PeftModel

model = PeftModel.from_pretrained(quantized_base_model, "path/to/this/folder")
```

`quantized_base_model` is the base model with its weights quantized and dequantized by that
configuration; on other weights the adapter is less exact.
"""

_FOLDED = " The adjustment U of this configuration is folded into the `lora_A` weights."


@torch.no_grad()
def folded_state(adapted: AdaptedModel, configuration: Configuration) -> dict[str, Tensor]:
    """Return the PEFT state of the adapter with (I + U) folded into A.

    With A′ = (I + U)·A in the place of A, plain PEFT gives the same outputs.

    Args:
        adapted: The adapted model; its weights are switched to the configuration.
        configuration: The configuration.
    """
    from peft import get_peft_model_state_dict

    adapted.activate(configuration)
    state = get_peft_model_state_dict(adapted.peft_model, adapter_name=ADAPTER)
    tensors = {name: tensor.detach().clone().cpu() for name, tensor in state.items()}
    names = {id(module): name for name, module in adapted.peft_model.named_modules()}
    U = adapted.adjustments(configuration)
    if U is None:
        return tensors
    adapted.projections.set(U)
    for layer, folded in zip(adapted.lora_layers, adapted.projections.weights(), strict=True):
        tensors[f"{names[id(layer)]}.lora_A.weight"] = folded.cpu().contiguous()
    adapted.projections.clear()
    return tensors


def export_adapter(job: ExportJob, directory: Path) -> None:
    """Write a plain PEFT adapter, its configuration and a model card."""
    adapted = job.adapted
    state = folded_state(adapted, job.configuration)
    config = copy.copy(adapted.peft_model.peft_config[ADAPTER])
    config.inference_mode = True
    config.base_model_name_or_path = job.model.name
    config.save_pretrained(str(directory))
    save_file(state, str(directory / "adapter_model.safetensors"), metadata={"format": "pt"})
    readable = {name: dict(layer) for name, layer in job.configuration.items()}
    write_json(directory / "configuration.json", readable)
    card = _CARD.format(
        model=job.model.name,
        method=job.method,
        rank=adapted.options.rank,
        folded="" if adapted.theta is None else _FOLDED,
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


def export_packed(job: ExportJob, directory: Path) -> None:
    """Write the packed base model, and the adapter in the folder ``adapter`` inside it.

    The packed model's task head is the trained one.

    Raises:
        InputError: If the quantizer does not say its options, which a reader needs.
    """
    from qsearch_quantizers.checkpoint import write_packed

    options = getattr(job.quantizer, "options", None)
    if not isinstance(options, BaseModel):
        raise InputError(
            f"quantizer {job.quantizer.name!r} cannot be exported as packed: it has no attribute"
            " 'options' with the options it was made from"
        )
    fresh = job.load()
    module: Any = fresh.module
    parameters = dict(fresh.module.named_parameters())
    with torch.no_grad():
        for name, value in job.adapted.head_parameters().items():
            parameters[name].copy_(value)
    full_names = full_layer_names(fresh.module, job.adapted.layers)
    by_full_name = Configuration(
        {
            full_name: job.configuration[layer.name]
            for full_name, layer in zip(full_names, job.adapted.layers, strict=True)
        }
    )
    write_packed(
        module,
        job.quantizer.name,
        options.model_dump(mode="json"),
        by_full_name,
        directory,
        fresh.tokenizer,
    )
    (directory / "adapter").mkdir(exist_ok=True)
    export_adapter(job, directory / "adapter")
    card = _PACKED_CARD.format(model=job.model.name, method=job.method)
    (directory / "README.md").write_text(card, encoding="utf-8")


EXPORTERS: dict[str, Exporter] = {"adapter": export_adapter, "packed": export_packed}
"""Writers by the name of their format."""
