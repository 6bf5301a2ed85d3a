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
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest
from qsearch_reports.page.assets import TEMPLATES
from qsearch_reports.page.modules import SCRIPTS
from qsearch_reports.serving import LivePage, make_server, serve

from qsearch.errors import InputError
from qsearch.monitoring.events import Event, EventKind, event_log
from qsearch.storage.study_record import write_study

PATHS = ("/", "/live.css", "/live.js", "/status.json", "/report.html")


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()


Ask = Callable[..., Answer]


@pytest.fixture
def serving() -> Iterator[Callable[..., Ask]]:
    """Serve a directory in a thread; returns what asks the server."""
    servers = []

    def start(directory: Path, host: str = "127.0.0.1") -> Ask:
        server = make_server(directory, host, 0)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)

        def ask(path: str, method: str = "GET", **headers: str) -> Answer:
            link = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
            link.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                if value:
                    link.putheader(name, value)
            link.endheaders()
            return Answer(link.getresponse())

        return ask

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def ask(serving, study, record) -> Ask:
    return serving(study(record))


@pytest.mark.parametrize("path", PATHS)
def test_known_paths_are_answered_with_headers_that_keep_browsers_strict(path: str, ask) -> None:
    answer = ask(path)
    assert answer.status == HTTPStatus.OK
    assert answer.body
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Set-Cookie"] is None
    assert answer.headers["Access-Control-Allow-Origin"] is None
    assert "frame-ancestors" in answer.headers["Content-Security-Policy"]
    assert "Python" not in answer.headers["Server"]


def test_the_page_may_run_its_own_files_alone(ask) -> None:
    answer = ask("/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert re.findall(r"<script[^>]*>(.*?)</script>", answer.body.decode()) == [""]
    assert not re.findall(r"<style|\son\w+=|style=", answer.body.decode())


@pytest.mark.parametrize("path", PATHS)
def test_a_head_is_the_same_without_its_body(path: str, ask) -> None:
    head, full = ask(path, "HEAD"), ask(path)
    assert head.status == full.status == HTTPStatus.OK
    assert head.body == b""
    if path != "/status.json":  # It tells the time.
        assert int(head.headers["Content-Length"]) == len(full.body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "MKCOL", "get"])
@pytest.mark.parametrize("path", ["/", "/elsewhere"])
def test_other_methods_are_refused(method: str, path: str, ask) -> None:
    answer = ask(path, method)
    assert answer.status == HTTPStatus.METHOD_NOT_ALLOWED
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    [
        "/study.yaml",
        "/report.html/",
        "/./report.html",
        "/../study.yaml",
        "/%2e%2e/study.yaml",
        "/live.js/../../serving.py",
        "/report.css",
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
        ("127.0.0.1:80", 200),
        ("[::1]:8765", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8765", 403),
        ("evil.example@localhost.evil", 403),
        ("192.168.0.7", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_only_names_of_this_machine_are_answered(host: str, status: int, ask) -> None:
    assert ask("/status.json", Host=host).status == status


def test_who_listens_for_others_answers_to_addresses_and_its_own_name(
    serving, study, record
) -> None:
    ask = serving(study(record), "0.0.0.0")
    for host in ("192.168.0.7:8765", socket.gethostname(), "localhost"):
        assert ask("/status.json", Host=host).status == HTTPStatus.OK
    assert ask("/status.json", Host="evil.example").status == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize(("host", "is_told"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_listening_for_others_is_warned_of(
    host: str, is_told: bool, study, record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: object, poll_interval: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupt)
    said: list[str] = []
    warned: list[str] = []
    serve(study(record), host, 0, said.append, warned.append)
    assert len(warned) == is_told
    assert re.match(rf"http://{re.escape(host)}:\d+/ shows ", said[0])


def test_the_directory_stays_as_it_was(serving, study, record) -> None:
    directory = study(record)
    before = {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))}
    ask = serving(directory)
    for path in PATHS:
        assert ask(path).status == HTTPStatus.OK
    assert {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))} == before


def test_the_report_is_made_again_only_when_the_results_change(
    serving, study, make_record, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def render(results: object) -> str:
        made.append(results)
        return f"page {len(made)}"

    monkeypatch.setattr("qsearch_reports.serving.render_page", render)
    directory = study(make_record(rounds=1))
    ask = serving(directory)
    bodies = [ask("/report.html").body for _ in range(2)]
    write_study(directory, make_record(rounds=2))
    bodies.append(ask("/report.html").body)
    assert bodies == [b"page 1", b"page 1", b"page 2"]


def test_browsers_that_ask_at_once_share_one_report(
    serving, study, record, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked, held = [], threading.Semaphore(0), threading.Lock()
    answer = LivePage.answer

    def count(page: LivePage, path: str) -> object:
        asked.release()
        return answer(page, path)

    def render(results: object) -> str:
        with held:
            made.append(results)
        return "page"

    monkeypatch.setattr("qsearch_reports.serving.render_page", render)
    monkeypatch.setattr(LivePage, "answer", count)
    ask = serving(study(record))
    threads = [threading.Thread(target=ask, args=("/report.html",)) for _ in range(4)]
    with held:
        for thread in threads:
            thread.start()
        assert all(asked.acquire(timeout=60) for _ in threads)
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_study_without_results_says_so_and_turns_into_its_report(
    serving, tmp_path: Path, record
) -> None:
    ask = serving(tmp_path)
    assert json.loads(ask("/status.json").body)["version"] is None
    assert ask("/report.html").status == HTTPStatus.NOT_FOUND
    event_log(tmp_path / "log.jsonl")(Event(EventKind.MEASURING_QUANTIZATION_ERROR, 1))
    status = json.loads(ask("/status.json").body)
    assert (status["version"], status["completed"]) == (None, 0)
    write_study(tmp_path, record)
    assert json.loads(ask("/status.json").body)["version"]
    assert ask("/report.html").status == HTTPStatus.OK


def test_damaged_results_are_told_and_end_no_server(
    serving, study, record, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = study(record)
    (directory / "state" / "study.json").write_text("{")
    ask = serving(directory)
    assert "study.json" in json.loads(ask("/status.json").body)["problem"]
    assert ask("/report.html").status == HTTPStatus.NOT_FOUND
    write_study(directory, record)
    assert ask("/report.html").status == HTTPStatus.OK
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("part", "path"), [("study_status", "/status.json"), ("render_page", "/report.html")]
)
def test_an_error_that_nobody_foresaw_is_told_on_the_page(
    part: str,
    path: str,
    ask,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("oh no")

    monkeypatch.setattr(f"qsearch_reports.serving.{part}", fail)
    assert b"ZeroDivisionError: oh no" in ask(path).body
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_is_named_on_the_page_and_not_in_the_terminal(
    serving, study, record, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = study(record)
    write_study(directory, record)
    (directory / "state/study.json").write_text("{")
    ask = serving(directory)
    assert "study.json: damaged" in json.loads(ask("/status.json").body)["problem"]
    assert b"study.json: damaged" in ask("/report.html").body
    assert capfd.readouterr() == ("", "")


def test_figures_that_are_no_numbers_are_json_all_the_same(serving, study, make_record) -> None:
    record = make_record(rounds=1)
    odd = replace(record, rounds=(replace(record.rounds[0], hypervolume=float("nan")),))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(serving(study(odd))("/status.json").body, parse_constant=refuse)
    assert found["hypervolumes"] == [None]


HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\u2028"


def test_a_hostile_name_is_data_and_no_markup(serving, study, make_record) -> None:
    ask = serving(study(make_record(name=HOSTILE)))
    status = ask("/status.json")
    assert json.loads(status.body)["name"] == HOSTILE
    assert status.headers["Content-Type"] == "application/json; charset=utf-8"
    # The page itself is the same for every study; its script shows names as text.
    assert ask("/").body == (TEMPLATES / "live.html").read_bytes()
    assert not re.findall(
        "innerHTML|outerHTML|insertAdjacentHTML|document.write", (SCRIPTS / "live.js").read_text()
    )
    assert b"<img src=x" not in ask("/report.html").body


def test_a_request_that_is_too_long_gets_a_plain_error(ask) -> None:
    answer = ask("/" + "a" * 70000)
    assert answer.status == HTTPStatus.REQUEST_URI_TOO_LONG
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_a_port_in_use_is_refused_in_one_message(study, record) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"--port {port}: cannot listen there: .*in use"):
            make_server(study(record), "127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "a..b", "x" * 300])
def test_a_host_that_is_not_here_is_refused(host: str, study, record) -> None:
    with pytest.raises(InputError, match="cannot listen there"):
        make_server(study(record), host, 0)


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        make_server(tmp_path / "missing", "127.0.0.1", 0)


def test_an_interrupt_ends_the_command_well(study, record) -> None:
    arguments = ["serve", str(study(record)), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "qsearch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    port = int(re.match(r"http://127\.0\.0\.1:(\d+)/", line)[1])
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    link.request("GET", "/status.json")
    assert json.loads(link.getresponse().read())["name"] == record.name
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
