"""Reading users' data files: tables and texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsearch.errors import InputError
from qsearch.storage.bounded_reading import read_parquet

if TYPE_CHECKING:
    import pandas as pd

MAX_FILE_BYTES = 2**34
"""Of a data file, also once it is unpacked, since tables are read into memory as a whole."""


def _read_separated(path: Path, head: Collection[str] | None, **arguments: Any) -> pd.DataFrame:
    import pandas as pd

    # pandas would take texts such as "None" and "NA" for missing values, and labels for numbers.
    table: pd.DataFrame = pd.read_csv(
        path, dtype=str, keep_default_na=False, nrows=None if head is None else 1, **arguments
    )
    return table


def _read_json_lines(path: Path, head: Collection[str] | None) -> pd.DataFrame:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    missing = set(head or ())
    for line in read_lines(path):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("every line must be a JSON object")
            rows.append(row)
            missing -= row.keys()
            if head is not None and not missing:
                break
    # pandas.read_json would make dates of texts, and numbers with a fraction of integers.
    return pd.DataFrame(rows, dtype=object)


def _read_parquet(path: Path, head: Collection[str] | None) -> pd.DataFrame:
    import pandas as pd
    from pyarrow import parquet

    if head is not None:
        metadata = parquet.read_metadata(path)
        names = metadata.schema.to_arrow_schema().names
        return pd.DataFrame(columns=names, index=range(min(metadata.num_rows, 1)))
    table: pd.DataFrame = read_parquet(path, MAX_FILE_BYTES).to_pandas()
    return table


_READERS: dict[str, Callable[[Path, Collection[str] | None], pd.DataFrame]] = {
    ".csv": _read_separated,
    # Sentences hold lone quotation marks, which are not quoting in tab-separated files.
    ".tsv": partial(_read_separated, sep="\t", quoting=csv.QUOTE_NONE),
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
"""Read a table; where columns are given, only as many rows as show whether it has these."""


def read_table(path: Path, head: Collection[str] | None = None) -> pd.DataFrame:
    """Read a CSV, TSV, JSONL or Parquet file; with ``head``, until these columns have occurred.

    Raises:
        InputError: If the file is missing, of another kind, or cannot be read.
    """
    require_file(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"data file {path} must end in one of {sorted(_READERS)}")
    try:
        return reader(path, head)
    except InputError:
        raise
    except Exception as error:  # Readers raise whatever a damaged file makes them meet.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"data file {path} cannot be read: {reason}") from error


def require_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise InputError unless a table file has some columns and a row, from its beginning."""
    table = read_table(path, columns)
    if not len(table):
        raise InputError(f"data file {path} has no rows")
    require_among(columns, table.columns.tolist(), f"data file {path}")


def select_columns(table: pd.DataFrame, columns: Sequence[str], source: str) -> pd.DataFrame:
    """Return some columns of a table as text, without rows that lack a value.

    A value that is null or an empty text is missing; a text such as ``None`` is not.

    Raises:
        InputError: If a column is missing; the message names those that exist.
    """
    require_among(columns, table.columns.tolist(), source)
    # A null makes pandas turn a column of integers into fractions; this turns it back.
    rows = table[list(columns)].convert_dtypes().dropna().astype(str)
    rows = rows[(rows != "").all(axis=1)]
    if rows.empty:
        raise InputError(f"{source} has no rows with values in {list(columns)}")
    return rows


def require_among(columns: Sequence[str], existing: Sequence[str], source: str) -> None:
    """Raise InputError unless all columns exist."""
    for column in columns:
        if column not in existing:
            raise InputError(f"{source} has no column {column!r}; its columns: {list(existing)}")


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, line ends included; InputError if it is not UTF-8."""
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
