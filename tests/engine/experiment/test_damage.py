"""Databases that are damaged, or differ from their study's directory: one message refuses them."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.errors import InputError
from qsearch.experiment.url import storage_errors
from qsearch.monitoring.events import Event
from qsearch.plugins.components import build_components
from qsearch.storage.paths import DATABASE, LOG, TRIALS_FILE
from qsearch.study.run import StudySession, run_spec
from tests.engine.fake_study import FAILING, Stop, events_of, results, stopping_at

DAMAGES = 36


@pytest.fixture(scope="module")
def whole(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a study that stopped while round 2 was evaluated; read-only for tests."""
    directory = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stop):
        run_spec(FAILING, directory, observer=stopping_at("evaluated", 9))
    return directory


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """A copy of that directory."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def change(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE)) as connection, connection:
        assert connection.execute(statement).rowcount > 0


def open_session(directory: Path) -> pd.DataFrame:
    """Open a study as a run does, and return what it then holds."""
    with storage_errors(directory), StudySession(build_components(FAILING, "study"), directory):
        return results(directory)


def test_flipped_bytes_are_one_message_or_change_nothing(whole: Path, tmp_path: Path) -> None:
    content, expected = (whole / DATABASE).read_bytes(), results(whole)
    draw = np.random.default_rng(0)
    outcomes: Counter[str] = Counter()
    for case in range(DAMAGES):
        damaged = np.frombuffer(content, dtype=np.uint8).copy()
        places = draw.integers(len(damaged), size=(1, 20, 200)[case % 3])
        damaged[places] ^= draw.integers(1, 256, size=len(places)).astype(np.uint8)
        directory = shutil.copytree(whole, tmp_path / "run", dirs_exist_ok=True)
        (directory / DATABASE).write_bytes(damaged.tobytes())
        said = ""
        try:
            assert_frame_equal(open_session(directory), expected, check_exact=True)
        except InputError as error:
            said = str(error)
        assert not said or (str(directory) in said and "restore" in said), said
        outcomes["refused" if said else "unharmed"] += 1
    assert outcomes["refused"] > DAMAGES / 4
    assert outcomes["unharmed"] > 0


def test_text_that_is_not_utf8_is_one_message(stopped: Path) -> None:
    """SQLite quotes the name of the broken table in its own message."""
    path = stopped / DATABASE
    content = path.read_bytes()
    path.write_bytes(content.replace(b"CREATE TABLE trial_v2", b"CREATE TABLE trial_\xff2"))
    expected = f"{path}: damaged: .*; restore it together with the study's directory"
    with pytest.raises(InputError, match=expected):
        open_session(stopped)


def test_a_changed_loss_of_the_round_in_work_is_refused_until_the_named_files_are_removed(
    stopped: Path,
) -> None:
    before = results(stopped)
    change(
        stopped,
        "UPDATE data_v2 SET data_json = replace(data_json, '0.', '0.1')"
        " WHERE trial_index = (SELECT max(trial_index) FROM data_v2 WHERE data_json LIKE '%:2.0%')",
    )
    for name in (TRIALS_FILE, LOG):
        said = rf"{name}: of trial \d+ in round \d .*restore it, or remove this file"
        with pytest.raises(InputError, match=said):
            open_session(stopped)
        (stopped / name).unlink()
    changed = open_session(stopped)["loss"].compare(before["loss"]).index
    assert before.loc[changed, "trial"].nunique() == 1


@pytest.mark.parametrize("figure", ["loss", "average_bits", "accuracy"])
def test_a_log_with_another_figure_is_refused(figure: str, stopped: Path) -> None:
    log = stopped / "log.jsonl"
    head, separator, tail = log.read_text().rpartition(f'"{figure}": ')
    log.write_text(f"{head}{separator}9{tail}")
    with pytest.raises(InputError, match=r"log\.jsonl: of trial \d+ in round 2"):
        open_session(stopped)


def test_half_a_line_of_a_log_and_foreign_lines_are_ignored(stopped: Path) -> None:
    with (stopped / "log.jsonl").open("a") as log:
        log.write('{"event": "evaluated", "round": "x", "trial": [1], "loss": null}\n')
        log.write('{"event": "evaluated", "round": 2, "tr')
    open_session(stopped)


def test_a_database_that_lacks_trials_is_refused(stopped: Path) -> None:
    change(stopped, "DELETE FROM trial_v2 WHERE [index] > 4")
    with pytest.raises(InputError, match="trials are missing; restore it"):
        open_session(stopped)
    change(stopped, "DELETE FROM data_v2 WHERE trial_index > 4")
    with pytest.raises(InputError, match=r"has 5 trials .*restore the database"):
        open_session(stopped)


def test_a_deleted_loss_of_a_finished_round_is_refused(stopped: Path) -> None:
    change(stopped, "DELETE FROM data_v2 WHERE trial_index = 0")
    with pytest.raises(InputError, match=r"trial 0 in round 1 .* the database has nothing"):
        open_session(stopped)


def test_a_database_from_before_a_rounds_search_is_searched_and_evaluated_for_again(
    uninterrupted: pd.DataFrame, tmp_path: Path
) -> None:
    directory, backup = tmp_path / "run", tmp_path / "backup.db"

    def back_up_then_stop(event: Event) -> None:
        if (event.kind, event.round) == ("searching", 2) and not backup.exists():
            shutil.copy(directory / DATABASE, backup)
        is_searched = len(events_of(directory, "evaluating candidates")) == 2
        if event.kind == "evaluated" and is_searched:
            raise Stop

    with pytest.raises(Stop):
        run_spec(FAILING, directory, observer=back_up_then_stop)
    lost = events_of(directory, "evaluated")[-1]["trial"]
    shutil.copy(backup, directory / DATABASE)
    run_spec(FAILING, directory)
    assert len(events_of(directory, "searching again")) == 1
    assert [line["trial"] for line in events_of(directory, "evaluated")].count(lost) == 2
    assert_frame_equal(results(directory), uninterrupted, check_exact=True)
