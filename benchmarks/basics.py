"""What the main job costs: training step, quantizing, memory, and scoring candidates.

Each figure stands beside a peer's in the same run, measured in turn, so that a slow moment of the
machine hits both; the ratio of medians is reported.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import bitsandbytes.functional
import numpy as np
import torch
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.models import ModelListGP, SingleTaskGP
from botorch.settings import validate_input_scaling
from botorch.utils.multi_objective.box_decompositions.non_dominated import (
    FastNondominatedPartitioning,
)
from peft import LoraConfig, get_peft_model
from qsearch_coalora.loop import TrainingLoop
from qsearch_coalora.options import CoALoRAOptions
from qsearch_coalora.trainer import CoALoRATrainer
from qsearch_quantizers.normal_float import NormalFloat, nf_codes

from benchmarks.recording import Benchmark
from qsearch.acquisition import log_expected_hypervolume_improvement
from qsearch.assembly import assemble
from qsearch.configuration import LayerConfiguration
from qsearch.features import score_features
from qsearch.layers import LayerSpec
from qsearch.pareto import front
from qsearch.plugins import ModelSpec
from qsearch.proxy import error_scores
from qsearch.space import Space
from qsearch.spec import load_spec
from qsearch.surrogate import fit_surrogate

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "studies" / "quickstart.yaml"


def alternate(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each call, all called in turn after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def training_step(benchmark: Benchmark) -> None:
    """Compare a CoA-LoRA step, with the configuration changed, to a plain PEFT LoRA step."""
    spec = load_spec(QUICKSTART)
    parts = assemble(spec)
    batch = 32
    generator = np.random.default_rng(0)
    sample = parts.space.sample(4, spec.search.average_bits, generator)
    configurations = [parts.space.decode(index) for index in sample]

    def trainer(per_step: int) -> CoALoRATrainer:
        options = CoALoRAOptions(
            rank=16,
            batch_size=batch,
            steps=1_000,
            warmup_steps=0,
            configurations_per_step=per_step,
        )
        return CoALoRATrainer(options, spec.model, parts.task, parts.quantizer, seed=0)

    plain = parts.task.load_model(ModelSpec(name=spec.model.name), seed=0)
    parts.task.prepare(plain.tokenizer)
    names = [layer.name.rpartition(".")[2] for layer in parts.space.layers]
    model = get_peft_model(
        plain.module,
        LoraConfig(
            r=16,
            lora_alpha=16,
            target_modules=[
                name
                for name, module in plain.module.named_modules()
                if isinstance(module, torch.nn.Linear)
                and name.endswith(tuple(names))
                and ".layer." in name
            ],
            modules_to_save=["classifier"],
        ),
    ).train()
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3
    )
    # The same examples for all: padding would otherwise decide the comparison.
    examples = next(iter(parts.task.batches("train", batch, torch.Generator().manual_seed(0))))
    parts.task.batches = lambda *_, **__: iter([examples])  # type: ignore[method-assign]
    inputs = {key: value for key, value in examples.items() if key != "labels"}

    def plain_step() -> None:
        scores = parts.task.score(model(**inputs).logits, examples)
        scores.losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def coalora_step(subject: CoALoRATrainer) -> Callable[[], None]:
        # Fill the cache; a study meets each layer configuration of its set many times.
        for configuration in configurations:
            subject.adapted.activate(configuration)
        plan = subject._plan(configurations, 0)
        loop = TrainingLoop(subject.adapted, subject.task, subject.options, plan)
        subject.adapted.peft_model.train()
        return loop._step

    times = alternate(
        {
            "plain": plain_step,
            "coa-lora": coalora_step(trainer(1)),
            "coa-lora, two configurations": coalora_step(trainer(2)),
        },
        repeats=30,
    )
    benchmark.row(measure="training step", **{f"{k} (s)": round(v, 4) for k, v in times.items()})
    benchmark.claim(
        "CoA-LoRA step with a changed configuration, warm cache, over a plain PEFT LoRA step",
        times["coa-lora"] / times["plain"],
        1.10,
        "lower",
    )
    benchmark.claim(
        "the same with the batch split between two configurations (the default)",
        times["coa-lora, two configurations"] / times["plain"],
        None,
        "lower",
    )


def quantizing(benchmark: Benchmark) -> None:
    """Compare normal float at 4 bits to bitsandbytes' NF4 on the CPU."""
    quantizer = NormalFloat(NormalFloat.Options())
    configuration = LayerConfiguration(
        {
            "bits": 4,
            "scale_bits": 8,
            "scale_dtype": "float32",
            "block_size": 64,
            "scale_block_size": 256,
        }
    )
    for shape in ((384, 1536), (4096, 4096)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02
        theirs = bitsandbytes.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
        ours = quantizer.quantize(weight, configuration)
        times = alternate(
            {
                "bitsandbytes quantize": lambda w=weight: bitsandbytes.functional.quantize_4bit(
                    w, blocksize=64, quant_type="nf4"
                ),
                "one-level quantize": lambda w=weight: nf_codes(w, 4, 64),
                "two-level quantize": lambda w=weight: quantizer.quantize(w, configuration),
                "bitsandbytes dequantize": lambda t=theirs: bitsandbytes.functional.dequantize_4bit(
                    *t
                ),
                "two-level dequantize": lambda q=ours: quantizer.dequantize(q),
            },
            repeats=9,
        )
        benchmark.row(
            measure="quantize",
            shape=f"{shape[0]}x{shape[1]}",
            **{f"{name} (ms)": round(1e3 * seconds, 2) for name, seconds in times.items()},
        )
        label = f"at {shape[0]}×{shape[1]}, 4 bits, CPU"
        benchmark.claim(
            f"two-level normal float quantize throughput over bitsandbytes NF4 {label}",
            times["bitsandbytes quantize"] / times["two-level quantize"],
            1.0,
            "higher",
        )
        benchmark.claim(
            f"one-level normal float quantize throughput over bitsandbytes NF4 {label}",
            times["bitsandbytes quantize"] / times["one-level quantize"],
            1.0,
            "higher",
        )
        benchmark.claim(
            f"two-level dequantize throughput over bitsandbytes NF4 {label}",
            times["bitsandbytes dequantize"] / times["two-level dequantize"],
            1.0,
            "higher",
        )


PLAIN_TRAINING = """
import sys
from pathlib import Path
import torch
from peft import LoraConfig, get_peft_model
from qsearch.assembly import assemble
from qsearch.spec import load_spec
spec = load_spec(Path(sys.argv[1]))
parts = assemble(spec)
loaded = parts.task.load_model(spec.model, 0)
parts.task.prepare(loaded.tokenizer)
names = tuple(layer.name for layer in parts.space.layers)
targets = [name for name, _ in loaded.module.named_modules() if name.endswith(names)]
config = LoraConfig(r=16, target_modules=targets, modules_to_save=list(loaded.head))
model = get_peft_model(loaded.module, config).train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
batches = parts.task.batches("train", 32, torch.Generator().manual_seed(0))
for batch, _ in zip(batches, range(20)):
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    parts.task.score(model(**inputs).logits, batch).losses.mean().backward()
    optimizer.step()
    optimizer.zero_grad()
model.eval()
with torch.no_grad():
    for batch in parts.task.batches("validation", 64):
        model(**{key: value for key, value in batch.items() if key != "labels"})
"""


def peak_memory(arguments: list[str]) -> float:
    """Run a command and return its peak resident memory, MiB."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            output.seek(0)
            raise RuntimeError(output.read().decode()[-2000:])
    return usage.ru_maxrss / 1024


def memory(benchmark: Benchmark) -> None:
    """Compare the peak memory of whole studies to that of one plain LoRA training."""
    plain = peak_memory([sys.executable, "-c", PLAIN_TRAINING, str(QUICKSTART)])
    benchmark.row(measure="peak memory", subject="plain PEFT LoRA training", MiB=round(plain))
    peaks = {}
    for configurations in (8, 64):
        with tempfile.TemporaryDirectory() as folder:
            peaks[configurations] = peak_memory(
                [
                    sys.executable, "-m", "qsearch.cli", "run", str(QUICKSTART),
                    "--out", f"{folder}/run",
                    "--set", "search.rounds=1",
                    "--set", f"search.initial={configurations}",
                    "--set", "search.candidates=2",
                    "--set", f"trainer.first_steps={configurations}",
                    "--set", "task.docstrings.validation_texts=16",
                ]
            )  # fmt: skip
        benchmark.row(
            measure="peak memory",
            subject=f"study of {configurations} configurations",
            MiB=round(peaks[configurations]),
        )
    benchmark.claim(
        "peak memory of a study of 64 configurations over plain PEFT LoRA training, MiniLM-L6",
        peaks[64] / plain,
        1.5,
        "lower",
    )
    benchmark.claim(
        "peak memory of a study of 64 configurations over one of 8",
        peaks[64] / peaks[8],
        1.25,
        "lower",
    )


def acquisition(benchmark: Benchmark, sizes: Sequence[int] = (36, 252, 360)) -> None:
    """Time the scoring of 10,000 neighbours, beside BoTorch's analytic EHVI on as many points."""
    quantizer = NormalFloat(NormalFloat.Options())
    choices = quantizer.choices()
    bits = tuple(quantizer.storage_bits(c) for c in choices.layer_configurations)
    relative = np.array([4.0 ** -c.integer("bits") for c in choices.layer_configurations])
    for layers in sizes:
        specs = tuple(LayerSpec(f"layer.{n}", "query", n, (64, 64)) for n in range(layers))
        space = Space(specs, choices, bits)
        generator = np.random.default_rng(0)
        sensitivity = generator.gamma(0.5, size=layers)
        evaluated = space.sample(100, (2.25, 7.25), generator)
        error = np.tile(relative, (layers, 1))
        loss = 0.3 + (relative[evaluated] * sensitivity).sum(axis=1) / layers
        features = score_features(space, error_scores(space, error))
        surrogate = fit_surrogate(features, evaluated, loss)
        points = np.column_stack([loss, space.average_bits(evaluated)])
        reference = (float(loss.max()) + 0.1, 7.25)
        neighbours = np.concatenate(
            [_moved(space, evaluated[row]) for row in range(1 + 10_000 // (5 * layers))]
        )[:10_000]
        current = torch.from_numpy(front(points))

        def ours(space=space, surrogate=surrogate, current=current, reference=reference,
                 neighbours=neighbours) -> object:  # fmt: skip
            mean, deviation = surrogate.predict(neighbours)
            known = torch.from_numpy(space.average_bits(neighbours))
            return log_expected_hypervolume_improvement(mean, deviation, known, current, reference)

        inputs = torch.from_numpy(evaluated).double()
        with validate_input_scaling(False):  # Choice indices, for which time is all that counts.
            bits_model = SingleTaskGP(
                inputs, torch.from_numpy(points[:, 1:]), outcome_transform=None
            )
        model = ModelListGP(surrogate.model, bits_model).eval()
        worst = torch.tensor([-reference[0], -reference[1]], dtype=torch.float64)
        peer = ExpectedHypervolumeImprovement(
            model, worst, FastNondominatedPartitioning(worst, -current)
        )
        queries = torch.from_numpy(neighbours).double()[:, None, :]

        def theirs(peer=peer, queries=queries) -> object:
            with torch.no_grad():
                return torch.cat([peer(part) for part in queries.split(256)])

        times = alternate({"qsearch": ours, "botorch": theirs}, repeats=1 if layers > 36 else 3)
        benchmark.row(
            measure="score 10,000 neighbours",
            layers=layers,
            **{f"{name} (s)": round(seconds, 3) for name, seconds in times.items()},
        )
        benchmark.claim(
            f"seconds to score 10,000 neighbours at {layers} layers over BoTorch's analytic EHVI",
            times["qsearch"] / times["botorch"],
            1.0,
            "lower",
        )


def _moved(space: Space, index: np.ndarray) -> np.ndarray:
    groups, moved = space.neighbours(index)
    rows = np.repeat(index[None], len(groups), axis=0)
    rows[np.arange(len(groups)), groups] = moved
    return rows


def main() -> None:
    """Run all and write ``results/basics.json``."""
    benchmark = Benchmark("basics")
    quantizing(benchmark)
    acquisition(benchmark)
    training_step(benchmark)
    memory(benchmark)
    benchmark.write()


if __name__ == "__main__":
    main()
