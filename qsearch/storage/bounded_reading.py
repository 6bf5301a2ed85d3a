"""Reading files no further than a bound, so that a foreign one cannot take all memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import pyarrow as pa

MAX_STATE = 2**28
"""Bytes of one JSON file of a study; a million trials take less."""

MAX_LOG = 2**28
"""Bytes of an event log that are read, its last ones; a million events take less."""

MAX_TABLE = 2**32
"""Bytes of a study's table in Arrow; a million rows with large configurations take less."""

_BATCH_ROWS = 4096


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading: a pipe would be waited for."""
    return open(path, "rb", opener=_open_regular)


def _open_regular(name: str, flags: int) -> int:
    handle = os.open(name, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError("it is not a regular file")


def read_bytes(path: Path, limit: int | None) -> bytes:
    """Return what a file holds; ValueError if it has more bytes than a limit."""
    with open_regular(path) as stream:
        content = stream.read(-1 if limit is None else limit + 1)
    if limit is not None and len(content) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return content


def read_text(path: Path, limit: int) -> str:
    """Return what a text file holds, as :func:`read_bytes` does; ValueError if it is not UTF-8."""
    return read_bytes(path, limit).decode("utf-8")


def read_last_lines(path: Path, limit: int) -> list[str]:
    """Return the whole lines in the last bytes of a text file; what is not text is replaced."""
    with open_regular(path) as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - limit, 0))
        lines = stream.read(limit).decode("utf-8", errors="replace").splitlines()
    return lines if size <= limit else lines[1:]


def read_parquet(path: Path, limit: int) -> pa.Table:
    """Return the table in a Parquet file; ValueError if it takes more bytes of memory than a limit.

    A value that repeats is in the file once, so a small file can be a large table, and no size in
    it says so. A damaged file raises errors of many kinds.
    """
    import pyarrow as pa
    from pyarrow import parquet

    batches, nbytes = [], 0
    with (
        open_regular(path) as stream,
        parquet.ParquetFile(stream, page_checksum_verification=True) as file,
    ):
        for batch in file.iter_batches(_BATCH_ROWS):
            batches.append(batch)
            nbytes += batch.nbytes
            if nbytes > limit:
                raise ValueError(f"its table takes more than {limit} bytes")
        return pa.Table.from_batches(batches, file.schema_arrow)
