"""The export format ``ternary``: one safetensors file, and one JSON file that says what is in it.

torch and safetensors are imported where they are used, so that qsearch can ask for the class at
once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from qsearch.plugins.exporters import ExportJob

WEIGHTS, SETTINGS = "ternary.safetensors", "ternary.json"

_CARD = """\
# {model} with ternary weights

`qsearch_ternary.exporter.read_ternary("path/to/this/folder")` returns the model's weights as float
tensors by name, the {method} adapter in them.
"""


class TernaryExporter:
    """Writes codes and scales of each layer as they are, and its adapter next to them."""

    contract: ClassVar[int] = 2
    description = "codes and scales in one file, which qsearch_ternary reads"
    trainers = None
    quantizers = ("ternary",)
    weight_files = (".safetensors",)

    def write(self, job: ExportJob, directory: Path) -> None:
        """Write the files; see :func:`read_ternary`."""
        from safetensors.torch import save_file

        state, layers = job.state(), {}
        tensors: dict[str, Tensor] = {}
        factors = list(job.factors())
        for position, path in enumerate(job.paths):
            del state[f"{path}.weight"]
            quantized = job.quantized(position)
            layers[path] = {"shape": quantized.shape, **quantized.configuration}
            named = {**quantized.tensors}
            if factors:
                named["A"], named["B"] = factors[position]
            tensors |= {f"{path}.{name}": tensor for name, tensor in named.items()}
        aliases = _without_aliases(state, tensors)
        own = {f"{path}.{name}" for path in job.paths for name in ("codes", "scales")}
        stored = {
            name: tensor.to(job.storage.dtype)
            if tensor.is_floating_point() and name not in own
            else tensor
            for name, tensor in tensors.items()
        }
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in stored.items()}
        save_file(plain, directory / WEIGHTS)
        settings = {
            "format_version": 1,
            "model": job.model.name,
            "labels": job.labels,
            "layers": layers,
            "aliases": aliases,
        }
        (directory / SETTINGS).write_text(json.dumps(settings, indent=2), encoding="utf-8")
        card = _CARD.format(model=job.model.name, method=job.method)
        (directory / "README.md").write_text(card, encoding="utf-8")
        if hasattr(job.tokenizer, "save_pretrained"):
            job.tokenizer.save_pretrained(directory)


def _without_aliases(state: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, str]:
    """Add the tensors of a state to others; return the names of tied ones, with the first's."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    aliases = {}
    for name, tensor in state.items():
        known = first.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name)
        if known == name:
            tensors[name] = tensor
        else:
            aliases[name] = known
    return aliases


def read_ternary(directory: Path) -> dict[str, Tensor]:
    """Return a model's tensors by name, as ``load_state_dict`` takes them."""
    from safetensors.torch import load_file

    from qsearch.plugins.protocols import QuantizedTensor
    from qsearch.space.configuration import LayerConfiguration
    from qsearch_ternary.quantizer import Ternary

    quantizer = Ternary(Ternary.Options())
    settings: dict[str, Any] = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
    state = load_file(directory / WEIGHTS)
    for path, layer in settings["layers"].items():
        rows, columns = layer.pop("shape")
        named = {name: state.pop(f"{path}.{name}") for name in ("codes", "scales")}
        configuration = LayerConfiguration(layer)
        weight = quantizer.dequantize(QuantizedTensor(named, (rows, columns), configuration))
        if f"{path}.A" in state:
            A, B = (state.pop(f"{path}.{name}").float() for name in ("A", "B"))
            weight += B @ A
        state[f"{path}.weight"] = weight
    return state | {name: state[first] for name, first in settings["aliases"].items()}
