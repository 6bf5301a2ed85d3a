"""Labelled texts as they were read: their subsets and their digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qsearch._arrays import Integers
from qsearch.plugins.digests import ExamplesDigest
from qsearch_coalora.models.digests import file_sha256

_SUBSET_SEED = 0


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

    def subset(self, count: int | None) -> LabelledTexts:
        """Return a fixed random subset of at most ``count`` examples, in the original order."""
        if count is None or count >= len(self.labels):
            return self
        chosen = np.random.default_rng(_SUBSET_SEED).permutation(len(self.labels))[:count]
        return self.at(np.sort(chosen))

    def at(self, chosen: Integers) -> LabelledTexts:
        """Return the examples at some positions."""
        return replace(
            self,
            texts=tuple(self.texts[index] for index in chosen),
            labels=tuple(self.labels[index] for index in chosen),
        )

    def digest(self, path: Path | None) -> ExamplesDigest:
        """Return the digest: of one line of JSON an example, ``["text", "label"]``, in order.

        Args:
            path: The file that they were read from, if there is one.
        """
        found = hashlib.sha256()
        for texts, label in zip(self.texts, self.labels, strict=True):
            found.update(json.dumps([*texts, label]).encode() + b"\n")
        file = None if path is None else file_sha256(path)
        return ExamplesDigest(len(self.labels), found.hexdigest(), file)
