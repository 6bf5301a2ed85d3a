"""Exporting the configurations that fit budgets."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
from safetensors import SafetensorError

from qsearch._sizes import size_needed
from qsearch.deployment.criteria import Criteria
from qsearch.deployment.model_card import add_values, export_facts
from qsearch.deployment.storage_options import (
    DEFAULT_STORAGE,
    OWN_TYPE,
    StorageOptions,
    with_answers,
)
from qsearch.deployment.study_trainer import load_last_state, own_inputs, study_components
from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsDryRun, SupportsExport, SupportsQuantizerCheck
from qsearch.plugins.components import PYTHON_ONLY
from qsearch.plugins.exporters import Exporter, ExportJob
from qsearch.plugins.formats import load_exporter
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.spec.sections import OBJECTIVE
from qsearch.storage.files import cannot_write, write_json
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
    directory: Path,
    criteria: Criteria,
    to: Path,
    format: str,
    show: ExportProgress = _silent,
    storage: StorageOptions = DEFAULT_STORAGE,
) -> pd.Series:
    """Export the configuration that is picked by some criteria to a new or empty folder.

    The row of ``trials.parquet`` that was exported is returned.
    """
    writer, (row,) = _prepared(directory, [criteria], to, format, show, storage)
    with _whole_folder(to) as folder:
        writer.write(row, criteria, folder)
    return row


def export_sweep(
    directory: Path,
    criteria: Sequence[Criteria],
    to: Path,
    format: str,
    show: ExportProgress = _silent,
    storage: StorageOptions = DEFAULT_STORAGE,
) -> list[pd.Series]:
    """Export what is picked by each of several criteria, which have budgets of average bits.

    Each budget has a folder of its name, such as ``3.5``, unless its configuration is that of
    another budget before it; ``index.json`` says which folder is for which budget. The rows of
    ``trials.parquet`` that were exported are returned, by budget.
    """
    writer, rows = _prepared(directory, criteria, to, format, show, storage)
    record = writer.record
    folders: dict[int, str] = {}
    entries = []
    with _whole_folder(to) as whole:
        for own, row in zip(criteria, rows, strict=True):
            assert own.budget is not None
            bits = own.budget.limit
            name = folders.setdefault(int(row["trial"]), repr(bits).removesuffix(".0"))
            if not (whole / name).exists():
                (whole / name).mkdir()
                writer.write(row, own, whole / name)
            entries.append({"bits": bits, "folder": name, **_summary(row, record)})
        write_json(
            whole / INDEX_FILE,
            {"format_version": 1, "study": record.name, "format": format, "budgets": entries},
        )
    return rows


@dataclass(frozen=True)
class PlannedExport:
    """What an export would write: the row of ``trials.parquet``, and bytes of its weight files."""

    row: pd.Series
    files: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes of all weight files."""
        return sum(self.files.values())


def plan_exports(
    directory: Path,
    criteria: Sequence[Criteria],
    format: str,
    show: ExportProgress = _silent,
    storage: StorageOptions = DEFAULT_STORAGE,
) -> list[PlannedExport]:
    """Return what an export by each of some criteria would write; nothing is quantized or written.

    Raises:
        InputError: As the export would, or if the format cannot say it.
    """
    writer, rows = _prepared(directory, criteria, None, format, show, storage)
    assert isinstance(writer.exporter, SupportsDryRun)
    planned = []
    for own, row in zip(criteria, rows, strict=True):
        planned.append(PlannedExport(row, writer.exporter.weight_bytes(writer.job(row))))
        writer.require_within(own, row, planned[-1].total)
    return planned


def _summary(row: pd.Series, record: StudyRecord) -> dict[str, Any]:
    values = row_values(record, row)
    return {name: values[name] for name in ("trial", "average_bits", "loss", "estimated_loss")}


def _watched(job: ExportJob, show: Callable[[int, int], None]) -> ExportJob:
    """Return a job that shows which layer is asked for."""

    def quantized(position: int) -> QuantizedTensor:
        show(position + 1, len(job.layers))
        return job.quantized(position)

    def factors() -> Iterator[tuple[Tensor, Tensor]]:
        for number, factors in enumerate(job.factors(), 1):
            show(number, len(job.layers))
            yield factors

    return with_answers(job, {"quantized": quantized, "factors": factors})


@dataclass(frozen=True)
class _Writer:
    """Writes configurations of one study in one format."""

    record: StudyRecord
    trainer: SupportsExport
    format: str
    exporter: Exporter
    show: ExportProgress
    storage: StorageOptions

    def job(self, row: pd.Series) -> ExportJob:
        """Return the export job of a row's configuration."""
        job = self.trainer.export_job(row_configuration(row))
        return self.storage.job(job, self.exporter)

    def fitting(self, criteria: Criteria, row: pd.Series, directory: Path) -> pd.Series:
        """Return the best row whose files keep a budget of bytes, from the row that is picked.

        A study's own bytes are those of the format ``packed``; files of others may be larger.

        Raises:
            InputError: If no file that the exporter can measure is within the budget.
        """
        exporter, rows = self.exporter, self.record.trials
        if criteria.budget_bytes is None or not isinstance(exporter, SupportsDryRun):
            return row
        while (
            nbytes := sum(exporter.weight_bytes(self.job(row)).values())
        ) > criteria.budget_bytes:
            rows = rows[rows["average_bits"] < row["average_bits"]]
            try:
                row = criteria.row(replace(self.record, trials=rows), directory)
            except InputError:  # The row is the smallest one.
                self.require_within(criteria, row, nbytes)
        return row

    def require_within(self, criteria: Criteria, row: pd.Series, nbytes: int) -> None:
        """Raise InputError if a row's weight files take more than a budget of bytes."""
        budget = criteria.budget
        if criteria.budget_bytes is not None and nbytes > criteria.budget_bytes:
            assert budget is not None
            raise InputError(
                f"{budget} is for the format 'packed' with --dtype {OWN_TYPE}: as {self.format!r}"
                f" with --dtype {self.storage.dtype}, trial {row['trial']} takes"
                f" {size_needed(nbytes, budget.unit)}"
            )

    def write(self, row: pd.Series, criteria: Criteria, folder: Path) -> None:
        """Write the configuration of a row into an empty folder, with what was measured of it."""
        phase = f"writing trial {row['trial']}"
        self.show(phase)
        job = self.job(row)
        self.exporter.write(_watched(job, partial(self.show, phase)), folder)
        suffixes = self.exporter.weight_files
        facts = {
            **export_facts(self.record, row),
            "format": self.format,
            "dtype": str(job.storage.dtype).removeprefix("torch."),
            "adapter_bits": job.storage.adapter_bits,
            **criteria.as_json(),
            "weight_file_bytes": sum(
                path.stat().st_size for path in folder.rglob("*") if path.suffix in suffixes
            ),
        }
        self.require_within(criteria, row, facts["weight_file_bytes"])
        write_json(folder / FACTS_FILE, facts)
        add_values(folder, facts)


def _prepared(
    directory: Path,
    criteria: Sequence[Criteria],
    to: Path | None,
    format: str,
    show: ExportProgress,
    storage: StorageOptions,
) -> tuple[_Writer, list[pd.Series]]:
    """Return what writes a study's exports, and the rows that are picked by some criteria.

    Everything is checked before the model is loaded with its adapter. Without a folder to write to,
    the exporter says what it would write.
    """
    record = read_study(directory)
    rows = [own.row(record, directory) for own in criteria]
    if record.trainer == OBJECTIVE:
        raise InputError(f"{directory}: {PYTHON_ONLY}")
    exporter = load_exporter(format, record.trainer, record.quantizer)
    storage.require(exporter, format)
    if to is None and not isinstance(exporter, SupportsDryRun):
        raise InputError(f"--dry-run: the format {format!r} does not say what it would write")
    if to is not None and to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to {to}: exists and is not an empty folder")
    components = study_components(directory, record)
    if not isinstance(components.trainer, SupportsExport):
        raise InputError(f"--format {format}: trainer {record.trainer!r} exports nothing")
    if isinstance(exporter, SupportsQuantizerCheck):
        exporter.require_quantizer(components.quantizer)
    show("loading the model")
    # Of the data, the study keeps what an export needs.
    own_inputs(directory, record, components, splits=())
    load_last_state(directory, record, components.trainer)
    writer = _Writer(record, components.trainer, format, exporter, show, storage)
    picked = zip(criteria, rows, strict=True)
    return writer, [writer.fitting(own, row, directory) for own, row in picked]


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
        # Into the folder: it may be where a disk is mounted. What says that all is there is last.
        said = (FACTS_FILE, INDEX_FILE)
        for path in sorted(partial.iterdir(), key=lambda path: path.name in said):
            shutil.move(path, whole / path.name)
    except (OSError, SafetensorError) as error:
        # Errors of reading name deserializing; they are not the folder's.
        if isinstance(error, SafetensorError) and "while serializing" not in str(error):
            raise
        raise cannot_write(to, error, "--to") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
