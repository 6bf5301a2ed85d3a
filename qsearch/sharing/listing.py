"""The studies in a database, or in the directories of a folder, without loading any of them.

The database is asked for sums and for what was measured; Ax, which would build every trial, is
neither imported nor needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Integer, Text, column, func, inspect, select, table
from sqlalchemy.engine import Connection

from qsearch.errors import InputError
from qsearch.experiment.lease import Lease, read_leases
from qsearch.experiment.url import database_errors, open_engine, without_password
from qsearch.storage.files import to_standard_error

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
_DATA = table("data_v2", column("experiment_id", Integer), column("data_json", Text))
_OURS = "qsearch study "

FAILED, COMPLETED, RUNNING, ABANDONED = 2, 3, 4, 5
"""How Ax writes a trial's status."""


@dataclass(frozen=True)
class ListedStudy:
    """What a list tells of a study. Times are ISO 8601, in UTC; what is not known is None.

    Args:
        name: Its name.
        rounds: Rounds of which anything was evaluated.
        completed: Trials with a result.
        failed: Trials that failed.
        waiting: Trials without a result yet; only a database tells.
        least_loss: Least observed loss of the last of these rounds, nats.
        created: When it was started.
        changed: When anything of it was last heard of.
        running: Who runs it, in words; "" if nobody does.
        directory: Its directory, on the host that ran it last.
    """

    name: str
    rounds: int
    completed: int
    failed: int
    waiting: int | None
    least_loss: float | None
    created: str | None
    changed: str | None
    running: str
    directory: str | None


def list_database(url: str) -> list[ListedStudy]:
    """Return the studies in a database, by name.

    Args:
        url: SQLAlchemy URL of the database.

    Raises:
        InputError: If it cannot be read, or is another program's.
    """
    with database_errors(url), open_engine(url, must_exist=True).connect() as connection:
        found = set(inspect(connection).get_table_names())
        needed = {_EXPERIMENTS.name, _TRIALS.name, _DATA.name}
        if not found & needed:
            others = sorted(found - {"qsearch_lease"})
            if others:
                raise InputError(
                    f"--storage {without_password(url)!r} is the database of another program: it"
                    f" has a table {others[0]!r}, and none of Ax's"
                )
            return []
        return _studies(connection)


def _studies(connection: Connection) -> list[ListedStudy]:
    leases = read_leases(connection)
    counts: dict[int, dict[int, int]] = {}
    latest: dict[int, int] = {}
    for row in connection.execute(
        select(
            _TRIALS.c.experiment_id,
            _TRIALS.c.status,
            func.count().label("trials"),
            func.max(_TRIALS.c.time_created).label("created"),
            func.max(_TRIALS.c.time_completed).label("completed"),
        ).group_by(_TRIALS.c.experiment_id, _TRIALS.c.status)
    ).mappings():
        number = row["experiment_id"]
        counts.setdefault(number, {})[row["status"]] = row["trials"]
        times = (latest.get(number), row["created"], row["completed"])
        latest[number] = max(time for time in times if time is not None)
    ours = _EXPERIMENTS.c.description.like(f"{_OURS}%")
    experiments = connection.execute(
        select(_EXPERIMENTS).where(ours).order_by(_EXPERIMENTS.c.name)
    ).mappings()
    studies = []
    for row in experiments.all():
        number, lease = row["id"], leases.get(row["name"])
        by_status = counts.get(number, {})
        rounds, least_loss = _losses(connection, number)
        studies.append(
            ListedStudy(
                name=row["name"],
                rounds=rounds,
                completed=by_status.get(COMPLETED, 0),
                failed=by_status.get(FAILED, 0),
                waiting=by_status.get(RUNNING, 0),
                least_loss=least_loss,
                created=_time(row["time_created"]),
                changed=_time(max(row["time_created"], latest.get(number, 0))),
                running=_running(lease),
                directory=lease.directory if lease else None,
            )
        )
    return studies


def _losses(connection: Connection, experiment: int) -> tuple[int, float | None]:
    """Return how many rounds an experiment has losses of, and the least loss of the last."""
    query = select(_DATA.c.data_json).where(_DATA.c.experiment_id == experiment)
    least: dict[int, float] = {}
    for text in connection.execute(query).scalars():
        for round, loss in _of_losses(json.loads(text)):
            least[round] = min(loss, least.get(round, math.inf))
    return (max(least) + 1, least[max(least)]) if least else (0, None)


def _of_losses(data: Mapping[str, Any]) -> Iterable[tuple[int, float]]:
    """Yield round and loss from Ax's columns, each a value by row."""
    steps, means = data.get("step", {}), data.get("mean", {})
    for row, metric in data.get("metric_name", {}).items():
        if metric == "loss" and steps.get(row) is not None and means.get(row) is not None:
            yield int(steps[row]), float(means[row])


def _running(lease: Lease | None) -> str:
    if lease is None or lease.silence is None:
        return ""
    words = lease.owner.describe()
    return words if lease.is_held() else f"nobody; {words} died or was cut off"


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def list_folder(folder: Path, note: Callable[[str], None] = to_standard_error) -> list[ListedStudy]:
    """Return the studies whose directories lie in a folder, by name of the directory.

    Args:
        folder: The folder, or a study's directory itself.
        note: Told of each study that is left out, as its results cannot be read.

    Raises:
        InputError: If there is no such folder, or the results of the directory itself cannot be
            read.
    """
    from qsearch.storage.paths import STUDY_YAML

    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    if (folder / STUDY_YAML).is_file():
        return [_of_directory(folder, note)]
    studies = []
    for path in sorted(folder.iterdir()):
        try:
            if (path / STUDY_YAML).is_file():
                studies.append(_of_directory(path, note))
        except (InputError, OSError) as error:
            note(f"{error}; {path} is left out of the list")
    return studies


def runner(directory: Path) -> str:
    """Return who runs the study in a directory, in words; "" if nobody does."""
    from qsearch.storage.lock import dead_owner, lock_owner

    owner, died = lock_owner(directory), dead_owner(directory)
    return owner.describe() if owner else f"nobody; {died.describe()} died" if died else ""


def _of_directory(directory: Path, note: Callable[[str], None]) -> ListedStudy:
    from qsearch.storage.paths import STUDY_FILE
    from qsearch.storage.study_record import read_study

    running = runner(directory)
    if not (directory / STUDY_FILE).is_file():
        return ListedStudy(directory.name, 0, 0, 0, None, None, None, None, running, str(directory))
    record = read_study(directory, note)
    trials, identity = record.trials, directory / "state" / "identity.json"
    measured = trials[trials["status"] == "completed"]
    last = measured["round"].max()  # Not a number if there is none.
    latest = measured[measured["round"] == last]
    failed = int((trials["status"] == "failed").sum())
    return ListedStudy(
        name=record.name,
        rounds=0 if latest.empty else int(last),
        completed=int(trials["trial"].nunique()) - failed,
        failed=failed,
        waiting=None,
        least_loss=None if latest.empty else float(latest["loss"].min()),
        created=_time(identity.stat().st_mtime) if identity.is_file() else None,
        changed=_time((directory / STUDY_FILE).stat().st_mtime),
        running=running,
        directory=str(directory),
    )
