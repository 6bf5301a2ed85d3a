"""A study's Ax experiment read from its database, and only read.

Ax's ``Client.load_from_database`` saves what it has loaded: beside a study that runs, it would put
back what the study has changed since.
"""

from __future__ import annotations

from ax.core.experiment import Experiment
from ax.exceptions.core import ExperimentNotFoundError
from ax.storage.sqa_store.db import session_context
from ax.storage.sqa_store.load import load_experiment

from qsearch.errors import InputError
from qsearch.experiment.node import registry_bundle
from qsearch.experiment.url import database_errors, open_engine, without_password


def read_experiment(url: str, name: str) -> Experiment:
    """Return a study's experiment with its trials and data, also while the study runs.

    Args:
        url: SQLAlchemy URL of the database.
        name: The study's name.

    Raises:
        InputError: If the database cannot be used, or has no such study.
    """
    open_engine(url, must_exist=True)
    with database_errors(url), session_context(url):
        try:
            return load_experiment(name, config=registry_bundle().sqa_config)
        except ExperimentNotFoundError as error:
            raise InputError(
                f"--storage {without_password(url)!r} holds no study {name!r}"
            ) from error
