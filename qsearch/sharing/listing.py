"""The studies in a database, or in the directories of a folder, without loading any of them.

A database is asked for counts alone; Ax, which would build every trial, is not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Integer, Text, column, func, inspect, select, table
from sqlalchemy.engine import Connection

from qsearch._text import warn
from qsearch.errors import InputError
from qsearch.experiment.database_lock import lock_holders, lock_key
from qsearch.experiment.url import database_errors, open_engine, without_password
from qsearch.storage.lock import dead_owner, lock_owner
from qsearch.storage.paths import IDENTITY, STUDY_FILE, STUDY_YAML

_EXPERIMENTS = table(
    "experiment_v2",
    column("id", Integer),
    column("name", Text),
    column("description", Text),
    column("time_created", Integer),
)
_TRIALS = table(
    "trial_v2",
    column("experiment_id", Integer),
    column("status", Integer),
    column("time_created", Integer),
    column("time_completed", Integer),
)

FAILED, COMPLETED, RUNNING = 2, 3, 4
"""How Ax writes a trial's status."""


@dataclass(frozen=True)
class ListedStudy:
    """A study in a list, with counts of its trials. Times are ISO 8601, in UTC.

    What is not known is None: a directory does not know what is waiting, and a database neither
    rounds nor losses nor directories. A study of an objective has no rounds.

    Args:
        rounds: Of which anything was evaluated.
        waiting: Trials without a result yet.
        least_loss: Least observed loss of the last of these rounds, nats.
        running: Who runs it, as text; "" if nobody does, or in SQLite databases.
    """

    name: str
    rounds: int | None
    completed: int
    failed: int
    waiting: int | None
    least_loss: float | None
    created: str | None
    changed: str | None
    running: str
    directory: str | None


def list_database(url: str) -> list[ListedStudy]:
    """Return the studies in a database, by name; InputError if it is another program's."""
    with database_errors(url), open_engine(url, must_exist=True).connect() as connection:
        names = sorted(inspect(connection).get_table_names())
        if {_EXPERIMENTS.name, _TRIALS.name} <= set(names):
            return _studies(connection)
        if names:
            raise InputError(
                f"--storage {without_password(url)!r} is the database of another program: it has a"
                f" table {names[0]!r}, and not all of Ax's"
            )
        return []


def _studies(connection: Connection) -> list[ListedStudy]:
    holders = lock_holders(connection)
    counts: dict[int, dict[int, int]] = {}
    latest: dict[int, int] = {}
    trials = select(
        _TRIALS.c.experiment_id,
        _TRIALS.c.status,
        func.count(),
        func.max(func.coalesce(_TRIALS.c.time_completed, _TRIALS.c.time_created)),
    ).group_by(_TRIALS.c.experiment_id, _TRIALS.c.status)
    for number, status, count, changed in connection.execute(trials):
        counts.setdefault(number, {})[status] = count
        latest[number] = max(changed, latest.get(number, 0))
    ours = _EXPERIMENTS.c.description.like("qsearch study %")
    experiments = select(_EXPERIMENTS).where(ours).order_by(_EXPERIMENTS.c.name)
    return [
        ListedStudy(
            name=row["name"],
            rounds=None,
            completed=counts.get(row["id"], {}).get(COMPLETED, 0),
            failed=counts.get(row["id"], {}).get(FAILED, 0),
            waiting=counts.get(row["id"], {}).get(RUNNING, 0),
            least_loss=None,
            created=_time(row["time_created"]),
            changed=_time(max(row["time_created"], latest.get(row["id"], 0))),
            running=holders.get(lock_key(row["name"]), ""),
            directory=None,
        )
        for row in connection.execute(experiments).mappings()
    ]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def list_folder(folder: Path, note: Callable[[str], None] = warn) -> list[ListedStudy]:
    """Return the studies whose directories lie in a folder, or its own, by name of the directory.

    ``note`` gets a message for each study that is left out, as its results cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    if (folder / STUDY_YAML).is_file():
        return [_of_directory(folder)]
    studies = []
    for path in sorted(folder.iterdir()):
        try:
            if (path / STUDY_YAML).is_file():
                studies.append(_of_directory(path))
        except (InputError, OSError) as error:
            note(f"{error}; {path} is left out of the list")
    return studies


def runner(directory: Path) -> str:
    """Return who runs the study in a directory, as text; "" if nobody does."""
    owner, died = lock_owner(directory), dead_owner(directory)
    return owner.describe() if owner else f"nobody; {died.describe()} died" if died else ""


def _of_directory(directory: Path) -> ListedStudy:
    from qsearch.storage.study_record import read_study  # Imports pandas.

    running, results = runner(directory), directory / STUDY_FILE
    if not results.is_file():
        return ListedStudy(directory.name, 0, 0, 0, None, None, None, None, running, str(directory))
    record = read_study(directory)
    trials, identity = record.trials, directory / IDENTITY
    measured = trials[trials["status"] == "completed"]
    last = measured["round"].max()  # NaN if there is none.
    latest = measured[measured["round"] == last]
    failed = int((trials["status"] == "failed").sum())
    return ListedStudy(
        name=record.name,
        rounds=None if not record.is_trained else 0 if latest.empty else int(last),
        completed=int(trials["trial"].nunique()) - failed,
        failed=failed,
        waiting=None,
        least_loss=None if latest.empty else float(latest["loss"].min()),
        created=_time(identity.stat().st_mtime) if identity.is_file() else None,
        changed=_time(results.stat().st_mtime),
        running=running,
        directory=str(directory),
    )
