"""A folder of studies to one page that works offline, to find studies and choose some of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from qsearch._text import warn, with_error
from qsearch.errors import InputError
from qsearch.sharing.listing import runner
from qsearch.storage.files import write_output
from qsearch.storage.paths import STUDY_FILE, STUDY_YAML
from qsearch.storage.study_record import StudyRecord, read_study
from qsearch_reports import frames
from qsearch_reports.frames.comparison import spread
from qsearch_reports.page import assets

REPORT = "report.html"

_FRONT_POINTS = 40
_WIDTH, _HEIGHT = 96, 26


@dataclass(frozen=True)
class IndexRow:
    """What the page says of a study; what is not known is None.

    Args:
        directory: As a command of the user would have it; ``place`` is relative to the folder.
        link: URL of its report, relative to the page.
        problem: Why nothing more is known of it; "" if something is.
        trainer, rounds: Finished rounds are None, and the trainer is "", if nothing is trained.
        loss: Least selection loss of the last finished round.
        bits: Fewest average bits at which the loss is within 1 % of the study's least.
        changed: When its results last changed, seconds since 1970.
        front: Average bits and losses of the overall Pareto front (2 × points).
    """

    name: str
    directory: str
    place: str
    link: str | None
    problem: str
    model: str = ""
    task: str = ""
    quantizer: str = ""
    trainer: str = ""
    rounds: int | None = None
    evaluations: int | None = None
    failed: int | None = None
    loss: float | None = None
    bits: float | None = None
    hypervolume: float | None = None
    minutes: float | None = None
    changed: float | None = None
    running: str = ""
    front: np.ndarray = field(default_factory=lambda: np.empty((2, 0)))

    @property
    def time(self) -> str:
        """When its results last changed, UTC."""
        if self.changed is None:
            return ""
        try:
            return datetime.fromtimestamp(self.changed, UTC).strftime("%Y-%m-%d %H:%M")
        except (OSError, OverflowError, ValueError):
            return ""  # A file system may give years beyond 9999.


def write_index(folder: Path, out: Path, note: Callable[[str], None] = warn) -> Path:
    """Write a page that lists all studies in a folder and below; return ``out``."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    rows = [index_row(path, folder, out) for path in find_studies(folder, note)]
    html = render_index(rows, str(folder))
    return write_output(out, html)


def find_studies(folder: Path, note: Callable[[str], None]) -> Iterator[Path]:
    """Yield the study directories in a folder and below, in order of their names.

    A directory is a study's if it holds a ``study.yaml`` or results. What lies inside a study,
    hidden folders, and folders behind links are not looked into; a link to a study is followed.
    """
    for path, below, _ in os.walk(folder, onerror=lambda error: note(str(error))):
        here = Path(path)
        if _is_study(here):
            below.clear()
            yield here
            continue
        below[:] = sorted(name for name in below if not name.startswith("."))
        linked = (here / name for name in below if (here / name).is_symlink())
        yield from filter(_is_study, linked)


def _is_study(path: Path) -> bool:
    return (path / STUDY_YAML).is_file() or (path / STUDY_FILE).is_file()


def index_row(directory: Path, folder: Path, out: Path) -> IndexRow:
    """Read what the page says of one study."""
    report = directory / REPORT
    within = os.path.relpath(directory, folder)
    row = IndexRow(
        name=directory.name or str(directory),
        directory=f"./{directory}" if str(directory).startswith("-") else str(directory),
        place="" if within == "." else within,
        link=_url(report, out.parent) if report.is_file() else None,
        problem="",
    )
    try:
        row = replace(row, running=runner(directory))
        if not (directory / STUDY_FILE).is_file():
            return replace(row, problem="no results yet")
        row = replace(row, changed=(directory / STUDY_FILE).stat().st_mtime)
        return _with_results(row, read_study(directory))
    except (InputError, OSError) as error:
        return replace(row, problem=f"cannot be read: {error}")


def _url(path: Path, start: Path) -> str:
    """Return a relative URL; quoting leaves no colon that would make it one of another scheme."""
    return quote(os.fsencode(os.path.relpath(path, start)))


def _with_results(row: IndexRow, record: StudyRecord) -> IndexRow:
    head = frames.headline(record)
    front = frames.latest_front(record)[["average_bits", "selection_loss"]]
    close = head.close_to_best
    named = ("name", "model", "task", "quantizer")
    return replace(
        row,
        **{name: getattr(record, name) for name in named},
        trainer=record.trainer if head.is_trained else "",
        rounds=head.rounds if head.is_trained else None,
        evaluations=head.evaluations,
        failed=head.failed,
        loss=_number(None if head.best is None else head.best["selection_loss"]),
        bits=_number(None if close is None else close["average_bits"]),
        hypervolume=_number(head.hypervolume),
        minutes=_number(head.seconds / 60) if head.rounds else None,
        front=front.to_numpy(dtype=float).T,
    )


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def sparkline(front: np.ndarray, bits: tuple[float, float]) -> tuple[str, str] | None:
    """Return a front as a stepped line in a box of 96 × 26.

    Returns:
        An SVG path, and words for those who do not see it; None if there is no point.
    """
    if front.shape[1] == 0:
        return None
    across, losses = front[:, spread(front.shape[1], _FRONT_POINTS)]
    width, height = max(bits[1] - bits[0], 1e-9), max(np.ptp(losses), 1e-9)
    x = 2 + (across - bits[0]) / width * (_WIDTH - 4)
    y = _HEIGHT - 3 - (losses - losses.min()) / height * (_HEIGHT - 6)
    steps = "".join(f"H{right:.1f}V{down:.1f}" for right, down in zip(x[1:], y[1:], strict=True))
    # Nothing with more average bits is better than the last point, so its line continues.
    path = f"M{x[0]:.1f} {y[0]:.1f}{steps}H{_WIDTH - 2}"
    first, last = (f"loss {with_error(loss)} at {at:.2f}" for at, loss in front[:, [0, -1]].T)
    return path, f"Pareto front: {first} average bits" + (f", {last}" if len(across) > 1 else "")


_HIDDEN = ("place", "link", "problem", "front")
"""Fields that the page's script does not sort or filter by."""


def render_index(rows: Sequence[IndexRow], folder: str, now: datetime | None = None) -> str:
    """Return the page as HTML text."""
    bits = np.concatenate([row.front[0] for row in rows]) if rows else np.array([])
    span = (float(bits.min()), float(bits.max())) if len(bits) else (0.0, 1.0)
    script = assets.script("index.js")
    choices = {
        key: sorted({getattr(row, key) for row in rows} - {""})
        for key in ("model", "task", "trainer")
    }
    data = [{key: value for key, value in vars(row).items() if key not in _HIDDEN} for row in rows]
    return assets.template("index.html.j2").render(
        folder=folder,
        rows=rows,
        sparklines=[sparkline(row.front, span) for row in rows],
        span=span,
        choices=choices,
        data=data,
        written=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M"),
        content_policy=assets.content_policy(assets.script_hash(script)),
        css=assets.style("report.css", "index.css"),
        script=script,
    )
