"""qsearch's files next to llama.cpp's presets of the same size, measured in llama.cpp.

For each model, llama.cpp quantizes the unquantized file by each preset, with the importance matrix
of the study's calibration text. One study then searches ggml's types with the presets' sizes as
budgets. Of each preset, the best configuration whose file is not larger is exported. All files are
loaded by llama.cpp, and compared with the unquantized model on test text that no search saw. What
is finished stays under ``runs/engines``, so a benchmark that was killed continues.

    python -m benchmarks.engines [--recorded] [smollm2 gemma3]
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from gguf import GGUFReader
from qsearch_coalora.export.formats import GGUFExporter
from qsearch_coalora.export.gguf_original import gguf_names
from qsearch_coalora.llama_cpp.evaluating import EngineFiles, evaluate_files, written
from qsearch_coalora.llama_cpp.timing import file_speed
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.models.source import locate_model

from benchmarks.llama_quantize import quantize
from benchmarks.objectives import DATA, ROOT
from benchmarks.paper_text import environment, prepare_text
from benchmarks.recording import COMMIT, Benchmark, fill_table, machine, parts_to_measure
from qsearch.claims.paired_difference import paired_difference
from qsearch.deployment.selection import best_among
from qsearch.deployment.study_trainer import load_last_state, study_components
from qsearch.plugins.components import build_components
from qsearch.plugins.engines import EngineSpeed
from qsearch.space.configuration import Configuration
from qsearch.spec.study_spec import StudySpec, load_spec
from qsearch.storage.clock import Clock
from qsearch.storage.files import write_json
from qsearch.storage.study_record import StudyRecord, read_study, row_configuration
from qsearch.study.run import run_spec

DOCS = ROOT / "docs" / "benchmarks.md"

SMALL_BITS, SMALL_TARGET, LARGE_TARGET = 4.5, 0.75, 0.9
"""Bits of a file per weight up to which the first target holds, and both targets: of the KL of our
file over that of the preset's."""

PRESETS = (
    *("Q2_K", "IQ3_XXS", "Q3_K_S", "IQ3_S", "IQ3_M", "Q3_K_M", "Q3_K_L", "IQ4_XS"),
    *("Q4_0", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K"),
)


@dataclass(frozen=True)
class Model:
    """A model to compare on."""

    title: str
    study: Path


_PLANS = Path(__file__).parent / "plans" / "engines"

MODELS = {
    "smollm2": Model("SmolLM2-135M", _PLANS / "smollm2.yaml"),
    "gemma3": Model("Gemma 3 270M", _PLANS / "gemma3.yaml"),
}


@dataclass(frozen=True)
class Measured:
    """A file in llama.cpp, on test text: means over tokens, and KL by sequence."""

    nbytes: int
    bits: float
    kl: float
    same_top: float
    perplexity: float
    sequences: tuple[float, ...]
    speed: EngineSpeed


def main() -> None:
    """Measure what is missing; write the result file and the documentation's table."""
    parts = parts_to_measure(__doc__, MODELS)
    for name in parts:
        measure(name, MODELS[name])
    benchmark, texts = Benchmark("engines"), []
    for name, model in MODELS.items():
        path = _record(name)
        if path.is_file():
            texts += report(benchmark, model.title, json.loads(path.read_text(encoding="utf-8")))
    fill_table(DOCS, benchmark.name, ["", *texts])
    benchmark.write()


def _record(name: str) -> Path:
    return DATA / "engines" / f"{name}.json"


# Reporting


def report(benchmark: Benchmark, title: str, record: Mapping[str, Any]) -> list[str]:
    """Add a model's rows and claims; return its table as Markdown."""
    lines = [
        f"### {title}: files in llama.cpp",
        "",
        "| preset | MB, bits per weight | KL | qsearch: MB | KL | ratio | same top token |"
        " tokens per second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    files = [one for one in record["files"] if "qsearch" in one]
    for one in files:
        theirs, ours = one["llama.cpp"], one["qsearch"]
        ratio = ours["kl"] / theirs["kl"]
        difference = paired_difference(ours["sequences"], theirs["sequences"])
        alike = [row["qsearch"]["nbytes"] for row in files if row["qsearch"]["kl"] <= theirs["kl"]]
        saved = 1 - min(alike, default=theirs["nbytes"]) / theirs["nbytes"]
        target = SMALL_TARGET if theirs["bits"] <= SMALL_BITS else LARGE_TARGET
        benchmark.claim(
            f"{title}: KL of qsearch's file over that of {one['preset']}'s of as many bytes"
            f" ({theirs['bits']:.2f} bits a weight)",
            *(ratio, target, "lower"),
        )
        speeds = [side["speed"]["generation_tokens_per_second"] for side in (theirs, ours)]
        size, alike_top = theirs["nbytes"] / 1e6, (theirs["same_top"], ours["same_top"])
        benchmark.row(
            model=record["model"],
            preset=one["preset"],
            bits=round(theirs["bits"], 3),
            bytes=theirs["nbytes"],
            kl=round(theirs["kl"], 5),
            same_top=round(theirs["same_top"], 4),
            perplexity=round(theirs["perplexity"], 3),
            own_bytes=ours["nbytes"],
            own_kl=round(ours["kl"], 5),
            own_same_top=round(ours["same_top"], 4),
            own_perplexity=round(ours["perplexity"], 3),
            difference=round(difference.difference, 5),
            low=round(difference.low, 5),
            high=round(difference.high, 5),
            saved_at_equal_kl=round(saved, 4),
            tokens_per_second=round(speeds[0], 1),
            own_tokens_per_second=round(speeds[1], 1),
        )
        lines.append(
            f"| {one['preset']} | {size:.1f}, {theirs['bits']:.2f} | {theirs['kl']:.4f} |"
            f" {ours['nbytes'] / 1e6:.1f} | {ours['kl']:.4f} | {ratio:.2f} |"
            f" {alike_top[0]:.3f}, {alike_top[1]:.3f} | {speeds[0]:.0f}, {speeds[1]:.0f} |"
        )
    lines += [
        "",
        f"The search took {record['minutes']:.0f} minutes ({record['evaluations']} evaluations).",
        "",
    ]
    return lines


# Measuring


def measure(name: str, model: Model) -> None:
    """Make, search, export and measure; write the record of a model."""
    folder = ROOT / "runs" / "engines" / name
    folder.mkdir(parents=True, exist_ok=True)
    prepare_text(model.study)
    spec = load_spec(model.study, (), environment())
    presets, budgets = make_presets(spec, folder)
    search = spec.search.model_copy(update={"budgets": budgets})
    spec = spec.model_copy(update={"search": search})
    run_spec(spec, folder / "study")
    minutes = 60 * Clock(folder / "study").hours
    record = read_study(folder / "study")
    components = study_components(folder / "study", record)
    trainer = components.trainer
    assert isinstance(trainer, PTQTrainer)
    load_last_state(folder / "study", record, trainer)
    kept, bits_within = _Kept(folder / "measured.json"), bits_within_file(trainer)
    rows = []
    for preset, path in presets.items():
        own = _best_within(record, bits_within(path.stat().st_size))
        row = {"preset": preset, "llama.cpp": kept.of(path.name, partial(in_engine, trainer, path))}
        if own is not None:
            row["trial"] = int(own["trial"])
            export = partial(export_in_engine, trainer, row_configuration(own))
            row["qsearch"] = kept.of(f"trial {own['trial']}", export)
        rows.append(row)
    _record(name).parent.mkdir(parents=True, exist_ok=True)
    values = {"model": name, "minutes": minutes, "evaluations": len(record.trials), "files": rows}
    write_json(_record(name), {**values, "machine": {**machine(), "commit": COMMIT}})


def make_presets(spec: StudySpec, folder: Path) -> tuple[dict[str, Path], tuple[float, ...]]:
    """Make the files of presets, and return them, with their sizes in average bits of the study.

    A preset that llama.cpp refuses for this model is left out, and so is one of the same bytes as
    another before it. Sizes outside of the interval that is searched are left out.
    """
    trainer = build_components(spec).trainer
    assert isinstance(trainer, PTQTrainer)
    trainer.load_state(trainer.state())
    model = locate_model(spec.model)
    assert model.gguf_file is not None
    source, unquantized = Path(model.path) / model.gguf_file, folder / "F32.gguf"
    if not unquantized.is_file():
        quantize(source, unquantized, "F32")
    files: dict[bytes, tuple[str, Path]] = {}
    matrix = importance_matrix(trainer, source)
    for preset in PRESETS:
        path = folder / f"{preset}.gguf"
        try:
            if not path.is_file():
                quantize(unquantized, path, preset, matrix)
        except RuntimeError as error:
            print(f"{preset}: {error}", flush=True)
            continue
        with path.open("rb") as stream:
            files.setdefault(hashlib.file_digest(stream, "sha256").digest(), (preset, path))
    assert spec.search.bits is not None
    low, high = spec.search.bits
    presets, bits_within = dict(files.values()), bits_within_file(trainer)
    bits = sorted({bits_within(path.stat().st_size) for path in presets.values()})
    budgets = tuple(one for one in bits if low < one <= high)
    del trainer
    gc.collect()
    return presets, budgets


def importance_matrix(trainer: PTQTrainer, source: Path) -> dict[str, Any]:
    """Return the mean squares of each layer's inputs that the study quantizes by, by tensor."""
    fields = GGUFReader(source).fields
    architecture = str(fields["general.architecture"].contents())
    name_of = gguf_names(architecture, int(fields[f"{architecture}.block_count"].contents()))
    paths = trainer.export_job(_any_configuration(trainer)).paths
    moments = trainer.study.adapted.weights.moments
    return {
        str(name_of(f"{path}.weight")): moment.contiguous().numpy()
        for path, layer, moment in zip(paths, trainer.layers(), moments, strict=True)
        if moment is not None and not layer.is_table
    }


def _any_configuration(trainer: PTQTrainer) -> Configuration:
    every = trainer.study.quantizer.choices().layer_configurations
    quantizer: Any = trainer.study.quantizer
    return Configuration(
        {
            layer.name: next(one for one in every if quantizer.takes(layer.shape, one))
            for layer in trainer.layers()
        }
    )


def bits_within_file(trainer: PTQTrainer) -> Callable[[int], float]:
    """Return what gives the average bits of the configurations whose file takes so many bytes.

    ggml's types fill their bytes, so a file's are an affine function of average bits, but for the
    padding of tensors to 32 bytes.
    """
    configuration = _any_configuration(trainer)
    (whole,) = GGUFExporter().weight_bytes(trainer.export_job(configuration)).values()
    (bits,) = trainer.study.average_bits([configuration])
    weights = sum(layer.parameters for layer in trainer.layers())
    return lambda nbytes: bits + (nbytes - whole) * 8 / weights


def _best_within(record: StudyRecord, bits: float) -> pd.Series | None:
    rows = record.latest
    fitting = rows[rows["average_bits"] <= bits]
    return None if fitting.empty else best_among(fitting, record.objective)


def export_in_engine(trainer: PTQTrainer, configuration: Configuration) -> dict[str, Any]:
    """Export a configuration and measure its file."""
    with written(trainer.export_job(configuration)) as files:
        return in_engine(trainer, files.model)


def in_engine(trainer: PTQTrainer, path: Path) -> dict[str, Any]:
    """Measure a file on the study's test text."""
    reference = trainer.reference("test")
    result = evaluate_files(trainer.study, EngineFiles(path, None), "test", reference)
    assert result.examples is not None
    nbytes = path.stat().st_size
    measured = Measured(
        nbytes,
        8 * nbytes / sum(weight.numel() for weight in trainer.study.adapted.module.parameters()),
        *(result.metrics[name].value for name in ("kl", "same_top", "perplexity")),
        result.examples.metrics["kl"],
        file_speed(path, None, torch.get_num_threads()),
    )
    return asdict(measured)


class _Kept:
    """What was measured, by file; kept so that a benchmark that was killed continues."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self._values = json.loads(path.read_text(encoding="utf-8"))

    def of(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in self._values:
            self._values[name] = make()
            write_json(self._path, self._values)
            print(f"{name}: KL {self._values[name]['kl']:.5f}", flush=True)
        return self._values[name]


if __name__ == "__main__":
    main()
