"""Recipes of GPTQModel: its quantization config with ``dynamic`` rules, and reading it.

Facts are those of GPTQModel 7.7.0: ``quantization/config.py`` (rules are regular expressions that
match from the start, the first that matches counts, negative ones before others),
``nn_modules/qlinear/torch.py`` (bits, group sizes), ``looper/gptq_processor.py`` (fields of a
rule), and its README on fused modules: a rule must match an engine's merged module and its shards.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.recipes import RecipeText
from qsearch.space.layers import FUSED_ROLES, HEAD, LayerSpec, tied_groups
from qsearch_coalora.recipes.integers import IntegerRecipe, fields, flag, group_size, integer
from qsearch_coalora.recipes.matching import matches_regex
from qsearch_coalora.recipes.schemes import IntegerScheme

FILE = "quantize_config.json"

_MERGED = {
    ("q_proj", "k_proj", "v_proj"): "qkv_proj",
    ("gate_proj", "up_proj"): "gate_up_proj",
}
"""What engines call the module that they merge layers into, by the layers' last names."""


class GPTQModelRecipe(IntegerRecipe):
    """Writes ``quantize_config.json``."""

    name = "gptqmodel"
    package = "gptqmodel"
    version = "7.7.0"
    description = "the configuration as a recipe (dynamic), by which GPTQModel quantizes"
    bits: ClassVar[tuple[int, ...]] = (2, 3, 4, 8)
    asymmetric_bits: ClassVar[tuple[int, ...]] = (2, 3, 4, 8)
    group_sizes: ClassVar[tuple[int, ...] | None] = (16, 32, 64, 128, 256, 512, 1024)
    multiple: ClassVar[int] = 32
    card = """\
# {model}: a recipe for GPTQModel

`quantize_config.json` has a rule for each layer, or for those that engines merge, in `dynamic`. It
was written for {tool}:

```python
import json

from gptqmodel import GPTQModel, QuantizeConfig

config = QuantizeConfig(**json.load(open("quantize_config.json")))
model = GPTQModel.load("path/to/the/model", config)
model.quantize(texts)  # A few hundred texts, for GPTQ's second moments.
model.save("path/to/write")
```
"""

    def files(
        self, layers: Mapping[str, IntegerScheme], floats: Sequence[str], job: ExportJob
    ) -> dict[str, str]:
        """Return ``quantize_config.json``; its base is the scheme that most layers have."""
        base = Counter(layers.values()).most_common(1)[0][0]
        heads = [p for p, one in zip(job.paths, job.layers, strict=True) if one.role == HEAD]
        rules: dict[str, dict[str, object]] = {f"-:^{re.escape(path)}$": {} for path in floats}
        for paths in _merged(job):
            rules[f"+:^{_pattern(paths)}$"] = _entry(layers[paths[0]])
        config = {
            **_entry(base),
            "desc_act": False,
            "lm_head": bool(heads),
            "dynamic": rules,
            "meta": {"written_by": "qsearch", "written_for": self.tool},
        }
        return {FILE: json.dumps(config, indent=1) + "\n"}

    def reads(self, recipe: RecipeText) -> bool:
        """Return whether it is a quantization config of GPTQ, or that of an exported model."""
        return isinstance(recipe.values, dict) and _config(recipe.values) is not None

    def scheme(self, values: Any, path: str, layer: LayerSpec) -> IntegerScheme | None:
        """Return what it says of a layer: the first rule that matches, or the base."""
        config = _config(values)
        assert config is not None, "it reads nothing else"
        rules = fields(config.get("dynamic") or {}, "dynamic")
        negative = [rule for rule in rules if str(rule).startswith("-:")]
        for rule in (*negative, *(rule for rule in rules if rule not in negative)):
            pattern = re.sub("^[-+]:", "", str(rule))
            if matches_regex(pattern, path, whole_start=True):
                if rule in negative:
                    return None
                return _scheme({**config, **fields(rules[rule], f"dynamic.{rule}")}, path)
        if layer.role == HEAD and not config.get("lm_head", False):
            return None
        return _scheme(config, path)


def _entry(scheme: IntegerScheme) -> dict[str, object]:
    entry: dict[str, object] = {"bits": scheme.bits, "sym": scheme.symmetric}
    if scheme.group_size is None:  # Its default orders groups by activations; one is refused.
        return {**entry, "group_size": -1, "act_group_aware": False}
    return {**entry, "group_size": scheme.group_size}


def _merged(job: ExportJob) -> list[list[str]]:
    """Return the paths of layers that engines merge, which are quantized alike, and of others."""
    groups = []
    for group in tied_groups(job.layers, FUSED_ROLES):
        paths = [job.paths[member] for member in group.members]
        names = tuple(path.rpartition(".")[2] for path in paths)
        groups += [paths] if names in _MERGED else [[path] for path in paths]
    return groups


def _pattern(paths: Sequence[str]) -> str:
    """Return a regular expression of paths, and of the module that engines merge them into."""
    if len(paths) == 1:
        return re.escape(paths[0])
    parent = paths[0].rpartition(".")[0]
    names = tuple(path.rpartition(".")[2] for path in paths)
    return rf"{re.escape(parent)}\.({'|'.join((*names, _MERGED[names]))})"


def _config(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    config = values.get("quantization_config", values)
    if not isinstance(config, dict) or "bits" not in config:
        return None
    method = config.get("quant_method", config.get("method"))
    return config if method == "gptq" or (method is None and "dynamic" in config) else None


def _scheme(one: Mapping[str, Any], path: str) -> IntegerScheme:
    return IntegerScheme(
        integer(one, "bits", path),
        group_size(integer(one, "group_size", path, 128), path),
        flag(one, "sym", path, True),
    )
