"""ModelOpt's auto_quantize: a linear program on gradient scores, or a threshold on KL."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.peer_tools.inputs import MODEL, Allocation, Inputs, read_inputs, write_allocations


def main(folder: Path, to: Path, method: str) -> None:
    """Write allocations: the scores of one search, solved for each size."""
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.quantization.algorithms import get_auto_quantize_config
    from transformers.models.auto import AutoModelForCausalLM

    inputs = read_inputs(folder)
    model = AutoModelForCausalLM.from_pretrained(folder / MODEL, dtype=torch.float32).eval()
    gradient = method == "gradient"
    tokens = torch.tensor(inputs.tokens if gradient else inputs.first_quarter)
    # Gradients are of single sequences. Of KL, each batch quantizes all weights again.
    at_once = 1 if gradient else len(tokens)
    batches = [{"input_ids": part} for part in torch.split(tokens, at_once)]

    def forward(model: Any, batch: Any) -> Any:
        if gradient:
            return model(**batch, labels=batch["input_ids"], use_cache=False)
        return model(**batch, use_cache=False).logits

    formats = [_format(inputs, bits) for bits in inputs.bits]
    paths = [name for name, module in model.named_modules() if name.endswith("_proj")]
    _, state = mtq.auto_quantize(
        model,
        constraints={
            "effective_bits": inputs.sizes[0],
            "cost_model": "weight",
            "cost": {"excluded_module_name_patterns": ["*lm_head*"]},
        },
        module_search_spaces=[
            {
                "module_name_patterns": paths,
                "quantization_formats": formats,
                "allow_no_quant": False,
            }
        ],
        quantization_formats=formats,
        disabled_layers="*lm_head*",
        data_loader=batches,
        forward_step=forward,
        loss_func=(lambda output, batch: output.loss) if gradient else None,
        num_calib_steps=1,  # Weights alone are quantized, whose scales need no text.
        num_score_steps=len(batches),
        method=method,
    )
    found = {}
    for size in inputs.sizes:
        config = get_auto_quantize_config(state, {"effective_bits": size})
        found[size] = _allocation(config["quant_cfg"])
        write_allocations(to, found)


def _format(inputs: Inputs, bits: int) -> dict[str, Any]:
    cfg = {"num_bits": bits, "block_sizes": {-1: inputs.group_size}}
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": cfg, "enable": True},
        ],
        "algorithm": "max",
        "effective_bits": bits + inputs.scale_bits,
    }


def _allocation(entries: list[dict[str, Any]]) -> Allocation:
    suffix = ".weight_quantizer"
    return {
        entry["quantizer_name"].removesuffix(suffix): int(entry["cfg"]["num_bits"])
        for entry in entries
        if entry["quantizer_name"].endswith(suffix) and entry.get("cfg")
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
