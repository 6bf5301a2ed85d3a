"""Reading users' data files: tables and texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pyarrow import parquet

from qsearch.errors import InputError
from qsearch.storage.bounded_reading import read_parquet

MAX_FILE_BYTES = 2**34
"""Of a data file, also once it is unpacked, since tables are read into memory as a whole."""

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


def _json_columns(path: Path, wanted: Collection[str]) -> tuple[list[str], bool]:
    """Return the fields of the first rows, up to the row with which all that are wanted occur."""
    fields: dict[str, None] = {}
    has_rows = False
    for row in _json_rows(path):
        has_rows = True
        fields |= dict.fromkeys(row)
        if all(column in fields for column in wanted):
            break
    return list(fields), has_rows


def _separated_columns(path: Path, **arguments: Any) -> tuple[list[str], bool]:
    table = _read_separated(path, nrows=1, **arguments)
    return table.columns.tolist(), len(table) > 0


def _parquet_columns(path: Path) -> tuple[list[str], bool]:
    metadata = parquet.read_metadata(path)
    return list(metadata.schema.to_arrow_schema().names), metadata.num_rows > 0


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
_COLUMNS: dict[str, Callable[[Path, Collection[str]], tuple[list[str], bool]]] = {
    ".csv": lambda path, _: _separated_columns(path),
    ".tsv": lambda path, _: _separated_columns(path, **_TABS),
    ".jsonl": _json_columns,
    ".parquet": lambda path, _: _parquet_columns(path),
}
"""Columns, and whether there is a row, without reading all rows; JSON lines have no header."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV, TSV, JSONL or Parquet file.

    Raises:
        InputError: If the file is missing, of another kind, or cannot be read.
    """
    return _read(_READERS, path)


def require_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise InputError unless a table file has some columns and a row, from its beginning."""
    names, has_rows = _read(_COLUMNS, path, columns)
    if not has_rows:
        raise InputError(f"data file {path} has no rows")
    _require_among(columns, names, f"data file {path}")


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


def select_columns(table: pd.DataFrame, columns: Sequence[str], where: str) -> pd.DataFrame:
    """Return some columns of a table as text, without rows that lack a value.

    A value that is null or an empty text is missing; a text such as ``None`` is not.

    Raises:
        InputError: If a column is missing; the message names those that exist.
    """
    _require_among(columns, table.columns.tolist(), where)
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


def require_text(path: Path) -> None:
    """Raise InputError unless a text file holds text, from its beginning."""
    if not any(line.strip() for line in read_lines(path)):
        raise InputError(f"data file {path} holds no text")


def require_file(path: Path) -> None:
    """Raise InputError unless a data file exists and can be read into memory."""
    if not path.is_file():
        raise InputError(f"data file {path} does not exist")
    nbytes = path.stat().st_size
    if nbytes > MAX_FILE_BYTES:
        raise InputError(f"data file {path} has {nbytes} bytes; at most {MAX_FILE_BYTES}")
