"""The live page's server: what it answers, to whom, and that it only reads."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qsearch_reports.serving import LivePage, make_server, serve

from qsearch.errors import InputError
from qsearch.monitoring.events import Event, EventKind, event_log
from qsearch.storage.study_record import StudyRecord, write_study
from tests.reports.realistic_studies import make_record

PATHS = ("/", "/live.css", "/live.js", "/status.json", "/report.html")


Ask = Callable[..., Any]


@contextmanager
def serving(directory: Path, host: str = "127.0.0.1") -> Iterator[Ask]:
    """Serve a directory in a thread; yields what asks the server."""
    with make_server(directory, host, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def ask(path: str, method: str = "GET", **headers: str) -> Any:
            link = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=500)
            link.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                if value:
                    link.putheader(name, value)
            link.endheaders()
            got = link.getresponse()
            return SimpleNamespace(status=got.status, headers=got.headers, body=got.read())

        yield ask
        server.shutdown()


@pytest.fixture(scope="module")
def small() -> StudyRecord:
    return make_record(rounds=1, trials_per_round=6)


@pytest.fixture(scope="module")
def served(small: StudyRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that no test changes."""
    directory = tmp_path_factory.mktemp("served")
    write_study(directory, small)
    return directory


@pytest.fixture(scope="module")
def ask(served: Path) -> Iterator[Ask]:
    """Ask a server of that study."""
    with serving(served) as asking:
        yield asking


@pytest.mark.parametrize("path", PATHS)
def test_known_paths_are_answered_with_headers_that_keep_browsers_strict(
    path: str, ask: Ask, served: Path
) -> None:
    before = {file: file.stat().st_mtime_ns for file in served.rglob("*")}
    head, answer = ask(path, "HEAD"), ask(path)
    assert head.status == answer.status == HTTPStatus.OK
    assert head.body == b""
    assert answer.body
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Set-Cookie"] is None
    assert answer.headers["Access-Control-Allow-Origin"] is None
    assert "frame-ancestors" in answer.headers["Content-Security-Policy"]
    assert "Python" not in answer.headers["Server"]
    assert {file: file.stat().st_mtime_ns for file in served.rglob("*")} == before


def test_the_page_may_run_its_own_files_alone(ask) -> None:
    answer = ask("/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert re.findall(r"<script[^>]*>(.*?)</script>", answer.body.decode()) == [""]
    assert not re.findall(r"<style|\son\w+=|style=", answer.body.decode())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "MKCOL", "get"])
def test_other_methods_are_refused(method: str, ask) -> None:
    answer = ask("/", method)
    assert answer.status == HTTPStatus.METHOD_NOT_ALLOWED
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    [
        "/study.yaml",
        "/../study.yaml",
        "/%2e%2e/study.yaml",
        "//etc/passwd",
        "/status.json%00",
        "http://127.0.0.1/study.yaml",
    ],
)
def test_nothing_else_is_answered(path: str, ask) -> None:
    answer = ask(path)
    assert answer.status == HTTPStatus.NOT_FOUND
    assert path.encode() not in answer.body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8765", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8765", 200),
        ("127.0.0.1.evil.example", 403),
        ("evil.example@localhost.evil", 403),
        ("192.168.0.7", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_only_names_of_this_machine_are_answered(host: str, status: int, ask) -> None:
    assert ask("/status.json", Host=host).status == status


@pytest.mark.parametrize(("host", "is_warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_who_listens_for_others_alone_is_warned_and_answers_to_its_own_name(
    host: str, is_warned: bool, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"192.168.0.7:8765", socket.gethostname()}
    with serving(served, host) as ask:
        statuses = {ask("/status.json", Host=name).status for name in own}
        assert ask("/status.json", Host="evil.example").status == HTTPStatus.FORBIDDEN
    assert statuses == {HTTPStatus.OK if is_warned else HTTPStatus.FORBIDDEN}

    def interrupt(self: object, poll_interval: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupt)
    said: list[str] = []
    warned: list[str] = []
    serve(served, host, 0, said.append, warned.append)
    assert len(warned) == is_warned
    assert re.match(rf"http://{re.escape(host)}:\d+/ shows ", said[0])


def test_browsers_that_ask_at_once_share_one_report_until_the_results_change(
    study: Callable[..., Path], small: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked, held = [], threading.Semaphore(0), threading.Lock()
    answer_of = LivePage.answer

    def count(page: LivePage, path: str) -> object:
        asked.release()
        return answer_of(page, path)

    def render(results: object) -> str:
        with held:
            made.append(results)
        return "page"

    monkeypatch.setattr("qsearch_reports.serving.render_page", render)
    monkeypatch.setattr(LivePage, "answer", count)
    mine = study(small)
    with serving(mine) as ask:
        with ThreadPoolExecutor(4) as browsers:
            with held:
                answers = [browsers.submit(ask, "/report.html") for _ in range(4)]
                assert all(asked.acquire(timeout=500) for _ in answers)
            for answer in answers:
                assert (answer.result().status, answer.result().body) == (HTTPStatus.OK, b"page")
        assert len(made) == 1
        write_study(mine, replace(small, name="changed"))
        ask("/report.html")
        assert len(made) == 2


def test_a_study_without_results_says_so_and_turns_into_its_report(
    tmp_path: Path, small: StudyRecord
) -> None:
    odd = replace(small, rounds=(replace(small.rounds[0], hypervolume=float("nan")),))
    with serving(tmp_path) as ask:
        assert json.loads(ask("/status.json").body)["version"] is None
        assert ask("/report.html").status == HTTPStatus.NOT_FOUND
        event_log(tmp_path / "log.jsonl")(Event(EventKind.MEASURING_QUANTIZATION_ERROR, 1))
        status = json.loads(ask("/status.json").body)
        assert (status["version"], status["completed"]) == (None, 0)
        write_study(tmp_path, odd)
        status = json.loads(ask("/status.json").body, parse_constant=pytest.fail)
        assert status["version"]
        assert status["hypervolumes"] == [None]
        assert ask("/report.html").status == HTTPStatus.OK


def test_a_damaged_file_is_named_on_the_page_and_not_in_the_terminal(
    study: Callable[..., Path], small: StudyRecord, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = study(small)
    (mine / "state" / "study.json").write_text("{")
    with serving(mine) as ask:
        assert "study.json: damaged" in json.loads(ask("/status.json").body)["problem"]
        assert b"study.json: damaged" in ask("/report.html").body
        write_study(mine, small)
        assert ask("/report.html").status == HTTPStatus.OK
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("part", "path"), [("study_status", "/status.json"), ("render_page", "/report.html")]
)
def test_an_error_that_nobody_foresaw_is_told_on_the_page(
    part: str,
    path: str,
    served: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("oh no")

    monkeypatch.setattr(f"qsearch_reports.serving.{part}", fail)
    with serving(served) as ask:
        assert b"ZeroDivisionError: oh no" in ask(path).body
    assert capfd.readouterr() == ("", "")


def test_a_request_that_is_too_long_gets_a_plain_error(ask) -> None:
    answer = ask("/" + "a" * 70000)
    assert answer.status == HTTPStatus.REQUEST_URI_TOO_LONG
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_where_it_cannot_listen_is_refused_in_one_message(served: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"--port {port}: cannot listen there: .*in use"):
            make_server(served, "127.0.0.1", port)
    for host in ("203.0.113.7", "a..b", "x" * 300):
        with pytest.raises(InputError, match="cannot listen there"):
            make_server(served, host, 0)
    with pytest.raises(InputError, match="no such directory"):
        make_server(tmp_path / "missing", "127.0.0.1", 0)


def test_an_interrupt_ends_the_command_well(served: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "qsearch", "serve", str(served), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert re.match(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=500)
    assert (process.returncode, errors) == (0, "")
