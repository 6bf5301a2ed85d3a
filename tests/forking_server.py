"""Python programs in forks of a process that has the imports of a study done.

Those imports take 7 s of a core, more than most commands of a test. A fork has the same modules as
a new process and is otherwise new, but for the order of sets of texts, which is that of its server.
So what is to be the same in another process is for new processes to show.

Run as a program, this is the server. It runs what each line of its input says, as JSON, and answers
with the exit code once that has ended.
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


class Server:
    """The client's end of a server."""

    def __init__(self, python: str, variables: Mapping[str, str]) -> None:
        """Start a server; it imports while the caller continues."""
        self.process = subprocess.Popen(
            [python, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=dict(variables),
            cwd=ROOT,
            start_new_session=True,
        )

    def run(self, job: Mapping[str, Any]) -> int:
        """Run a program, wait for its end, and return its exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def stop(self) -> None:
        """Kill the server and what it runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


_SERVERS: dict[str, Server] = {}
"""The servers that this process has started, by their Python."""


def run_fork(
    arguments: Sequence[str | Path], variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a fork of a process that has the imports of a study done.

    Args:
        arguments: The command line: a Python with its environment, ``-m`` and a module or a
            script, and the program's own arguments.
        variables: All its environment variables. Those that Python or an import reads when it
            starts, such as OMP_NUM_THREADS, are those of the first call.
    """
    program, *rest = map(str, arguments)
    if program not in _SERVERS:
        _SERVERS[program] = Server(program, variables)
        atexit.register(_SERVERS[program].stop)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        job = {"arguments": rest, "variables": dict(variables), "cwd": str(Path.cwd())}
        try:
            code = _SERVERS[program].run(job | {"files": list(map(str, files))})
        except BaseException:  # Such as the end of a test's time.
            _SERVERS.pop(program).stop()
            raise
        output, errors = (file.read_text() for file in files)
    return subprocess.CompletedProcess([program, *rest], code, output, errors)


def serve() -> dict[str, Any] | None:
    """Run what each line of the input says; in a fork, return what it should be."""
    for name in IMPORTS:
        __import__(name)
    assert threading.active_count() == 1, "a fork has no other thread"
    gc.freeze()  # So that a fork's collector leaves the memory alone that it shares.
    for line in sys.stdin:
        number = os.fork()
        if number == 0:
            return dict(json.loads(line))
        _, status = os.waitpid(number, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def become(job: Mapping[str, Any]) -> None:
    """Run a program with its variables, folder, arguments, output and errors."""
    os.environ.clear()
    os.environ.update(job["variables"])
    os.chdir(job["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(job["files"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.path[1:1] = filter(None, job["variables"].get("PYTHONPATH", "").split(os.pathsep))
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
