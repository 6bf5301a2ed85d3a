"""Data sets of the ``datasets`` library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict

from qsearch.errors import InputError
from qsearch.plugins.protocols import Split


class HubDataset(BaseModel):
    """A data set of the ``datasets`` library.

    Args:
        name: Hub name, or a folder.
        config: Its configuration, such as ``sst2`` of ``nyu-mll/glue``.
        train: Name of the split to train on.
        validation: Name of the split to evaluate on.
        test: Name of the test split, if there is one with labels.
        files: One file of the data set for each split, to read these alone of a large one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    config: str | None = None
    train: str = "train"
    validation: str = "validation"
    test: str | None = None
    files: dict[str, str] | None = None

    @property
    def note(self) -> str:
        """What the user reads before a study starts, or nothing if it is a folder."""
        if Path(self.name).is_dir():
            return ""
        return f"data set {self.name} is downloaded from the hub on first use"


def import_datasets() -> Any:
    """Import the library ``datasets``.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            "datasets is not installed; install the extra: pip install 'qsearch[llm]'"
        ) from error
    return datasets


def read_dataset(source: HubDataset, split: Split) -> Any:
    """Load one split of a hub data set, as a ``datasets.Dataset``.

    Raises:
        InputError: If the library is missing, or the data set or split cannot be had.
    """
    name = {"train": source.train, "validation": source.validation, "test": source.test}[split]
    if name is None:
        raise InputError(f"task.dataset {source.name!r}: no {split} split is named")
    datasets = import_datasets()
    try:
        return datasets.load_dataset(
            source.name, source.config, data_files=source.files, split=name
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"task.dataset {source.name!r}, split {name!r} cannot be loaded: {reason}"
        ) from error


def with_label_names(dataset: Any, column: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return a data set's table, with names instead of labels' numbers where it has names.

    Returns:
        The table, and the names in the data set's order (empty if it has none). A number that has
        no name, such as the -1 of unlabelled examples, becomes a missing value.
    """
    table: pd.DataFrame = dataset.to_pandas()
    names = tuple(getattr(dataset.features.get(column), "names", ()))

    def named(value: Any) -> Any:
        return names[int(value)] if pd.notna(value) and 0 <= value < len(names) else None

    return (table.assign(**{column: table[column].map(named)}) if names else table), names
