"""Digests of the model and the examples that a study runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ExamplesDigest:
    """Which examples a split has.

    Args:
        count: How many there are: texts, pairs of texts, or sequences.
        sha256: Of the examples as the task uses them, in order: the same for the same examples,
            whatever file they come from.
        file_sha256: Of the file that they were read from, as ``sha256sum`` gives it; None where
            there is no file.
    """

    count: int
    sha256: str
    file_sha256: str | None = None


@dataclass(frozen=True)
class Inputs:
    """The model and the data of a study.

    Args:
        model: SHA-256 of each file of the model by its name: of weights, of settings, and of the
            tokenizer; empty where there is none.
        data: By split; empty where the task does not tell.
    """

    model: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, ExamplesDigest] = field(default_factory=dict)
