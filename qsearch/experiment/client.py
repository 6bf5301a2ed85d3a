"""The study's Ax experiment in its database: opened, or made, and its errors in words."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.core.experiment import Experiment
from ax.exceptions.core import AxParameterWarning
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.storage.sqa_store import db
from ax.storage.sqa_store.db import (
    get_engine,
    init_engine_and_session_factory,
    session_scope,
)
from ax.storage.sqa_store.save import save_experiment
from ax.storage.sqa_store.sqa_classes import SQAExperiment
from ax.utils.common.logger import set_ax_logger_levels
from sqlalchemy import inspect, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from qsearch._text import one_line, reason_of
from qsearch.errors import InputError, QsearchError
from qsearch.experiment.node import QsearchNode, registry_bundle
from qsearch.experiment.parameters import AVERAGE_BITS, LOSS, ax_parameters
from qsearch.experiment.reconnecting import is_disconnect
from qsearch.experiment.schema import create_tables
from qsearch.experiment.transactions import one_transaction
from qsearch.experiment.url import (
    DAMAGE_SIGNS,
    RESTORE,
    connect_arguments,
    database_errors,
    hide_password,
    is_storage_error,
    open_engine,
    sqlite_url,
    without_password,
)
from qsearch.space.space import Space
from qsearch.storage.paths import DATABASE, RESTORED
from qsearch.storage.round_state import read_rounds
from qsearch.storage.session_files import database_identity


def open_client(
    directory: Path,
    url: str | None,
    name: str,
    space: Space,
    node: QsearchNode,
    metric: str,
    prepare: Callable[[Engine], None] = lambda engine: None,
    rebuild: Callable[[], Experiment] | None = None,
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
        rebuild: Makes the experiment of a directory that was restored from an archive.

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
        restored = directory / RESTORED
        if rebuild and restored.exists() and not _has_experiment(name):
            with one_transaction():
                save_experiment(rebuild(), config=registry_bundle().sqa_config)
            restored.unlink()
        if not _has_experiment(name):
            _require_unstarted(directory, name, shown)
            client = Client(storage_config=storage)
            client.configure_experiment(
                name=name, parameters=ax_parameters(space), description=database_identity(directory)
            )
        else:
            client = _load(name, storage, shown)
    except SQLAlchemyError as error:
        if is_storage_error(error) or is_disconnect(error):
            raise
        if any(sign in str(error) for sign in DAMAGE_SIGNS):
            raise InputError(f"{shown}: damaged: {one_line(error)}; {RESTORE}") from error
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
        raise InputError(f"{shown}: damaged: {' '.join(str(found).split())}; {RESTORE}")


def _load(name: str, storage: StorageConfig, shown: str) -> Client:
    try:
        return Client.load_from_database(name, storage_config=storage)
    except (SQLAlchemyError, QsearchError):
        raise
    except Exception as error:  # What Ax meets in a damaged row is of many kinds.
        raise InputError(
            f"{shown}: the experiment {name!r} there cannot be read: {reason_of(error)}; {RESTORE}"
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
    if description != database_identity(directory):
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


def _require_unstarted(directory: Path, name: str, shown: str) -> None:
    """Refuse to start a new experiment for a directory that has results of an old one."""
    # Of any round, and damaged ones, too.
    if any((directory / "state").glob("adapter-*")):
        raise InputError(
            f"{shown}: holds no experiment {name!r}, but {directory} has results of it; give the"
            " --storage it was run with, restore the database, or archive and restore the"
            " directory, which makes a new one"
        )
