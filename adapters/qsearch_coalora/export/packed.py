"""The ``packed`` and ``packed-base`` formats: packed weights, with the adapter or without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qsearch_quantizers.packed.writing import PackedExport, QuantizedLayer
from torch import Tensor

from qsearch._distribution import DISTRIBUTION, install_extra
from qsearch.plugins.exporters import ExportJob
from qsearch_coalora.export.cards import write_card
from qsearch_coalora.export.job import (
    adapter_ranks,
    layer_configurations,
    packable,
    require_own_weights,
    transformers_module,
)
from qsearch_coalora.models.loading import quiet_transformers

_CARD = """\
# {model}, packed by qsearch

The base model with its weights packed as `config.json` says, layer by layer, {adapter}.
With qsearch installed (`{install}`), transformers loads it:

```python
import qsearch_quantizers  # makes transformers know the format
from transformers import AutoTokenizer, {auto_class}

model = {auto_class}.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

Weights stay packed in memory and are dequantized by block as they are used. On a CPU with a C
compiler, `qsearch_quantizers.use_compiled_product(model)` makes the model generate faster.
"""

_DECODED_BY_LIBRARIES = ("bitsandbytes", "gguf")
"""Quantizers whose weights are dequantized by the package of an extra."""

_WITH = "and the {method} adapter of that configuration next to them"
_WITHOUT = (
    "without an adapter: that of the same configuration, from the format `adapter`, is put on top"
    " by PEFT. Without it the model does worse than the values below"
)


def export_packed(job: ExportJob, directory: Path) -> None:
    """Write the packed base model with the adapter of its configuration."""
    _write(job, directory, "packed", job.has_adapter)


def export_packed_base(job: ExportJob, directory: Path) -> None:
    """Write the packed base model, for adapters that PEFT loads on top."""
    _write(job, directory, "packed-base", with_adapter=False)


def plan_packed(job: ExportJob, format: str, with_adapter: bool) -> PackedExport:
    """Return a packed export, whose layers are not quantized yet."""
    quantizer, options = packable(job.quantizer, format)
    require_own_weights(job)
    return PackedExport(
        transformers_module(job, format),
        job.state(),
        quantizer,
        options,
        layer_configurations(job),
        _rank(job) if with_adapter else 0,
        job.storage.dtype,
        job.storage.adapter_bits,
    )


def _rank(job: ExportJob) -> int | dict[str, int]:
    """Return the rank of all layers that have an adapter, or those of each where they differ."""
    ranks = adapter_ranks(job)
    of_layers = {
        ranks[path] for path, layer in zip(job.paths, job.layers, strict=True) if not layer.is_table
    }
    return of_layers.pop() if len(of_layers) == 1 else ranks


def _write(job: ExportJob, directory: Path, format: str, with_adapter: bool) -> None:
    export = plan_packed(job, format, with_adapter)

    def layers() -> Iterator[QuantizedLayer]:
        factors: Iterator[tuple[Tensor, ...]] = job.factors() if with_adapter else iter(())
        for position, path in enumerate(job.paths):
            yield QuantizedLayer(path, job.quantized(position), *next(factors, ()))

    with quiet_transformers():
        export.write(layers(), directory, job.tokenizer)
    adapter = _WITH.format(method=job.method) if with_adapter else _WITHOUT
    name = job.quantizer.name
    own = name in _DECODED_BY_LIBRARIES
    install = install_extra(name) if own else f"pip install {DISTRIBUTION}"
    write_card(job, directory, _CARD, "transformers", adapter=adapter, install=install)
