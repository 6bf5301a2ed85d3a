"""Tables as Parquet files; each of their pages has a checksum."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from qsearch.storage.bounded_reading import MAX_TABLE, read_parquet
from qsearch.storage.checksums import damage
from qsearch.storage.files import write_atomically


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table of numbers, texts and truth values, without its index."""
    write_atomically(
        path, lambda temporary: table.to_parquet(temporary, index=False, write_page_checksum=True)
    )


def read_table(path: Path) -> pd.DataFrame:
    """Return the table in a file.

    Raises:
        DamagedFileError: If it is damaged.
    """
    with damage(path, Exception):  # Damage around the pages raises errors of many kinds.
        table: pd.DataFrame = read_parquet(path, MAX_TABLE).to_pandas()
        return table
