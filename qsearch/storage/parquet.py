"""Tables as Parquet files with a checksum: those of its pages miss what is said of the pages."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from qsearch.storage.bounded_reading import MAX_TABLE, read_parquet
from qsearch.storage.checksums import BLANK, CHECKSUM, damage, read_checked, with_checksum
from qsearch.storage.files import write_bytes


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table of numbers, texts and truth values, without its index."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**arrow.schema.metadata, "qsearch": f'{{"{CHECKSUM}": "{BLANK}"}}'}
    sink = pa.BufferOutputStream()
    parquet.write_table(arrow.replace_schema_metadata(metadata), sink)
    # Behind it in the file are names and types of columns alone, before it texts of others, too.
    write_bytes(path, with_checksum(sink.getvalue().to_pybytes(), is_last=True))


def read_table(path: Path) -> pd.DataFrame:
    """Return the table in a file; DamagedFileError if it is damaged."""
    read_checked(path, is_last=True)
    with damage(path, Exception):  # What a forger wrote raises errors of many kinds.
        table: pd.DataFrame = read_parquet(path, MAX_TABLE).to_pandas()
        return table
