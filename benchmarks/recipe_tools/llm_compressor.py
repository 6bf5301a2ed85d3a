"""llm-compressor: rounding to nearest, saved as compressed tensors."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.recipe_tools.packed import features_of, report, tensors_of


def main(model: str, recipe: str, out: str) -> None:
    """Quantize a model as a recipe says."""
    from llmcompressor import oneshot

    oneshot(model=model, recipe=str(Path(recipe) / "recipe.yaml"), output_dir=out)
    tensors, found = tensors_of(Path(out)), {}
    for path, (_, columns) in features_of(Path(model)).items():
        words = tensors.get(f"{path}.weight_packed")
        if words is None:
            continue
        groups = tensors[f"{path}.weight_scale"].shape[1]
        found[path] = {
            "bits": 32 * words.shape[1] // columns,
            "group_size": None if groups == 1 else columns // groups,
            "symmetric": f"{path}.weight_zero_point" not in tensors,
        }
    report(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
