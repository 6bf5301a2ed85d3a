"""Configurations evaluated as the very files that llama.cpp runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from qsearch.errors import InputError
from qsearch.plugins.engines import EngineEvaluation
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Split
from qsearch_coalora.export.formats import GGUFExporter
from qsearch_coalora.export.gguf import ADAPTER_FILE, MODEL_FILE
from qsearch_coalora.export.gguf_space import require_model
from qsearch_coalora.export.job import AdapterJob
from qsearch_coalora.export.llama_library import load_library
from qsearch_coalora.llama_cpp.engine import Engine, opened
from qsearch_coalora.llama_cpp.template import FileTemplate, template_of
from qsearch_coalora.llama_cpp.timing import file_speed
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.training.evaluation import evaluate_logits
from qsearch_coalora.training.reference import Reference
from qsearch_coalora.training.study_model import StudyModel

if TYPE_CHECKING:
    from torch import Tensor

NAME = "llama.cpp"


@dataclass(frozen=True)
class EngineFiles:
    """The files of a configuration, and the adapter's, if it has one."""

    model: Path
    adapter: Path | None

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        paths = (self.model, *([] if self.adapter is None else [self.adapter]))
        return sum(path.stat().st_size for path in paths)


def require_engine(study: StudyModel, option: str) -> None:
    """Check that a study's configurations are files of llama.cpp, and that it is installed.

    The model is not loaded for it.

    Raises:
        InputError: If they are not; the message begins with the option that asks for it.
    """
    if not isinstance(study.task, CausalLanguageModelling):
        raise InputError(
            f"{option}: {NAME} evaluates causal language models (task 'causal-lm'), not task"
            f" {study.task.name!r}"
        )
    GGUFExporter().require_quantizer(study.quantizer)
    load_library()
    require_model(study.model)


@contextmanager
def written(job: AdapterJob) -> Iterator[EngineFiles]:
    """Give the files of a configuration, as an export has them, until the context ends."""
    with TemporaryDirectory(prefix="qsearch-gguf-") as name:
        folder = Path(name)
        GGUFExporter().write(job, folder)
        adapter = folder / ADAPTER_FILE
        yield EngineFiles(folder / MODEL_FILE, adapter if adapter.exists() else None)


class FileEvaluations:
    """Evaluations of configurations of one study as files, without adapters, one after the other.

    The first is exported; others are made from its file, if it is clear which tensors the layers
    are.
    """

    def __init__(self, study: StudyModel) -> None:
        self._study = study
        self._folder: TemporaryDirectory[str] | None = None
        self._template: FileTemplate | None = None

    def evaluate(self, job: AdapterJob, split: Split, reference: Reference | None) -> Evaluation:
        """Write a configuration and evaluate its file on a split; see :func:`evaluate_files`."""
        started = time.perf_counter()
        with self._written(job) as files:
            evaluation = evaluate_files(self._study, files, split, reference)
        return replace(evaluation, seconds=time.perf_counter() - started)

    @contextmanager
    def _written(self, job: AdapterJob) -> Iterator[EngineFiles]:
        if self._template is not None:
            path = self._template.path.with_name("other.gguf")
            self._template.write(job, path)
            yield EngineFiles(path, None)
            return
        with written(job) as files:
            if self._folder is None:  # Else the layers are not clear.
                self._folder = TemporaryDirectory(prefix="qsearch-gguf-")
                kept = shutil.copy(files.model, self._folder.name)
                self._template = template_of(job, Path(kept))
            yield files


def measure_job(
    study: StudyModel, job: AdapterJob, split: Split, reference: Reference | None
) -> EngineEvaluation:
    """Write a configuration, evaluate its files on a split, and measure their speed."""
    with written(job) as files:
        evaluation = evaluate_files(study, files, split, reference)
        speed = file_speed(files.model, files.adapter, torch.get_num_threads())
        return EngineEvaluation(evaluation, files.nbytes, speed)


def evaluate_files(
    study: StudyModel, files: EngineFiles, split: Split, reference: Reference | None
) -> Evaluation:
    """Evaluate files on a split, with as many threads as PyTorch has.

    The tokens are the study's own, so that all values compare with those of its other evaluations.
    So is the reference: what the unquantized model predicts as PyTorch computes it.

    Raises:
        EvaluationError: If llama.cpp cannot load or compute them.
    """
    task = study.task
    assert isinstance(task, CausalLanguageModelling)
    with opened(files.model, task.options.length, torch.get_num_threads(), files.adapter) as engine:
        batches = task.batches(split, study.options.eval_batch_size)
        return evaluate_logits(task, _sequences(batches, engine), reference)


def _sequences(
    batches: Iterable[Mapping[str, Tensor]], engine: Engine
) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
    """Yield the logits of each sequence of batches, and the sequence as a batch of its own."""
    for batch in batches:
        for place, mask in enumerate(batch["attention_mask"]):
            count = int(mask.sum())  # What is after it fills up to the longest.
            own = {name: tensor[place : place + 1, :count] for name, tensor in batch.items()}
            pieces = engine.logits(own["input_ids"][0].tolist())
            yield torch.cat([torch.from_numpy(piece.copy()) for piece in pieces])[None], own
