"""Recipes of NVIDIA's ModelOpt: a PTQ recipe with its ``quant_cfg``, and reading it.

Facts are those of nvidia-modelopt 0.47.0 (``recipe/config.py``, ``torch/quantization/config.py``):
entries name quantizers by shell patterns, some of one class of modules alone, later ones override
earlier ones, and integers are symmetric. Its export to engines (``torch/export/quant_utils.py``)
knows 4 bits in groups, and 8.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from qsearch.errors import InputError
from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.recipes import RecipeText
from qsearch.space.layers import LayerSpec
from qsearch.spec.yaml_text import dump_yaml
from qsearch_coalora.recipes.integers import IntegerRecipe, group_size, integer
from qsearch_coalora.recipes.layers import module_class
from qsearch_coalora.recipes.schemes import IntegerScheme

FILE = "recipe.yaml"


class ModelOptRecipe(IntegerRecipe):
    """Writes ``recipe.yaml``."""

    name = "modelopt"
    package = "nvidia-modelopt"
    version = "0.47.0"
    description = "the configuration as a recipe (quant_cfg), by which ModelOpt quantizes"
    bits: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 7, 8)
    asymmetric_bits: ClassVar[tuple[int, ...]] = ()
    card = """\
# {model}: a recipe for ModelOpt

`recipe.yaml` enables the weight quantizer of each layer, with its bits and block size. Layers that
it does not name stay in float. It was written for {tool}:

```python
import modelopt.torch.quantization as mtq
from modelopt.recipe import load_recipe

config = load_recipe("recipe.yaml").quantize.model_dump()
model = mtq.quantize(model, config)  # A model of transformers.
```

Its export to engines knows 4 bits in groups, and 8 bits.
"""

    def files(
        self, layers: Mapping[str, IntegerScheme], floats: Sequence[str], job: ExportJob
    ) -> dict[str, str]:
        """Return ``recipe.yaml``."""
        entries: list[dict[str, object]] = [{"quantizer_name": "*", "enable": False}]
        for path, scheme in layers.items():
            entries.append({"quantizer_name": f"{path}.weight_quantizer", "cfg": _cfg(scheme)})
        description = f"Written by qsearch for {self.tool}."
        recipe = {
            "metadata": {"recipe_type": "ptq", "description": description},
            "quantize": {"algorithm": "max", "quant_cfg": entries},
        }
        return {FILE: dump_yaml(recipe)}

    def reads(self, recipe: RecipeText) -> bool:
        """Return whether it has a ``quant_cfg``, as a PTQ recipe or alone."""
        return isinstance(recipe.values, dict) and _entries(recipe.values) is not None

    def scheme(self, values: Any, path: str, layer: LayerSpec) -> IntegerScheme | None:
        """Return what it says of a layer: its entries in order, later ones over earlier ones."""
        entries, cfg, is_enabled = _entries(values), None, False
        for number, entry in enumerate(entries or ()):
            if not isinstance(entry, dict) or not isinstance(entry.get("quantizer_name"), str):
                raise InputError(f"quant_cfg.{number}: must have a quantizer_name, not {entry!r}")
            if entry.get("parent_class") not in (None, f"nn.{module_class(layer)}"):
                continue
            if fnmatch.fnmatchcase(f"{path}.weight_quantizer", entry["quantizer_name"]):
                cfg = entry.get("cfg", cfg)
                is_enabled = entry.get("enable", True) is not False
        return _scheme(cfg, path) if is_enabled and cfg is not None else None


def _cfg(scheme: IntegerScheme) -> dict[str, object]:
    if scheme.group_size is None:
        return {"num_bits": scheme.bits, "axis": 0}
    return {"num_bits": scheme.bits, "block_sizes": {-1: scheme.group_size}}


def _entries(values: Mapping[str, Any]) -> Sequence[Any] | None:
    section = values.get("quantize", values)
    entries = section.get("quant_cfg") if isinstance(section, dict) else None
    return entries if isinstance(entries, list) else None


def _scheme(cfg: Any, path: str) -> IntegerScheme:
    if not isinstance(cfg, dict):
        raise InputError(f"{path}: cfg: must be a mapping of one quantizer's fields, not {cfg!r}")
    blocks = cfg.get("block_sizes")
    if blocks is None:
        if cfg.get("axis") not in (0, (0,)):
            raise InputError(f"{path}: axis: {cfg.get('axis')!r}; 0, one scale a row, can be read")
        return IntegerScheme(integer(cfg, "num_bits", path), None, symmetric=True)
    if not isinstance(blocks, dict) or "scale_bits" in blocks:
        raise InputError(f"{path}: block_sizes: {blocks!r}; {{-1: SIZE}} alone can be read")
    size = group_size(blocks.get(-1, blocks.get("-1")), path)
    return IntegerScheme(integer(cfg, "num_bits", path), size, symmetric=True)
