"""llama-quantize run by a recipe."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.llama_quantize import quantize, types_of
from benchmarks.recipe_tools.packed import report

BASE = "Q8_0"
"""The type of what a recipe does not name."""


def main(model: str, recipe: str, out: str) -> None:
    """Quantize the GGUF file of a model's folder as a recipe says; report types of tensors."""
    path = Path(out) / "model.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    types = types_file(Path(recipe) / "tensor-types.txt")
    quantize(Path(model) / "model.gguf", path, BASE, types=types)
    report(types_of(path))


def types_file(path: Path) -> dict[str, str]:
    """Return the types of a recipe by pattern."""
    return dict(item.split("=", 1) for item in path.read_text().split())


if __name__ == "__main__":
    main(*sys.argv[1:])
