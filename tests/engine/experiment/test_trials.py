"""A study's trials, as the database has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qsearch.errors import InputError
from qsearch.experiment.database import Database
from qsearch.experiment.loading import open_database, open_trials
from qsearch.experiment.node import QsearchNode
from qsearch.experiment.trials import Trials
from qsearch.plugins.evaluation import Evaluation, MetricValue
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations
from qsearch.storage.directory import prepare_directory
from tests.engine.fake_study import INTEGER, make_space, uniform

SPACE = make_space(1, INTEGER)
ROWS = [("uniform", uniform(SPACE, bits)) for bits in (3.0, 4.0, 5.0)]
NEW = sample_configurations(SPACE, 1, (2.5, 6.0), np.random.default_rng(0))[0]
SCORE = Evaluation(0.5, 0.1, {"accuracy": MetricValue(0.75, 0.01)}, 2.0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    prepare_directory(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def database(directory: Path) -> Iterator[Database]:
    with closing(open_database(directory, None)) as opened:
        yield opened


@pytest.fixture
def load(database: Database, directory: Path) -> Callable[..., Trials]:
    def open_again(name: str = "study", space: ConfigurationSpace = SPACE) -> Trials:
        node = QsearchNode(space, (2.5, 6.0))
        return open_trials(database, directory, name, space, ["accuracy"], node)

    return open_again


@pytest.fixture
def trials(load: Callable[..., Trials]) -> Trials:
    """Three trials of the first set."""
    made = load()
    made.attach(0, ROWS, is_initial=True)
    return made


def state_of(trials: Trials) -> dict[str, Any]:
    numbers = range(len(trials))
    return {
        "indices": trials.indices(numbers).tolist(),
        "methods": [trials.method(number) for number in numbers],
        "initial": trials.initial(),
        "running": trials.running(),
        "failures": trials.failures(),
        "evaluated": {round: trials.evaluated_in(round) for round in trials.rounds()},
    }


def change_everything(trials: Trials) -> None:
    trials.save_result(0, 1, SCORE)
    trials.save_result(1, 1, SCORE)
    trials.save_failure(2, 1, "out of memory")
    trials.attach(3, [("search", NEW)])
    trials.save_result(0, 2, SCORE)
    trials.save_failure(1, 2, "device lost")


def test_trials_are_loaded_as_they_were_saved(trials: Trials, load: Callable[..., Trials]) -> None:
    change_everything(trials)
    state = state_of(trials)
    assert state == state_of(load())
    assert state["methods"] == ["uniform", "uniform", "uniform", "search"]
    assert state["initial"] == (0, 1, 2)
    assert state["running"] == [3]
    assert state["failures"] == {1: (2, "device lost"), 2: (1, "out of memory")}
    assert state["evaluated"] == {1: {0: SCORE, 1: SCORE}, 2: {0: SCORE}}


def test_the_configuration_of_a_trial_is_that_of_its_choice_indices(trials: Trials) -> None:
    for number, (_, index) in enumerate(ROWS):
        assert (trials.index(number) == index).all()
        assert trials.configuration(number) == SPACE.decode(index)
        assert trials.configuration_text(number) == SPACE.decode(index).to_json()
        assert trials.average_bits(number) == SPACE.average_bits(index)


def test_a_failure_counts_as_an_evaluation_and_as_a_result(trials: Trials) -> None:
    change_everything(trials)
    assert [trials.count_before(round) for round in (1, 2, 3)] == [0, 3, 5]
    assert trials.without_result([0, 1, 2, 3], 1) == [3]
    assert trials.without_result([3, 0, 1, 2], 3) == [3, 0]


def test_failures_are_taken_back_one_round_at_a_time(
    trials: Trials, load: Callable[..., Trials]
) -> None:
    change_everything(trials)
    assert trials.failed_in(2) == {1: "device lost"}
    assert trials.retry(2) == [1]
    assert trials.failures() == {2: (1, "out of memory")}
    assert trials.running() == [3], "trial 1 was completed in round 1"
    assert trials.retry(1) == [2]
    assert trials.running() == [2, 3]
    assert state_of(trials) == state_of(load())


def test_configurations_that_are_attached_already_stay(trials: Trials) -> None:
    trials.attach(0, ROWS, is_initial=True)
    trials.attach(2, [ROWS[2], ("random", NEW)])
    assert [trials.method(number) for number in range(len(trials))] == [*3 * ["uniform"], "random"]


@pytest.mark.parametrize(
    "loss", [np.pi / 1e3, 1e6 / 3, 1.23456789012345e-7, 0.12345678905, 2.5e-10, 1e15 / 3]
)
def test_a_loss_is_the_same_in_memory_and_loaded_again(
    loss: float, trials: Trials, load: Callable[..., Trials]
) -> None:
    trials.save_result(0, 1, Evaluation(loss, loss, {"accuracy": MetricValue(loss, loss)}, loss))
    loaded = load().evaluated_in(1)[0]
    assert loaded.loss == pytest.approx(loss, rel=1e-9, abs=1e-9)
    assert loaded == trials.evaluated_in(1)[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda trials: trials.attach(3, [("search", NEW)]),
        lambda trials: trials.save_result(0, 1, SCORE),
        lambda trials: trials.save_failure(0, 1, "device lost"),
    ],
)
@pytest.mark.parametrize("is_committed", [False, True])
def test_a_change_is_saved_once_though_the_connection_breaks(
    is_committed: bool,
    change: Callable[[Trials], None],
    trials: Trials,
    database: Database,
    load: Callable[..., Trials],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the commit, or after it, where the confirmation is lost."""
    from tests.engine.experiment.test_database import LOCKED

    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    unbroken = load("unbroken")
    unbroken.attach(0, ROWS, is_initial=True)
    change(unbroken)
    write = database.write

    def break_once(save: Callable[[], None], reload: Callable[[], None]) -> None:
        if is_committed:
            with database.transaction():
                save()
        attempts = iter([LOCKED])

        def save_or_break() -> None:
            if not is_committed:
                save()
            for error in attempts:
                raise error
            if is_committed:
                save()

        write(save_or_break, reload)

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", break_once)
        change(trials)
    assert state_of(trials) == state_of(load()) == state_of(unbroken)


def test_experiment_of_another_space_is_refused(load: Callable[..., Trials]) -> None:
    load()
    with pytest.raises(InputError, match="another search space"):
        load(space=make_space(2, INTEGER))
    # Two studies of different names share a database.
    load(name="other", space=make_space(2, INTEGER))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "Could not parse"),
        ("sqlite:////dev/null/no/study.db", "unable to open"),
        ("nosuchdatabase://host/name", "Can't load plugin"),
        ("postgresql://ana:hunter2@/none?host=%2Fnowhere", "/nowhere"),
        ("postgres//user:hunter2@host/name", "Could not parse"),
    ],
)
def test_storage_that_cannot_be_used_is_named(url: str, reason: str, directory: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_database(directory, url)
    assert str(caught.value).startswith(f"--storage {url.replace('hunter2', '***')!r}")
    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value)
