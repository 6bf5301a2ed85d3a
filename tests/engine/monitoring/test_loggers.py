"""Loggers: their exceptions stop no study, and what they do changes none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from qsearch.errors import InputError
from qsearch.monitoring.events import Event, EventKind, Observer, all_of
from qsearch.monitoring.loggers import loggers
from qsearch.study.run import run_spec
from tests.engine.fake_study import FAILING, results

EVENT = Event(EventKind.EVALUATED, 1, {"trial": 1})


class Recorder:
    """A logger that writes down what happens to it, and fails where it is told to."""

    def __init__(self, *fails_at: str) -> None:
        self.told: list[str] = []
        self.fails_at = fails_at

    def note(self, what: str) -> None:
        self.told.append(what)
        if what in self.fails_at:
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


@pytest.fixture
def warnings_of(use, tmp_path: Path):
    """Log an event twice by a recorder; return the warnings."""

    def log(recorder: Recorder, event: Event = EVENT) -> list[str]:
        use(recorder)
        warnings: list[str] = []
        with loggers(["one", "one"], tmp_path, "fake", warnings.append) as (observer,):
            assert recorder.told == ["call fake"]
            observer(event)
            observer(event)
        return warnings

    return log


def test_a_logger_is_opened_at_the_first_event_and_closed_at_the_end(warnings_of) -> None:
    recorder = Recorder()
    assert warnings_of(recorder) == []
    assert recorder.told == ["call fake", "open", "evaluated", "evaluated", "close"]


def test_a_logger_that_fails_is_dropped_with_one_warning(warnings_of) -> None:
    recorder = Recorder("evaluated", "close")
    (warning,) = warnings_of(recorder)
    assert recorder.told == ["call fake", "open", "evaluated", "close"]
    assert warning.startswith("logger 'one' failed and is dropped, the study continues: OSError")


def test_a_servers_password_is_not_shown(warnings_of) -> None:
    request = "POST http://bob:p@ss@127.0.0.1:9/api"
    (warning,) = warnings_of(Recorder(request), Event(request, 1))
    assert warning.endswith("cannot do POST http://***@127.0.0.1:9/api")


@pytest.mark.parametrize("when", ["open", "close"])
def test_a_logger_that_cannot_open_or_close_stops_nothing(when: str, warnings_of) -> None:
    (warning,) = warnings_of(Recorder(when))
    assert f"cannot do {when}" in warning


def test_a_study_that_is_interrupted_closes_its_logger(use, tmp_path: Path) -> None:
    recorder = use(Recorder())
    opened = loggers(["one"], tmp_path, "fake", print)
    with pytest.raises(KeyboardInterrupt), opened as (observer,):  # noqa: PT012
        observer(EVENT)
        raise KeyboardInterrupt
    assert recorder.told[-1] == "close"


def test_a_logger_that_nobody_installed_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"no logger is called 'paper'; installed: \["),
        loggers(["paper"], tmp_path, "fake", print),
    ):
        pass


def test_loggers_change_neither_a_study_nor_its_yaml(use, faulty: Path, tmp_path: Path) -> None:
    use(Recorder("evaluated"))
    with loggers(["one"], tmp_path, "fake", lambda text: None) as observers:
        run_spec(FAILING, tmp_path / "run", observer=all_of(observers))
    assert results(tmp_path / "run").equals(results(faulty))
    assert (tmp_path / "run/study.yaml").read_text() == (faulty / "study.yaml").read_text()
