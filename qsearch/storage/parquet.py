"""Tables as Parquet files whose content has a checksum.

Parquet's own checksums are of pages alone; what is around these says how to read them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from qsearch.storage.bounded_reading import MAX_TABLE, read_parquet
from qsearch.storage.checksums import CHECKSUM, damage, require_checksum

_KEY = CHECKSUM.encode()
_ROWS = 4096
"""Rows whose values are Python objects at once, which take many times what the table takes."""


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index.

    Args:
        path: The file.
        table: Columns of numbers, texts and truth values.
    """
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**arrow.schema.metadata, _KEY: _checksum(arrow)}
    whole = arrow.replace_schema_metadata(metadata)
    parquet.write_table(whole, path, write_page_checksum=True)


def read_table(path: Path) -> pd.DataFrame:
    """Return the table in a file; one of an earlier version has no checksum.

    Raises:
        DamagedFileError: If it is damaged.
    """
    with damage(path, Exception):  # What damage around the pages raises is of many kinds.
        arrow = read_parquet(path, MAX_TABLE)
        metadata = arrow.schema.metadata or {}
        if _KEY in metadata:
            require_checksum(metadata[_KEY].decode(), _checksum(arrow))
        elif any(b"sha256:" in value for value in metadata.values()):
            raise ValueError("its checksum is not where it was")
        table: pd.DataFrame = arrow.to_pandas()
        return table


def _checksum(arrow: pa.Table) -> str:
    """Return the checksum of types and values: of ``[types, pandas, values by column]`` as JSON."""
    types = [str(column.type) for column in arrow.schema]
    pandas = (arrow.schema.metadata or {}).get(b"pandas", b"").decode()
    digest = hashlib.sha256(f"[{_json(types)},{_json(pandas)},{{".encode())
    for number, name in enumerate(sorted(arrow.column_names)):
        digest.update(f"{',' if number else ''}{_json(name)}:[".encode())
        column = arrow.column(name)
        for start in range(0, len(column), _ROWS):
            values = _json(column.slice(start, _ROWS).to_pylist())
            digest.update(f"{',' if start else ''}{values[1:-1]}".encode())
        digest.update(b"]")
    digest.update(b"}]")
    return f"sha256:{digest.hexdigest()}"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
