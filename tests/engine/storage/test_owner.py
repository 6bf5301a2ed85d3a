"""Who runs a study, and whether it still lives."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from qsearch.storage.owner import this_process

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").is_file(), reason="the kernel tells no start since its own"
)


def set_the_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Move what psutil reads as the starts of processes, as setting the clock does."""
    told = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: told(process) + seconds)


@needs_proc
def test_a_process_lives_on_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    me = this_process()
    set_the_clock(monkeypatch, 3600)
    assert me.is_dead(silence=0) is False


@needs_proc
def test_a_process_of_another_start_is_another_process() -> None:
    me = this_process()
    assert me.started is not None
    assert replace(me, started=me.started - 10).is_dead(silence=0) is True


def test_a_start_that_an_earlier_version_wrote_as_a_date_is_understood() -> None:
    before = replace(this_process(), started=psutil.Process().create_time())
    assert before.is_dead(silence=0) is False
    assert before.started is not None
    assert replace(before, started=before.started - 10).is_dead(silence=0) is True


def test_where_the_kernel_does_not_tell_starts_psutil_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsearch.storage.owner._start_since_boot", lambda process: None)
    me = this_process()
    assert me.started == psutil.Process(os.getpid()).create_time()
    assert me.is_dead(silence=0) is False
