"""The study's Ax experiment in its database: opened, or made, and its errors in words."""

from __future__ import annotations

import contextlib
import errno
import logging
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.exceptions.core import AxParameterWarning
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.storage.sqa_store import db
from ax.storage.sqa_store.db import (
    get_engine,
    init_engine_and_session_factory,
    session_scope,
)
from ax.storage.sqa_store.sqa_classes import SQAExperiment
from ax.utils.common.logger import set_ax_logger_levels
from safetensors import SafetensorError
from sqlalchemy import inspect, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from qsearch.ax_tables import create_tables
from qsearch.errors import InputError, QsearchError
from qsearch.generation import AVERAGE_BITS, LOSS, QsearchNode, ax_parameters, registry_bundle
from qsearch.patience import one_line, was_cut_off
from qsearch.reasons import reason_of
from qsearch.space import Space
from qsearch.state_files import damage, read_state, write_state
from qsearch.storage_url import (
    connect_arguments,
    database_errors,
    hide_password,
    open_engine,
    sqlite_url,
    without_password,
)
from qsearch.store import DATABASE, IDENTITY, read_rounds

_STORAGE_SIGNS = ("disk is full", "disk I/O error", "readonly database", "No space left")
_DAMAGE_SIGNS = ("malformed", "file is not a database", "file is encrypted")
_RESTORE = (
    "restore it together with the study's directory, from a copy, or run the study anew with"
    " another --out"
)


@contextlib.contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Turn the errors of a full or read-only disk, or of a damaged database, into one message.

    Raises:
        InputError: Naming the directory and the reason.
        QsearchError: If the database fails otherwise.
    """
    try:
        yield
    except (OSError, SQLAlchemyError, SafetensorError) as error:
        if any(sign in str(error) for sign in _DAMAGE_SIGNS):
            raise InputError(
                f"{directory}: its database is damaged: {one_line(error)}; {_RESTORE}"
            ) from error
        if not _is_storage_error(error):
            if not isinstance(error, DBAPIError):
                raise
            raise QsearchError(
                f"{directory}: its database failed: {one_line(error)}; what was saved is kept, the"
                " same command resumes"
            ) from error
        raise InputError(
            f"{directory}: cannot be written: {one_line(error)}; what was saved is kept: make"
            " room, then run the same command to resume"
        ) from error


def _is_storage_error(error: Exception) -> bool:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return True
    return any(sign in str(error) for sign in _STORAGE_SIGNS)


def open_client(
    directory: Path,
    url: str | None,
    name: str,
    space: Space,
    node: QsearchNode,
    metric: str,
    prepare: Callable[[Engine], None] = lambda engine: None,
) -> tuple[Client, QsearchNode]:
    """Load the study's Ax experiment, or make it.

    Args:
        directory: The study directory.
        url: SQLAlchemy URL of the database; None keeps it in the directory.
        name: Name of the experiment.
        space: The space.
        node: The generation node of a new experiment.
        metric: Name of the task metric, which is tracked.
        prepare: Called with the database's engine before it is used.

    Returns:
        The client and the node it generates with: the reloaded one, if there was one.

    Raises:
        InputError: If the database cannot be opened, or its experiment is another directory's,
            has another space, or lacks trials that the directory has results of.
    """
    # Ax reports each trial with all its parameters; qsearch has its own log.
    set_ax_logger_levels(logging.ERROR)
    warnings.filterwarnings("ignore", category=AxParameterWarning)
    shown = f"--storage {without_password(url)!r}" if url else str(directory / DATABASE)
    url = url or sqlite_url(directory / DATABASE)
    storage = StorageConfig(url=url, registry_bundle=registry_bundle())
    try:
        # Connections that died in the pool are found before a transaction begins.
        init_engine_and_session_factory(
            url=url, force_init=True, pool_pre_ping=True, connect_args=connect_arguments(url)
        )
        prepare(get_engine())
        _require_whole(get_engine(), shown)
        create_tables(get_engine())
        if not _has_experiment(name):
            _require_unstarted(directory, name, shown)
            client = Client(storage_config=storage)
            client.configure_experiment(
                name=name, parameters=ax_parameters(space), description=_identity(directory)
            )
        else:
            client = _load(name, storage, shown)
    except SQLAlchemyError as error:
        if _is_storage_error(error) or was_cut_off(error):
            raise
        if any(sign in str(error) for sign in _DAMAGE_SIGNS):
            raise InputError(f"{shown}: damaged: {one_line(error)}; {_RESTORE}") from error
        reason = hide_password(one_line(error), url)
        raise InputError(f"{shown}: cannot be used: {reason}") from error
    except ImportError as error:
        raise InputError(
            f"{shown} needs a driver that is not installed ({error.name});"
            " for PostgreSQL install qsearch[postgres]"
        ) from error
    # A process may have died between these steps, so each is checked for itself.
    experiment = client._experiment  # Ax's client has no public way to read trials.
    _require_own(experiment.description, name, directory, shown)
    rounds = read_rounds(directory)
    if rounds and len(experiment.trials) < rounds[-1].trials:
        raise InputError(
            f"{shown}: the experiment {name!r} has {len(experiment.trials)} trials, but {directory}"
            f" has finished rounds of {rounds[-1].trials}; restore the database it was run with"
        )
    found = {key: set(p.values) for key, p in experiment.search_space.parameters.items()}
    if found != {key: set(values) for key, values in space.parameter_values().items()}:
        raise InputError(
            f"{shown}: the experiment {name!r} has another search space than this study;"
            " give the study another name, or another database"
        )
    if experiment.optimization_config is None:
        client.configure_optimization(objective=f"-{LOSS}, -{AVERAGE_BITS}")
        client.configure_tracking_metrics([metric, "seconds"])
    strategy = client._maybe_generation_strategy
    if strategy is None:
        client.set_generation_strategy(GenerationStrategy(name="qsearch", nodes=[node]))
        return client, node
    return client, strategy._nodes[0]


def _require_whole(engine: Engine, shown: str) -> None:
    """Refuse an SQLite file whose pages do not fit together; SQLite itself notices some when used.

    Raises:
        InputError: Saying what to do.
    """
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
    if found != "ok":
        raise InputError(f"{shown}: damaged: {' '.join(str(found).split())}; {_RESTORE}")


def _load(name: str, storage: StorageConfig, shown: str) -> Client:
    try:
        return Client.load_from_database(name, storage_config=storage)
    except (SQLAlchemyError, QsearchError):
        raise
    except Exception as error:  # What Ax meets in a damaged row is of many kinds.
        raise InputError(
            f"{shown}: the experiment {name!r} there cannot be read: {reason_of(error)}; {_RESTORE}"
        ) from error


def require_own_experiment(url: str, name: str, directory: Path) -> None:
    """Refuse a shared database whose experiment of a name is another study directory's.

    It only reads, so that a study that is refused costs its owner nothing.

    Args:
        url: SQLAlchemy URL of the database.
        name: Name of the experiment, which need not be there.
        directory: The study directory.

    Raises:
        InputError: If it is another's, or the database cannot be used.
    """
    with database_errors(url), open_engine(url).connect() as connection:
        if not inspect(connection).has_table(SQAExperiment.__tablename__):
            return
        query = select(SQAExperiment.description).where(SQAExperiment.name == name)
        found = connection.execute(query).first()
    if found is not None:
        _require_own(found[0], name, directory, f"--storage {without_password(url)!r}")


def _require_own(description: str | None, name: str, directory: Path, shown: str) -> None:
    if description != _identity(directory):
        raise InputError(
            f"{shown}: the experiment {name!r} there belongs to another study directory than"
            f" {directory}; give the study another name, or another database"
        )


def close_database() -> None:
    """Close Ax's connections, so that nothing of this process keeps the database open."""
    if db.SESSION_FACTORY is not None:
        db.SESSION_FACTORY.remove()
        get_engine().dispose()


def _has_experiment(name: str) -> bool:
    with session_scope() as session:
        return session.query(SQAExperiment.id).filter_by(name=name).first() is not None


def _identity(directory: Path) -> str:
    """Return what ties a study directory to its experiment, made once for each directory."""
    path = directory / IDENTITY
    if not path.is_file():
        write_state(path, {"study": str(uuid.uuid4())})
    return f"qsearch study {read_identity(path)}"


def read_identity(path: Path) -> str:
    """Return what ties a study directory to its experiment.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    loaded = read_state(path)
    with damage(path, KeyError, TypeError, ValueError):
        return str(uuid.UUID(str(loaded["study"])))


def _require_unstarted(directory: Path, name: str, shown: str) -> None:
    """Refuse to start a new experiment for a directory that has results of an old one."""
    # Of any round, and damaged ones, too.
    if any((directory / "state").glob("adapter-*")):
        raise InputError(
            f"{shown}: holds no experiment {name!r}, but {directory} has results of it; give the"
            " --storage it was run with, or restore the database"
        )
