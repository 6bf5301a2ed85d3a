"""Broken data files: read as tables, or refused in words."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import strategies as st

from qsearch.errors import InputError
from tests.fuzz.broken_input import ODD_TEXT, ODD_VALUES, changed_bytes, fuzz, refused

pytest.importorskip("transformers")

from qsearch_coalora.tasks import data_files as reading
from qsearch_coalora.tasks.data_files import read_table, require_columns, select_columns

TABLE = pd.DataFrame({"text": ["a film", "a plot", "x" * 100] * 4, "label": [0, 1, 1] * 4})
ROWS = [{"text": "a film", "label": 1}, {"text": "a plot", "label": 0}]


def content_of(ending: str) -> bytes:
    if ending == ".parquet":
        buffer = io.BytesIO()
        TABLE.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if ending == ".jsonl":
        return "\n".join(map(json.dumps, ROWS * 4)).encode()
    return TABLE.to_csv(index=False, sep="\t" if ending == ".tsv" else ",").encode()


CONTENT = {ending: content_of(ending) for ending in (".csv", ".tsv", ".jsonl", ".parquet")}


def use(path: Path) -> None:
    require_columns(path, ["text", "label"])
    select_columns(read_table(path), ["text", "label"], f"data file {path}")


@fuzz("data files: {ending}", 900, data=st.data(), ending=st.sampled_from(sorted(CONTENT)))
def test_changed_tables_are_read_or_refused(
    data: st.DataObject, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"table{ending}"
    path.write_bytes(data.draw(changed_bytes(CONTENT[ending])))
    refused(lambda: use(path), InputError)


@fuzz(
    "data files: JSON values",
    300,
    rows=st.lists(
        st.one_of(ODD_VALUES, st.fixed_dictionaries({"text": ODD_VALUES, "label": ODD_VALUES})),
        max_size=4,
    ),
)
def test_odd_json_lines_are_read_or_refused(rows: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    refused(lambda: use(path), InputError)


@fuzz(
    "data files: texts",
    300,
    texts=st.lists(ODD_TEXT, min_size=1, max_size=6),
    ending=st.sampled_from([".csv", ".tsv"]),
)
def test_odd_texts_are_read_or_refused(texts: list[str], ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"odd{ending}"
    path.write_text("\n".join(["text,label" if ending == ".csv" else "text\tlabel", *texts]))
    refused(lambda: use(path), InputError)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"text": ' * 50_000, "9" * 10_000, "nan", "{}"])
def test_json_lines_that_are_no_rows_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(line)
    assert refused(lambda: use(tmp_path / "rows.jsonl"), InputError)


def test_a_table_that_unpacks_to_more_than_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.parquet"
    pd.DataFrame({"text": ["x" * 100] * 100_000, "label": 0}).to_parquet(path)
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 10 * path.stat().st_size)
    with pytest.raises(InputError, match="takes more than"):
        use(path)
