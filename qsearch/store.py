"""Where a study lives: its directory, lock and state files, and Ax's SQL store."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
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
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from qsearch.errors import InputError, QsearchError
from qsearch.generation import AVERAGE_BITS, LOSS, QsearchNode, ax_parameters, registry_bundle
from qsearch.records import STUDY_FILE, RoundRecord, write_atomically, write_json
from qsearch.space import Floats, Space
from qsearch.training_state import adapter_path

STUDY_YAML = "study.yaml"
DATABASE = "study.db"
LOG = "log.jsonl"
QUANTIZATION_ERROR = "quantization_error"
_STORAGE_SIGNS = ("disk is full", "disk I/O error", "readonly database", "No space left")
_IDENTITY = "state/identity.json"


def prepare_directory(directory: Path) -> None:
    """Make a study directory and prove that it can be written.

    Raises:
        InputError: If it cannot be made or written.
    """
    try:
        (directory / "state").mkdir(parents=True, exist_ok=True)
        write_atomically(directory / ".writable", lambda path: path.write_text("yes"))
        (directory / ".writable").unlink()
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be written: {error.strerror or error}; give another --out"
        ) from error


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
    path = directory / _IDENTITY
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


def has_results(directory: Path) -> bool:
    """Return whether a study directory holds anything that was measured or put into a database.

    The quantization error is measured first; the others tell of it where that file was deleted.
    """
    results = (
        _measurement_path(directory, QUANTIZATION_ERROR),
        adapter_path(directory, 0),
        directory / _IDENTITY,
        directory / DATABASE,
        directory / STUDY_FILE,
    )
    return any(path.is_file() for path in results)


def read_measurement(directory: Path, name: str) -> Floats | None:
    """Return what was measured of the layers and saved under a name, if it was.

    Raises:
        QsearchError: If the file is damaged.
    """
    path = _measurement_path(directory, name)
    if not path.is_file():
        return None
    try:
        return load_arrays(path)[name]
    except (SafetensorError, KeyError, OSError) as error:
        raise QsearchError(
            f"{path}: damaged: {error}; delete it, and the same command measures it again"
        ) from error


def write_measurement(directory: Path, name: str, values: Floats) -> None:
    """Save what was measured of the layers, since that is costly for large models."""
    arrays = {name: np.ascontiguousarray(values)}
    write_atomically(_measurement_path(directory, name), lambda path: save_arrays(arrays, path))


def delete_measurement(directory: Path, name: str) -> None:
    """Forget a measurement, if there is one."""
    _measurement_path(directory, name).unlink(missing_ok=True)


def _measurement_path(directory: Path, name: str) -> Path:
    return directory / "state" / f"{name}.safetensors"


@dataclass(frozen=True)
class RoundState:
    """A finished round.

    Args:
        record: Its record.
        next_set: The set it passes on.
        trials: How many trials exist by then.
        expected: Expected loss on the task and its standard deviation by trial, if told apart
            from the losses on the validation examples.
    """

    record: RoundRecord
    next_set: tuple[int, ...]
    trials: int
    expected: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def write_round(directory: Path, state: RoundState) -> None:
    """Save a finished round; from then on it is never run again."""
    record = {key: getattr(state.record, key) for key in RoundRecord.__dataclass_fields__}
    write_json(
        directory / "state" / f"round-{state.record.round}.json",
        {
            "record": record,
            "next_set": state.next_set,
            "trials": state.trials,
            "expected": dict(state.expected),
        },
    )


def read_rounds(directory: Path) -> list[RoundState]:
    """Return the finished rounds, in order.

    Raises:
        QsearchError: If a round's file is damaged.
    """
    rounds: list[RoundState] = []
    while (path := directory / "state" / f"round-{len(rounds)}.json").is_file():
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
            record = loaded["record"]
            for name in ("training_set", "train_losses"):
                record[name] = tuple(record[name])
            found = loaded.get("expected", {})  # Rounds of earlier versions have none.
            expected = {int(number): (mean, error) for number, (mean, error) in found.items()}
            rounds.append(
                RoundState(
                    RoundRecord(**record), tuple(loaded["next_set"]), loaded["trials"], expected
                )
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise QsearchError(f"{path}: damaged round state: {error}") from error
    return rounds


def candidates_path(directory: Path, round: int) -> Path:
    """Return the file that names a round's candidates once all are found."""
    return directory / "state" / f"candidates-{round}.json"
