"""Sizes in bytes as text, such as ``60MB``: how they are read and written."""

from __future__ import annotations

import math
import re

from qsearch.errors import InputError

UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}


def parse_size(text: str, option: str) -> tuple[float, str]:
    """Read a number of bytes such as ``60MB``, ``1.5 GiB`` or ``800000``, and its unit.

    Not by Pydantic's ``ByteSize``, which takes 2.01kB for 2009 bytes: a size that a message asks
    for must be enough.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    unit = match[2] or "B" if match else ""
    if match is None or unit not in UNITS or float(match[1]) == 0:
        raise InputError(
            f"{option} {text!r}: give a positive number of bytes, with a unit if you like"
            f" ({', '.join(UNITS)})"
        )
    return float(match[1]) * UNITS[unit], unit


def readable_size(nbytes: float) -> str:
    """Return a size as text, such as ``55.0 MB``."""
    unit = next((name for name in ("GB", "MB", "kB") if nbytes >= UNITS[name]), "B")
    return f"{nbytes / UNITS[unit]:.{0 if unit == 'B' else 1}f} {unit}"


def size_needed(nbytes: float, unit: str) -> str:
    """Return a size in a unit such as ``MB``, rounded up: a budget of what it says is enough."""
    value = nbytes / UNITS[unit]
    # Three digits, but all before the point; bytes have none behind it.
    whole = unit == "B" or value == 0
    places = 0 if whole else max(0, 2 - math.floor(math.log10(value)))
    return f"{rounded_up(value, places)} {'bytes' if unit == 'B' else unit}"


def rounded_up(value: float, places: int) -> str:
    """Return a number as text that is not below it."""
    # Less what multiplying may add, so that 2.3 stays 2.3.
    return f"{math.ceil(value * 10**places - 1e-9) / 10**places:.{places}f}"
