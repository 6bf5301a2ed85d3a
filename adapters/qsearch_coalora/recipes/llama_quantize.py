"""Recipes of llama.cpp's ``llama-quantize``: its file of tensor types, and reading it.

Facts are those of llama.cpp b11739 (``tools/quantize/quantize.cpp``, ``src/llama-quant.cpp``):
items ``pattern=type`` between spaces, patterns are regular expressions that match somewhere in the
name of a tensor, the first that matches counts, and none does where the type for the rest is a
float.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from qsearch.errors import InputError
from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.recipes import RecipeTarget, RecipeText
from qsearch.plugins.tensor_layout import SupportsGGMLTypes, SupportsIntegers
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.recipes.integers import NO_WEIGHTS, first_of
from qsearch_coalora.recipes.layers import float_weights, layer_paths
from qsearch_coalora.recipes.matching import matches_regex
from qsearch_coalora.recipes.schemes import choices_by_scheme, ggml_type

FILE = "tensor-types.txt"
TOOL = "llama.cpp b11739"

_FORMAT = "recipe:llama-quantize"
_ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3", "roberta": "bert"}
"""What GGUF calls an architecture, where transformers calls it otherwise."""

_OWN_NAMES = {"MXFP4": "MXFP4_MOE"}
"""What ``llama-quantize`` calls a type for the whole file, where it is called otherwise."""

_FLOAT_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_CARD = """\
# {model}: a recipe for llama-quantize

`tensor-types.txt` has the ggml type of each matrix. It was written for {tool}:

```
llama-quantize --tensor-type-file tensor-types.txt model-f16.gguf model.gguf {base}
```

`model-f16.gguf` is the model as llama.cpp's `convert_hf_to_gguf.py` writes it, or a GGUF file that
is not quantized. `{base}` is for what the file does not name. With an importance matrix
(`--imatrix`), which types IQ2 and IQ3_XXS need, most types have less error.
"""


class LlamaQuantizeRecipe:
    """Writes ``tensor-types.txt``."""

    description = "the configuration as a recipe (--tensor-type-file) of llama-quantize"
    trainers: ClassVar[tuple[str, ...] | None] = None
    quantizers: ClassVar[tuple[str, ...] | None] = None
    weight_files: ClassVar[tuple[str, ...]] = ()

    def require_quantizer(self, quantizer: Quantizer) -> None:
        """Check that some of its layer configurations can be types of ggml."""
        names = quantizer.choices().names
        if not isinstance(quantizer, SupportsGGMLTypes | SupportsIntegers):
            raise InputError(
                f"--format {_FORMAT}: ggml has no type for any layer of quantizer"
                f" {quantizer.name!r} (fields {', '.join(names)})"
            )

    def write(self, job: ExportJob, directory: Path) -> None:
        """Write the recipe and a card that says how to run it."""
        from qsearch_coalora.export.cards import write_card

        kinds = self._kinds(job)
        config = getattr(job.module, "config", None)
        names = _tensor_names(config, job.paths)
        dtype = _FLOAT_TYPES[str(job.storage.dtype).removeprefix("torch.")]
        types = {names[path]: kind for path, kind in kinds.items()}
        others = list(float_weights(job))
        for name in _tensor_names(config, others, required=False).values():
            types.setdefault(name, dtype)
        lines = [f"^{re.escape(name)}\\.weight$={kind}\n" for name, kind in types.items()]
        (directory / FILE).write_text("".join(lines), encoding="utf-8")
        base = Counter(kinds.values()).most_common(1)[0][0]
        base = _OWN_NAMES.get(base, base)
        write_card(job, directory, _CARD + NO_WEIGHTS, "gguf", tool=TOOL, base=base)

    def weight_bytes(self, job: ExportJob) -> dict[str, int]:
        """Return nothing, since a recipe has no weights; check that there are types."""
        self._kinds(job)
        return {}

    def _kinds(self, job: ExportJob) -> dict[str, str]:
        """Return each layer's type by module path; InputError names layers without one."""
        self.require_quantizer(job.quantizer)
        kinds, faults = {}, []
        for layer, path in zip(job.layers, job.paths, strict=True):
            chosen = job.configuration[layer.name]
            kind = ggml_type(job.quantizer, layer.shape, chosen)
            if kind is None:
                faults.append(f"{path}: {dict(chosen)}")
            kinds[path] = kind or ""
        _require_none(faults)
        return kinds

    def require_space(
        self, model: ModelSpec, quantizer: Quantizer, space: ConfigurationSpace
    ) -> list[str]:
        """Check that GGUF has names for layers, and types for all of their choices; no notes."""
        from qsearch_coalora.models.loading import headed_paths, load_config

        self.require_quantizer(quantizer)
        config, _ = load_config(model)
        _tensor_names(config, list(headed_paths(config, model, space.layers)[1].values()))
        faults = (
            f"{layer.name}: {dict(one)}"
            for layer, one in space.choices_of_layers()
            if ggml_type(quantizer, layer.shape, one) is None
        )
        _require_none(list(dict.fromkeys(faults)))
        return []

    def reads(self, recipe: RecipeText) -> bool:
        """Return whether it is items ``pattern=type``."""
        items = recipe.text.split()
        return bool(items) and all(re.fullmatch(r"[^=]+=[A-Za-z0-9_]+", item) for item in items)

    def read(self, recipe: RecipeText, target: RecipeTarget) -> dict[str, LayerConfiguration]:
        """Return the layer configurations of the layers that a recipe quantizes."""
        from qsearch_coalora.models.loading import load_config

        rules = [item.split("=", 1) for item in recipe.text.split()]
        paths = layer_paths(target, "")
        tensors = _tensor_names(load_config(target.model)[0], list(paths.values()))
        configuration = {}
        for layer in target.layers:
            tensor = f"{tensors[paths[layer.name]]}.weight"
            kinds = (kind for pattern, kind in rules if matches_regex(pattern.lower(), tensor))
            kind = next(kinds, None)
            if kind is None or kind.upper() in _FLOAT_TYPES.values():
                continue
            choices = choices_by_scheme(target.quantizer, layer.shape, ggml_type)
            if kind.upper() not in choices:
                allowed = ", ".join(choices) or "none of ggml's types"
                raise InputError(
                    f"{layer.name}: type {kind}: quantizer {target.quantizer.name!r} has {allowed}"
                )
            configuration[layer.name] = choices[kind.upper()]
        return configuration


def _require_none(faults: Sequence[str]) -> None:
    if faults:
        raise InputError(
            f"--format {_FORMAT}: ggml has no type of as many bits for {first_of(faults)}; of"
            " integers, it has symmetric ones of 4 and 8 bits in groups of 32 that divide a row"
        )


def _tensor_names(config: Any, paths: Sequence[str], required: bool = True) -> dict[str, str]:
    """Return what a GGUF file calls the tensors of modules, by path.

    Raises:
        InputError: If the architecture, or a module that is required, has no name in GGUF.
    """
    from qsearch_quantizers.libraries.optional import optional_module

    gguf = optional_module("gguf", "llm", _FORMAT)
    kind = getattr(config, "model_type", "")
    kind = _ARCHITECTURES.get(kind, kind)
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if kind not in numbers:
        raise InputError(
            f"{_FORMAT}: GGUF has no architecture for models of type {kind!r}, and so no names for"
            f" their layers, such as {paths[0]!r}"
        )
    mapping = gguf.get_tensor_name_map(numbers[kind], config.num_hidden_layers)
    names = {path: mapping.get_name(path, try_suffixes=(".weight",)) for path in paths}
    if required and (missing := [path for path, name in names.items() if name is None]):
        raise InputError(f"{_FORMAT}: GGUF has no name for the layer {missing[0]!r}")
    return {path: name for path, name in names.items() if name is not None}
