"""What a configuration is picked by: a budget of average bits, bytes or memory, or its number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from qsearch._sizes import UNITS, parse_size, rounded_up, size_needed
from qsearch.deployment.selection import best_among, best_under, completed_rows
from qsearch.errors import InputError
from qsearch.storage.measurements import read_footprint
from qsearch.storage.study_record import StudyRecord


@dataclass(frozen=True)
class Budget:
    """What a configuration may take at most, or which one it is.

    Args:
        kind: ``bits`` (average bits), ``bytes`` (an export's weight files), ``memory`` (of
            running it; an estimate), or ``trial``.
        limit: Average bits, or bytes; of ``trial``, its number.
        tokens: For ``memory``: length of the sequence, or None for the study's own.
        unit: Of bytes in messages, such as ``MB``.
        prefix: Of its name in messages: options of commands have dashes, Python's arguments none.
    """

    kind: Literal["bits", "bytes", "memory", "trial"]
    limit: float
    tokens: int | None = None
    unit: str = "B"
    prefix: str = "--"

    def __str__(self) -> str:
        """Return it as the user gave it, such as ``--bytes 60MB``."""
        if self.kind in ("bits", "trial"):
            return f"{self.name} {self.limit:.12g}"
        unit = "" if self.unit == "B" else self.unit
        tokens = "" if self.tokens is None else f" --tokens {self.tokens}"
        return f"{self.name} {self.limit / UNITS[self.unit]:.12g}{unit}{tokens}"

    @property
    def name(self) -> str:
        """The option or argument that it was given by."""
        return self.prefix + self.kind


def best_within(record: StudyRecord, directory: Path, budget: Budget) -> pd.Series:
    """Return the latest row of least loss within a budget (:func:`best_under`), or of a trial.

    Where no configuration fits, the message is in the budget's own unit.
    """
    if budget.kind == "trial":
        return _row_of_trial(record, int(budget.limit))
    latest = completed_rows(record)
    least = latest["average_bits"].min()
    if budget.kind == "bits":
        if budget.limit < least:
            needed = f"{rounded_up(least, 4)} average bits"
            raise InputError(f"{budget}: the smallest configuration takes {needed}")
        return best_under(record, budget.limit)
    taken = latest["bytes"]
    if budget.kind == "memory":
        footprint = read_footprint(directory)
        running = None if footprint is None else footprint.running
        extra = math.nan if running is None else running.nbytes(budget.tokens)
        taken = taken + extra
    if taken.isna().all():
        what = "how large the model is" if budget.kind == "bytes" else "what memory running takes"
        raise InputError(
            f"{budget.name}: {directory} does not say {what}, since its trainer does not report"
            f" it; use {budget.prefix}bits"
        )
    fitting = latest[taken <= budget.limit]
    if fitting.empty:
        weights = sum(layer.parameters for layer in record.layers)
        rest = taken.min() - least * weights / 8
        other = "not quantized" if budget.kind == "bytes" else "next to the quantized weights"
        raise InputError(
            f"{budget}: the smallest configuration takes"
            f" {size_needed(taken.min(), budget.unit)} ({size_needed(rest, budget.unit)} of it"
            f" {other})"
        )
    return best_among(fitting, record.objective)


def _row_of_trial(record: StudyRecord, trial: int) -> pd.Series:
    """Return the latest row of a trial, which the last finished round must have completed."""
    latest = completed_rows(record)
    rows = latest[latest["trial"] == trial]
    if not rows.empty:
        return rows.iloc[0]
    round = int(latest["round"].iloc[0])
    all_rows = record.trials[record.trials["trial"] == trial]
    here = all_rows[all_rows["round"] == round]
    why = f"the study has no trial of that number; its last is {int(record.trials['trial'].max())}"
    if not here.empty:
        why = f"its evaluation failed in round {round}: {here.iloc[0]['reason']}"
    elif not all_rows.empty:
        rounds = ", ".join(map(str, sorted(set(all_rows["round"]))))
        why = (
            f"it was evaluated in round {rounds} alone, under an adapter that was trained further"
            f" since; give one of round {round}, the last finished"
        )
    raise InputError(f"--trial {trial}: {why}")


def chosen_budget(
    bits: float | None,
    nbytes: str | None,
    memory: str | None,
    tokens: int | None,
    trial: int | None = None,
) -> Budget:
    """Return the one budget, or trial, among a command's options."""
    options = {"--bits": bits, "--bytes": nbytes, "--memory": memory, "--trial": trial}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise InputError(
            "give one budget, --bits, --bytes or --memory, or a --trial; got"
            f" {' and '.join(given) or 'none'}"
        )
    if tokens is not None and memory is None:
        raise InputError("--tokens is for --memory alone")
    if trial is not None:
        return Budget("trial", trial)
    if bits is not None:
        if not math.isfinite(bits):
            raise InputError(f"--bits {bits}: give a number of average bits")
        return Budget("bits", bits)
    if nbytes is not None:
        limit, unit = parse_size(nbytes, "--bytes")
        return Budget("bytes", limit, unit=unit)
    limit, unit = parse_size(str(memory), "--memory")
    return Budget("memory", limit, tokens, unit)


def chosen_budgets(
    bits: float | None,
    nbytes: str | None,
    memory: str | None,
    tokens: int | None,
    trial: int | None,
    sweep: str | None,
) -> list[Budget]:
    """Return the one budget, or trial, among a command's options, or those of its sweep."""
    options = (bits, nbytes, memory, tokens, trial)
    if sweep is None:
        return [chosen_budget(*options)]
    if any(option is not None for option in options):
        raise InputError(
            "--sweep holds the budgets; leave --bits, --bytes, --memory, --tokens, --trial out"
        )
    return parse_sweep(sweep)


def parse_sweep(text: str) -> list[Budget]:
    """Read several budgets of average bits, such as ``2.5,3,3.5,4``."""
    budgets: list[Budget] = []
    for part in text.split(","):
        try:
            limit = float(part)
        except ValueError:
            limit = math.nan
        if not 0 < limit < math.inf:
            raise InputError(
                f"--sweep {text!r}: {part.strip()!r} is not a positive number of average bits;"
                " write such as 2.5,3,3.5,4"
            )
        if any(budget.limit == limit for budget in budgets):
            raise InputError(f"--sweep {text!r}: {limit:g} is there twice")
        budgets.append(Budget("bits", limit))
    return budgets
