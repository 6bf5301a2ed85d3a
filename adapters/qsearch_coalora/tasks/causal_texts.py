"""The text of causal language modelling, or its rows of conversations, as it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from qsearch.errors import InputError
from qsearch.plugins.protocols import Split
from qsearch_coalora.tasks.causal_options import CausalOptions
from qsearch_coalora.tasks.data_files import read_lines, read_table, require_among, select_columns
from qsearch_coalora.tasks.documentation import collect_documentation
from qsearch_coalora.tasks.sources import read_dataset
from qsearch_coalora.tasks.splits import subset

Rows = Sequence[tuple[Any, ...]]


def causal_lines(options: CausalOptions, split: Split) -> Iterable[str]:
    """Return the lines of a split's text, line ends included.

    Raises:
        InputError: If it is not there, or cannot be read.
    """
    if options.docstrings is not None:
        return collect_documentation(options.docstrings)[split]
    if options.dataset is not None:
        table = read_dataset(options.dataset, split)
        source = f"task.dataset {options.dataset.name!r}"
        require_among([options.text], table.column_names, source)
        return _as_lines(row[options.text] for row in table)
    return read_lines(options.require_file(split))


def causal_rows(options: CausalOptions, split: Split) -> tuple[Rows, str]:
    """Return the rows of a split, at most as many as the options say, and where they are from.

    A row is one of messages, or of a prompt and its completion.

    Raises:
        InputError: If a file or column is missing, or there are no rows.
    """
    if options.dataset is not None:
        table = read_dataset(options.dataset, split).to_pandas()
        source = f"task.dataset {options.dataset.name!r}"
    else:
        path = options.require_file(split)
        table, source = read_table(path), f"data file {path}"
    require_among(options.columns, table.columns.tolist(), source)
    if options.messages is not None:
        rows = [(value,) for value in table[options.messages].dropna()]
    else:
        pairs = select_columns(table, options.columns, source)
        rows = list(zip(*(pairs[column] for column in options.columns), strict=True))
    if not rows:
        raise InputError(f"{source} has no rows with values in {list(options.columns)}")
    limit = getattr(options, f"{split}_examples")
    kept = np.arange(len(rows)) if limit is None else subset(len(rows), limit)
    return [rows[position] for position in kept], source


def _as_lines(texts: Iterable[str | None]) -> Iterator[str]:
    """Yield texts with one line end each, as a text file has them; a row without text is none."""
    for text in texts:
        if text is not None:
            yield text if text.endswith("\n") else f"{text}\n"
