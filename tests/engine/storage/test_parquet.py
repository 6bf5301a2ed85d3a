"""Tables in files: their checksum, and how much memory that takes."""

from __future__ import annotations

import json
import tracemalloc
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal
from pyarrow import parquet

from qsearch.storage.parquet import read_table, write_table

TABLE = pd.DataFrame(
    {
        "loss": [0.1 * number for number in range(10_000)],
        "trial": range(10_000),
        "é": [f'"{number}" é' if number % 7 else None for number in range(10_000)],
        "seen": [number % 3 == 0 for number in range(10_000)],
    }
)


@pytest.mark.parametrize("rows", [0, 1, 4096, 4097, 10_000])
def test_the_checksum_is_that_of_types_pandas_and_values_as_json(rows: int, tmp_path: Path) -> None:
    """Files of earlier versions have it too, so what it is of must never change."""
    write_table(tmp_path / "table", TABLE[:rows])
    arrow = parquet.read_table(tmp_path / "table")
    metadata = arrow.schema.metadata
    types = [str(column.type) for column in arrow.schema]
    whole = [types, metadata[b"pandas"].decode(), arrow.to_pydict()]
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    assert metadata[b"checksum"].decode() == f"sha256:{sha256(text.encode()).hexdigest()}"
    assert_frame_equal(read_table(tmp_path / "table"), TABLE[:rows])


def test_a_checksum_takes_no_more_memory_for_more_rows(tmp_path: Path) -> None:
    peaks = []
    for rows in (20_000, 200_000):
        columns = {name: pa.array([0.5] * rows) for name in ("loss", "metric", "seconds")}
        arrow = pa.table(columns).replace_schema_metadata({b"checksum": b"sha256:0"})
        parquet.write_table(arrow, tmp_path / "table", write_page_checksum=True)
        tracemalloc.start()
        with pytest.raises(Exception, match="its checksum differs"):
            read_table(tmp_path / "table")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
