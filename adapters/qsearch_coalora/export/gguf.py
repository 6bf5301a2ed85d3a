"""The ``gguf`` format: a model that came from a GGUF file, with integer weights, for llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from qsearch_quantizers.integer.ggml_blocks import ggml_blocks, ggml_type
from qsearch_quantizers.libraries.optional import optional_module
from torch import Tensor

from qsearch.errors import InputError
from qsearch_coalora.export.cards import write_card
from qsearch_coalora.export.engines import require_integers
from qsearch_coalora.export.job import AdapterJob, auto_class
from qsearch_coalora.models.loading import CAUSAL
from qsearch_coalora.models.source import locate_model

FORMAT = "gguf"
MODEL_FILE, ADAPTER_FILE = "model.gguf", "adapter.gguf"

_NOT_COPIED = ("general.architecture", "general.file_type")
"""Fields that the writer sets itself, or that are not true of mixed types."""

_CARD = """\
# {model} as GGUF

`model.gguf` is {model} with the weights of this configuration as ggml's types {types}, exactly:
what llama.cpp dequantizes is what the study evaluated. Other tensors are those of the original
file. Where a group of the configuration is more than one block of 32 weights, its scale is
repeated: the file holds {stored:.4f} bits a weight.

{tables}`adapter.gguf` is the {method} adapter of this configuration:

```
llama-cli --model model.gguf --lora adapter.gguf --prompt "…"
```
"""


_TABLES = """\
The token embedding (`token_embd.weight`) is quantized too, and so is the output head
(`output.weight`) where it has a weight of its own.

"""


def export_gguf(job: AdapterJob, directory: Path) -> None:
    """Write the model and the adapter as GGUF files.

    Raises:
        InputError: If the model is not a causal one or not from a GGUF file, the weights are no
            integers that GGUF has a type for, or how the file orders a layer's rows is not known.
    """
    quantizer = require_integers(job.quantizer, FORMAT)
    gguf = optional_module("gguf", "llm", f"--format {FORMAT}")
    if auto_class(job.module) != CAUSAL:
        raise InputError(
            f"--format {FORMAT} is for causal language models; this study's is a"
            f" {type(job.module).__name__}, whose head the file would lack"
        )
    source = locate_model(job.model)
    if source.gguf_file is None:
        raise InputError(
            f"--format {FORMAT}: model {job.model.name!r} is not from a GGUF file, whose metadata"
            " and tokenizer this format keeps; make one with llama.cpp's convert_hf_to_gguf.py"
            " and search on it"
        )
    reader = gguf.GGUFReader(Path(source.path) / source.gguf_file)
    architecture = reader.fields["general.architecture"].contents()
    names = _tensor_names(gguf, reader, architecture, job)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    replaced: dict[str, tuple[npt.NDArray[np.uint8], Any]] = {}
    orders: list[Tensor] = []
    for position, layer in enumerate(job.adapted.layers):
        quantized = job.quantized(position)
        weight = quantizer.as_integers(quantized)
        kind = ggml_type(weight)
        if kind is None:
            raise InputError(
                f"--format {FORMAT}: GGUF has no type that holds layer {layer.name!r} exactly:"
                f" {dict(quantized.configuration)}; it has symmetric integers of 4 and 8 bits in"
                " groups of a multiple of 32 that divide a row"
            )
        tensor = tensors[names[position]]
        order = _row_order(gguf, tensor, job.adapted.weights.originals[position], layer.name, job)
        orders.append(order)
        blocks = ggml_blocks(weight)[order].contiguous().numpy()
        replaced[tensor.name] = (blocks, gguf.GGMLQuantizationType[kind])
    _write_model(gguf, reader, architecture, replaced, directory / MODEL_FILE)
    if job.has_adapter:
        _write_adapter(gguf, job, architecture, names, orders, directory / ADAPTER_FILE)
    weights = sum(layer.parameters for layer in job.adapted.layers)
    stored = 8 * sum(blocks.nbytes for blocks, _ in replaced.values()) / weights
    types = ", ".join(sorted({kind.name for _, kind in replaced.values()}))
    tables = _TABLES if job.adapted.tables else ""
    write_card(job, directory, _CARD, "gguf", types=types, stored=stored, tables=tables)


def _tensor_names(gguf: Any, reader: Any, architecture: str, job: AdapterJob) -> list[str]:
    """Return the name that each layer's weight has in the file, in layer order."""
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    blocks = int(reader.fields[f"{architecture}.block_count"].contents())
    mapping = gguf.get_tensor_name_map(numbers[architecture], blocks)
    known = {tensor.name for tensor in reader.tensors}
    names = []
    for name in job.paths:
        found = mapping.get_name(f"{name}.weight", try_suffixes=(".weight",))
        if found not in known:
            raise InputError(f"--format {FORMAT}: the file has no tensor of layer {name!r}")
        names.append(found)
    return names


def _row_order(gguf: Any, tensor: Any, original: Tensor, name: str, job: AdapterJob) -> Tensor:
    """Return the layer's row that stands in each row of the file's tensor.

    Files of Llama's kind hold the rows of query and key in the order of another rotary embedding:
    the first and the second half of each head take turns.
    """
    stored = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).to(original)
    rows = torch.arange(len(original))
    config = job.module.config
    heads = {config.num_attention_heads, getattr(config, "num_key_value_heads", None)} - {None}
    whole = [count for count in sorted(heads) if len(rows) % (2 * count) == 0]
    turns = [rows.view(count, 2, -1).transpose(1, 2).reshape(-1) for count in whole]
    for order in (rows, *turns):
        if torch.equal(original[order.to(original.device)], stored):
            return order
    raise InputError(
        f"--format {FORMAT}: the model's layer {name!r} is not the file's {tensor.name!r}, nor its"
        " rows in another known order"
    )


def _write_model(
    gguf: Any, reader: Any, architecture: str, replaced: dict[str, Any], path: Path
) -> None:
    """Write a copy of a file with some tensors replaced."""
    writer = gguf.GGUFWriter(path, architecture)
    for field in reader.fields.values():
        if field.name in _NOT_COPIED or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        data, kind = replaced.get(tensor.name, (tensor.data, tensor.tensor_type))
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    _finish(writer)


def _write_adapter(
    gguf: Any,
    job: AdapterJob,
    architecture: str,
    names: list[str],
    orders: list[Tensor],
    path: Path,
) -> None:
    """Write the adapter; its alpha is its rank, since B holds the scaling."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(job.adapted.options.rank))
    for name, order, (A, B) in zip(names, orders, job.factors(), strict=True):
        if not len(A):
            continue
        writer.add_tensor(f"{name}.lora_a", A.cpu().contiguous().numpy())
        writer.add_tensor(f"{name}.lora_b", B.cpu()[order].contiguous().numpy())
    _finish(writer)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
