"""The event log."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from qsearch.errors import InputError
from qsearch.monitoring.events import Event, EventKind, event_line, event_log, last_event


def test_each_event_is_one_line_of_json(tmp_path: Path) -> None:
    observe = event_log(tmp_path / "log.jsonl")
    observe(Event(EventKind.TRAINED, 0, {"loss": 0.5, "note": "a\nb"}))
    observe(Event(EventKind.TRAINING, 0, {"step": 3}))
    observe(Event(EventKind.EVALUATED, 1, {"losses": [1, 2]}))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["event"], line["round"]) for line in lines] == [("trained", 0), ("evaluated", 1)]
    assert lines[0]["note"] == "a\nb"
    assert last_event(tmp_path / "log.jsonl") == lines[1]


def test_a_figure_replaces_neither_time_nor_kind_nor_round() -> None:
    fields = {"loss": 0.5, "time": "yesterday", "event": "finished", "round": 9}
    line = event_line(Event(EventKind.TRAINED, 1, fields))
    assert (line["event"], line["round"], line["loss"]) == ("trained", 1, 0.5)
    assert datetime.fromisoformat(line["time"])
    assert list(line) == ["time", "event", "round", "loss"]


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    fields = {"loss": math.nan, "losses": [1.0, math.inf], "by": {"a": (-math.inf, 2)}}
    event_log(tmp_path / "log.jsonl")(Event(EventKind.EVALUATED, 0, fields))

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert (line["loss"], line["losses"], line["by"]) == (None, [1.0, None], {"a": [None, 2]})


@pytest.mark.parametrize("tail", [b'{"event": "tra', b"\xff\xfe\x00", b"3\n", b""])
def test_last_event_is_the_last_whole_one(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'\xff{"event": "bad"}\n{"event": "good \xc3"}\n' + tail)
    found = last_event(path)
    assert found is not None
    assert found["event"].startswith("good")


def test_no_log_has_no_last_event(tmp_path: Path) -> None:
    assert last_event(tmp_path / "log.jsonl") is None


def test_log_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match=r"log\.jsonl: is a link"):
        event_log(tmp_path / "log.jsonl")(Event(EventKind.EVALUATED, 0))
    assert (tmp_path / "mine").read_text() == "mine"
