"""Files of llama.cpp's presets and of a study, made and measured in llama.cpp."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from gguf import GGUFReader
from qsearch_coalora.export.formats import GGUFExporter
from qsearch_coalora.export.gguf_file import architecture_and_blocks
from qsearch_coalora.export.gguf_original import gguf_names
from qsearch_coalora.llama_cpp.evaluating import EngineFiles, evaluate_files, written
from qsearch_coalora.llama_cpp.timing import file_speed
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.models.source import locate_model
from qsearch_coalora.weights.layer_inputs import mean_squares

from benchmarks.language_models import Kept
from benchmarks.llama_quantize import quantize
from benchmarks.paper_text import environment
from qsearch.deployment.selection import best_among
from qsearch.plugins.components import build_components
from qsearch.plugins.engines import EngineSpeed
from qsearch.space.configuration import Configuration
from qsearch.spec.study_spec import StudySpec, load_spec
from qsearch.storage.clock import Clock
from qsearch.storage.study_record import StudyRecord, read_study, row_configuration
from qsearch.study.run import run_spec

PRESETS = (
    *("Q2_K", "IQ3_XXS", "Q3_K_S", "IQ3_S", "IQ3_M", "Q3_K_M", "Q3_K_L", "IQ4_XS"),
    *("Q4_0", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K"),
)

WHOLE_TEST = ("smollm2",)
"""Models some of whose files are measured on all of the test text too."""

WHOLE_TEXT = ("task.test_tokens=null", "trainer.reference_mebibytes=4096")

FINAL = ("IQ3_XXS", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K")
"""Presets whose files these are."""


@dataclass(frozen=True)
class Measured:
    """A file in llama.cpp, on test text: means over tokens, and KL by sequence."""

    nbytes: int
    bits: float
    kl: float
    kl_error: float
    same_top: float
    perplexity: float
    sequences: tuple[float, ...]
    speed: EngineSpeed


def measure(plan: Path, folder: Path) -> dict[str, Any]:
    """Make the presets' files, search, and measure both in llama.cpp."""
    spec = load_spec(plan, (), environment())
    presets, left_out, budgets = make_presets(spec, folder)
    search = spec.search.model_copy(update={"budgets": budgets})
    run_spec(spec.model_copy(update={"search": search}), folder / "study")
    record = read_study(folder / "study")
    trainer = _trainer(spec)
    bits_within, pairs = bits_within_file(trainer), list[Pair]()
    for preset, path in presets.items():
        own = _best_within(record, bits_within(path.stat().st_size))
        if own is None:
            left_out[preset] = "smaller than every file of the study"
        else:
            pairs.append(Pair(preset, path, int(own["trial"]), row_configuration(own)))
    kept = Kept(folder / "measured.json")
    files = [{"preset": one.preset, **one.measure(trainer, kept)} for one in pairs]
    values: dict[str, Any] = {
        "minutes": 60 * Clock(folder / "study").hours,
        "evaluations": len(record.trials),
        "files": files,
        "left out": left_out,
    }
    if plan.stem in WHOLE_TEST:
        assert {one.preset for one in pairs} >= set(FINAL), "one of the final five is left out"
        del trainer
        gc.collect()
        trainer = _trainer(load_spec(plan, WHOLE_TEXT, environment()))
        (folder / "whole" / "state").mkdir(parents=True, exist_ok=True)
        trainer.study.references.folder = folder / "whole"
        kept = Kept(folder / "measured-whole.json")
        values["whole test"] = [
            {"preset": one.preset, **one.measure(trainer, kept)}
            for one in pairs
            if one.preset in FINAL
        ]
    return values


@dataclass(frozen=True)
class Pair:
    """A preset's file, and the configuration that is compared with it."""

    preset: str
    path: Path
    trial: int
    configuration: Configuration

    def measure(self, trainer: PTQTrainer, kept: Kept) -> dict[str, Any]:
        """Measure both, but for what is kept."""
        export = partial(export_in_engine, trainer, self.configuration)
        return {
            "trial": self.trial,
            "llama.cpp": kept.of(self.path.name, partial(in_engine, trainer, self.path)),
            "qsearch": kept.of(f"trial {self.trial}", export),
        }


def _trainer(spec: StudySpec) -> PTQTrainer:
    """Return the trainer of a study that trains nothing, with the model as it is."""
    trainer = build_components(spec).trainer
    assert isinstance(trainer, PTQTrainer)
    trainer.load_state(trainer.state())
    return trainer


def make_presets(
    spec: StudySpec, folder: Path
) -> tuple[dict[str, Path], dict[str, str], tuple[float, ...]]:
    """Make the files of presets, and return them, with their sizes in average bits of the study.

    A preset that llama.cpp refuses for this model is left out, and so is one of the same tensors
    as another before it; why, is returned by preset. Sizes outside of the interval that is searched
    are left out.
    """
    trainer, model = _trainer(spec), locate_model(spec.model)
    assert model.gguf_file is not None
    source, unquantized = Path(model.path) / model.gguf_file, folder / "F32.gguf"
    if not unquantized.is_file():
        quantize(source, unquantized, "F32")
    files, left_out = dict[bytes, tuple[str, Path]](), dict[str, str]()
    matrix = importance_matrix(trainer, source)
    for preset in PRESETS:
        path = folder / f"{preset}.gguf"
        try:
            if not path.is_file():
                quantize(unquantized, path, preset, matrix)
        except RuntimeError as error:
            left_out[preset] = f"llama.cpp: {error}"
            continue
        first, _ = files.setdefault(_tensors_digest(path), (preset, path))
        if first != preset:
            left_out[preset] = f"has the tensors of {first}"
    assert spec.search.bits is not None
    low, high = spec.search.bits
    presets, bits_within = dict(files.values()), bits_within_file(trainer)
    bits = sorted({bits_within(path.stat().st_size) for path in presets.values()})
    budgets = tuple(one for one in bits if low < one <= high)
    del trainer
    gc.collect()
    return presets, left_out, budgets


def _tensors_digest(path: Path) -> bytes:
    """Return a digest of a file's tensors: files of presets differ in metadata too."""
    digest = hashlib.sha256()
    for tensor in GGUFReader(path).tensors:
        digest.update(f"{tensor.name} {tensor.tensor_type}".encode())
        digest.update(tensor.data.tobytes())
    return digest.digest()


def importance_matrix(trainer: PTQTrainer, source: Path) -> dict[str, Any]:
    """Return the mean squares of each layer's inputs that the study quantizes by, by tensor."""
    name_of = gguf_names(*architecture_and_blocks(GGUFReader(source)))
    paths = trainer.export_job(_any_configuration(trainer)).paths
    moments = trainer.study.adapted.weights.moments
    return {
        str(name_of(f"{path}.weight")): mean_squares(moment).contiguous().numpy()
        for path, moment in zip(paths, moments, strict=True)
        if moment is not None
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
    weights = sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    nbytes = path.stat().st_size
    measured = Measured(
        nbytes=nbytes,
        bits=8 * nbytes / weights,
        kl=result.metrics["kl"].value,
        kl_error=result.metrics["kl"].standard_error,
        same_top=result.metrics["same_top"].value,
        perplexity=result.metrics["perplexity"].value,
        sequences=result.examples.metrics["kl"],
        speed=file_speed(path, None, torch.get_num_threads()),
    )
    return asdict(measured)
