"""ModelOpt: weights that are rounded as they are used; it counts the values that they take."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from benchmarks.recipe_tools.packed import report


def main(model: str, recipe: str, out: str) -> None:
    """Quantize a model as a recipe says; nothing is written."""
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.recipe import load_recipe
    from transformers.models.auto import AutoModelForCausalLM

    config = load_recipe(str(Path(recipe) / "recipe.yaml")).quantize.model_dump()
    quantized = mtq.quantize(AutoModelForCausalLM.from_pretrained(model), config)
    found = {}
    for path, module in quantized.named_modules():
        quantizer = getattr(module, "weight_quantizer", None)
        if quantizer is None or not quantizer.is_enabled:
            continue
        blocks = quantizer.block_sizes
        columns = module.weight.shape[1]
        size = None if blocks is None else blocks[-1]
        with torch.no_grad():
            groups = quantizer(module.weight).reshape(-1, size or columns)
        values = max(len(group.unique()) for group in groups)
        found[path] = {
            "bits": max(quantizer.num_bits, math.ceil(math.log2(values))),
            "group_size": None if size == columns else size,
            "symmetric": quantizer.bias is None,
        }
    report(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
