"""GPTQModel: GPTQ on a few texts, and its own export."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.recipe_tools.packed import gptq_layers, report

TEXTS = [" ".join(f"w{(7 * start + word) % 60}" for word in range(100)) for start in range(16)]


def main(model: str, recipe: str, out: str) -> None:
    """Quantize a model as a recipe says."""
    from gptqmodel import GPTQModel, QuantizeConfig

    fields = json.loads((Path(recipe) / "quantize_config.json").read_text())
    tool = GPTQModel.load(model, QuantizeConfig(**fields))
    tool.quantize(TEXTS, batch_size=1)
    tool.save(out)
    report(gptq_layers(Path(model), Path(out)))


if __name__ == "__main__":
    main(*sys.argv[1:])
