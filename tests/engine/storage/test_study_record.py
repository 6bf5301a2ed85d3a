"""A study's results as files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.deployment.selection import best_under, smallest_alike
from qsearch.errors import DamagedFileError, InputError
from qsearch.plugins.evaluation import Evaluation, Metric
from qsearch.space.configuration import Configuration
from qsearch.storage.parquet import write_table
from qsearch.storage.paths import STUDY_FILE, TRIALS_FILE
from qsearch.storage.study_record import (
    TRIAL_COLUMNS,
    RoundRecord,
    StudyRecord,
    read_study,
    read_trials,
    row_configuration,
    selection_loss,
    write_study,
)
from tests.engine.support import INTEGER, make_layers, make_space, uniform

SPACE = make_space(1, INTEGER)


def row(trial: int, round: int, bits: float, loss: float, **changes: object) -> dict[str, object]:
    configuration = SPACE.decode(uniform(SPACE, bits))
    return {
        "trial": trial,
        "round": round,
        "method": "random",
        "average_bits": bits,
        "loss": loss,
        "metric": 0.5,
        "standard_error": 0.1,
        "seconds": 1.0,
        "seen": True,
        "segment": 0,
        "on_front": True,
        "configuration": configuration.to_json(),
        "metric_standard_error": 0.1,
        "status": "completed",
        "reason": "",
        "estimated_loss": math.nan,
        "estimated_loss_std": math.nan,
        "predicted_loss": math.nan,
        "predicted_loss_std": math.nan,
        **changes,
    }


def record_of(*rows: dict[str, object], rounds: int = 2) -> StudyRecord:
    return StudyRecord(
        name="study <b>",
        model="model",
        task="task",
        quantizer="integer",
        trainer="trainer",
        metric=Metric("accuracy", "higher"),
        layers=make_layers(1),
        choices=INTEGER,
        average_bits_range=SPACE.average_bits_range,
        segment_edges=(2.0, 4.0, 6.0),
        reference_point=(1.0, 6.0),
        rounds=tuple(
            RoundRecord(number, (0, 1), 0.5, 1.0, 2.0, 3.0, (0.9, 0.8))
            for number in range(1, rounds + 1)
        ),
        versions={"python": "3.11"},
        **({"trials": pd.DataFrame(rows, columns=list(TRIAL_COLUMNS))} if rows else {}),
    )


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


def test_trials_have_the_promised_columns_in_order(tmp_path: Path) -> None:
    write_study(tmp_path, record_of(*ROWS))
    table = pd.read_parquet(tmp_path / "trials.parquet")
    assert tuple(table.columns)[:12] == (
        "trial",
        "round",
        "method",
        "average_bits",
        "loss",
        "metric",
        "standard_error",
        "seconds",
        "seen",
        "segment",
        "on_front",
        "configuration",
    )


def test_latest_is_the_last_finished_rounds_completed_rows() -> None:
    assert record_of(*ROWS).latest["trial"].tolist() == [0, 1]
    assert (record_of(*ROWS).latest["round"] == 2).all()


def test_a_round_that_is_still_running_is_not_the_latest() -> None:
    assert (record_of(*ROWS, rounds=1).latest["round"] == 1).all()


def test_while_the_first_round_runs_its_rows_are_the_latest() -> None:
    assert record_of(*ROWS[:2], rounds=0).latest["trial"].tolist() == [0, 1]


@pytest.mark.parametrize(("bits", "trial"), [(3.0, 0), (2.9, 1), (2.5, 1), (99, 0)])
def test_best_under_has_the_least_loss_at_or_under_the_budget(bits: float, trial: int) -> None:
    best = best_under(record_of(*ROWS), bits)
    assert int(best["trial"]) == trial
    assert int(best["round"]) == 2


def test_best_under_goes_by_the_estimated_loss_where_there_is_one() -> None:
    lucky = row(0, 1, 3.0, 0.3, estimated_loss=0.42)
    better = row(1, 1, 2.9, 0.35, estimated_loss=0.4)
    assert int(best_under(record_of(lucky, better, rounds=1), 3.5)["trial"]) == 1


def test_selection_loss_is_the_observed_one_where_none_is_estimated() -> None:
    rows = pd.DataFrame([row(0, 1, 3.0, 0.3, estimated_loss=0.42), row(1, 1, 2.9, 0.35)])
    assert selection_loss(rows).tolist() == [0.42, 0.35]


@pytest.mark.parametrize("error", [0.01, math.nan])
def test_what_a_round_scores_without_quantization_reads_back(error: float, tmp_path: Path) -> None:
    score = Evaluation(0.3, 0.01, 0.9, error, 1.5)
    record = record_of(*ROWS)
    rounds = tuple(replace(entry, full_precision=score) for entry in record.rounds)
    write_study(tmp_path, replace(record, rounds=rounds))
    found = read_study(tmp_path).rounds[1].full_precision
    assert repr(found) == repr(score)


def test_best_under_prefers_fewer_bits_at_equal_loss() -> None:
    best = best_under(record_of(row(0, 1, 4.0, 0.3), row(1, 1, 3.0, 0.3), rounds=1), 5)
    assert int(best["trial"]) == 1


def test_best_under_prefers_less_observed_loss_where_all_else_is_equal() -> None:
    rows = [row(0, 1, 3.0, 0.4, estimated_loss=0.5), row(1, 1, 3.0, 0.3, estimated_loss=0.5)]
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


def test_a_rows_configuration_is_read_from_its_json() -> None:
    configuration = row_configuration(best_under(record_of(*ROWS), 3.0))
    assert isinstance(configuration, Configuration)
    assert list(configuration) == [layer.name for layer in SPACE.layers]
    assert (SPACE.encode(configuration) == uniform(SPACE, 3.0)).all()


def test_reading_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"typo: there is no such directory$"):
        read_study(tmp_path / "typo")


def test_reading_a_folder_without_a_study_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study results") as caught:
        read_study(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_damaged_study_file_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, record_of(*ROWS))
    (tmp_path / STUDY_FILE).write_text('{"format": 1, "name": "x"')
    with pytest.raises(DamagedFileError, match=r"study\.json: damaged: .*; delete it"):
        read_study(tmp_path)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_study_file_of_another_format_is_named(tmp_path: Path) -> None:
    another: Any = 2
    write_study(tmp_path, replace(record_of(*ROWS), format=another))
    with pytest.raises(DamagedFileError, match=r"study\.json: damaged: format: Input should be 1"):
        read_study(tmp_path)


@pytest.mark.parametrize("damage", ["not parquet", "columns"])
def test_damaged_trials_file_is_named(damage: str, tmp_path: Path) -> None:
    write_study(tmp_path, record_of(*ROWS))
    if damage == "columns":
        write_table(tmp_path / TRIALS_FILE, pd.DataFrame({"trial": [1]}))
    else:
        (tmp_path / TRIALS_FILE).write_bytes(b"PAR1 no")
    with pytest.raises(DamagedFileError, match=r"trials\.parquet: damaged: .*; delete it"):
        read_study(tmp_path)


@pytest.mark.parametrize("column", ["average_bits", "segment"])
def test_a_table_without_a_value_that_every_completed_trial_has_is_damaged(
    column: str, tmp_path: Path
) -> None:
    write_study(tmp_path, record_of(*ROWS))
    path = tmp_path / TRIALS_FILE
    write_table(path, pd.read_parquet(path).assign(**{column: math.nan}))
    with pytest.raises(DamagedFileError, match="has no average bits, or no segment"):
        read_trials(path)
