"""The ``compressed-tensors`` format: integers and 8-bit floats as vLLM reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from qsearch_quantizers.packed.checkpoints import Checkpoint, edit_config, plan_checkpoint
from torch import Tensor, nn

from qsearch.space.layers import HEAD
from qsearch_coalora.export.adapter import adapter_files, export_adapter
from qsearch_coalora.export.cards import write_card
from qsearch_coalora.export.compressed_tensors_config import (
    FORMAT,
    WeightScheme,
    engine_weight,
    package,
    planned_tensors,
    quantization_config,
    scheme_of,
    stored_tensors,
)
from qsearch_coalora.export.engines import (
    fused_layers,
    planned_weight,
    require_fused_alike,
    require_integers,
)
from qsearch_coalora.export.job import AdapterJob, auto_class
from qsearch_coalora.export.vllm import kernel_notes, problem, require_loadable
from qsearch_coalora.models.loading import quiet_transformers

_CARD = """\
# {model}, quantized for inference engines

The base model in the format compressed-tensors, with a scheme for each layer: {schemes}.{adapter}
transformers loads it where the package compressed-tensors is installed:

```python
{code}
```

(Not with `CompressedTensorsConfig(dequantize=True)`: transformers 5.24 then takes the scheme of one
layer for all.{converted})

It is the format that vLLM reads (`vllm serve path{lora}`). Layers that engines fuse are quantized
alike. Scales of integers are float16: `--dtype float16` keeps them, bfloat16 rounds them.
{kernels}"""

_ADAPTER = " The {method} adapter of that configuration is a PEFT adapter in the folder `adapter`."

_CONVERTED = (
    " Nor does it load zero points and embeddings of compressed-tensors 0.20 by itself: hence the"
    " conversion, by that package."
)
_CONVERTERS = "compressed_tensors.entrypoints.convert.converters"

ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class _Plan:
    """The base model's files, and the scheme of each layer."""

    checkpoint: Checkpoint
    schemes: tuple[WeightScheme, ...]


def compressed_tensors_files(job: AdapterJob) -> dict[str, int]:
    """Return the bytes of each file with weights by its path; see the export for errors."""
    files = _plan(job).checkpoint.file_bytes
    if job.has_adapter:
        files |= {f"{ADAPTER_FOLDER}/{name}": size for name, size in adapter_files(job).items()}
    return files


def _plan(job: AdapterJob) -> _Plan:
    require_integers(job.quantizer, FORMAT)
    job.require_own_weights()
    require_fused_alike(job, FORMAT)
    state, added, schemes = dict(job.state()), dict[str, Tensor](), []
    for layer, path in zip(job.layers, job.paths, strict=True):
        chosen = job.configuration[layer.name]
        weight = engine_weight(job.quantizer, planned_weight(job.quantizer, layer, chosen, FORMAT))
        schemes.append(scheme_of(weight))
        del state[f"{path}.weight"]
        added |= {f"{path}.{name}": tensor for name, tensor in planned_tensors(weight).items()}
    _require_loadable(job, schemes)
    checkpoint = plan_checkpoint(job.module, state, added, job.storage.dtype)
    return _Plan(checkpoint, tuple(schemes))


def _require_loadable(job: AdapterJob, schemes: list[WeightScheme]) -> None:
    fused = {name for names in fused_layers(job.layers) if len(names) > 1 for name in names}
    has_head = any(layer.role == HEAD for layer in job.layers)
    reasons = (
        problem(layer, scheme, layer.name in fused, has_head)
        for layer, scheme in zip(job.layers, schemes, strict=True)
    )
    require_loadable(
        ((path, reason) for path, reason in zip(job.paths, reasons, strict=True) if reason),
        "take another format, such as 'packed', or search without such choices",
    )


def export_compressed_tensors(job: AdapterJob, directory: Path) -> None:
    """Write the base model as its scheme says, and an adapter in a folder inside.

    Raises:
        InputError: If the quantizer's weights are neither integers nor 8-bit floating point, vLLM
            could not load or fuse a layer, or the package compressed-tensors is not installed.
    """
    plan = _plan(job)
    package("quantization")
    with quiet_transformers(), plan.checkpoint.writing(directory, job.tokenizer) as put:
        for position, path in enumerate(job.paths):
            weight = engine_weight(job.quantizer, job.quantized(position))
            for name, tensor in stored_tensors(weight).items():
                put(f"{path}.{name}", tensor)
    targets: defaultdict[WeightScheme, list[str]] = defaultdict(list)
    for path, scheme in zip(job.paths, plan.schemes, strict=True):
        targets[scheme].append(path)
    ignore = [name for name in _linear_layers(job) if name not in set(job.paths)]
    edit_config(directory, "quantization_config", quantization_config(targets, ignore))
    if job.has_adapter:
        (directory / ADAPTER_FOLDER).mkdir()
        export_adapter(job, directory / ADAPTER_FOLDER)
    _write_card(job, directory, plan.schemes)


def _write_card(job: AdapterJob, directory: Path, schemes: tuple[WeightScheme, ...]) -> None:
    notes = kernel_notes(zip(job.layers, schemes, strict=True))
    asymmetric = not all(scheme.symmetric for scheme in schemes)
    converted = asymmetric or any(layer.is_table for layer in job.layers)
    rank = max(job.ranks)
    lora = f" --enable-lora --lora-modules tuned=path/adapter --max-lora-rank {rank}"
    write_card(
        job,
        directory,
        _CARD,
        "transformers",
        schemes="; ".join(map(str, sorted(set(schemes)))),
        adapter=_ADAPTER.format(method=job.method) if job.has_adapter else "",
        code="\n".join(_code(job, converted)),
        converted=_CONVERTED if converted else "",
        lora=lora if job.has_adapter else "",
        kernels="\n".join(f"{note}." for note in notes),
    )


def _code(job: AdapterJob, converted: bool) -> Iterator[str]:
    """Yield lines that load an export, converted to floats or by transformers alone."""
    # Automatic classes take no tensors that are in memory.
    model_class = type(job.module).__name__ if converted else auto_class(job.module)
    has_adapter = job.has_adapter
    if converted:
        yield "from pathlib import Path"
        yield ""
        yield "import torch"
        yield f"from {_CONVERTERS} import CompressedTensorsDequantizer"
    if has_adapter:
        yield "from peft import PeftModel"
    if converted:
        yield "from safetensors.torch import load_file"
    yield f"from transformers import {'AutoConfig, ' if converted else ''}{model_class}"
    yield ""
    yield 'folder = "path/to/this/folder"'
    if converted:
        yield "config = AutoConfig.from_pretrained(folder)"
        yield "del config.quantization_config"
        yield 'files = map(load_file, Path(folder).glob("*.safetensors"))'
        yield "tensors = {name: tensor for file in files for name, tensor in file.items()}"
        yield "# Products with scales of 16 bits would have 16 bits."
        yield 'scales = {name: one.float() for name, one in tensors.items() if "_scale" in name}'
        yield "tensors |= scales"
        yield "floats = CompressedTensorsDequantizer(folder, dtype=torch.float32).process(tensors)"
        yield f"model = {model_class}.from_pretrained(None, config=config, state_dict=floats)"
    else:
        yield f"model = {model_class}.from_pretrained(folder)"
        if has_adapter:
            yield "model.hf_quantizer.compressor.decompress_model(model)  # PEFT needs floats"
    if has_adapter:
        yield f'model = PeftModel.from_pretrained(model, f"{{folder}}/{ADAPTER_FOLDER}")'


def _linear_layers(job: AdapterJob) -> list[str]:
    """Return the module paths of all linear layers of the base model."""
    with torch.device("meta"):
        plain = type(job.module)(job.module.config)
    return [name for name, module in plain.named_modules() if isinstance(module, nn.Linear)]
