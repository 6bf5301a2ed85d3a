"""A front as a plot of plain characters, for terminals and logs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from qsearch_reports.frames import front_frame

ABOVE = "^"
"""Mark of a column in which points lie above the plot."""


def front_plot(points: pd.DataFrame, width: int = 60, height: int = 12) -> list[str]:
    """Return a plot of loss against average bits, as lines of ASCII characters.

    ``*`` is on the overall Pareto front, ``.`` any other configuration. What lies above the front
    by more than half its height is a ``^`` in the top line, so that a few poor configurations do
    not flatten the rest. If all losses are alike, it has one line; without points, none.
    """
    known = points[points["selection_loss"].notna() & points["average_bits"].notna()]
    if known.empty:
        return []
    front = front_frame(known, "selection_loss")
    least, most = float(front["selection_loss"].min()), float(front["selection_loss"].max())
    top = min(float(known["selection_loss"].max()), most + 0.5 * (most - least))
    height = height if top > least else 1
    low, high = float(known["average_bits"].min()), float(known["average_bits"].max())
    cells = [[" "] * width for _ in range(height)]
    for rows, mark in ((known.drop(front.index), "."), (front, "*")):
        for bits, loss in zip(rows["average_bits"], rows["selection_loss"], strict=True):
            column = _place(bits, low, high, width)
            line = height - 1 - _place(loss, least, top, height)
            cells[max(line, 0)][column] = mark if loss <= top else ABOVE
    at = {0: f"{top:.4g}", height - 1: f"{least:.4g}"}
    margin = max(map(len, at.values()))
    lines = [
        f"{at.get(place, ''):>{margin}} |{''.join(row)}".rstrip() for place, row in enumerate(cells)
    ]
    return [*lines, f"{'':{margin}} +{'-' * width}", " " * (margin + 2) + _ticks(low, high, width)]


def _place(value: float, low: float, high: float, count: int) -> int:
    """Return which of some equal steps from low to high a value is nearest to."""
    if high <= low:
        return 0
    # Halves: the distance of two huge losses may be more than a float holds.
    share = (value / 2 - low / 2) / (high / 2 - low / 2)
    return min(round(share * (count - 1)), count - 1)


def _ticks(low: float, high: float, width: int) -> str:
    values: Sequence[float] = (low,) if high <= low else (low, (low + high) / 2, high)
    texts = [f"{value:.2f}" for value in values]
    if len(texts) == 1 or width < sum(map(len, texts)) + 2:
        return texts[0]
    inner = width - len(texts[0]) - len(texts[-1])
    return texts[0] + texts[1].center(inner) + texts[2]
