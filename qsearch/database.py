"""The study's Ax experiment in its database: opened, or made, and its errors in words."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import re
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.exceptions.core import AxParameterWarning
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.storage.sqa_store.db import (
    create_all_tables,
    get_engine,
    init_engine_and_session_factory,
    session_scope,
)
from ax.storage.sqa_store.sqa_classes import SQAExperiment
from ax.utils.common.logger import set_ax_logger_levels
from safetensors import SafetensorError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from qsearch.errors import InputError
from qsearch.generation import AVERAGE_BITS, LOSS, QsearchNode, ax_parameters, registry_bundle
from qsearch.records import write_json
from qsearch.space import Space
from qsearch.store import DATABASE, IDENTITY, read_rounds
from qsearch.training_state import adapter_path

_STORAGE_SIGNS = ("disk is full", "disk I/O error", "readonly database", "No space left")


@contextlib.contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Turn the errors of a disk that is full or read-only into one message.

    Raises:
        InputError: Naming the directory and the reason.
    """
    try:
        yield
    except (OSError, SQLAlchemyError, SafetensorError) as error:
        if not _is_storage_error(error):
            raise
        raise InputError(
            f"{directory}: cannot be written: {_one_line(error)}; what was saved is kept: make"
            " room, then run the same command to resume"
        ) from error


def _is_storage_error(error: Exception) -> bool:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return True
    return any(sign in str(error) for sign in _STORAGE_SIGNS)


def _one_line(error: Exception) -> str:
    """Return the database's own words; SQLAlchemy adds the statement and a link."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def _without_password(url: str) -> str:
    try:
        shown: str = make_url(url).render_as_string(hide_password=True)
        return shown
    except SQLAlchemyError:
        return re.sub(r":[^:/]*@", ":***@", url)  # What may be a password.


def open_client(
    directory: Path,
    url: str | None,
    name: str,
    space: Space,
    node: QsearchNode,
    metric: str,
) -> tuple[Client, QsearchNode]:
    """Load the study's Ax experiment, or make it.

    Args:
        directory: The study directory.
        url: SQLAlchemy URL of the database; None keeps it in the directory.
        name: Name of the experiment.
        space: The space.
        node: The generation node of a new experiment.
        metric: Name of the task metric, which is tracked.

    Returns:
        The client and the node it generates with: the reloaded one, if there was one.

    Raises:
        InputError: If the database cannot be opened, or its experiment is another directory's,
            has another space, or lacks trials that the directory has results of.
    """
    # Ax reports each trial with all its parameters; qsearch has its own log.
    set_ax_logger_levels(logging.ERROR)
    warnings.filterwarnings("ignore", category=AxParameterWarning)
    shown = f"--storage {_without_password(url)!r}" if url else str(directory / DATABASE)
    url = url or f"sqlite:///{(directory / DATABASE).resolve()}"
    storage = StorageConfig(url=url, registry_bundle=registry_bundle())
    try:
        init_engine_and_session_factory(url=url, force_init=True)
        create_all_tables(get_engine())
        if not _has_experiment(name):
            _require_unstarted(directory, name, shown)
            client = Client(storage_config=storage)
            client.configure_experiment(
                name=name, parameters=ax_parameters(space), description=_identity(directory)
            )
        else:
            client = Client.load_from_database(name, storage_config=storage)
    except SQLAlchemyError as error:
        if _is_storage_error(error):
            raise
        reason = _one_line(error).replace(url, _without_password(url))
        raise InputError(f"{shown}: cannot be used: {reason}") from error
    except ImportError as error:
        raise InputError(
            f"{shown} needs a driver that is not installed ({error.name});"
            " for PostgreSQL install qsearch[postgres]"
        ) from error
    # A process may have died between these steps, so each is checked for itself.
    experiment = client._experiment  # Ax's client has no public way to read trials.
    if experiment.description != _identity(directory):
        raise InputError(
            f"{shown}: the experiment {name!r} there belongs to another study directory than"
            f" {directory}; give the study another name, or another database"
        )
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


def _has_experiment(name: str) -> bool:
    with session_scope() as session:
        return session.query(SQAExperiment.id).filter_by(name=name).first() is not None


def _identity(directory: Path) -> str:
    """Return what ties a study directory to its experiment, made once for each directory."""
    path = directory / IDENTITY
    if not path.is_file():
        write_json(path, {"study": str(uuid.uuid4())})
    return f"qsearch study {json.loads(path.read_text(encoding='utf-8'))['study']}"


def _require_unstarted(directory: Path, name: str, shown: str) -> None:
    """Refuse to start a new experiment for a directory that has results of an old one."""
    if adapter_path(directory, 0).is_file():
        raise InputError(
            f"{shown}: holds no experiment {name!r}, but {directory} has results of it; give the"
            " --storage it was run with, or restore the database"
        )
