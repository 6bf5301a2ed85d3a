"""Recipes of llm-compressor: its YAML, and reading it and the configuration of its exports.

Facts are those of llmcompressor 0.14.0.1 (``modifiers/quantization/quantization/mixin.py``) and of
compressed-tensors 0.20.1 (``utils/match.py``, ``quantization/quant_args.py``, ``quant_scheme.py``,
``compressors/pack_quantized/base.py``): 1 to 8 bits, zero points, groups that divide a row. A layer
that no target matches is left in float.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from qsearch.errors import InputError
from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.recipes import RecipeText
from qsearch.space.layers import LayerSpec
from qsearch.spec.yaml_text import dump_yaml
from qsearch_coalora.recipes.integers import IntegerRecipe, fields, flag, group_size, integer
from qsearch_coalora.recipes.layers import module_class
from qsearch_coalora.recipes.matching import matches_regex
from qsearch_coalora.recipes.schemes import IntegerScheme

FILE = "recipe.yaml"

_MODIFIERS = ("QuantizationModifier", "GPTQModifier", "AWQModifier", "AutoRoundModifier")
_PRESET = re.compile(r"W([2-8])A16(_ASYM)?", re.IGNORECASE)


class LLMCompressorRecipe(IntegerRecipe):
    """Writes ``recipe.yaml``."""

    name = "llm-compressor"
    package = "llmcompressor"
    version = "0.14.0.1"
    description = "the configuration as a recipe (YAML), by which llm-compressor quantizes"
    bits: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 6, 7, 8)
    asymmetric_bits: ClassVar[tuple[int, ...]] = bits
    card = """\
# {model}: a recipe for llm-compressor

`recipe.yaml` has a group of layers for each scheme: bits, group size and symmetry. Layers that it
does not name stay in float. It was written for {tool}:

```python
from llmcompressor import oneshot

oneshot(model="path/to/the/model", recipe="recipe.yaml", output_dir="path/to/write")
```

`QuantizationModifier` rounds to nearest, and needs no data. With `GPTQModifier` in its place, which
takes the same fields, give `oneshot` a dataset. vLLM's kernels are for 4 and 8 bits.
"""

    def files(
        self, layers: Mapping[str, IntegerScheme], floats: Sequence[str], job: ExportJob
    ) -> dict[str, str]:
        """Return ``recipe.yaml``."""
        targets: defaultdict[IntegerScheme, list[str]] = defaultdict(list)
        for path, scheme in layers.items():
            targets[scheme].append(path)
        groups = {
            f"group_{number}": {"targets": paths, "weights": _weights(scheme)}
            for number, (scheme, paths) in enumerate(targets.items())
        }
        modifiers = {_MODIFIERS[0]: {"config_groups": groups}}
        text = dump_yaml({"quant_stage": {"quant_modifiers": modifiers}})
        return {FILE: f"# Written by qsearch for {self.tool}.\n{text}"}

    def reads(self, recipe: RecipeText) -> bool:
        """Return whether it has a modifier that quantizes, or the config of an exported model."""
        return next(_configs(recipe.values), None) is not None

    def scheme(self, values: Any, path: str, layer: LayerSpec) -> IntegerScheme | None:
        """Return what it says of a layer: the last modifier, by the target that tells most of it.

        A layer's own name counts before a pattern, and that before a class; of patterns, the first
        by alphabet. Of groups with the same target the last one counts.
        """
        found = None
        for config in _configs(values):
            if any(_matches(target, path, layer) for target in _ignored(config)):
                continue
            weights = {target: own for targets, own in _groups(config) for target in targets}
            matching = [target for target in weights if _matches(target, path, layer)]
            if matching:
                best = weights[min(matching, key=lambda one: (one != path, "re:" not in one, one))]
                found = _scheme(best, path) if best else None
        return found


def _weights(scheme: IntegerScheme) -> dict[str, object]:
    weights: dict[str, object] = {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
    }
    if scheme.group_size is None:
        return {**weights, "strategy": "channel"}
    return {**weights, "strategy": "group", "group_size": scheme.group_size}


def _configs(values: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the sections that quantize, of recipes with stages and without, and of exports."""
    if not isinstance(values, dict):
        return
    config = values.get("quantization_config", values)
    if isinstance(config, dict) and config.get("quant_method") == "compressed-tensors":
        yield config
        return
    for name, section in values.items():
        if name in _MODIFIERS and isinstance(section, dict):
            yield section
        elif str(name).endswith(("_stage", "_modifiers")):
            yield from _configs(section)


def _groups(config: Mapping[str, Any]) -> Iterator[tuple[Sequence[str], Any]]:
    """Yield targets and weights of a section's groups."""
    for name, own in fields(config.get("config_groups") or {}, "config_groups").items():
        group = fields(own, f"config_groups.{name}")
        targets = _texts(group.get("targets", ()), f"config_groups.{name}.targets")
        yield targets, group.get("weights")
    scheme, targets = config.get("scheme"), _texts(config.get("targets", "Linear"), "targets")
    for preset, own in (scheme if isinstance(scheme, dict) else {scheme: targets}).items():
        if preset is None:
            continue
        match = _PRESET.fullmatch(str(preset))
        if match is None:
            raise InputError(
                f"scheme: {preset!r}; of llm-compressor's presets, those of integers can be read:"
                " W2A16 to W8A16, W4A16_ASYM"
            )
        weights = {"num_bits": int(match[1]), "symmetric": match[2] is None, "group_size": 128}
        yield _texts(own, "scheme"), weights


def _texts(value: Any, field: str) -> Sequence[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        raise InputError(f"{field}: must be a list of names, not {value!r}")
    return texts


def _ignored(config: Mapping[str, Any]) -> Sequence[str]:
    return _texts(config.get("ignore") or (), "ignore")


def _matches(target: str, path: str, layer: LayerSpec) -> bool:
    if target.startswith("re:"):
        return matches_regex(target.removeprefix("re:"), path, whole_start=True)
    return target in (path, module_class(layer))


def _scheme(weights: Any, path: str) -> IntegerScheme:
    weights = fields(weights, f"{path}: weights")
    if weights.get("type", "int") != "int":
        raise InputError(f"{path}: type: {weights['type']!r}; 'int' alone can be read")
    size = weights.get("group_size")
    strategy = weights.get("strategy", "tensor" if size is None else "group")
    if size is None and strategy != "channel":
        raise InputError(f"{path}: strategy: {strategy!r}; 'group' or 'channel' can be read")
    return IntegerScheme(
        integer(weights, "num_bits", path, 8),
        None if strategy == "channel" else group_size(size, path),
        flag(weights, "symmetric", path, True),
    )
