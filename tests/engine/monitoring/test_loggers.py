"""Loggers: what they raise ends no study, and what they do changes none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from qsearch.errors import InputError
from qsearch.monitoring.events import Event, EventKind, Observer, all_of
from qsearch.monitoring.loggers import loggers
from qsearch.plugins.registry import load_plugin
from qsearch.study.run import run_study
from tests.engine.support import results, study_spec

EVENT = Event(EventKind.EVALUATED, 0, {"trial": 1})


class Recorder:
    """A logger that writes down what happens to it, and fails where it is told to."""

    def __init__(self, *fails_at: str, times: int = 10**6) -> None:
        self.told: list[str] = []
        self.fails_at = fails_at
        self.times = times

    def note(self, what: str) -> None:
        self.told.append(what)
        if what in self.fails_at and self.times > 0:
            self.times -= 1
            raise OSError(f"cannot do {what}")

    def __call__(self, directory: Path, name: str) -> AbstractContextManager[Observer]:
        self.note(f"call {name}")
        return self._open()

    @contextlib.contextmanager
    def _open(self) -> Iterator[Observer]:
        self.note("open")
        yield lambda event: self.note(event.kind)
        self.note("close")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch):
    """Make a recorder the one logger that is installed."""

    def install(recorder: Recorder) -> Recorder:
        monkeypatch.setattr("qsearch.monitoring.loggers.load_plugin", lambda group, name: recorder)
        return recorder

    return install


def test_a_logger_is_opened_at_the_first_event_and_closed_at_the_end(use, tmp_path: Path) -> None:
    recorder = use(Recorder())
    warnings: list[str] = []
    with loggers(["one", "one"], tmp_path, "fake", warnings.append) as (observer,):
        assert recorder.told == ["call fake"]
        observer(EVENT)
    assert recorder.told == ["call fake", "open", "evaluated", "close"]
    assert warnings == []


def test_a_logger_that_saw_no_event_is_never_opened(use, tmp_path: Path) -> None:
    recorder = use(Recorder())
    with loggers(["one"], tmp_path, "fake", print):
        pass
    assert recorder.told == ["call fake"]


def test_a_logger_that_fails_now_and_then_goes_on_after_one_warning(use, tmp_path: Path) -> None:
    recorder = use(Recorder("evaluated", times=2))
    warnings: list[str] = []
    with loggers(["one"], tmp_path, "fake", warnings.append) as (observer,):
        for _ in range(4):
            observer(EVENT)
    assert recorder.told.count("evaluated") == 4
    (warning,) = warnings
    assert warning == "logger 'one' failed, the study goes on: OSError: cannot do evaluated"


def test_a_logger_that_goes_on_failing_is_left_alone(use, tmp_path: Path) -> None:
    recorder = use(Recorder("evaluated"))
    warnings: list[str] = []
    with loggers(["one"], tmp_path, "fake", warnings.append) as (observer,):
        for _ in range(9):
            observer(EVENT)
    assert recorder.told.count("evaluated") == 3
    assert len(warnings) == 2
    assert "is off until the study is resumed" in warnings[1]


def test_a_servers_password_is_not_shown(use, tmp_path: Path) -> None:
    use(Recorder("POST http://bob:p@ss@127.0.0.1:9/api"))
    warnings: list[str] = []
    with loggers(["one"], tmp_path, "fake", warnings.append) as (observer,):
        observer(Event("POST http://bob:p@ss@127.0.0.1:9/api", 0))
    (warning,) = warnings
    assert warning.endswith("cannot do POST http://***@127.0.0.1:9/api")


@pytest.mark.parametrize("when", ["open", "close"])
def test_a_logger_that_cannot_open_or_close_ends_nothing(when: str, use, tmp_path: Path) -> None:
    use(Recorder(when))
    warnings: list[str] = []
    with loggers(["one"], tmp_path, "fake", warnings.append) as (observer,):
        observer(EVENT)
        observer(EVENT)
    assert f"cannot do {when}" in warnings[0]


def test_a_study_that_is_interrupted_closes_its_logger(use, tmp_path: Path) -> None:
    recorder = use(Recorder())

    def interrupted() -> None:
        with loggers(["one"], tmp_path, "fake", print) as (observer,):
            observer(EVENT)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert recorder.told[-1] == "close"


def test_a_logger_that_nobody_installed_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"no logger is called 'paper'; installed: \["),
        loggers(["paper"], tmp_path, "fake", print),
    ):
        pass


def test_all_observers_are_told_in_order() -> None:
    told: list[str] = []
    observe = all_of([lambda e: told.append(f"1 {e.kind}"), lambda e: told.append(f"2 {e.kind}")])
    observe(EVENT)
    assert told == ["1 evaluated", "2 evaluated"]


def test_loggers_change_neither_a_study_nor_its_yaml(use, finished: Path, tmp_path: Path) -> None:
    use(Recorder("evaluated", times=2))
    with loggers(["one"], tmp_path, "fake", lambda text: None) as observers:
        run_study(study_spec(), tmp_path / "run", observer=all_of(observers))
    assert results(tmp_path / "run").equals(results(finished))
    assert (tmp_path / "run/study.yaml").read_text() == (finished / "study.yaml").read_text()


def test_the_builtin_loggers_are_installed() -> None:
    for name in ("tensorboard", "mlflow"):
        assert callable(load_plugin("loggers", name))
