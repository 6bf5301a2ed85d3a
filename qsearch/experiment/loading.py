"""A study's Ax experiment in its database: loaded, or made, and required to be the study's own."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from ax.api.client import Client
from ax.core.experiment import Experiment
from ax.exceptions.core import AxParameterWarning, ExperimentNotFoundError
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.storage.sqa_store.db import session_context
from ax.storage.sqa_store.load import load_experiment
from ax.storage.sqa_store.save import save_experiment, save_generation_strategy
from ax.storage.sqa_store.sqa_classes import SQAExperiment
from ax.utils.common.logger import set_ax_logger_levels
from sqlalchemy import inspect, select
from sqlalchemy.exc import SQLAlchemyError

from qsearch._text import reason_of
from qsearch.errors import InputError
from qsearch.experiment.database import AX_LOCK, STORAGE_WAIT, Database, emit_nothing, is_disconnect
from qsearch.experiment.node import QsearchNode, registry_bundle
from qsearch.experiment.parameters import (
    AVERAGE_BITS,
    LOSS,
    SECONDS,
    ax_parameters,
    parameter_values,
)
from qsearch.experiment.trials import Trials
from qsearch.experiment.url import (
    RESTORE,
    database_errors,
    is_storage_error,
    open_engine,
    sqlite_url,
    without_password,
)
from qsearch.monitoring.events import Emit
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.storage.paths import DATABASE, IDENTITY, RESTORED
from qsearch.storage.session_files import database_identity, read_identity


def open_database(
    directory: Path, url: str | None, wait: float = STORAGE_WAIT, emit: Emit = emit_nothing
) -> Database:
    """Open a study's database; without a URL, the one in its directory."""
    # Ax reports each trial with all its parameters; qsearch has its own log.
    set_ax_logger_levels(logging.ERROR)
    warnings.filterwarnings("ignore", category=AxParameterWarning)
    warnings.filterwarnings("ignore", message="TypeDecorator JSONEncodedText")
    label = f"--storage {without_password(url)!r}" if url else str(directory / DATABASE)
    url = url or sqlite_url(directory / DATABASE)
    with _opening_errors(url, label):
        return Database(url, label, wait, emit)


def open_trials(
    database: Database,
    directory: Path,
    name: str,
    space: ConfigurationSpace,
    metrics: Sequence[str],
    node: QsearchNode,
    objective: str = "loss",
) -> Trials:
    """Load the trials of the study's experiment, or make the experiment.

    ``node`` is stored with a new experiment for those who use it in Ax; ``metrics`` names the
    task's metrics; those that are not the objective are tracked. An experiment that is damaged, is
    another directory's, or has another space is an InputError.
    """
    with AX_LOCK, _opening_errors(database.url, database.label):
        experiment = _load(name, database.label)
        if experiment is None:
            if not (directory / RESTORED).exists():
                _require_unstarted(directory, name, database.label)
            with database.transaction():
                experiment = _make(directory, name, space, metrics, node, objective)
    _require_own(experiment.description, name, directory, database.label)
    values = {key: set(p.values) for key, p in experiment.search_space.parameters.items()}
    if values != {key: set(own) for key, own in parameter_values(space).items()}:
        raise InputError(
            f"{database.label}: the experiment {name!r} has another search space than this study;"
            " give the study another name, or another database"
        )
    with _damaged_rows(name, database.label):
        return Trials(experiment, database, space, metrics)


@contextlib.contextmanager
def _opening_errors(url: str, label: str) -> Iterator[None]:
    """Have errors name the database; those of a full disk are :func:`storage_errors`'s."""
    try:
        yield
    except (ImportError, SQLAlchemyError) as error:
        if is_storage_error(error) or is_disconnect(error):
            raise
        with database_errors(url, label):
            raise


def _make(
    directory: Path,
    name: str,
    space: ConfigurationSpace,
    metrics: Sequence[str],
    node: QsearchNode,
    objective: str,
) -> Experiment:
    client = Client()  # With a database it would save the experiment after each of these.
    client.configure_experiment(
        name=name, parameters=ax_parameters(space), description=database_identity(directory)
    )
    client.configure_optimization(objective=f"-{objective}, -{AVERAGE_BITS}")
    tracked = [name for name in (LOSS, *metrics, SECONDS) if name != objective]
    client.configure_tracking_metrics(tracked)
    experiment: Experiment = client._experiment  # Ax's client has no public way to it.
    strategy = GenerationStrategy(name="qsearch", nodes=[node])
    strategy.experiment = experiment
    config = registry_bundle().sqa_config
    save_experiment(experiment, config)
    save_generation_strategy(strategy, config)
    return experiment


def _load(name: str, label: str) -> Experiment | None:
    with _damaged_rows(name, label):
        try:
            return load_experiment(name, config=registry_bundle().sqa_config)
        except ExperimentNotFoundError:
            return None


@contextlib.contextmanager
def _damaged_rows(name: str, label: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError:
        raise
    except Exception as error:  # What is met in a damaged row is of many kinds.
        raise InputError(
            f"{label}: the experiment {name!r} there cannot be read: {reason_of(error)}; {RESTORE}"
        ) from error


def read_experiment(url: str, name: str) -> Experiment:
    """Return a study's experiment with its trials and data, also while the study runs.

    Ax's ``Client.load_from_database`` saves what it has loaded: next to a study that runs, it would
    put back what the study has changed since.
    """
    open_engine(url, must_exist=True)
    with database_errors(url), session_context(url):
        try:
            return load_experiment(name, config=registry_bundle().sqa_config)
        except ExperimentNotFoundError as error:
            raise InputError(
                f"--storage {without_password(url)!r} holds no study {name!r}"
            ) from error


def require_own_experiment(url: str, name: str, directory: Path) -> None:
    """Refuse a shared database whose experiment of a name is another study directory's.

    It only reads, so that a study that is refused costs its owner nothing; the experiment need not
    be there.
    """
    with database_errors(url), open_engine(url).connect() as connection:
        if not inspect(connection).has_table(SQAExperiment.__tablename__):
            return
        query = select(SQAExperiment.description).where(SQAExperiment.name == name)
        row = connection.execute(query).first()
    if row is not None:
        _require_own(row[0], name, directory, f"--storage {without_password(url)!r}")


def _require_own(description: str | None, name: str, directory: Path, label: str) -> None:
    # A directory that is refused gets no identity: it would count as one with results.
    path = directory / IDENTITY
    if not path.is_file() or description != read_identity(path):
        raise InputError(
            f"{label}: the experiment {name!r} there belongs to another study directory than"
            f" {directory}; give the study another name, or another database"
        )


def _require_unstarted(directory: Path, name: str, label: str) -> None:
    """Refuse to start a new experiment for a directory that has results of an old one."""
    # Of any round, and damaged ones, too.
    if any((directory / "state").glob("adapter-*")):
        raise InputError(
            f"{label}: holds no experiment {name!r}, but {directory} has results of it; give the"
            " --storage it was run with, restore the database, or archive and restore the"
            " directory, which makes a new one"
        )
