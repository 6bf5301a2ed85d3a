"""Python programs in forks of one process that has the imports of a study done.

Those imports take 7 s of a core, more than most commands of a test. A fork has the same modules as
a new process and is otherwise new, but for the order of sets of texts, which is that of its server.
So what is to be the same in another process is for new processes to show.

Run as a program, this is the server. It answers each line of its input, both JSON: what to run with
a process id, a process id with its exit code, or None while it runs.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

IMPORTS = (
    "torch",
    "transformers.modeling_utils",
    "peft",
    "qsearch.study.run",
    "qsearch_coalora.methods.coa_lora",
)
ROOT = Path(__file__).parent.parent
FIXED = ("PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS")
"""Variables that are read at start or by an import; another value needs another server."""


class Fork:
    """A program that runs in a fork, with the methods of ``subprocess.Popen`` that tests use."""

    def __init__(self, server: Server, arguments: Sequence[str], variables: Mapping[str, str]):
        """Start it."""
        self.server = server
        self.args = list(arguments)
        self.folder = tempfile.TemporaryDirectory()
        self.files = [Path(self.folder.name, name) for name in ("stdout", "stderr")]
        self.returncode: int | None = None
        self.pid: int = server.ask(
            {
                "arguments": self.args,
                "variables": dict(variables),
                "files": list(map(str, self.files)),
                "cwd": str(Path.cwd()),
            }
        )

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = self.server.ask(self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return the exit code once it has ended; kill it if it takes longer."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise subprocess.TimeoutExpired(self.args, timeout, *self.said())
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float = 500) -> tuple[str, str]:
        """Return its output and errors once it has ended."""
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        """Return its output and errors so far."""
        output, errors = (file.read_text() if file.is_file() else "" for file in self.files)
        return output, errors

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The client's end of a server, whose variables are these."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        """Start a server; it imports while the caller continues."""
        self.fixed = fixed(variables)
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=dict(variables),
            cwd=ROOT,
            start_new_session=True,
        )

    def ask(self, question: object) -> Any:
        """Return the server's answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        """Kill the server and what it runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


_SERVERS: list[Server] = []
"""The server of this process, if one runs: one at a time, since each takes 0.7 GB."""


def start_fork(arguments: Sequence[str | Path], variables: Mapping[str, str]) -> Fork:
    """Start a Python program in a fork of a process that has the imports of a study done.

    Args:
        arguments: The command line: this Python, ``-m`` and a module or a script, and the
            program's own arguments.
        variables: All its environment variables.
    """
    program, *rest = map(str, arguments)
    assert program == sys.executable
    if _SERVERS and _SERVERS[0].fixed != fixed(variables):
        _SERVERS.pop().stop()
    if not _SERVERS:
        _SERVERS.append(Server(variables))
        atexit.register(_SERVERS[0].stop)
    return Fork(_SERVERS[0], rest, variables)


def fixed(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that a fork cannot change."""
    return {name: variables.get(name) for name in FIXED}


def serve() -> dict[str, Any] | None:
    """Answer each line of the input; in a fork, return what it should be."""
    for name in IMPORTS:
        __import__(name)
    assert threading.active_count() == 1, "a fork has no other thread"
    gc.freeze()  # So that a fork's collector leaves the memory alone that it shares.
    for line in sys.stdin:
        question = json.loads(line)
        answer: int | None
        if isinstance(question, int):
            ended, status = os.waitpid(question, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if answer == 0:
                return dict(question)
        print(json.dumps(answer), flush=True)
    return None


def become(job: Mapping[str, Any]) -> None:
    """Run a program with its variables, folder, arguments, output and errors."""
    os.environ.clear()
    os.environ.update(job["variables"])
    os.chdir(job["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(job["files"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.argv = list(job["arguments"])
    if sys.argv[0] == "-m":
        del sys.argv[0]
        sys.path[0] = job["cwd"]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    given = serve()
    if given is not None:
        become(given)
