"""The texts and labels of a classification: where they are, as options, and how they are read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qsearch._arrays import Integers
from qsearch.errors import InputError
from qsearch.plugins.digests import ExamplesDigest
from qsearch.plugins.protocols import Split
from qsearch_coalora.models.digests import file_sha256
from qsearch_coalora.tasks.data_files import read_table, require_columns, select_columns
from qsearch_coalora.tasks.docstrings import (
    DocstringSource,
    collect_docstrings,
    require_packages,
)
from qsearch_coalora.tasks.hub_datasets import (
    HubDataset,
    import_datasets,
    read_dataset,
    with_label_names,
)
from qsearch_coalora.tasks.splits import MIN_EXAMPLES, subset

Label = Annotated[str, Field(coerce_numbers_to_str=True)]


class ClassificationOptions(BaseModel):
    """Where the texts are: files, a hub data set, or docstrings; exactly one of these.

    Args:
        train: File to train on (CSV, TSV, JSONL or Parquet).
        validation: File to evaluate on.
        test: File of the test split.
        dataset: A data set of the ``datasets`` library.
        docstrings: Docstrings of installed packages.
        text: Column of the text, or the two columns of a pair.
        label: Column of the label.
        labels: The labels in the order of the model's outputs. By default that of a fine-tuned
            head whose outputs have the labels' names; else the data set's own, or sorted.
        metric: ``accuracy``, or ``f1`` of one of two labels, as GLUE has it for QQP.
        positive: The label that ``f1`` is of; by default the second in the data set's own order,
            or sorted.
        max_length: Tokens after which a text is cut.
        train_examples: Bound on the training examples (a fixed random subset).
        validation_examples: The same for the validation examples.
        test_examples: The same for the test split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    dataset: HubDataset | None = None
    docstrings: DocstringSource | None = None
    text: str | tuple[str, str] = "text"
    label: str = "label"
    labels: tuple[Label, ...] | None = None
    metric: Literal["accuracy", "f1"] = "accuracy"
    positive: Label | None = None
    max_length: int = Field(default=128, ge=2)
    train_examples: int | None = Field(default=None, ge=1)
    validation_examples: int | None = Field(default=None, ge=MIN_EXAMPLES)
    test_examples: int | None = Field(default=None, ge=MIN_EXAMPLES)

    @model_validator(mode="after")
    def _one_source(self) -> ClassificationOptions:
        files = self.train is not None or self.validation is not None
        if files + (self.dataset is not None) + (self.docstrings is not None) != 1:
            raise ValueError("give exactly one of: train and validation files, dataset, docstrings")
        if files and (self.train is None or self.validation is None):
            raise ValueError("files need both train and validation")
        columns = (*self.text_columns, self.label)
        if len(set(columns)) < len(columns):
            raise ValueError(f"text and label name a column twice: {', '.join(columns)}")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels name one twice: {', '.join(self.labels)}")
        if self.positive is not None and self.metric != "f1":
            raise ValueError(f"positive is the label of metric f1; metric is {self.metric}")
        return self

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that hold text."""
        return (self.text,) if isinstance(self.text, str) else self.text

    def path(self, split: Split) -> Path | None:
        """Return the file that a split is read from, if it is one."""
        paths = {"train": self.train, "held-out": self.train, "validation": self.validation}
        return {**paths, "test": self.test}[split]


@dataclass(frozen=True)
class LabelledTexts:
    """Examples as read.

    Args:
        texts: One or two texts an example.
        labels: One label an example.
        order: All labels in the data set's own order, empty if it has none.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    order: tuple[str, ...] = ()

    def at_most(self, count: int | None) -> LabelledTexts:
        """Return a fixed random subset of at most ``count`` examples, in the original order."""
        if count is None or count >= len(self.labels):
            return self
        return self.at(subset(len(self.labels), count))

    def at(self, chosen: Integers) -> LabelledTexts:
        """Return the examples at some positions."""
        return replace(
            self,
            texts=tuple(self.texts[index] for index in chosen),
            labels=tuple(self.labels[index] for index in chosen),
        )

    def digest(self, path: Path | None) -> ExamplesDigest:
        """Return the digest: of one line of JSON an example, ``["text", "label"]``, in order."""
        found = hashlib.sha256()
        for texts, label in zip(self.texts, self.labels, strict=True):
            found.update(json.dumps([*texts, label]).encode() + b"\n")
        file = None if path is None else file_sha256(path)
        return ExamplesDigest(len(self.labels), found.hexdigest(), file)


def require_labelled_texts(options: ClassificationOptions) -> None:
    """Look whether the training and validation data are there, from files' beginnings alone.

    Raises:
        InputError: If a file, a column or a package is missing, or a file is empty.
    """
    if options.docstrings is not None:
        require_packages(options.docstrings)
    elif options.dataset is not None:
        import_datasets()
    for path in (options.train, options.validation):
        if path is not None:
            require_columns(path, (*options.text_columns, options.label))


def read_labelled_texts(options: ClassificationOptions, split: Split) -> LabelledTexts:
    """Read all texts and labels of a split.

    Raises:
        InputError: If a file or column is missing, or no row has a text and a label.
    """
    if options.docstrings is not None:
        pairs = collect_docstrings(options.docstrings, split)
        return LabelledTexts(
            tuple((text,) for text, _ in pairs), tuple(label for _, label in pairs)
        )
    if options.dataset is not None:
        table, order = with_label_names(read_dataset(options.dataset, split), options.label)
        source = f"task.dataset {options.dataset.name!r}"
    else:
        path = options.path(split)
        if path is None:
            raise InputError(f"task.{split} is not given, so there is no {split} split")
        table, order, source = read_table(path), (), f"data file {path}"
    kept = select_columns(table, (*options.text_columns, options.label), source)
    texts = zip(*(kept[column] for column in options.text_columns), strict=True)
    return LabelledTexts(tuple(texts), tuple(kept[options.label]), order)
