"""A real PostgreSQL server for tests: its own folder, a Unix socket alone, gone afterwards.

The server can be stopped, killed and started again while its data stay, so tests can take a study's
database away and bring it back.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

_DEBIAN = Path("/usr/lib/postgresql")
_USER = "qsearch"
_PATIENCE_SECONDS = 500
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PGTZ": "UTC", "PGCTLTIMEOUT": str(_PATIENCE_SECONDS)}
_SETTINGS = {
    "listen_addresses": "",  # The socket alone: no port can be taken, and nobody else connects.
    "fsync": "off",  # Nothing here outlives the machine.
    "shared_buffers": "16MB",
    "max_connections": "50",
    "dynamic_shared_memory_type": "mmap",  # Containers may have a small /dev/shm.
}


class PostgresMissingError(Exception):
    """There is no PostgreSQL server to start, or no user to start it as."""


class PostgresServer:
    """A server that is started at once.

    Args:
        folder: Where its data and its socket are kept; short, since a socket's path is limited to
            some hundred characters.

    Raises:
        PostgresMissingError: If the server's programs are missing, or a user to run them.
    """

    def __init__(self, folder: Path) -> None:
        self._programs = _find_programs()
        self._prefix = _as_ordinary_user(folder)
        self._folder = folder
        self._data = folder / "data"
        self._run("initdb", "-D", self._data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = {**_SETTINGS, "unix_socket_directories": str(self._folder)}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        log = self._folder / "server.log"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", log, "-o", options)

    def stop(self) -> None:
        """Stop the server; connections are ended."""
        self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", self._data)

    def kill(self) -> None:
        """Kill the server as a crash would: nothing is told to its clients."""
        lock = self._data / "postmaster.pid"
        number = int(lock.read_text().split()[0])
        os.kill(number, signal.SIGKILL)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        # Its children end themselves; the memory that they share must be free before a new start.
        while _members(session=number):
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes of the killed server {number} live on")
            time.sleep(0.02)
        # Where nobody waits for orphans, the dead process keeps its number, and seems to live.
        for path in (lock, *self._folder.glob(".s.PGSQL.*")):
            path.unlink(missing_ok=True)

    def is_running(self) -> bool:
        """Return whether the server runs."""
        return self._call("pg_ctl", "status", "-D", self._data).returncode == 0

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        arguments = ("-h", self._folder, "-U", _USER, "-d", "postgres", "-X")
        self._run("psql", *arguments, "-c", f'CREATE DATABASE "{name}"')
        return self.url(name)

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        options = f"host={quote(str(self._folder))}&connect_timeout={_PATIENCE_SECONDS}"
        return f"postgresql://{_USER}@/{database}?{options}"

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = self._call(program, *arguments)
        if done.returncode:
            raise RuntimeError(f"{program} {arguments}: {done.stdout}{done.stderr}")

    def _call(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        # To files and not to pipes: the server keeps them open for as long as it lives.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            done = subprocess.run(
                [*self._prefix, str(self._programs / program), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                cwd=self._folder,
                env={**os.environ, **_ENVIRONMENT},
                timeout=_PATIENCE_SECONDS,
                check=False,
            )
            out.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(
                done.args, done.returncode, out.read(), errors.read()
            )


def _members(session: int) -> list[int]:
    """Return the living processes of a session: the server and its children."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It ended just now.
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(file.parent.name))
    return found


def _find_programs() -> Path:
    """Return the folder of the server's programs: that of PATH, or Debian's newest."""
    on_path = shutil.which("initdb")
    found = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if on_path:
        return Path(on_path).resolve().parent
    if not found:
        raise PostgresMissingError(
            f"no PostgreSQL server: neither initdb on PATH nor {_DEBIAN}/*/bin (Debian: postgresql)"
        )
    return found[-1].parent


def _as_ordinary_user(folder: Path) -> Sequence[str]:
    """Return what to put before a command; as root, give the folder to a user that is not."""
    if os.geteuid() != 0:
        return ()
    name = next((name for name in ("postgres", "nobody") if _exists(name)), None)
    if name is None or shutil.which("setpriv") is None:
        raise PostgresMissingError("the server refuses to run as root, and there is no other user")
    user = pwd.getpwnam(name)
    os.chown(folder, user.pw_uid, user.pw_gid)
    # Clients are root, who may go everywhere; the user must get to its folder.
    folder.chmod(0o700)
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
