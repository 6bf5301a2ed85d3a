"""The best configuration within a budget, with what it takes and how sure its loss is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsearch._sizes import readable_size
from qsearch._text import with_error
from qsearch.deployment.budgets import Budget, best_within
from qsearch.deployment.selection import smallest_alike
from qsearch.space.configuration import Configuration
from qsearch.storage.measurements import read_footprint
from qsearch.storage.study_record import read_study, row_configuration, row_values


@dataclass(frozen=True)
class Picked:
    """A picked configuration, and what is known of it by name; None where it is not known."""

    configuration: Configuration
    knobs: tuple[str, ...]
    values: Mapping[str, Any]

    def lines(self) -> list[tuple[str, str]]:
        """Return what is known of it as labels and rounded values."""
        of = self.values
        trial = str(of["trial"])
        if of["seen"] is not None:
            seen = "seen" if of["seen"] else "unseen"
            trial += f", evaluated in round {of['round']}, {seen} in training"
        lines = [
            ("trial", trial),
            ("average bits", f"{of['average_bits']:.4f}"),
        ]
        if of["average_bits_with_adapter"] != of["average_bits"]:
            lines.append(("with adapter", f"{of['average_bits_with_adapter']:.4f} average bits"))
        if of["file_bytes"] is not None:
            lines.append(("weight files", f"{readable_size(of['file_bytes'])} as packed"))
        if of["memory_bytes"] is not None:
            running = f"{readable_size(of['memory_bytes'])} for {of['memory_tokens']} tokens"
            lines.append(("memory", f"{running}, an estimate"))
        if of["estimated_loss"] is not None:
            estimated = with_error(of["estimated_loss"], of["estimated_loss_std"])
            lines.append(("estimated loss", estimated))
        lines.append(("loss", with_error(of["loss"], of["standard_error"])))
        if of["metric"] is not None:
            metric = with_error(of["metric"], of["metric_standard_error"])
            lines.append((of["metric_name"], metric))
        smallest = of["smallest_alike"]
        if smallest["trial"] != of["trial"]:
            lines.append(
                (
                    "may be as good",
                    f"trial {smallest['trial']} with {smallest['average_bits']:.4f} average bits:"
                    " its loss is within the uncertainty",
                )
            )
        return lines


def pick_configuration(directory: Path, budget: Budget) -> Picked:
    """Return the configuration of least loss within a budget.

    Among configurations of equal estimated loss, the one of fewer average bits, then the one of
    less observed loss.
    """
    record = read_study(directory)
    row = best_within(record, directory, budget)
    footprint = read_footprint(directory)
    alike = smallest_alike(record, row)
    values: dict[str, Any] = {
        **row_values(record, row),
        "average_bits_with_adapter": float(row["average_bits"]),
        "memory_bytes": None,
        "memory_tokens": None,
        "smallest_alike": {
            "trial": int(alike["trial"]),
            "average_bits": float(alike["average_bits"]),
            "loss": float(alike["loss"]),
        },
    }
    if footprint is not None:
        bits = footprint.average_bits_with_adapter(values["average_bits"])
        values["average_bits_with_adapter"] = bits
        if (running := footprint.running) is not None:
            tokens = running.tokens if budget.tokens is None else budget.tokens
            memory = values["file_bytes"] + running.nbytes(tokens)
            values |= {"memory_bytes": memory, "memory_tokens": tokens}
    return Picked(row_configuration(row), record.choices.names, values)
