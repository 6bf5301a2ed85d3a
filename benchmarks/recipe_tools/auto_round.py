"""AutoRound: rounding to nearest, and its own export."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.recipe_tools.packed import gptq_layers, report


def main(model: str, recipe: str, out: str) -> None:
    """Quantize a model as a recipe says."""
    from auto_round import AutoRound

    layer_config = json.loads((Path(recipe) / "layer_config.json").read_text())
    tool = AutoRound(
        model,
        layer_config=layer_config,
        iters=0,
        disable_opt_rtn=True,
        disable_model_free=True,
        device_map="cpu",
        enable_torch_compile=False,
    )
    tool.quantize_and_save(out, format="auto_round")
    report(gptq_layers(Path(model), Path(out)))


if __name__ == "__main__":
    main(*sys.argv[1:])
