"""Budgets that a configuration is picked for: average bits, bytes of files, or memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from qsearch.errors import InputError
from qsearch.footprint import Footprint, read_footprint
from qsearch.records import StudyRecord, best_under

_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}


@dataclass(frozen=True)
class Budget:
    """What a configuration may take at most.

    Args:
        kind: ``bits`` (average bits), ``bytes`` (an export's weight files), or ``memory`` (of
            running it; an estimate).
        limit: Average bits, or bytes.
        tokens: For ``memory``: length of the sequence, or None for the study's own.
    """

    kind: Literal["bits", "bytes", "memory"]
    limit: float
    tokens: int | None = None

    def average_bits(self, directory: Path) -> float:
        """Return the most average bits that a study's configurations may have.

        Args:
            directory: The study's directory.

        Raises:
            InputError: If the study's directory does not say how large its model is, or the model
                is too large for the budget without any quantized weight.
        """
        if self.kind == "bits":
            return self.limit
        footprint = require_footprint(directory, f"--{self.kind}")
        if self.kind == "bytes":
            bits, least = footprint.bits_for_file(self.limit), footprint.file_bytes(0)
        else:
            bits = footprint.bits_for_memory(self.limit, self.tokens)
            least = footprint.memory_bytes(0, self.tokens)
        if bits <= 0:
            raise InputError(
                f"--{self.kind} {self.limit:.0f}: what is not quantized takes {least:.0f} bytes"
                " alone; give more"
            )
        return bits


def best_within(record: StudyRecord, directory: Path, budget: Budget) -> pd.Series:
    """Return the latest row of least loss within a budget; see :func:`best_under`.

    Args:
        record: The study.
        directory: Its directory.
        budget: What the configuration may take.

    Raises:
        InputError: If no configuration fits; the message is in the budget's own terms.
    """
    bits = budget.average_bits(directory)
    least = record.latest["average_bits"].min()
    if budget.kind == "bits" or not bits < least:
        return best_under(record, bits)
    footprint = require_footprint(directory, f"--{budget.kind}")
    needed = footprint.file_bytes(least)
    if budget.kind == "memory":
        needed = footprint.memory_bytes(least, budget.tokens)
    raise InputError(
        f"no configuration fits --{budget.kind} {budget.limit:.0f}; the smallest in this study"
        f" takes {needed:.0f} bytes"
    )


def require_footprint(directory: Path, option: str) -> Footprint:
    """Return a study's footprint.

    Raises:
        InputError: If its directory has none; the message names the option that needs it.
    """
    footprint = read_footprint(directory)
    if footprint is None:
        raise InputError(
            f"{option}: {directory} does not say how large the model is: its trainer cannot tell,"
            " or an earlier version ran it (the same run again adds it); use --bits"
        )
    return footprint


def parse_size(text: str, option: str) -> float:
    """Read a number of bytes such as ``60MB``, ``1.5 GiB`` or ``800000``.

    Args:
        text: What the user wrote.
        option: The option's name, for the message.

    Raises:
        InputError: If it is no positive size.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2] not in _UNITS or float(match[1]) == 0:
        raise InputError(
            f"{option} {text!r}: give a positive number of bytes, with a unit if you like"
            f" ({', '.join(filter(None, _UNITS))})"
        )
    return float(match[1]) * _UNITS[match[2]]


def chosen_budget(
    bits: float | None, nbytes: str | None, memory: str | None, tokens: int | None
) -> Budget:
    """Return the one budget among a command's options.

    Raises:
        InputError: If none or several are given, or ``--tokens`` without ``--memory``.
    """
    given = [
        name
        for name, value in (("--bits", bits), ("--bytes", nbytes), ("--memory", memory))
        if value is not None
    ]
    if len(given) != 1:
        raise InputError(
            f"give one budget, --bits, --bytes or --memory; got {' and '.join(given) or 'none'}"
        )
    if tokens is not None and memory is None:
        raise InputError("--tokens is for --memory alone")
    if bits is not None:
        if not math.isfinite(bits):
            raise InputError(f"--bits {bits}: give a number of average bits")
        return Budget("bits", bits)
    if nbytes is not None:
        return Budget("bytes", parse_size(nbytes, "--bytes"))
    return Budget("memory", parse_size(str(memory), "--memory"), tokens)


def parse_sweep(text: str) -> list[Budget]:
    """Read several budgets of average bits, such as ``2.5,3,3.5,4``.

    Raises:
        InputError: If one is no positive number, or is there twice.
    """
    budgets: list[Budget] = []
    for part in text.split(","):
        try:
            limit = float(part)
        except ValueError:
            limit = math.nan
        if not 0 < limit < math.inf:
            raise InputError(
                f"--sweep {text!r}: {part.strip()!r} is no positive number of average bits;"
                " write such as 2.5,3,3.5,4"
            )
        if any(budget.limit == limit for budget in budgets):
            raise InputError(f"--sweep {text!r}: {limit:g} is there twice")
        budgets.append(Budget("bits", limit))
    return budgets
