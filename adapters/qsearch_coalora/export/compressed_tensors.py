"""The ``compressed-tensors`` format: packed integers as vLLM and transformers read them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from qsearch_quantizers.libraries.optional import optional_module
from qsearch_quantizers.packed.checkpoints import Checkpoint, edit_config, plan_checkpoint
from qsearch_quantizers.packed.tensor_files import planned
from torch import Tensor, nn

from qsearch.errors import InputError
from qsearch.plugins.tensor_layout import IntegerWeight
from qsearch_coalora.export.adapter import adapter_files, export_adapter
from qsearch_coalora.export.cards import write_card
from qsearch_coalora.export.engines import planned_integers, require_fused_alike, require_integers
from qsearch_coalora.export.job import AdapterJob
from qsearch_coalora.models.loading import quiet_transformers

FORMAT = "compressed-tensors"
_SCHEME = "pack-quantized"

_CARD = """\
# {model}, quantized for inference engines

The base model with integer weights in the format compressed-tensors (`pack-quantized`), with bits
and group size by layer, and the {method} adapter of that configuration as a PEFT adapter in the
folder `adapter`. transformers loads it where the package compressed-tensors is installed:

```python
from peft import PeftModel
from transformers import {auto_class}

base = {auto_class}.from_pretrained("path/to/this/folder")
base.hf_quantizer.compressor.decompress_model(base)  # PEFT needs float weights
model = PeftModel.from_pretrained(base, "path/to/this/folder/adapter")
```

(Not with `CompressedTensorsConfig(dequantize=True)`: transformers 5.24 then takes the bits of one
layer for all.{asymmetric})

It is the format that vLLM reads (`vllm serve path --enable-lora --lora-modules
tuned=path/adapter --max-lora-rank {rank}`), whose kernels are for 4 and 8 bits: this
configuration has {bits}. Layers that engines fuse are quantized alike.
"""

_ASYMMETRIC = (
    " Nor does it load asymmetric integers, which this configuration has, with compressed-tensors"
    " 0.20: shapes of zero points do not agree."
)


ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class _Plan:
    """The base model's files, and the layers of each kind (bits, group size, symmetric)."""

    checkpoint: Checkpoint
    targets: dict[tuple[int, int, bool], list[str]]


def compressed_tensors_files(job: AdapterJob) -> dict[str, int]:
    """Return the bytes of each file with weights by its path; see the export for errors."""
    files = _plan(job).checkpoint.file_bytes
    if job.has_adapter:
        files |= {f"{ADAPTER_FOLDER}/{name}": size for name, size in adapter_files(job).items()}
    return files


def _plan(job: AdapterJob) -> _Plan:
    if job.adapted.tables:
        raise InputError(
            f"--format {FORMAT}: engines read embeddings and output heads of this format in float,"
            " and this study quantizes them (space.embeddings); take the format 'packed' or 'gguf'"
        )
    require_integers(job.quantizer, FORMAT)
    job.require_own_weights()
    require_fused_alike(job, FORMAT)
    state, added = dict(job.state()), dict[str, Tensor]()
    targets: defaultdict[tuple[int, int, bool], list[str]] = defaultdict(list)
    for position, name in enumerate(job.paths):
        weight = planned_integers(job, position, FORMAT)
        rows, columns = weight.codes.shape
        if columns % weight.group_size:
            raise InputError(
                f"--format {FORMAT}: layer {name!r} has {columns} input features, which groups of"
                f" {weight.group_size} do not divide"
            )
        del state[f"{name}.weight"]
        words = math.ceil(columns * weight.bits / 32)
        added[f"{name}.weight_packed"] = planned((rows, words), torch.int32)
        added[f"{name}.weight_scale"] = weight.scales
        added[f"{name}.weight_shape"] = planned((2,), torch.int64)
        if weight.zero_points is not None:
            words, groups = math.ceil(rows * weight.bits / 32), weight.zero_points.shape[1]
            added[f"{name}.weight_zero_point"] = planned((words, groups), torch.int32)
        targets[weight.bits, weight.group_size, weight.zero_points is None].append(name)
    checkpoint = plan_checkpoint(job.module, state, added, job.storage.dtype)
    return _Plan(checkpoint, dict(targets))


def export_compressed_tensors(job: AdapterJob, directory: Path) -> None:
    """Write the base model in packed integers, and the adapter in a folder inside.

    Raises:
        InputError: If the quantizer's weights are no integers, engines cannot fuse the
            configuration's layers, a group does not divide a row, embeddings are quantized, or the
            package compressed-tensors is not installed.
    """
    quantizer = require_integers(job.quantizer, FORMAT)
    plan = _plan(job)
    targets = plan.targets
    helpers = _package("compressors.pack_quantized.helpers")
    with quiet_transformers(), plan.checkpoint.writing(directory, job.tokenizer) as put:
        for position, name in enumerate(job.paths):
            quantized = job.quantized(position)
            weight = quantizer.as_integers(quantized)
            for key, tensor in _packed(weight, quantized.shape, helpers).items():
                put(f"{name}.{key}", tensor)
    edit_config(directory, "quantization_config", _config(job, targets))
    if job.has_adapter:
        (directory / ADAPTER_FOLDER).mkdir()
        export_adapter(job, directory / ADAPTER_FOLDER)
    bits = ", ".join(str(bits) for bits in sorted({bits for bits, *_ in targets}))
    write_card(
        job,
        directory,
        _CARD,
        "transformers",
        rank=job.adapted.options.rank,
        bits=f"{bits} bits",
        asymmetric="" if all(symmetric for *_, symmetric in targets) else _ASYMMETRIC,
    )


def _packed(weight: IntegerWeight, shape: tuple[int, int], helpers: Any) -> dict[str, Tensor]:
    """Return a layer's tensors by their names in the format."""
    middle = 2 ** (weight.bits - 1)

    def signed(codes: Tensor) -> Tensor:
        centred: Tensor = codes.to(torch.int16) - middle
        return centred.to(torch.int8)

    tensors = {
        "weight_packed": helpers.pack_to_int32(signed(weight.codes), weight.bits),
        "weight_scale": weight.scales,
        "weight_shape": torch.tensor(shape),
    }
    if weight.zero_points is not None:
        zero_points = helpers.pack_to_int32(signed(weight.zero_points), weight.bits, packed_dim=0)
        tensors["weight_zero_point"] = zero_points.contiguous()
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _config(job: AdapterJob, targets: dict[tuple[int, int, bool], list[str]]) -> dict[str, Any]:
    """Return ``quantization_config``: one group for each kind of integers."""
    quantization = _package("quantization")
    groups = {
        f"group_{number}": quantization.QuantizationScheme(
            targets=names,
            weights=quantization.QuantizationArgs(
                num_bits=bits, symmetric=symmetric, strategy="group", group_size=size
            ),
            format=_SCHEME,
        )
        for number, ((bits, size, symmetric), names) in enumerate(sorted(targets.items()))
    }
    quantized = {name for names in targets.values() for name in names}
    config = quantization.QuantizationConfig(
        config_groups=groups,
        format=_SCHEME,
        quantization_status="compressed",
        ignore=[name for name in _linear_layers(job) if name not in quantized],
    )
    result: dict[str, Any] = json.loads(config.model_dump_json())
    return result


def _linear_layers(job: AdapterJob) -> list[str]:
    """Return the module paths of all linear layers of the base model."""
    with torch.device("meta"):
        plain = type(job.module)(job.module.config)
    return [name for name, module in plain.named_modules() if isinstance(module, nn.Linear)]


def _package(module: str) -> Any:
    return optional_module(
        f"compressed_tensors.{module}", "compressed-tensors", f"--format {FORMAT}"
    )
