"""Digests of the model and the examples that a study runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qsearch.plugins.protocols import Split

STUDY_SPLITS: tuple[Split, ...] = ("train", "held-out", "validation")
"""The splits that a study reads."""


@dataclass(frozen=True)
class ExamplesDigest:
    """Which examples a split has: texts, pairs of texts, or sequences.

    ``sha256`` is of the examples as the task uses them, in order, whatever file they come from;
    ``file_sha256`` of that file, as ``sha256sum`` gives it, or None where there is no file.
    """

    count: int
    sha256: str
    file_sha256: str | None = None


@dataclass(frozen=True)
class Inputs:
    """The model and the data of a study; empty where there are none, or the task does not say.

    The model is the SHA-256 of each file by its name: weights, settings and tokenizer. The data are
    by split.
    """

    model: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, ExamplesDigest] = field(default_factory=dict)
