"""The ``adapter`` format: a plain PEFT adapter of one configuration."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsearch_quantizers.packed.adapter_owner import owner_digest, owner_mark
from qsearch_quantizers.packed.layers import QUANT_METHOD
from qsearch_quantizers.packed.stored_types import as_stored, plan_of
from qsearch_quantizers.packed.tensor_files import Plan, file_bytes, tensor_files

from qsearch.deployment.exporting import FACTS_FILE
from qsearch.deployment.model_card import as_code
from qsearch.errors import InputError
from qsearch.plugins.quantizer_capabilities import needs_inputs
from qsearch.storage.bounded_reading import MAX_STATE, read_text
from qsearch.storage.files import write_json
from qsearch_coalora.adapter.lora import ADAPTER
from qsearch_coalora.export.cards import write_card
from qsearch_coalora.export.job import (
    CLASSIFIER,
    AdapterJob,
    adapter_ranks,
    adapter_state,
    auto_class,
    folded_adapter,
    layer_configurations,
    packable,
)
from qsearch_coalora.models.source import ModelSource, locate_model

if TYPE_CHECKING:
    from torch import Tensor

_CARD = """\
# {method} adapter for {model}

A plain PEFT LoRA adapter (rank {rank}) for the base model quantized as `configuration.json` says,
layer by layer.{folded}

```python
from peft import PeftModel

model = PeftModel.from_pretrained(quantized_base_model, "path/to/this/folder")
```

`AutoPeftModelFor{kind}.from_pretrained("path/to/this/folder"{arguments})` takes the base that
`adapter_config.json` names: {base}. Change `base_model_name_or_path` there when you move it.

`quantized_base_model` holds the weights of that configuration: packed (the export format
`packed-base`) or dequantized, as float. {weights}The adapter also corrects what these weights
lost, so it is less exact on weights that are quantized otherwise: packed ones of another
configuration refuse it, and so does the format `packed`, which has its adapter in it.

Merging: into the dequantized float weights it is exact (`model.merge_and_unload()`; the export
format `merged` is that). Into the original weights, left in float, it also corrects errors that
they do not have: that costs little, but at few bits it can leave them worse than without it. Do not
quantize a merged model to these bits again: of dequantized weights with the adapter in them, most
of it is rounded away; of original ones, it corrects other errors than those of the new
rounding. Measurements are in docs/benchmarks.md of qsearch.
"""

_FOLDED = " The adjustment U of this configuration is folded into the `lora_A` weights."

_FLOAT_BASE = "{base}, the float model, whose weights this adapter was not made for"
_PACKED_BASE = "{base}, the packed weights of this configuration"

_QUANTIZED_BY_BITSANDBYTES = """
These layers were quantized by bitsandbytes (`nf4`, double quantization): {layers}.
"""

_CALIBRATED = "They were rounded by the inputs of the study's texts, so take `packed-base`. "


ADAPTER_FILE = "adapter_model.safetensors"


def adapter_files(job: AdapterJob) -> dict[str, int]:
    """Return the bytes of the adapter's file by its name."""
    return {ADAPTER_FILE: file_bytes(_plan(job))}


def _require_adapter(job: AdapterJob) -> None:
    if not job.has_adapter:
        raise InputError("--format adapter: the layers of this configuration have no adapter")


def _plan(job: AdapterJob) -> Plan:
    _require_adapter(job)
    return plan_of(_state(job), job.storage.dtype)


def _state(job: AdapterJob) -> dict[str, Tensor]:
    """Return the adapter's tensors: of the configuration, and next to them those of the head."""
    of_all = {name: one for name, one in adapter_state(job).items() if ".lora_" not in name}
    return of_all | dict(folded_adapter(job))


def export_adapter(job: AdapterJob, directory: Path) -> None:
    """Write a plain PEFT adapter, its configuration and a model card."""
    _require_adapter(job)
    adapted = job.adapted
    config = copy.copy(adapted.peft_model.peft_config[ADAPTER])
    config.inference_mode = True
    source, mark = locate_model(job.model), _owner(job)
    packed_base = None if mark is None else _packed_base_next_to(directory, mark, job)
    # A path as it is in the study may say nothing elsewhere, such as one inside a package.
    named = Path(source.path).resolve() if source.is_local else source.path
    config.base_model_name_or_path = str(named if packed_base is None else packed_base)
    config.revision = source.revision if packed_base is None else None
    # PEFT has added the usual names of heads to it, which it does again when it loads.
    config.modules_to_save = list(adapted.head_names) or None
    config.auto_mapping = mark
    config.target_modules = sorted(config.target_modules)  # A set has another order each time.
    if not job.one_rank:
        ranks = {path: rank for path, rank in adapter_ranks(job).items() if rank}
        config.target_modules = sorted(ranks)
        config.r = config.lora_alpha = max(ranks.values())
        # B holds the scaling, so each alpha is the rank, and readers of r alone get it right too.
        config.rank_pattern = config.alpha_pattern = ranks
    config.save_pretrained(str(directory))
    with tensor_files(directory, {ADAPTER_FILE: _plan(job)}) as put:
        for name, tensor in _state(job).items():
            put(name, as_stored(name, tensor, job.storage.dtype))
    readable = {name: dict(layer) for name, layer in job.configuration.items()}
    write_json(directory / "configuration.json", readable)
    folded = "" if adapted.theta is None else _FOLDED
    weights = _CALIBRATED if needs_inputs(job.quantizer) else ""
    rank = max(job.ranks)
    write_card(
        job,
        directory,
        _CARD,
        "peft",
        rank=rank,
        folded=folded,
        weights=weights,
        kind=auto_class(job.module).removeprefix("AutoModelFor"),
        arguments=_arguments(job, source) if packed_base is None else "",
        base=(_FLOAT_BASE if packed_base is None else _PACKED_BASE).format(
            base=as_code(config.base_model_name_or_path)
        ),
    )
    if job.foreign:
        with (directory / "README.md").open("a", encoding="utf-8") as card:
            card.write(_QUANTIZED_BY_BITSANDBYTES.format(layers=", ".join(job.foreign)))


def _arguments(job: AdapterJob, source: ModelSource) -> str:
    """Return what `from_pretrained` needs to load the float base, as Python writes it."""
    arguments = "" if source.gguf_file is None else f", gguf_file={source.gguf_file!r}"
    if auto_class(job.module) == CLASSIFIER:
        arguments += f", num_labels={job.module.config.num_labels}"
    return arguments


def _packed_base_next_to(directory: Path, mark: dict[str, Any], job: AdapterJob) -> Path | None:
    """Return the folder next to an export that holds this adapter's packed base, if there is one.

    Packed weights that hold an adapter already are not one.
    """
    prefix = job.module.base_model_prefix
    for path in sorted(directory.resolve().parent.glob("[!.]*/config.json")):
        try:
            packed = _json_of(path)["quantization_config"]
            if packed["quant_method"] != QUANT_METHOD or packed["adapter_rank"]:
                continue
            options, layers = packed["quantizer_options"], packed["layers"]
            digest = owner_digest(packed["quantizer"], options, layers, prefix)
            model = _json_of(path.with_name(FACTS_FILE))["model"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # Not an export of ours.
        # The digest says nothing about the model, and another may have equal layers.
        if owner_mark(digest) == mark and model == job.model.name:
            return path.parent
    return None


def _json_of(path: Path) -> Any:
    return json.loads(read_text(path, MAX_STATE))


def _owner(job: AdapterJob) -> dict[str, Any] | None:
    """Return what ties the adapter to its packed weights; None where they cannot be packed."""
    try:
        quantizer, options = packable(job.quantizer, "packed-base")
    except InputError:
        return None
    layers, prefix = layer_configurations(job), job.module.base_model_prefix
    return owner_mark(owner_digest(quantizer.name, options, layers, prefix))
