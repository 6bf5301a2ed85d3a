"""A study's results as files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.deployment.selection import best_under, smallest_alike
from qsearch.errors import DamagedFileError, InputError
from qsearch.plugins.evaluation import Evaluation, Metric, MetricValue
from qsearch.plugins.trial_columns import TRIAL_COLUMNS, metric_columns
from qsearch.storage.parquet import write_table
from qsearch.storage.paths import STUDY_FILE, TRIALS_FILE
from qsearch.storage.study_record import RoundRecord, StudyRecord, read_study, write_study
from tests.engine.fake_study import INTEGER, make_layers, make_space, uniform

SPACE = make_space(1, INTEGER)


def row(trial: int, round: int, bits: float, loss: float, **changes: object) -> dict[str, object]:
    return {
        "trial": trial,
        "round": round,
        "method": "random",
        "average_bits": bits,
        "bytes": 1000 + 100 * bits,
        "loss": loss,
        "accuracy": 0.5,
        "accuracy_standard_error": 0.1,
        "standard_error": 0.1,
        "seconds": 1.0,
        "seen": True,
        "segment": 0,
        "on_front": True,
        "configuration": SPACE.decode(uniform(SPACE, bits)).to_json(),
        "status": "completed",
        "reason": "",
        **dict.fromkeys(TRIAL_COLUMNS[-4:], math.nan),
        **changes,
    }


def record_of(*rows: dict[str, object], rounds: int = 2) -> StudyRecord:
    return StudyRecord(
        name="study <b>",
        model="model",
        task="task",
        quantizer="integer",
        trainer="trainer",
        metrics=(Metric("accuracy", "higher"),),
        layers=make_layers(1),
        choices=INTEGER,
        average_bits_range=SPACE.average_bits_range,
        segment_edges=(2.0, 4.0, 6.0),
        reference_point=(1.0, 6.0),
        rounds=tuple(
            RoundRecord(number, (0, 1), 0.5, 1.0, 2.0, 3.0, (0.9, 0.8), SCORE)
            for number in range(1, rounds + 1)
        ),
        versions={"python": "3.11"},
        trials=pd.DataFrame(rows, columns=[*TRIAL_COLUMNS, *metric_columns(["accuracy"])]),
    )


SCORE = Evaluation(0.3, 0.01, {"accuracy": MetricValue(0.9, 0.02)}, 1.5)
FAILED = {"status": "failed", "reason": "ValueError: bad", "on_front": False}
ROWS = (
    row(0, 1, 3.0, 0.5),
    row(1, 1, 2.5, 0.4),
    row(0, 2, 3.0, 0.3),
    row(1, 2, 2.5, 0.35),
    row(2, 2, 2.25, math.nan, **FAILED),
)


@pytest.mark.parametrize("rows", [ROWS, ()])
def test_written_study_reads_back(rows: tuple[dict[str, object], ...], tmp_path: Path) -> None:
    record = record_of(*rows)
    write_study(tmp_path, record)
    again = read_study(tmp_path)
    for name in StudyRecord.__dataclass_fields__:
        if name != "trials":
            assert getattr(again, name) == getattr(record, name), name
    assert_frame_equal(again.trials, record.trials, check_dtype=bool(rows))


@pytest.mark.parametrize(
    ("rows", "rounds", "round"), [(ROWS, 2, 2), (ROWS, 1, 1), (ROWS[:2], 0, 1)]
)
def test_latest_is_the_last_finished_rounds_completed_rows(
    rows: tuple[dict[str, object], ...], rounds: int, round: int
) -> None:
    """While the first round runs, it is what that has evaluated so far."""
    latest = record_of(*rows, rounds=rounds).latest
    assert latest["trial"].tolist() == [0, 1]
    assert (latest["round"] == round).all()


@pytest.mark.parametrize(("bits", "trial"), [(3.0, 0), (2.9, 1), (2.5, 1), (99, 0)])
def test_best_under_has_the_least_loss_at_or_under_the_budget(bits: float, trial: int) -> None:
    best = best_under(record_of(*ROWS), bits)
    assert int(best["trial"]) == trial
    assert int(best["round"]) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((3.0, 0.3, 0.42), (2.9, 0.35, 0.4)),  # Less estimated loss.
        ((3.0, 0.3, 0.42), (2.9, 0.35, math.nan)),  # Less observed loss, where none is estimated.
        ((4.0, 0.3, math.nan), (3.0, 0.3, math.nan)),  # Fewer bits.
        ((3.0, 0.4, 0.5), (3.0, 0.3, 0.5)),  # Less observed loss.
    ],
)
def test_best_under_prefers_the_second(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> None:
    rows = [
        row(trial, 1, bits, loss, estimated_loss=estimated)
        for trial, (bits, loss, estimated) in enumerate((first, second))
    ]
    assert int(best_under(record_of(*rows, rounds=1), 5)["trial"]) == 1


@pytest.mark.parametrize(("std", "trial"), [(0.05, 1), (0.2, 2), (0.01, 0)])
def test_the_smallest_alike_is_within_the_std_of_the_estimated_loss(std: float, trial: int) -> None:
    rows = [
        row(0, 1, 4.0, 0.1, estimated_loss=0.3, estimated_loss_std=std),
        row(1, 1, 3.0, 0.9, estimated_loss=0.34, estimated_loss_std=0.0),
        row(2, 1, 2.5, 0.9, estimated_loss=0.45, estimated_loss_std=0.0),
    ]
    record = record_of(*rows, rounds=1)
    assert int(smallest_alike(record, best_under(record, 5))["trial"]) == trial


def test_without_estimated_losses_the_smallest_alike_goes_by_the_standard_error() -> None:
    rows = [row(0, 1, 4.0, 0.3, standard_error=0.05), row(1, 1, 3.0, 0.34), row(2, 1, 2.5, 0.4)]
    record = record_of(*rows, rounds=1)
    assert int(smallest_alike(record, best_under(record, 5))["trial"]) == 1


@pytest.mark.parametrize("bits", [2.4, 0.0, math.nan])
def test_budget_below_every_configuration_is_refused(bits: float) -> None:
    with pytest.raises(InputError, match=r"the least in this study is 2\.5000"):
        best_under(record_of(*ROWS), bits)


def test_budget_without_completed_trials_is_refused() -> None:
    for record in (record_of(), record_of(row(0, 1, 3.0, math.nan, **FAILED))):
        with pytest.raises(InputError, match="no completed trials yet"):
            best_under(record, 8)


def test_reading_a_folder_without_a_study_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"typo: there is no such directory$"):
        read_study(tmp_path / "typo")
    with pytest.raises(InputError, match=f"^{tmp_path} holds no study results"):
        read_study(tmp_path)


def replace_by(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def change_format(folder: Path) -> None:
    another: Any = 1
    write_study(folder, replace(record_of(*ROWS), format=another))


def rewrite_trials(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        table = pd.read_parquet(folder / TRIALS_FILE)
        write_table(folder / TRIALS_FILE, table.assign(**changes))

    return change


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replace_by(STUDY_FILE, "{"), r"study\.json: damaged: .*; delete it"),
        (change_format, r"study\.json: damaged: format: Input should be 2"),
        (replace_by(TRIALS_FILE, "PAR1 no"), r"trials\.parquet: damaged: .*; delete it"),
        (rewrite_trials(more=1), r"trials\.parquet: damaged: it lacks the columns \[\], and has"),
        (rewrite_trials(average_bits=math.nan), "has no average bits, or no segment"),
        (rewrite_trials(segment=math.nan), "has no average bits, or no segment"),
        (rewrite_trials(status="gone"), "column 'status' holds other values"),
        (rewrite_trials(reason=3), "column 'reason' holds other values"),
        (rewrite_trials(seen=3), "column 'seen' holds other values"),
        (rewrite_trials(round=-3), "column 'round' holds other values"),
        (rewrite_trials(loss="3"), "column 'loss' holds other values"),
    ],
)
def test_files_that_hold_something_else_are_damaged(
    change: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    write_study(tmp_path, record_of(*ROWS))
    change(tmp_path)
    with pytest.raises(DamagedFileError, match=reason):
        read_study(tmp_path)
