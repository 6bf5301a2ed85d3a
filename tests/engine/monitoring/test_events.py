"""The event log."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from qsearch.errors import InputError
from qsearch.monitoring.events import (
    Event,
    EventKind,
    all_of,
    event_line,
    event_log,
    event_of_line,
    last_event,
    read_events,
)
from qsearch.storage.paths import LOG


def test_each_event_is_one_line_of_json(tmp_path: Path) -> None:
    observe = event_log(tmp_path / LOG)
    observe(Event(EventKind.TRAINED, 1, {"loss": 0.5, "note": "a\nb"}))
    observe(Event(EventKind.EVALUATED, 2, {"losses": [1, 2]}))
    lines = read_events(tmp_path / LOG)
    assert [(line["event"], line["round"]) for line in lines] == [("trained", 1), ("evaluated", 2)]
    assert lines[0]["note"] == "a\nb"
    assert last_event(tmp_path / LOG) == lines[1]


def test_a_log_continues_in_a_line_of_its_own_after_half_a_line(tmp_path: Path) -> None:
    observe = event_log(tmp_path / LOG)
    observe(Event(EventKind.TRAINED, 1))
    (tmp_path / LOG).write_bytes((tmp_path / LOG).read_bytes()[:-20])
    for round in (1, 2):
        observe(Event(EventKind.EVALUATED, round))
    assert [line["round"] for line in read_events(tmp_path / LOG)] == [1, 2]
    assert len((tmp_path / LOG).read_text().splitlines()) == 3


def test_of_progress_the_beginning_of_a_phase_is_logged(tmp_path: Path) -> None:
    observe = event_log(tmp_path / LOG)
    observe(Event(EventKind.ROUND_STARTED, 1))
    observe(Event(EventKind.TRAINING, 1, {"step": 1}))
    for round in (1, 2):
        for done in (0, 1):
            observe(Event(EventKind.SEARCHING, round, {"done": done}))
    lines = [(line["event"], line.get("done")) for line in read_events(tmp_path / LOG)]
    assert lines == [("round started", None), ("searching", 0), ("searching", 0)]


def test_a_log_is_read_back_as_events() -> None:
    event = Event(EventKind.TRAINED, 2, {"steps": 5})
    line = event_line(event)
    read = event_of_line(line)
    assert read is not None
    assert (read.kind, read.round, read.fields["steps"]) == (EventKind.TRAINED, 2, 5)
    for odd in ({"event": "sung"}, {"event": ["trained"]}, {"round": "2"}, {"round": 10**400}):
        assert event_of_line(line | odd) is None


def test_a_field_replaces_neither_time_nor_kind_nor_round() -> None:
    fields = {"loss": 0.5, "time": "yesterday", "event": "finished", "round": 9}
    line = event_line(Event(EventKind.TRAINED, 1, fields))
    assert (line["event"], line["round"], line["loss"]) == ("trained", 1, 0.5)
    assert datetime.fromisoformat(line["time"])
    assert list(line) == ["time", "event", "round", "loss"]


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    fields = {"loss": math.nan, "losses": [1.0, math.inf], "by": {"a": (-math.inf, 2)}}
    event_log(tmp_path / LOG)(Event(EventKind.EVALUATED, 1, fields))

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    line = json.loads((tmp_path / LOG).read_text(), parse_constant=refuse)
    assert (line["loss"], line["losses"], line["by"]) == (None, [1.0, None], {"a": [None, 2]})


@pytest.mark.parametrize("tail", [b'{"event": "tra', b"\xff\xfe\x00", b"3\n", b""])
def test_last_event_is_the_last_whole_one(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / LOG
    assert last_event(path) is None
    path.write_bytes(b'\xff{"event": "bad"}\n{"event": "good \xc3"}\n' + tail)
    found = last_event(path)
    assert found is not None
    assert found["event"].startswith("good")


def test_log_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOG).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match=r"log\.jsonl: is a link"):
        event_log(tmp_path / LOG)(Event(EventKind.EVALUATED, 1))
    assert (tmp_path / "mine").read_text() == "mine"


def test_observers_are_called_in_order() -> None:
    calls: list[str] = []
    observe = all_of([lambda e: calls.append(f"1 {e.kind}"), lambda e: calls.append(f"2 {e.kind}")])
    observe(Event(EventKind.EVALUATED, 1))
    assert calls == ["1 evaluated", "2 evaluated"]
