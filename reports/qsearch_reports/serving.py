"""A live page of one study: a read-only web server that never writes into the study's directory.

Whoever reaches the server can read the study, so it listens on this machine alone unless told
otherwise. It knows five paths, and takes none of them as the name of a file. Browsers ask it under
names that it goes by, and no other: otherwise a page from elsewhere could point a name of its own
at this machine and read the study (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qsearch._text import reason_of
from qsearch.errors import InputError, QsearchError
from qsearch.monitoring.status import results_version, study_status
from qsearch.monitoring.status_text import phase_text, time_left_text
from qsearch_reports.page.assets import STYLES, TEMPLATES
from qsearch_reports.page.modules import SCRIPTS
from qsearch_reports.page.page import render_page
from qsearch_reports.results import read_results

_SECONDS = 30.0
"""How long a connection may be silent, so that idle ones hold no thread for ever."""

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "frame-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REPORT_POLICY = "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
"""In addition to the policy that the report brings itself."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class _Answer:
    content: bytes
    kind: str
    status: HTTPStatus = HTTPStatus.OK
    policy: str = _PAGE_POLICY


class LivePage:
    """What the server answers about one study, by path; its directory is only read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._generating = threading.Lock()
        self._reading = threading.Lock()
        self._version: str | None = None
        self._report = b""

    def answer(self, path: str) -> _Answer | None:
        """Return the answer at a path, or None if there is nothing."""
        files = {
            "/": (TEMPLATES / "live.html", "text/html"),
            "/live.css": (STYLES / "live.css", "text/css"),
            "/live.js": (SCRIPTS / "live.js", "text/javascript"),
        }
        if path in files:
            file, kind = files[path]
            return _Answer(file.read_bytes(), kind)
        if path == "/status.json":
            return self._status_answer()
        return self._report_answer() if path == "/report.html" else None

    def _status_answer(self) -> _Answer:
        with self._reading:
            try:
                status = study_status(self._directory)
            except Exception as error:
                # A directory without a study yet, or without reach: it may come.
                values: dict[str, Any] = {"problem": _problem(error), "version": None}
            else:
                values = {
                    **status.as_json(),
                    "phase_text": phase_text(status),
                    "left_text": time_left_text(status),
                }
        # A file name may hold what is not text; it is shown as far as it is.
        return _Answer(json.dumps(values).encode("utf-8", "replace"), "application/json")

    def _report_answer(self) -> _Answer:
        """Return the report, made again if the results have changed, by one thread at a time."""
        with self._generating:
            # Before the results are read: what changes meanwhile has another version.
            version = results_version(self._directory)
            if version is None or version != self._version:
                try:
                    page = render_page([read_results(self._directory)])
                except Exception as error:
                    text = f"no report yet: {_problem(error)}".encode("utf-8", "replace")
                    return _Answer(text, "text/plain", HTTPStatus.NOT_FOUND)
                self._version, self._report = version, page.encode("utf-8", "replace")
            return _Answer(self._report, "text/html", policy=_REPORT_POLICY)


def _problem(error: Exception) -> str:
    """Return what the page says of an error, of whatever kind."""
    return str(error) if isinstance(error, QsearchError | OSError) else reason_of(error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SECONDS

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not self.server.goes_by(hosts[0]):
            self.send_error(HTTPStatus.FORBIDDEN, "this server does not go by that name")
            return
        # A path is compared as it stands: nothing in it is decoded or resolved.
        path, _, _ = self.path.partition("?")
        answer = self.server.page.answer(path)
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND, "there is nothing here")
            return
        self._send(answer)

    do_HEAD = do_GET  # noqa: N815  (a name of the base class)

    def _send(self, answer: _Answer, **headers: str) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", f"{answer.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(answer.content)))
        self.send_header("Content-Security-Policy", answer.policy)
        for name, value in {**_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send a plain error; any method but GET and HEAD is refused as such."""
        headers = {"Connection": "close"}
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "this server is read-only"
            headers["Allow"] = "GET, HEAD"
        status = HTTPStatus(code)
        self.close_connection = True
        self._send(
            _Answer(f"{message or status.phrase}\n".encode(), "text/plain", status), **headers
        )

    def version_string(self) -> str:
        return "qsearch"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the terminal quiet: a page asks every few seconds."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: Any, family: socket.AddressFamily, host: str, page: LivePage):
        self.address_family = family
        self.page = page
        super().__init__(address, _Handler)
        self._names = {host.lower(), "localhost", "127.0.0.1", "::1"}
        bound = str(self.server_address[0]).partition("%")[0]
        self.is_local = ipaddress.ip_address(bound).is_loopback
        if not self.is_local:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def goes_by(self, host: str) -> bool:
        """Return whether a Host header names this server, at any port: it may be forwarded."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return not self.is_local  # An address cannot be pointed elsewhere.

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Forget a connection that broke: the browser left, or said nothing."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def serve(
    directory: Path, host: str, port: int, say: Callable[[str], None], warn: Callable[[str], None]
) -> None:
    """Serve a study's live page until the process is interrupted."""
    with make_server(directory, host, port) as server:
        if not server.is_local:
            warn(f"whoever can reach {host} can read this study; --host 127.0.0.1 keeps it here")
        shown = f"[{host}]" if ":" in host else host
        with contextlib.suppress(KeyboardInterrupt):
            say(f"http://{shown}:{server.server_address[1]}/ shows {directory}; Ctrl-C ends it")
            server.serve_forever(poll_interval=0.2)


def make_server(directory: Path, host: str, port: int) -> _Server:
    """Return a server that listens already.

    Raises:
        InputError: If there is no such directory, or it cannot listen there.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; give that of a study")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = addresses[0]
        return _Server(address, family, host, LivePage(directory))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"--host {host} --port {port}: cannot listen there: {reason};"
            " give another --port or --host"
        ) from error
