"""Exporting the configurations that fit budgets."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import pandas as pd
from safetensors import SafetensorError

from qsearch._sizes import size_needed
from qsearch.deployment.budgets import Budget, best_within
from qsearch.deployment.model_card import add_values, export_facts
from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsExport, SupportsQuantizerCheck
from qsearch.plugins.components import PYTHON_ONLY, build_components
from qsearch.plugins.exporters import Exporter, ExportJob
from qsearch.plugins.facts import SupportsDataFacts
from qsearch.plugins.formats import load_exporter
from qsearch.plugins.protocols import QuantizedTensor, Trainer
from qsearch.spec.sections import OBJECTIVE
from qsearch.storage.checkpoints import read_adapter, read_data_facts
from qsearch.storage.directory import read_study_yaml
from qsearch.storage.files import cannot_write, write_json
from qsearch.storage.paths import STUDY_YAML
from qsearch.storage.study_record import StudyRecord, read_study, row_configuration, row_values

if TYPE_CHECKING:
    from torch import Tensor

FACTS_FILE = "qsearch.json"
"""In each export: which study, trial and budget it is of, and its values."""

INDEX_FILE = "index.json"
"""In a folder of several exports: which one is for which budget."""


class ExportProgress(Protocol):
    """Shows what an export does now."""

    def __call__(self, phase: str, done: int = 0, layers: int = 0) -> None:
        """Show a phase, and how many of its layers are done, if it has any."""
        ...


def _silent(phase: str, done: int = 0, layers: int = 0) -> None:
    """Show nothing."""


def export_configuration(
    directory: Path, budget: Budget, to: Path, format: str, show: ExportProgress = _silent
) -> pd.Series:
    """Export the best configuration within a budget to a new or empty folder.

    The row of ``trials.parquet`` that was exported is returned.
    """
    record = read_study(directory)
    row = best_within(record, directory, budget)
    writer = _writer(directory, record, format, to, show)
    with _whole_folder(to) as folder:
        writer.write(row, budget, folder)
    return row


def export_sweep(
    directory: Path,
    budgets: Sequence[Budget],
    to: Path,
    format: str,
    show: ExportProgress = _silent,
) -> list[pd.Series]:
    """Export the best configuration within each of several budgets of average bits.

    Each budget has a folder of its name, such as ``3.5``, unless its configuration is that of
    another budget before it; ``index.json`` says which folder is for which budget. The rows of
    ``trials.parquet`` that were exported are returned, by budget.
    """
    record = read_study(directory)
    rows = [best_within(record, directory, budget) for budget in budgets]
    writer = _writer(directory, record, format, to, show)
    folders: dict[int, str] = {}
    entries = []
    with _whole_folder(to) as whole:
        for budget, row in zip(budgets, rows, strict=True):
            name = folders.setdefault(int(row["trial"]), repr(budget.limit).removesuffix(".0"))
            if not (whole / name).exists():
                (whole / name).mkdir()
                writer.write(row, budget, whole / name)
            entries.append({"bits": budget.limit, "folder": name, **_summary(row, record)})
        write_json(
            whole / INDEX_FILE,
            {"format_version": 1, "study": record.name, "format": format, "budgets": entries},
        )
    return rows


def _summary(row: pd.Series, record: StudyRecord) -> dict[str, Any]:
    values = row_values(record, row)
    return {name: values[name] for name in ("trial", "average_bits", "loss", "estimated_loss")}


class _WatchedJob:
    """An export job, all of whose answers it gives, that shows which layer is asked for."""

    def __init__(self, job: ExportJob, show: Callable[[int, int], None]) -> None:
        self._job = job
        self._show = show

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)

    def quantized(self, position: int) -> QuantizedTensor:
        self._show(position + 1, len(self._job.layers))
        return self._job.quantized(position)

    def factors(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, factors in enumerate(self._job.factors(), 1):
            self._show(number, len(self._job.layers))
            yield factors


@dataclass(frozen=True)
class _Writer:
    """Writes configurations of one study in one format."""

    directory: Path
    record: StudyRecord
    trainer: Trainer
    format: str
    exporter: Exporter
    show: ExportProgress

    def write(self, row: pd.Series, budget: Budget, folder: Path) -> None:
        """Write the configuration of a row into an empty folder, with what was measured of it."""
        self.trainer.load_state(read_adapter(self.directory, int(row["round"]))[0])
        assert isinstance(self.trainer, SupportsExport)
        phase = f"writing trial {row['trial']}"
        self.show(phase)
        job = self.trainer.export_job(row_configuration(row))
        self.exporter.write(cast(ExportJob, _WatchedJob(job, partial(self.show, phase))), folder)
        suffixes = self.exporter.weight_files
        facts = {
            **export_facts(self.record, row),
            "format": self.format,
            "budget": {"kind": budget.kind, "limit": budget.limit, "tokens": budget.tokens},
            "weight_file_bytes": sum(
                path.stat().st_size for path in folder.rglob("*") if path.suffix in suffixes
            ),
        }
        if budget.kind == "bytes" and facts["weight_file_bytes"] > budget.limit:
            raise InputError(
                f"{budget} is for the format 'packed': as {self.format!r}, trial {facts['trial']}"
                f" takes {size_needed(facts['weight_file_bytes'], budget.unit)}"
            )
        write_json(folder / FACTS_FILE, facts)
        add_values(folder, facts)


def _writer(
    directory: Path, record: StudyRecord, format: str, to: Path, show: ExportProgress
) -> _Writer:
    """Return what writes the study's exports, once it is clear that it can write there."""
    if record.trainer == OBJECTIVE:
        raise InputError(f"{directory}: {PYTHON_ONLY}")
    exporter = load_exporter(format, record.trainer, record.quantizer)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to {to}: exists and is not an empty folder")
    path = directory / STUDY_YAML
    components = build_components(read_study_yaml(path), str(path))
    if not isinstance(components.trainer, SupportsExport):
        raise InputError(f"--format {format}: trainer {record.trainer!r} exports nothing")
    if isinstance(exporter, SupportsQuantizerCheck):
        exporter.require_quantizer(components.quantizer)
    show("loading the model")
    facts = read_data_facts(directory)
    if facts is not None and isinstance(components.trainer, SupportsDataFacts):
        components.trainer.use_data_facts(facts)
    return _Writer(directory, record, components.trainer, format, exporter, show)


@contextmanager
def _whole_folder(to: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes ``to`` when all of it is written."""
    whole = to.resolve()
    partial = whole.parent / f".{whole.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        # Libraries may write files that nobody else can read, whatever the user's mask says.
        mode = stat.S_IMODE(partial.stat().st_mode) & 0o666
        for path in partial.rglob("*"):
            if path.is_file():
                path.chmod(mode)
        if not whole.exists():
            partial.replace(whole)
            return
        for path in partial.iterdir():  # Into the folder: it may be where a disk is mounted.
            shutil.move(path, whole / path.name)
    except (OSError, SafetensorError) as error:
        # Errors of reading name deserializing; they are not the folder's.
        if isinstance(error, SafetensorError) and "while serializing" not in str(error):
            raise
        raise cannot_write(to, error, "--to") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
