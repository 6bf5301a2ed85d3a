"""Tables as Parquet files whose content has a checksum.

Parquet's own checksums are of pages alone; what is around these says how to read them.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from qsearch.bounded import MOST_TABLE, read_parquet
from qsearch.state_files import CHECKSUM, checksum_of, damage, require_checksum

_KEY = CHECKSUM.encode()


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
        arrow = read_parquet(path, MOST_TABLE)
        metadata = arrow.schema.metadata or {}
        if _KEY in metadata:
            require_checksum(metadata[_KEY].decode(), _checksum(arrow))
        elif any(b"sha256:" in value for value in metadata.values()):
            raise ValueError("its checksum is not where it was")
        table: pd.DataFrame = arrow.to_pandas()
        return table


def _checksum(arrow: pa.Table) -> str:
    types = [str(column.type) for column in arrow.schema]
    pandas = (arrow.schema.metadata or {}).get(b"pandas", b"").decode()
    return checksum_of([types, pandas, arrow.to_pydict()])
