"""Reading users' data: table files, text files and hub data sets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict

from qsearch._arrays import Integers
from qsearch.errors import InputError
from qsearch.plugins.protocols import Split
from qsearch.storage.bounded_reading import read_parquet

MAX_FILE_BYTES = 2**34
"""Of a data file, also once it is unpacked, since tables are read into memory as a whole."""

_HOLD_OUT_SEED = 1
_Read = TypeVar("_Read")


def _read_separated(path: Path, **arguments: Any) -> pd.DataFrame:
    # pandas would take texts such as "None" and "NA" for missing values, and labels for numbers.
    table: pd.DataFrame = pd.read_csv(path, dtype=str, keep_default_na=False, **arguments)
    return table


# Sentences hold lone quotation marks, which are not quoting in tab-separated files.
_TABS: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE}


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in read_lines(path):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("every line must be a JSON object")
            yield row


def _json_columns(path: Path, wanted: Collection[str]) -> list[str]:
    """Return the fields of the first rows, up to the row with which all that are wanted occur."""
    found: dict[str, None] = {}
    for row in _json_rows(path):
        found |= dict.fromkeys(row)
        if all(column in found for column in wanted):
            break
    return list(found)


def _read_parquet(path: Path) -> pd.DataFrame:
    table: pd.DataFrame = read_parquet(path, MAX_FILE_BYTES).to_pandas()
    return table


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_separated,
    ".tsv": lambda path: _read_separated(path, **_TABS),
    # pandas.read_json would make dates of texts, and numbers with a fraction of integers.
    ".jsonl": lambda path: pd.DataFrame(list(_json_rows(path)), dtype=object),
    ".parquet": _read_parquet,
}
_COLUMNS: dict[str, Callable[[Path, Collection[str]], list[str]]] = {
    ".csv": lambda path, _: list(_read_separated(path, nrows=0)),
    ".tsv": lambda path, _: list(_read_separated(path, nrows=0, **_TABS)),
    ".jsonl": _json_columns,
    ".parquet": lambda path, _: list(parquet.read_schema(path).names),
}
"""The same without reading the rows; JSON lines have no header, so their columns are looked for."""


class HubDataset(BaseModel):
    """A data set of the ``datasets`` library.

    Args:
        name: Hub name, or a folder.
        config: Its configuration, such as ``sst2`` of ``nyu-mll/glue``.
        train: Name of the split to train on.
        validation: Name of the split to evaluate on.
        test: Name of the test split, if there is one with labels.
        files: One file of the data set for each split, to read these alone of a large one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    config: str | None = None
    train: str = "train"
    validation: str = "validation"
    test: str | None = None
    files: dict[str, str] | None = None

    @property
    def note(self) -> str:
        """What to tell the user before a study starts, or nothing if it is a folder."""
        if Path(self.name).is_dir():
            return ""
        return f"data set {self.name} is downloaded from the hub on first use"


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV, TSV, JSONL or Parquet file.

    Raises:
        InputError: If the file is missing, of another kind, or cannot be read.
    """
    return _read(_READERS, path)


def require_columns(path: Path, columns: Sequence[str]) -> None:
    """Check that a table file has some columns, from its header where it has one.

    Raises:
        InputError: If the file is missing, of another kind, cannot be read or lacks a column.
    """
    _require_among(columns, _read(_COLUMNS, path, columns), f"data file {path}")


def _read(readers: Mapping[str, Callable[..., _Read]], path: Path, *arguments: Any) -> _Read:
    require_file(path)
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"data file {path} must end in one of {sorted(readers)}")
    try:
        return reader(path, *arguments)
    except InputError:
        raise
    except Exception as error:  # Readers raise whatever a damaged file makes them meet.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"data file {path} cannot be read: {reason}") from error


def import_datasets() -> Any:
    """Import the library ``datasets``.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            "datasets is not installed; install the extra: pip install 'qsearch[llm]'"
        ) from error
    return datasets


def read_dataset(source: HubDataset, split: Split) -> Any:
    """Load one split of a hub data set, as a ``datasets.Dataset``.

    Raises:
        InputError: If the library is missing, or the data set or split cannot be had.
    """
    name = {"train": source.train, "validation": source.validation, "test": source.test}[split]
    if name is None:
        raise InputError(f"task.dataset {source.name!r}: no {split} split is named")
    datasets = import_datasets()
    try:
        return datasets.load_dataset(
            source.name, source.config, data_files=source.files, split=name
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"task.dataset {source.name!r}, split {name!r} cannot be loaded: {reason}"
        ) from error


def with_label_names(dataset: Any, column: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return a data set's table, with names in place of labels' numbers where it has names.

    Args:
        dataset: A ``datasets.Dataset``.
        column: Its column of labels.

    Returns:
        The table, and the names in the data set's order (empty if it has none). A number that has
        no name, such as the -1 of unlabelled examples, becomes a missing value.
    """
    table: pd.DataFrame = dataset.to_pandas()
    names = tuple(getattr(dataset.features.get(column), "names", ()))

    def named(value: Any) -> Any:
        return names[int(value)] if pd.notna(value) and 0 <= value < len(names) else None

    return (table.assign(**{column: table[column].map(named)}) if names else table), names


def hold_out(count: int, held: int, unit: str) -> tuple[Integers, Integers]:
    """Return which training examples are trained on, and which are held out.

    The choice is random, and the same for the same counts.

    Args:
        count: Number of training examples.
        held: How many are held out.
        unit: What they are, in the plural, for the message.

    Raises:
        InputError: If none would be left.
    """
    if held >= count:
        raise InputError(
            f"trainer.early_stopping.examples {held} must be below the {count} {unit} of the"
            " training data"
        )
    order = np.random.default_rng(_HOLD_OUT_SEED).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def select_columns(table: pd.DataFrame, columns: Sequence[str], where: str) -> pd.DataFrame:
    """Return some columns of a table as text, without rows that lack a value.

    A value that is null or an empty text is missing; a text such as ``None`` is not.

    Raises:
        InputError: If a column is missing; the message names those that exist.
    """
    _require_among(columns, list(table), where)
    # A null makes pandas turn a column of integers into fractions; this turns it back.
    kept = table[list(columns)].convert_dtypes().dropna().astype(str)
    kept = kept[(kept != "").all(axis=1)]
    if kept.empty:
        raise InputError(f"{where} has no rows with values in {list(columns)}")
    return kept


def _require_among(columns: Sequence[str], found: Sequence[str], where: str) -> None:
    for column in columns:
        if column not in found:
            raise InputError(f"{where} has no column {column!r}; its columns: {list(found)}")


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, line ends included.

    Raises:
        InputError: If the file is missing or is not UTF-8.
    """
    require_file(path)
    try:
        with path.open(encoding="utf-8") as stream:
            yield from stream
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data file {path} cannot be read: {error}") from error


def require_file(path: Path) -> None:
    """Check that a data file exists and can be read into memory.

    Raises:
        InputError: If it does not, or is larger than :data:`MAX_FILE_BYTES`.
    """
    if not path.is_file():
        raise InputError(f"data file {path} does not exist")
    nbytes = path.stat().st_size
    if nbytes > MAX_FILE_BYTES:
        raise InputError(f"data file {path} has {nbytes} bytes; at most {MAX_FILE_BYTES}")
