"""The texts and labels of a classification: where they are, as options, and how they are read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from qsearch._arrays import Integers
from qsearch.plugins.digests import ExamplesDigest
from qsearch.plugins.protocols import Split
from qsearch_coalora.models.digests import file_sha256
from qsearch_coalora.tasks.data_files import read_table, select_columns
from qsearch_coalora.tasks.docstrings import DocstringSource, collect_docstrings
from qsearch_coalora.tasks.sources import SourceOptions, read_dataset, with_label_names
from qsearch_coalora.tasks.splits import MIN_EXAMPLES, subset

Label = Annotated[str, Field(coerce_numbers_to_str=True)]


class ClassificationOptions(SourceOptions):
    """Which texts have which labels; docs/studies.md has a table of the fields."""

    others: ClassVar[tuple[str, ...]] = ("dataset", "docstrings")

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
    def _consistent(self) -> ClassificationOptions:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"text and label name a column twice: {', '.join(self.columns)}")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels name one twice: {', '.join(self.labels)}")
        if self.positive is not None and self.metric != "f1":
            raise ValueError(f"positive is the label of metric f1; metric is {self.metric}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold text, and then that of the label."""
        return (*((self.text,) if isinstance(self.text, str) else self.text), self.label)


@dataclass(frozen=True)
class LabelledTexts:
    """Examples as read: one or two texts, and one label of each."""

    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    order: tuple[str, ...] = ()
    """All labels in the data set's own order, empty if it has none."""

    def at_most(self, count: int | None) -> LabelledTexts:
        """Return a fixed random subset of at most ``count`` examples, in the original order."""
        if count is None or count >= len(self.labels):
            return self
        return self.at(subset(len(self.labels), count))

    def at(self, positions: Integers) -> LabelledTexts:
        """Return the examples at some positions."""
        return replace(
            self,
            texts=tuple(self.texts[position] for position in positions),
            labels=tuple(self.labels[position] for position in positions),
        )

    def digest(self, path: Path | None) -> ExamplesDigest:
        """Return the digest: of one line of JSON an example, ``["text", "label"]``, in order."""
        examples = hashlib.sha256()
        for texts, label in zip(self.texts, self.labels, strict=True):
            examples.update(json.dumps([*texts, label]).encode() + b"\n")
        file = None if path is None else file_sha256(path)
        return ExamplesDigest(len(self.labels), examples.hexdigest(), file)


def read_texts(options: ClassificationOptions, split: Split) -> LabelledTexts:
    """Read all texts and labels of a split.

    Raises:
        InputError: If a file or column is missing, or no row has a text and a label.
    """
    if options.docstrings is not None:
        pairs = collect_docstrings(options.docstrings)[split]
        return LabelledTexts(
            tuple((text,) for text, _ in pairs), tuple(label for _, label in pairs)
        )
    order: tuple[str, ...] = ()
    if options.dataset is not None:
        table, order = with_label_names(read_dataset(options.dataset, split), options.label)
        source = f"task.dataset {options.dataset.name!r}"
    else:
        path = options.require_file(split)
        table, source = read_table(path), f"data file {path}"
    rows = select_columns(table, options.columns, source)
    *texts, labels = (tuple(rows[column]) for column in options.columns)
    return LabelledTexts(tuple(zip(*texts, strict=True)), labels, order)
