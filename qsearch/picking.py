"""The best configuration within a budget, with what it takes and how sure its loss is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsearch.budgets import Budget, best_within
from qsearch.configuration import Configuration
from qsearch.footprint import read_footprint
from qsearch.records import read_study, row_configuration, row_figures, smallest_alike


@dataclass(frozen=True)
class Picked:
    """A picked configuration.

    Args:
        configuration: It.
        knobs: Names of the quantizer's knobs, in order.
        figures: What is known of it, by name; None where something is not known.
    """

    configuration: Configuration
    knobs: tuple[str, ...]
    figures: Mapping[str, Any]

    def lines(self) -> list[str]:
        """Return the figures as lines of text."""
        known = {name: value for name, value in self.figures.items() if value is not None}
        smallest = known.pop("smallest_alike")
        lines = [", ".join(f"{name} {value}" for name, value in known.items())]
        if smallest["trial"] != known["trial"]:
            lines.append(
                f"trial {smallest['trial']} with {smallest['average_bits']:.4f} average bits is"
                " not surely worse: its loss is within the uncertainty of this one"
            )
        return lines


def pick_configuration(directory: Path, budget: Budget) -> Picked:
    """Return the configuration of least loss within a budget.

    Among configurations of equal expected loss, the one of fewer average bits, then the one of
    less observed loss.

    Args:
        directory: The study's directory.
        budget: What it may take.

    Raises:
        InputError: If the directory holds no study, or no configuration fits.
    """
    record = read_study(directory)
    row = best_within(record, directory, budget)
    footprint = read_footprint(directory)
    alike = smallest_alike(record, row)
    figures: dict[str, Any] = {
        **row_figures(record, row),
        "file_bytes": None,
        "memory_bytes": None,
        "memory_tokens": None,
        "smallest_alike": {
            "trial": int(alike["trial"]),
            "average_bits": float(alike["average_bits"]),
            "loss": float(alike["loss"]),
        },
    }
    if footprint is not None:
        bits = figures["average_bits"]
        tokens = footprint.tokens if budget.tokens is None else budget.tokens
        figures["file_bytes"] = round(footprint.file_bytes(bits))
        figures["memory_bytes"] = round(footprint.memory_bytes(bits, tokens))
        figures["memory_tokens"] = tokens
    return Picked(row_configuration(row), record.choices.names, figures)
