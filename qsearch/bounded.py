"""Reading files no further than a bound, so that a foreign one cannot take all memory."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

MOST_STATE = 2**28
"""Bytes of one JSON file of a study; a million trials take less."""

MOST_LOG = 2**28
"""Bytes of an event log that are read, its last ones; a million events take less."""

MOST_TABLE = 2**32
"""Bytes of a study's table in memory; a million rows with large configurations take less."""

_BATCH_ROWS = 4096


def read_text(path: Path, most: int) -> str:
    """Return what a text file holds.

    Args:
        path: The file.
        most: Most bytes that it may have.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has more, or is not UTF-8.
    """
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most} bytes")
    return content.decode("utf-8")


def read_last_lines(path: Path, most: int) -> list[str]:
    """Return the last lines of a text file, the first one first; what is no text is replaced.

    Args:
        path: The file.
        most: Bytes that are read; of a longer file, its end.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - most, 0))
        lines = stream.read(most).decode("utf-8", errors="replace").splitlines()
    return lines if size <= most else lines[1:]


def read_parquet(path: Path, most: int) -> pa.Table:
    """Return the table in a Parquet file.

    A value that repeats is in the file once, so a small file can be a large table, and no size in
    it tells.

    Args:
        path: The file.
        most: Most bytes that the table may take in memory.

    Raises:
        ValueError: If it takes more. A damaged file raises errors of other kinds, too.
    """
    batches, nbytes = [], 0
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(_BATCH_ROWS):
            batches.append(batch)
            nbytes += batch.nbytes
            if nbytes > most:
                raise ValueError(f"its table takes more than {most} bytes")
        return pa.Table.from_batches(batches, file.schema_arrow)
