"""Where a task's data are: a file for each split, or a data set of the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from qsearch.errors import InputError
from qsearch.plugins.protocols import Split
from qsearch_coalora.models.loading import first_line, import_library

if TYPE_CHECKING:
    import pandas as pd


class HubDataset(BaseModel):
    """A data set of the ``datasets`` library; docs/studies.md has a table of the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    config: str | None = None
    train: str = "train"
    validation: str = "validation"
    test: str | None = None
    files: dict[str, str] | None = None


class SourceOptions(BaseModel):
    """The options of a task that say where its data are: exactly one of files and ``others``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    others: ClassVar[tuple[str, ...]] = ("dataset",)

    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    dataset: HubDataset | None = None

    @model_validator(mode="after")
    def _one_source(self) -> SourceOptions:
        files = self.train is not None or self.validation is not None
        if files + sum(getattr(self, name) is not None for name in self.others) != 1:
            sources = ", ".join(self.others)
            raise ValueError(f"give exactly one of: train and validation files, {sources}")
        if files and (self.train is None or self.validation is None):
            raise ValueError("files need both train and validation")
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user reads before a study starts: that a data set is downloaded."""
        if self.dataset is None or Path(self.dataset.name).is_dir():
            return ()
        return (f"data set {self.dataset.name} is downloaded from the hub on first use",)

    def file(self, split: Split) -> Path | None:
        """Return the file that a split is read from, if it is one."""
        path: Path | None = getattr(self, "train" if split == "held-out" else split)
        return path

    def require_file(self, split: Split) -> Path:
        """Return the file of a split; InputError if the study names none."""
        path = self.file(split)
        if path is None:
            raise InputError(f"task.{split} is not given, so there is no {split} split")
        return path

    def require_sources(self, require: Callable[[Path], None]) -> None:
        """Look whether the training and validation data could be read, without reading them.

        Raises:
            InputError: If the library that reads them is not installed, or as ``require`` has it.
        """
        if self.dataset is not None:
            import_library("datasets")
        for path in (self.train, self.validation):
            if path is not None:
                require(path)


def read_dataset(source: HubDataset, split: Split) -> Any:
    """Load one split of a hub data set, as a ``datasets.Dataset``.

    Raises:
        InputError: If the library is missing, or the data set or split cannot be had.
    """
    name = {"train": source.train, "validation": source.validation, "test": source.test}[split]
    if name is None:
        raise InputError(f"task.dataset {source.name!r}: no {split} split is named")
    load = import_library("datasets").load_dataset
    try:
        return load(source.name, source.config, data_files=source.files, split=name)
    except Exception as error:
        raise InputError(
            f"task.dataset {source.name!r}, split {name!r} cannot be loaded: {first_line(error)}"
        ) from error


def with_label_names(dataset: Any, column: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return a data set's table and its labels' names in its order, none if it has none.

    The names stand for the labels' numbers. A number that has no name, such as the -1 of unlabelled
    examples, becomes a missing value.
    """
    import pandas as pd

    table: pd.DataFrame = dataset.to_pandas()
    names = tuple(getattr(dataset.features.get(column), "names", ()))

    def named(value: Any) -> Any:
        return names[int(value)] if pd.notna(value) and 0 <= value < len(names) else None

    return (table.assign(**{column: table[column].map(named)}) if names else table), names
